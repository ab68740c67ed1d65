"""How JAX computes the operators of LiteRT that occur in the networks read here; channels come last."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from train.readers.graph import Attributes, Rule, Rules, UnsupportedError, same

Array = Any
LAYOUT = ("NHWC", "HWIO", "NHWC")
SAME, VALID = 0, 1
ACTIVATIONS: dict[int, Callable[[Array], Array]] = {0: lambda x: x, 1: jax.nn.relu, 3: jax.nn.relu6, 4: jnp.tanh}
"""By the schema's numbers."""


def _activated(a: Attributes, x: Array) -> Array:
    kind = a.get("fusedActivationFunction", 0)
    if kind not in ACTIVATIONS:
        raise UnsupportedError(f"activation {kind} of the schema")
    return ACTIVATIONS[kind](x)


def _padding(a: Attributes) -> str:
    return "SAME" if a["padding"] == SAME else "VALID"


def conv(a: Attributes, x: Array, kernel: Array, bias: Array | None = None, *, groups: int = 1) -> Array:
    """A convolution with its bias and activation."""
    y = lax.conv_general_dilated(
        x,
        kernel,
        (a["strideH"], a["strideW"]),
        _padding(a),
        rhs_dilation=(a["dilationHFactor"], a["dilationWFactor"]),
        dimension_numbers=LAYOUT,
        feature_group_count=groups,
    )
    return _activated(a, y if bias is None else y + bias)


def depthwise(a: Attributes, x: Array, kernel: Array, bias: Array | None = None) -> Array:
    """A convolution of each channel by itself."""
    return conv(a, x, kernel, bias, groups=x.shape[-1])


def transposed(a: Attributes, x: Array, kernel: Array, bias: Array | None = None) -> Array:
    """A transposed convolution: one of the input spread out by the strides; the kernel is turned round already."""
    strides, sides = (a["strideH"], a["strideW"]), []
    for size, stride, k in zip(x.shape[1:3], strides, kernel.shape[:2], strict=True):
        spread = (size - 1) * stride
        wanted = size * stride if a["padding"] == SAME else spread + k
        low = k - 1 - max(spread + k - wanted, 0) // 2
        sides.append((low, wanted + k - 2 - spread - low))
    y = lax.conv_general_dilated(x, kernel, (1, 1), sides, lhs_dilation=strides, dimension_numbers=LAYOUT)
    return _activated(a, y if bias is None else y + bias)


def _inputs_first(kernel: np.ndarray) -> np.ndarray:
    """``[out, height, width, in]`` as JAX has it."""
    return kernel.transpose(1, 2, 3, 0)


def _one_input(kernel: np.ndarray) -> np.ndarray:
    """``[1, height, width, channels]`` as JAX has it."""
    return kernel.transpose(1, 2, 0, 3)


def _turned(kernel: np.ndarray) -> np.ndarray:
    return _inputs_first(kernel)[::-1, ::-1]


def dense(a: Attributes, x: Array, kernel: Array, bias: Array | None = None) -> Array:
    """A matrix product with its bias and activation."""
    y = x.reshape(-1, kernel.shape[0]) @ kernel
    y = y.reshape(*x.shape[:-1], -1) if a.get("keepNumDims") else y
    return _activated(a, y if bias is None else y + bias)


def _pool(a: Attributes, x: Array, start: float, join: Any) -> Array:
    window, strides = (a["filterHeight"], a["filterWidth"]), (a["strideH"], a["strideW"])
    return lax.reduce_window(x, start, join, (1, *window, 1), (1, *strides, 1), _padding(a))


def average_pool(a: Attributes, x: Array) -> Array:
    """The mean of each window, without the border."""
    counts = _pool(a, jnp.ones((1, *x.shape[1:3], 1), x.dtype), 0.0, lax.add)
    return _activated(a, _pool(a, x, 0.0, lax.add) / counts)


def mean(a: Attributes, x: Array, axes: np.ndarray) -> Array:
    """The mean over axes."""
    return x.mean(tuple(int(axis) for axis in np.ravel(axes)), keepdims=bool(a["keepDims"]))


def resize(a: Attributes, x: Array, sizes: np.ndarray) -> Array:
    """Bilinear interpolation, axis after axis."""
    for axis, size in zip((1, 2), np.ravel(sizes), strict=True):
        x = _interpolated(x, axis, int(size), a["alignCorners"], a["halfPixelCenters"])
    return x


def _interpolated(x: Array, axis: int, size: int, corners: bool, halves: bool) -> Array:
    old, half = x.shape[axis], 0.5 if halves else 0.0
    scale = (old - 1) / (size - 1) if corners and size > 1 else old / size
    places = np.maximum((np.arange(size) + half) * scale - half, 0)
    low = np.minimum(places.astype(np.int32), old - 1)
    part = (places - low).astype(np.float32).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    near, far = (jnp.take(x, where, axis=axis) for where in (low, np.minimum(low + 1, old - 1)))
    return near * (1 - part) + far * part


def reshape(a: Attributes, x: Array, shape: np.ndarray | None = None) -> Array:
    """A new shape; a first axis of 1 is that of examples, of which there may be more."""
    first, *others = (int(n) for n in np.ravel(a["newShape"] if shape is None else shape))
    examples = x.shape[0] if -1 in others else -1
    return x.reshape(examples if first == 1 else first, *others)


def pad(a: Attributes, x: Array, sides: np.ndarray) -> Array:
    """Zeros around the borders."""
    return jnp.pad(x, [(int(low), int(high)) for low, high in sides])


def _number(compute: Callable[[Array, Array], Array]) -> Rule:
    weights = {0: ("value", same), 1: ("value", same)}
    return Rule(lambda a, x, y: _activated(a, compute(x, y)), weights)


def _each(compute: Callable[[Array], Array]) -> Rule:
    return Rule(lambda a, x: compute(x))


TRANSPOSED = {1: ("kernel", _turned), 2: ("bias", same)}

RULES: Rules = {
    "ADD": _number(jnp.add),
    "AVERAGE_POOL_2D": Rule(average_pool),
    "CONCATENATION": Rule(lambda a, *each: _activated(a, jnp.concatenate(each, axis=a["axis"]))),
    "CONV_2D": Rule(conv, {1: ("kernel", _inputs_first), 2: ("bias", same)}),
    "Convolution2DTransposeBias": Rule(transposed, TRANSPOSED),
    "DEPTHWISE_CONV_2D": Rule(depthwise, {1: ("kernel", _one_input), 2: ("bias", same)}),
    "DEQUANTIZE": Rule(lambda a, x: x.astype(np.float32)),
    "FULLY_CONNECTED": Rule(dense, {1: ("kernel", np.transpose), 2: ("bias", same)}),
    "HARD_SWISH": _each(lambda x: x * (jnp.clip(x + 3, 0, 6) / 6)),
    "LOGISTIC": _each(jax.nn.sigmoid),
    "MAX_POOL_2D": Rule(lambda a, x: _activated(a, _pool(a, x, -jnp.inf, lax.max))),
    "MEAN": Rule(mean),
    "MUL": _number(jnp.multiply),
    "PAD": Rule(pad),
    "PRELU": Rule(lambda a, x, slope: jnp.where(x >= 0, x, x * slope), {1: ("slope", same)}),
    "RELU": _each(jax.nn.relu),
    "RELU6": _each(jax.nn.relu6),
    "RESHAPE": Rule(reshape),
    "RESIZE_BILINEAR": Rule(resize),
    "SUB": _number(jnp.subtract),
}
"""By the schema's names."""
