"""GhostNet: half of each layer's channels are computed, the others are cheap depthwise ghosts of them."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from train.models.layers import Activation, ConvNorm, Mode, SqueezeExcite, by_size, convolution, divisible, halved

Block = tuple[int, int, int, bool, int]

BLOCKS: tuple[Block, ...] = (
    (3, 16, 16, False, 1), (3, 48, 24, False, 2), (3, 72, 24, False, 1), (5, 72, 40, True, 2), (5, 120, 40, True, 1),
    (3, 240, 80, False, 2), (3, 200, 80, False, 1), (3, 184, 80, False, 1), (3, 184, 80, False, 1),
    (3, 480, 112, True, 1), (3, 672, 112, True, 1), (5, 672, 160, True, 2), (5, 960, 160, False, 1),
    (5, 960, 160, True, 1), (5, 960, 160, False, 1), (5, 960, 160, True, 1),
)  # fmt: skip
"""Blocks: side of the kernel of stride 2, channels within, output channels, squeeze, stride."""


class Ghost(nn.Module):
    """1x1 to half the channels; beside these what a 3x3 depthwise convolution makes of them.

    Attributes:
      width: output channels, even.
      activation: of both; None: none.
    """

    width: int
    activation: Activation | None = nn.relu

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> jax.Array:
        """``[batch, h, w, c]`` -> ``[batch, h, w, width]``."""
        x = ConvNorm(self.width // 2, 1, activation=self.activation)(x, mode)
        return jnp.concatenate(
            [x, ConvNorm(self.width // 2, 3, groups=0, activation=self.activation)(x, mode)], axis=-1
        )


class GhostBottleneck(nn.Module):
    """A ghost module to ``inner`` channels, one back, and between them what halves the sides and what weighs channels.

    Attributes:
      width: output channels, even.
      inner: channels within, even.
      size: side of the depthwise kernels.
      stride: of these; 1: there is none within.
      squeeze: whether means of channels weigh them.
    """

    width: int
    inner: int
    size: int
    stride: int
    squeeze: bool

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> jax.Array:
        """``[batch, h, w, c]`` -> ``[batch, h/stride, w/stride, width]``."""
        y = Ghost(self.inner)(x, mode)
        if self.stride > 1:
            y = ConvNorm(self.inner, self.size, self.stride, groups=0, activation=None)(y, mode)
        if self.squeeze:
            y = SqueezeExcite(divisible(self.inner / 4, 4))(y)
        y = Ghost(self.width, None)(y, mode)
        if self.stride > 1 or x.shape[-1] != self.width:
            x = ConvNorm(x.shape[-1], self.size, self.stride, groups=0, activation=None)(x, mode)
            x = ConvNorm(self.width, 1, activation=None)(x, mode)
        return x + y


class GhostNet(nn.Module):
    """Sixteen bottlenecks of ghost modules: 5.2 million parameters for 1,000 classes at width 1.

    Attributes:
      classes: outputs; 0: the maps of the last four sizes instead, largest first, for a detector or a segmenter.
      width: factor of all channels but the head's.
      blocks: as in ``BLOCKS``.
      head: channels of the last dense layer but one.
      halvings: how often the sides are halved, at most 5; the first are left out.
      axis_name: the pmap axis over which batch statistics are taken, if any.

    Reference: Han et al., GhostNet: more features from cheap operations, 2020, table 1.
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
        mode = Mode(train, valid, self.axis_name)
        first, *strides = halved([2, *(stride for *_, stride in self.blocks)], self.halvings)
        x = ConvNorm(divisible(16 * self.width, 4), 3, first)(images, mode)
        outputs = [x]
        for (size, inner, width, squeeze, _), stride in zip(self.blocks, strides, strict=True):
            inner, width = divisible(inner * self.width, 4), divisible(width * self.width, 4)
            x = GhostBottleneck(width, inner, size, stride, squeeze)(x, mode)
            outputs.append(x)
        if not self.classes:
            return by_size(outputs)
        x = jnp.mean(ConvNorm(divisible(self.blocks[-1][1] * self.width, 4), 1)(x, mode), axis=(1, 2), keepdims=True)
        x = nn.relu(convolution(self.head, 1, bias=True)(x))
        return nn.Dense(self.classes)(x.reshape(x.shape[0], -1))
