"""Anchors on a pyramid over any backbone: of each anchor its class, and its box."""

import jax
import jax.numpy as jnp
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
          ``{"classes": [batch, anchors, 1 + classes], "boxes": [batch, anchors, 4]}``.
        """
        maps = self.backbone(images, train=train, valid=valid)
        maps = Pyramid(self.width)(maps, Mode(train, valid, self.axis_name))
        found = {}
        for name, size in (("classes", 1 + self.classes), ("boxes", 4)):
            head = Head(self.width, self.anchors * size, name=name)
            found[name] = jnp.concatenate([head(own).reshape(own.shape[0], -1, size) for own in maps], axis=1)
        return found
