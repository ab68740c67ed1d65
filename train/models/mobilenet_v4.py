"""MobileNetV4, of convolutions alone: universal inverted bottlenecks, found by search for many kinds of hardware."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from train.models.inverted import InvertedResidual
from train.models.layers import ConvNorm, Mode, by_size, divisible, halved

Block = tuple[int, int, int, int, int]

STEM = ((32, 3, 2), (32, 3, 2), (32, 1, 1), (96, 3, 2), (64, 1, 1))
"""Convolutions: output channels, side of the kernel, stride."""

BLOCKS: tuple[Block, ...] = (
    (5, 5, 3, 96, 2), (0, 3, 2, 96, 1), (0, 3, 2, 96, 1), (0, 3, 2, 96, 1), (0, 3, 2, 96, 1), (3, 0, 4, 96, 1),
    (3, 3, 6, 128, 2), (5, 5, 4, 128, 1), (0, 5, 4, 128, 1), (0, 5, 3, 128, 1), (0, 3, 4, 128, 1), (0, 3, 4, 128, 1),
)  # fmt: skip
"""Blocks: sides of the kernels before and within (0: none), factor within, output channels, stride."""


class MobileNetV4(nn.Module):
    """Conv-S: 3.8 million parameters and 0.2 billion multiply-accumulates for 1,000 classes of 224x224.

    Attributes:
      classes: outputs; 0: the maps of the last four sizes instead, largest first, for a detector or a segmenter.
      width: factor of all channels.
      blocks: as in ``BLOCKS``.
      head: channels of the last convolution, at width 1 or below.
      halvings: how often the sides are halved, at most 5; the first are left out.
      axis_name: the pmap axis over which batch statistics are taken, if any.

    Reference: Qin et al., MobileNetV4: universal models for the mobile ecosystem, 2024, table 5 and its appendix.
    """

    classes: int
    width: float = 1.0
    blocks: tuple[Block, ...] = BLOCKS
    head: int = 1280
    halvings: int = 5
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, valid: jax.Array | None = None
    ) -> jax.Array | list[jax.Array]:
        """``[batch, height, width, channels]`` -> ``[batch, classes]`` logits; ``valid [batch]`` masks padding."""
        mode, x, outputs = Mode(train, valid, self.axis_name), images, []
        strides = iter(halved([stride for *_, stride in (*STEM, *self.blocks)], self.halvings))
        for width, size, _ in STEM:
            x = ConvNorm(divisible(width * self.width), size, next(strides))(x, mode)
            outputs.append(x)
        for before, size, factor, width, _ in self.blocks:
            width, inner = divisible(width * self.width), divisible(factor * x.shape[-1])
            x = InvertedResidual(width, inner, size, next(strides), nn.relu, before=before)(x, mode)
            outputs.append(x)
        if not self.classes:
            return by_size(outputs)
        x = jnp.mean(ConvNorm(divisible(960 * self.width), 1)(x, mode), axis=(1, 2), keepdims=True)
        x = ConvNorm(divisible(self.head * max(1.0, self.width)), 1)(x, mode)
        return nn.Dense(self.classes)(x.reshape(x.shape[0], -1))
