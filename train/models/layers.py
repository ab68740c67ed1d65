"""Parts of most networks here: convolutions with batch norm, widths, strides, and the maps of each size."""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from train.models.norm import BatchNorm

Activation = Callable[[jax.Array], jax.Array]

kernel_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Mode(NamedTuple):
    """How a network runs.

    Attributes:
      train: whether batch norm takes its statistics from the batch.
      valid: ``[batch]``, 1 for the examples that count in them; None: all.
      axis_name: the pmap axis over which they are taken, if any.
    """

    train: bool = False
    valid: jax.Array | None = None
    axis_name: str | None = None


def normalized(x: jax.Array, mode: Mode, epsilon: float = 1e-5) -> jax.Array:
    """Batch norm as the mode says, of images ``[batch, h, w, c]``: a layer of the module that calls this."""
    mask = None if mode.valid is None else mode.valid[:, None, None, None]
    return BatchNorm(not mode.train, mode.axis_name, momentum=0.9, epsilon=epsilon)(x, mask=mask)


def convolution(
    width: int, size: int, stride: int = 1, groups: int = 1, dilation: int = 1, bias: bool = False
) -> nn.Conv:
    """A square convolution, padded on all sides alike; ``size`` is odd."""
    return nn.Conv(
        width, (size, size), stride, padding=dilation * (size // 2), kernel_dilation=dilation,
        feature_group_count=groups, use_bias=bias, kernel_init=kernel_init,
    )  # fmt: skip


class ConvNorm(nn.Module):
    """A convolution, padded on all sides alike, then batch norm and an activation.

    Attributes:
      width: output channels.
      size: side of the kernel, odd.
      stride: of the convolution.
      groups: of channels; 0: one for each (depthwise).
      dilation: distance of the pixels that a kernel reads.
      bias: whether the convolution has one, which the norm takes out again.
      activation: of the normalized; None: none.
      epsilon: added to the variance.
    """

    width: int
    size: int = 3
    stride: int = 1
    groups: int = 1
    dilation: int = 1
    bias: bool = False
    activation: Activation | None = nn.relu
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> jax.Array:
        """``[batch, h, w, c]`` -> ``[batch, ceil(h/stride), ceil(w/stride), width]``."""
        groups = self.groups or x.shape[-1]
        x = convolution(self.width, self.size, self.stride, groups, self.dilation, self.bias)(x)
        x = normalized(x, mode, self.epsilon)
        return x if self.activation is None else self.activation(x)


class SqueezeExcite(nn.Module):
    """Weighs channels by what their means say of each other: ``x gate(B relu(A mean(x)))``.

    Attributes:
      width: channels between the two.
      gate: of the weights.

    Reference: Hu et al., Squeeze-and-excitation networks, 2018.
    """

    width: int
    gate: Activation = nn.hard_sigmoid

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[batch, h, w, c]``, weighed."""
        y = nn.relu(nn.Conv(self.width, (1, 1))(jnp.mean(x, axis=(1, 2), keepdims=True)))
        return x * self.gate(nn.Conv(x.shape[-1], (1, 1))(y))


def divisible(channels: float, by: int = 8) -> int:
    """The multiple of ``by`` that is nearest to a number of channels, and not below nine tenths of it.

    Reference: Sandler et al., MobileNetV2, 2018 (its code).
    """
    nearest = max(by, int(channels + by / 2) // by * by)
    return nearest if nearest >= 0.9 * channels else nearest + by


def halved(strides: Sequence[int], halvings: int) -> tuple[int, ...]:
    """Strides, each 1 or 2, of which the last ``halvings`` twos stay: small images are not halved five times.

    Example:
      >>> halved((2, 1, 2, 2, 1, 2), 2)
      (1, 1, 1, 2, 1, 2)
    """
    twos = [i for i, stride in enumerate(strides) if stride == 2]
    kept = twos[max(len(twos) - halvings, 0) :]
    return tuple(2 if i in kept else 1 for i in range(len(strides)))


def by_size(outputs: Sequence[jax.Array]) -> list[jax.Array]:
    """The last output of each size, of the four smallest sizes, largest first: what detectors and segmenters read."""
    ends = [own for own, after in itertools.pairwise(outputs) if own.shape[1:3] != after.shape[1:3]]
    return [*ends, outputs[-1]][-4:]


def doubled(x: jax.Array, like: jax.Array) -> jax.Array:
    """A map of twice the sides by repetition, cut to the sides of ``like``."""
    return x.repeat(2, axis=1).repeat(2, axis=2)[:, : like.shape[1], : like.shape[2]]
