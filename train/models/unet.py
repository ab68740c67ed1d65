"""U-Net, with attention gates or without: a class for each pixel."""

import jax
from flax import linen as nn

from train.models.layers import ConvNorm, Mode


class Gate(nn.Module):
    """Weighs each pixel of a skipped map by what the coarser one says of it: ``x sigmoid(p . relu(A x + B g))``.

    Attributes:
      width: channels in which the two are compared.

    Reference: Oktay et al., Attention U-Net, 2018.
    """

    width: int

    @nn.compact
    def __call__(self, x: jax.Array, gating: jax.Array, mode: Mode) -> jax.Array:
        """Two maps of one size -> the first, weighed."""
        own, other = (ConvNorm(self.width, 1, activation=None)(each, mode) for each in (x, gating))
        return x * ConvNorm(1, 1, activation=nn.sigmoid)(nn.relu(own + other), mode)


class UNet(nn.Module):
    """Convolutions in pairs: down by pooling, up by transposed convolutions, each level beside the one it came from.

    Without gates, of five levels, it has 31,037,633 parameters for one class on colored images.

    Attributes:
      classes: of a pixel.
      widths: channels of each level, the finest first; sides must be multiples of ``2 ** (levels - 1)``.
      attention: whether gates weigh what is skipped.
      axis_name: the pmap axis over which batch statistics are taken, if any.

    Reference: Ronneberger et al., U-Net, 2015; Oktay et al., Attention U-Net, 2018.
    """

    classes: int
    widths: tuple[int, ...] = (16, 32, 64, 128)
    attention: bool = True
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False, valid: jax.Array | None = None) -> jax.Array:
        """``[batch, height, width, channels]`` -> ``[batch, height, width, classes]`` logits.

        Raises:
          ValueError: for sides that cannot be halved as often as there are levels below the finest.
        """
        side = 2 ** (len(self.widths) - 1)
        if images.shape[1] % side or images.shape[2] % side:
            size = "x".join(map(str, images.shape[1:3]))
            raise ValueError(f"{len(self.widths)} levels of U-Net need sides that are multiples of {side}, got {size}")
        mode, skipped, x = Mode(train, valid, self.axis_name), [], images
        for level, width in enumerate(self.widths):
            if level:
                skipped.append(x)
                x = nn.max_pool(x, (2, 2), (2, 2))
            x = self._pair(x, width, mode)
        for width, beside in zip(self.widths[-2::-1], skipped[::-1], strict=True):
            x = nn.ConvTranspose(width, (2, 2), (2, 2))(x)
            beside = Gate(width // 2)(beside, x, mode) if self.attention else beside
            x = self._pair(jax.numpy.concatenate([beside, x], axis=-1), width, mode)
        return nn.Conv(self.classes, (1, 1))(x)

    def _pair(self, x: jax.Array, width: int, mode: Mode) -> jax.Array:
        return ConvNorm(width)(ConvNorm(width)(x, mode), mode)
