"""Anchors on a pyramid over any backbone: of each anchor its class, and its box."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from train.models.centernet import Head
from train.models.layers import Mode
from train.models.pyramid import Pyramid


class SSD(nn.Module):
    """One head over all maps of a pyramid, a few anchors a pixel.

    Anchors are in order of maps, the finest first; then of rows, columns, and anchors of a pixel.

    Attributes:
      classes: of objects; the first logit of an anchor is of none.
      backbone: gives maps, the finest first (any classifier of ``train.models`` that is made with 0 classes).
      anchors: of a pixel.
      width: channels of the pyramid and of the head.
      axis_name: the pmap axis over which batch statistics are taken, if any.

    Reference: Liu et al., SSD: single shot multibox detector, 2016; Lin et al., Feature pyramid networks, 2017.
    """

    classes: int
    backbone: nn.Module
    anchors: int = 3
    width: int = 64
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, valid: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """Logits of classes, and what the loss takes for boxes, of all anchors.

        Args:
          images: ``[batch, height, width, channels]``.
          train: whether batch norm takes its statistics from the batch.
          valid: ``[batch]``, 1 for the examples that count in them.

        Returns:
          ``{"classes": [batch, anchors, 1 + classes], "boxes": [batch, anchors, 4], "anchors": [batch, anchors, 4]}``,
          the last of them left, top, right and bottom in pixels.
        """
        maps = self.backbone(images, train=train, valid=valid)
        maps = Pyramid(self.width)(maps, Mode(train, valid, self.axis_name))
        found = {}
        for name, size in (("classes", 1 + self.classes), ("boxes", 4)):
            head = Head(self.width, self.anchors * size, name=name)
            found[name] = jnp.concatenate([head(own).reshape(own.shape[0], -1, size) for own in maps], axis=1)
        places = np.concatenate([anchors_of(own.shape[1:3], images.shape[1:3], self.anchors) for own in maps])
        found["anchors"] = jnp.broadcast_to(places, (images.shape[0], *places.shape))
        return found


def anchors_of(cells: Sequence[int], size: Sequence[int], count: int) -> np.ndarray:
    """The anchors of a map: of four cells' sides, from twice as wide as high to twice as high as wide.

    Args:
      cells: height and width of the map.
      size: of the image, pixels.
      count: anchors of a cell.

    Returns:
      ``[h w count, 4]`` float32: left, top, right, bottom.
    """
    down, right = size[0] / cells[0], size[1] / cells[1]
    y, x = (np.arange(n) + 0.5 for n in cells)
    ratios = 2.0 ** np.linspace(-1, 1, count) if count > 1 else np.ones(1)
    half = np.stack([2 * right * ratios**0.5, 2 * down / ratios**0.5], axis=-1)
    center = np.stack(np.meshgrid(x * right, y * down), axis=-1)[:, :, None]
    return np.concatenate([center - half, center + half], axis=-1).reshape(-1, 4).astype(np.float32)
