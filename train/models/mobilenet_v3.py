"""MobileNetV3: inverted residuals with squeeze-and-excitation and hard-swish, found by search."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from train.models.inverted import InvertedResidual
from train.models.layers import ConvNorm, Mode, by_size, divisible, halved

Block = tuple[int, int, int, bool, bool, int]

LARGE: tuple[Block, ...] = (
    (3, 16, 16, False, False, 1), (3, 64, 24, False, False, 2), (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2), (5, 120, 40, True, False, 1), (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2), (3, 200, 80, False, True, 1), (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1), (3, 480, 112, True, True, 1), (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2), (5, 960, 160, True, True, 1), (5, 960, 160, True, True, 1),
)  # fmt: skip
SMALL: tuple[Block, ...] = (
    (3, 16, 16, True, False, 2), (3, 72, 24, False, False, 2), (3, 88, 24, False, False, 1),
    (5, 96, 40, True, True, 2), (5, 240, 40, True, True, 1), (5, 240, 40, True, True, 1),
    (5, 120, 48, True, True, 1), (5, 144, 48, True, True, 1), (5, 288, 96, True, True, 2),
    (5, 576, 96, True, True, 1), (5, 576, 96, True, True, 1),
)  # fmt: skip
"""Blocks: side of the kernel, channels within, output channels, squeeze, hard-swish, stride."""


class MobileNetV3(nn.Module):
    """Large has 5,483,032 parameters for 1,000 classes, small 2,542,856.

    Attributes:
      classes: outputs; 0: the maps of the last four sizes instead, largest first, for a detector or a segmenter.
      width: factor of all channels.
      size: ``"large"`` or ``"small"``.
      blocks: as in ``LARGE`` and ``SMALL``; None: those of the size.
      head: channels of the last dense layer but one; None: 1,280 of large, 1,024 of small.
      halvings: how often the sides are halved, at most 5; the first are left out.
      axis_name: the pmap axis over which batch statistics are taken, if any.

    Reference: Howard et al., Searching for MobileNetV3, 2019, tables 1 and 2.
    """

    classes: int
    width: float = 1.0
    size: str = "large"
    blocks: tuple[Block, ...] | None = None
    head: int | None = None
    halvings: int = 5
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, valid: jax.Array | None = None
    ) -> jax.Array | list[jax.Array]:
        """``[batch, height, width, channels]`` -> ``[batch, classes]`` logits; ``valid [batch]`` masks padding."""
        if self.size not in ("large", "small"):
            raise ValueError(f"size must be 'large' or 'small', got {self.size!r}")
        blocks, head = (LARGE, 1280) if self.size == "large" else (SMALL, 1024)
        blocks, head = self.blocks or blocks, self.head or head
        mode, layer = Mode(train, valid, self.axis_name), functools.partial(ConvNorm, epsilon=1e-3)
        first, *strides = halved([2, *(stride for *_, stride in blocks)], self.halvings)
        x = layer(divisible(16 * self.width), 3, first, activation=nn.hard_swish)(images, mode)
        outputs = [x]
        for (size, inner, width, squeeze, swish, _), stride in zip(blocks, strides, strict=True):
            inner, width = divisible(inner * self.width), divisible(width * self.width)
            activation = nn.hard_swish if swish else nn.relu
            gate = divisible(inner / 4) if squeeze else 0
            x = InvertedResidual(width, inner, size, stride, activation, gate, epsilon=1e-3)(x, mode)
            outputs.append(x)
        if not self.classes:
            return by_size(outputs)
        x = layer(6 * x.shape[-1], 1, activation=nn.hard_swish)(x, mode)
        x = nn.hard_swish(nn.Dense(divisible(head * self.width))(jnp.mean(x, axis=(1, 2))))
        return nn.Dense(self.classes)(x)
