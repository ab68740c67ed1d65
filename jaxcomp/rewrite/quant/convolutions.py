"""Forms: integer convolutions as XLA's CPU backend computes them fastest. Every form gives the same integers.

On two cores of a CPU with AVX-512 VNNI under JAX 0.12, at batch 128, milliseconds in float32, in int8 as it is, and in
its form: 3x3 of 32x32x16: 10.3, 63.9, 5.2; 3x3 of 32x32x3 to 16: 12.7, 26.4, 5.4; 1x1 of 32x32x64 to 16: 9.0, 4.1, 2.8;
3x3 depthwise of 16x16x64: 89, 465, 2.6. From 20 channels on it is fast as it is.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

WIDE = 32
"""Channels from which int8 convolutions are fast."""
FEW = 20
"""Channels below which they are slow."""
MOST = 4
"""Neighbors that are taken together at most: each adds products with zeros."""


class Window(NamedTuple):
    """A convolution of ``[batch, spatial..., channels]`` without padding, by ``[spatial..., channels, features]``.

    Attributes:
      strides: of each spatial axis.
      dilation: of the kernel, along each.
      groups: of channels.
    """

    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def sizes(self, x: Array, w: Array) -> tuple[int, ...]:
        """Returns the spatial shape of the result for an input ``x`` and a kernel ``w``."""
        reach = [d * (k - 1) + 1 for d, k in zip(self.dilation, w.shape[:-2], strict=True)]
        return tuple((n - r) // s + 1 for n, r, s in zip(x.shape[1:-1], reach, self.strides, strict=True))


Form = Callable[[Array, Array, Window], Array]
"""``(x, w, window) -> sums``: of ``[batch, spatial..., channels]`` and ``[spatial..., channels / groups, features]``
int8, the convolution in int32."""


def fastest(channels: int, shape: tuple[int, ...], window: Window) -> Form | None:
    """Chooses the lowering that suits a convolution; None if that is its own.

    Args:
      channels: of its input.
      shape: of its kernel.
      window: how the kernel slides over the input.
    """
    if window.groups > 1:
        return by_taps if window.groups == channels else None
    if math.prod(shape[:-2]) == 1:
        return pointwise
    together = _together(channels * window.strides[-1], shape[-1])
    return None if together == 1 else functools.partial(by_neighbors, together=together)


def _together(channels: int, features: int) -> int:
    """How many neighbors make an input and an output wide enough."""
    if features >= FEW and (channels >= FEW // 2 or features > 2 * WIDE):
        return 1
    return min(MOST, max(-(-WIDE // features), -(-FEW // (2 * channels))))


def by_taps(x: Array, w: Array, window: Window) -> Array:
    """Computes a depthwise convolution as a sum of shifted products, which fuse into one pass.

    Args:
      x, w, window: as of a :data:`Form`, a group for each channel.
    """
    kernel = w.reshape(*w.shape[:-2], x.shape[-1], -1).astype(jnp.int32)
    total: Any = 0
    for place in _places(w.shape[:-2]):
        seen = _seen(x, window, place, window.sizes(x, w)).astype(jnp.int32)[..., None]
        total = total + seen * kernel[place].reshape(*[1] * (seen.ndim - 2), *kernel.shape[-2:])
    return total.reshape(*total.shape[:-2], w.shape[-1])


def pointwise(x: Array, w: Array, window: Window) -> Array:
    """Computes a convolution of one pixel's window as a matmul; ``x``, ``w``, ``window`` as of a :data:`Form`."""
    seen = _seen(x, window, (0,) * (x.ndim - 2), window.sizes(x, w))
    return lax.dot_general(
        seen, w.reshape(w.shape[-2:]), (((x.ndim - 1,), (0,)), ((), ())), preferred_element_type=jnp.int32
    )


def by_neighbors(x: Array, w: Array, window: Window, together: int) -> Array:
    """Computes a convolution with neighbors along the last spatial axis as channels of one pixel.

    Args:
      x, w, window: as of a :data:`Form`, one group.
      together: results that are neighbors.
    """
    stride, dilation, (width, channels) = window.strides[-1], window.dilation[-1], x.shape[-2:]
    *rest, taps, _, features = w.shape
    pixels = stride * together
    *sizes, results = window.sizes(x, w)
    groups = -(-results // together)
    reach = (stride * (together - 1) + dilation * (taps - 1)) // pixels + 1
    needed = (groups + reach - 1) * pixels
    none = [(0, 0, 0)] * (x.ndim - 2)
    x = lax.pad(x, jnp.zeros((), x.dtype), [*none, (0, needed - width, 0), (0, 0, 0)])
    spread = dilation * (taps - 1) + 1
    edges = [(stride * i, reach * pixels - stride * i - spread) for i in range(together)]
    around = [[*[(0, 0, 0)] * len(rest), (*edge, dilation - 1), (0, 0, 0), (0, 0, 0)] for edge in edges]
    kernel = jnp.stack([lax.pad(w, jnp.zeros((), w.dtype), each) for each in around], axis=-2)
    sums = convolution(
        x.reshape(*x.shape[:-2], needed // pixels, pixels * channels),
        kernel.reshape(*rest, reach, pixels * channels, together * features),
        Window((*window.strides[:-1], 1), (*window.dilation[:-1], 1), 1),
    )
    return sums.reshape(x.shape[0], *sizes, groups * together, features)[..., :results, :]


def convolution(x: Array, w: Array, window: Window) -> Array:
    """Computes the convolution as it is; ``x``, ``w``, ``window`` as of a :data:`Form`."""
    last = x.ndim - 1
    numbers = lax.ConvDimensionNumbers(
        (0, last, *range(1, last)), (last, last - 1, *range(last - 1)), (0, last, *range(1, last))
    )
    return lax.conv_general_dilated(
        x,
        w,
        window.strides,
        "VALID",
        rhs_dilation=window.dilation,
        dimension_numbers=numbers,
        feature_group_count=window.groups,
        preferred_element_type=jnp.int32,
    )


def _places(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    places: list[tuple[int, ...]] = [()]
    for n in shape:
        places = [(*place, i) for place in places for i in range(n)]
    return places


def _seen(x: Array, window: Window, place: tuple[int, ...], sizes: tuple[int, ...]) -> Array:
    """The slice of the input that one tap of the window sees."""
    starts = [0, *(d * i for d, i in zip(window.dilation, place, strict=True)), 0]
    strides = [1, *window.strides, 1]
    ends = [start + s * (n - 1) + 1 for start, s, n in zip(starts[1:-1], window.strides, sizes, strict=True)]
    return lax.slice(x, starts, [x.shape[0], *ends, x.shape[-1]], strides)
