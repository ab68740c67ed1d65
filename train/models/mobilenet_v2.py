"""MobileNetV2: wide within, narrow between, and no rectifier where it is narrow."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from train.models.inverted import InvertedResidual
from train.models.layers import ConvNorm, Mode, by_size, divisible, halved

STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class MobileNetV2(nn.Module):
    """Stages of inverted residuals. At width 1 it has 3,504,872 parameters for 1,000 classes.

    Attributes:
      classes: outputs; 0: the maps of the last four sizes instead, largest first, for a detector or a segmenter.
      width: factor of all channels.
      stages: of each: the factor within, output channels, blocks, the first block's stride.
      head: channels of the last convolution, at width 1 or below.
      halvings: how often the sides are halved, at most 5; the first are left out.
      axis_name: the pmap axis over which batch statistics are taken, if any.

    Reference: Sandler et al., MobileNetV2: inverted residuals and linear bottlenecks, 2018, table 2.
    """

    classes: int
    width: float = 1.0
    stages: tuple[tuple[int, int, int, int], ...] = STAGES
    head: int = 1280
    halvings: int = 5
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, valid: jax.Array | None = None
    ) -> jax.Array | list[jax.Array]:
        """``[batch, height, width, channels]`` -> ``[batch, classes]`` logits; ``valid [batch]`` masks padding."""
        mode = Mode(train, valid, self.axis_name)
        first, *strides = halved([2, *(stride for *_, stride in self.stages)], self.halvings)
        x = ConvNorm(divisible(32 * self.width), 3, first, activation=nn.relu6)(images, mode)
        outputs = [x]
        for (factor, width, blocks, _), stride in zip(self.stages, strides, strict=True):
            for block in range(blocks):
                x = InvertedResidual(
                    divisible(width * self.width), factor * x.shape[-1], stride=1 if block else stride
                )(x, mode)
            outputs.append(x)
        if not self.classes:
            return by_size(outputs)
        x = ConvNorm(divisible(self.head * max(1.0, self.width)), 1, activation=nn.relu6)(x, mode)
        return nn.Dense(self.classes)(jnp.mean(x, axis=(1, 2)))
