"""MobileNetV1, in NNX: depthwise and pointwise convolutions in turn."""

import jax
import jax.numpy as jnp
from flax import nnx

from train.models.layers import Mode, by_size, divisible, halved, kernel_init
from train.models.norm import statistics

BLOCKS = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *(((512, 1),) * 5), (1024, 2), (1024, 1),
)  # fmt: skip
"""Pairs of convolutions: output channels, the stride of the depthwise one."""


class BatchNorm(nnx.Module):
    """Batch norm as ``train.models.norm`` computes it.

    Args:
      width: channels.
    """

    def __init__(self, width: int):
        self.scale, self.bias = nnx.Param(jnp.ones(width)), nnx.Param(jnp.zeros(width))
        self.mean, self.var = nnx.BatchStat(jnp.zeros(width)), nnx.BatchStat(jnp.ones(width))

    def __call__(self, x: jax.Array, mode: Mode) -> jax.Array:
        """``[batch, h, w, c]``, normalized."""
        mean, var = self.mean[...], self.var[...]
        if mode.train:
            mask = jnp.ones((1, 1, 1, 1)) if mode.valid is None else mode.valid[:, None, None, None]
            now = statistics(x, mask, mode.axis_name)
            self.mean[...], self.var[...] = (0.9 * old + 0.1 * new for old, new in zip((mean, var), now, strict=True))
            mean, var = now
        return ((x - mean) * jax.lax.rsqrt(var + 1e-5) * self.scale[...] + self.bias[...]).astype(x.dtype)


class ConvNorm(nnx.Module):
    """A convolution without bias, batch norm and a rectifier.

    Args:
      before: input channels.
      after: output channels.
      size: side of the kernel, odd.
      stride: of the convolution.
      groups: of channels.
      rngs: from which the kernel is drawn.
    """

    def __init__(self, before: int, after: int, size: int, stride: int = 1, groups: int = 1, *, rngs: nnx.Rngs):
        self.conv = nnx.Conv(
            before, after, (size, size), stride, padding=size // 2, feature_group_count=groups, use_bias=False,
            kernel_init=kernel_init, rngs=rngs,
        )  # fmt: skip
        self.norm = BatchNorm(after)

    def __call__(self, x: jax.Array, mode: Mode) -> jax.Array:
        """``[batch, h, w, before]`` -> ``[batch, h/stride, w/stride, after]``."""
        return nnx.relu(self.norm(self.conv(x), mode))


class MobileNetV1(nnx.Module):
    """A stem and thirteen pairs: 4,231,976 parameters for 1,000 classes at width 1.

    Args:
      shape: of an image, ``[height, width, channels]``.
      classes: outputs; 0: the maps of the last four sizes instead, largest first, for a detector or a segmenter.
      width: factor of all channels.
      blocks: of each pair: output channels, the stride of the depthwise convolution.
      halvings: how often the sides are halved, at most 5; the first are left out.
      rngs: from which parameters are drawn.

    Reference: Howard et al., MobileNets, 2017, table 1.
    """

    def __init__(
        self, shape: tuple[int, ...], classes: int, width: float = 1.0, blocks: tuple[tuple[int, int], ...] = BLOCKS,
        halvings: int = 5, *, rngs: nnx.Rngs,
    ):  # fmt: skip
        first, *strides = halved([2, *(stride for _, stride in blocks)], halvings)
        before, pairs = divisible(32 * width), []
        self.stem = ConvNorm(shape[-1], before, 3, first, rngs=rngs)
        for (after, _), stride in zip(blocks, strides, strict=True):
            after = divisible(after * width)
            pairs.append(ConvNorm(before, before, 3, stride, groups=before, rngs=rngs))
            pairs.append(ConvNorm(before, after, 1, rngs=rngs))
            before = after
        self.layers = nnx.List(pairs)
        self.head = nnx.Linear(before, classes, rngs=rngs) if classes else None

    def __call__(self, images: jax.Array, mode: Mode = Mode()) -> jax.Array | list[jax.Array]:  # noqa: B008 -- a constant
        """``[batch, height, width, channels]`` -> ``[batch, classes]`` logits."""
        outputs = [self.stem(images, mode)]
        for depthwise, pointwise in zip(self.layers[::2], self.layers[1::2], strict=True):
            outputs.append(pointwise(depthwise(outputs[-1], mode), mode))
        return by_size(outputs) if self.head is None else self.head(jnp.mean(outputs[-1], axis=(1, 2)))
