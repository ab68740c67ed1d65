"""CenterNet: objects as points, on any backbone: heat where centers are, sizes, and offsets within a pixel."""

import jax
from flax import linen as nn

from train.models.layers import Mode
from train.models.pyramid import Pyramid

RARE = -2.19  # log(0.1 / 0.9): most pixels are no center, which a fresh network knows


class Head(nn.Module):
    """3x3, rectified, then 1x1.

    Attributes:
      width: channels between the two.
      outputs: of a pixel.
      bias: at which outputs start.
    """

    width: int
    outputs: int
    bias: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[batch, h, w, c]`` -> ``[batch, h, w, outputs]``."""
        x = nn.relu(nn.Conv(self.width, (3, 3))(x))
        return nn.Conv(self.outputs, (1, 1), bias_init=nn.initializers.constant(self.bias))(x)


class CenterNet(nn.Module):
    """A pyramid over a backbone, whose finest map three heads read.

    Attributes:
      classes: of objects.
      backbone: gives maps, the finest first (any classifier of ``train.models`` that is made with 0 classes).
      width: channels of the pyramid and of the heads.
      axis_name: the pmap axis over which batch statistics are taken, if any.

    Reference: Zhou et al., Objects as points, 2019, its deep layer aggregation replaced by a feature pyramid.
    """

    classes: int
    backbone: nn.Module
    width: int = 64
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, valid: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """Logits of centers, and sizes and offsets that the loss gives a unit.

        Args:
          images: ``[batch, height, width, channels]``.
          train: whether batch norm takes its statistics from the batch.
          valid: ``[batch]``, 1 for the examples that count in them.

        Returns:
          ``{"heat": [batch, h, w, classes], "size": [batch, h, w, 2], "offset": [batch, h, w, 2]}``, at the finest
          map's stride: 4, where the backbone halves five times.
        """
        maps = self.backbone(images, train=train, valid=valid)
        x = Pyramid(self.width, finest=1)(maps, Mode(train, valid, self.axis_name))[0]
        heads = {"heat": (self.classes, RARE), "size": (2, 0.0), "offset": (2, 0.0)}
        return {name: Head(self.width, *of, name=name)(x) for name, of in heads.items()}
