"""ShuffleNetV2: half the channels go through, half go by, and they are shuffled."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from train.models.layers import ConvNorm, Mode, by_size, halved

WIDTHS = {0.5: (24, 48, 96, 192, 1024), 1.0: (24, 116, 232, 464, 1024), 1.5: (24, 176, 352, 704, 1024),
          2.0: (24, 244, 488, 976, 2048)}  # fmt: skip
"""Channels of the stem, of three stages and of the last convolution, by the paper's factor."""


class Unit(nn.Module):
    """1x1, 3x3 depthwise and 1x1 of half the channels; where the sides are halved, of all, and likewise the other half.

    Attributes:
      width: output channels.
      entry: whether it is the first of a stage.
      stride: of its depthwise convolutions.
    """

    width: int
    entry: bool = False
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> jax.Array:
        """``[batch, h, w, c]`` -> ``[batch, h/stride, w/stride, width]``."""
        half = self.width // 2
        by, y = (x, x) if self.entry else jnp.split(x, 2, axis=-1)
        if self.entry:
            by = ConvNorm(by.shape[-1], 3, self.stride, groups=0, activation=None)(by, mode)
            by = ConvNorm(half, 1)(by, mode)
        y = ConvNorm(half, 1)(y, mode)
        y = ConvNorm(half, 1)(ConvNorm(half, 3, self.stride, groups=0, activation=None)(y, mode), mode)
        return jnp.stack([by, y], axis=-1).reshape(*y.shape[:3], self.width)


class ShuffleNetV2(nn.Module):
    """A stem, three stages of units and a last convolution: 2,278,604 parameters for 1,000 classes at widths of 1.0.

    Attributes:
      classes: outputs; 0: the maps of the last four sizes instead, largest first, for a detector or a segmenter.
      widths: channels of the stem, of the stages (even), and of the last convolution; ``WIDTHS`` has the paper's.
      blocks: units of each stage.
      halvings: how often the sides are halved, at most 5; the first (stem, pooling) are left out.
      axis_name: the pmap axis over which batch statistics are taken, if any.

    Reference: Ma et al., ShuffleNet V2: practical guidelines for efficient CNN architecture design, 2018.
    """

    classes: int
    widths: tuple[int, ...] = WIDTHS[1.0]
    blocks: tuple[int, ...] = (4, 8, 4)
    halvings: int = 5
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, valid: jax.Array | None = None
    ) -> jax.Array | list[jax.Array]:
        """``[batch, height, width, channels]`` -> ``[batch, classes]`` logits; ``valid [batch]`` masks padding."""
        if any(width % 2 for width in self.widths[1:-1]):
            raise ValueError(f"widths of stages must be even, each half goes its own way, got {self.widths[1:-1]}")
        mode = Mode(train, valid, self.axis_name)
        stem, pooling, *strides = halved((2, 2, *(2 for _ in self.blocks)), self.halvings)
        x = ConvNorm(self.widths[0], 3, stem)(images, mode)
        x = nn.max_pool(x, (3, 3), (2, 2), "SAME") if pooling > 1 else x
        outputs = [x]
        for width, count, stride in zip(self.widths[1:-1], self.blocks, strides, strict=True):
            for block in range(count):
                x = Unit(width, not block, 1 if block else stride)(x, mode)
            outputs.append(x)
        if not self.classes:
            return by_size(outputs)
        x = ConvNorm(self.widths[-1], 1)(x, mode)
        return nn.Dense(self.classes)(jnp.mean(x, axis=(1, 2)))
