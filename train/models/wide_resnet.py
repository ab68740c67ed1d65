"""Wide residual networks for small images: norms and rectifiers before the convolutions."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from train.models.layers import Mode, convolution, normalized


class WideBlock(nn.Module):
    """Norm, rectifier, 3x3 convolution, twice, beside a shortcut; where that projects, of the rectified.

    Attributes:
      width: output channels.
      stride: of the first convolution.
    """

    width: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> jax.Array:
        """``[batch, h, w, c]`` -> ``[batch, h/stride, w/stride, width]``."""
        active = nn.relu(normalized(x, mode))
        y = nn.relu(normalized(convolution(self.width, 3, self.stride)(active), mode))
        y = convolution(self.width, 3)(y)
        if self.stride > 1 or x.shape[-1] != self.width:
            x = convolution(self.width, 1, self.stride)(active)
        return x + y


class WideResNet(nn.Module):
    """WRN-depth-factor: three stages. WRN-28-10 has 36,479,194 parameters for 10 classes of 32x32.

    Attributes:
      classes: outputs; 0: the stages' maps instead, largest first, for a detector or a segmenter.
      depth: 6n + 4.
      factor: by which it is wider than a ResNet, whose stages have 16, 32 and 64 channels.
      axis_name: the pmap axis over which batch statistics are taken, if any.

    Reference: Zagoruyko and Komodakis, Wide residual networks, 2016.
    """

    classes: int
    depth: int = 16
    factor: float = 2
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, valid: jax.Array | None = None
    ) -> jax.Array | list[jax.Array]:
        """``[batch, height, width, channels]`` -> ``[batch, classes]`` logits; ``valid [batch]`` masks padding."""
        if self.depth < 10 or (self.depth - 4) % 6:
            raise ValueError(f"depth must be 10, 16, 22, ... (6n + 4), got {self.depth}")
        mode, outputs = Mode(train, valid, self.axis_name), []
        x = convolution(16, 3)(images)
        for stage in range(3):
            for block in range((self.depth - 4) // 6):
                x = WideBlock(round(16 * 2**stage * self.factor), 2 if stage and not block else 1)(x, mode)
            outputs.append(x)
        if not self.classes:
            return outputs
        x = nn.relu(normalized(x, mode))
        return nn.Dense(self.classes)(jnp.mean(x, axis=(1, 2)))
