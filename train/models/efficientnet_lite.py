"""EfficientNet-Lite: inverted residuals scaled in width and depth, without what integers cannot run well."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from train.models.inverted import InvertedResidual
from train.models.layers import ConvNorm, Mode, by_size, divisible, halved

STAGES = (
    (1, 3, 16, 1, 1), (6, 3, 24, 2, 2), (6, 5, 40, 2, 2), (6, 3, 80, 3, 2), (6, 5, 112, 3, 1), (6, 5, 192, 4, 2),
    (6, 3, 320, 1, 1),
)  # fmt: skip
"""Stages: factor within, side of the kernel, output channels, blocks, the first block's stride."""


class EfficientNetLite(nn.Module):
    """No squeeze-and-excitation, ReLU6 for swish, stem and head of one width. Lite0 has 4,652,008 parameters.

    Attributes:
      classes: outputs; 0: the maps of the last four sizes instead, largest first, for a detector or a segmenter.
      width: factor of the stages' channels: 1 of Lite0 and 1, 1.1 of 2, 1.2 of 3, 1.4 of 4.
      depth: factor of the blocks of all stages but the first and the last: 1, 1.1, 1.2, 1.4, 1.8.
      stages: as in ``STAGES``.
      head: channels of the last convolution.
      halvings: how often the sides are halved, at most 5; the first are left out.
      axis_name: the pmap axis over which batch statistics are taken, if any.

    Reference: Tan and Le, EfficientNet, 2019; Liu, Higher accuracy on vision models with EfficientNet-Lite, 2020.
    """

    classes: int
    width: float = 1.0
    depth: float = 1.0
    stages: tuple[tuple[int, ...], ...] = STAGES
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
        x = ConvNorm(32, 3, first, activation=nn.relu6, epsilon=1e-3)(images, mode)
        outputs = [x]
        counts = [blocks for *_, blocks, _ in self.stages]
        counts[1:-1] = [math.ceil(blocks * self.depth) for blocks in counts[1:-1]]
        for (factor, size, width, *_), count, stride in zip(self.stages, counts, strides, strict=True):
            for block in range(count):
                own, inner = 1 if block else stride, factor * x.shape[-1]
                x = InvertedResidual(divisible(width * self.width), inner, size, own, epsilon=1e-3)(x, mode)
            outputs.append(x)
        if not self.classes:
            return by_size(outputs)
        x = ConvNorm(self.head, 1, activation=nn.relu6, epsilon=1e-3)(x, mode)
        return nn.Dense(self.classes)(jnp.mean(x, axis=(1, 2)))
