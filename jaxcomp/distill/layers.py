"""The layers that connectors and learned losses are made of: projections, pooling, resizing, norms by the batch."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from jaxcomp.core.meshes import automatic, is_explicit
from jaxcomp.core.types import Params
from jaxcomp.distill.inputs import expanded, mean_where


def by_batch(function: Callable[..., Any], values: Params, x: Array, *others: Any) -> Any:
    """``function(values, x, *others)`` of which the result is split as the batch of ``x`` is.

    Values may be beside a mesh with Explicit axes that features are on: their gradients, sums over a batch that is
    split, would be errors of type there.
    """
    out = None
    if is_explicit(x):
        own = jax.typeof(x).sharding
        out = NamedSharding(own.mesh, PartitionSpec(own.spec[0]))
    return automatic(function, values, x, *others, out=out)


def dense_init(key: Array, inputs: int, outputs: int, *, window: tuple[int, ...] = (), bias: bool = True) -> Params:
    """A kernel ``[*window, inputs, outputs]``, uniform with variance 1 / (values that an output reads), and a bias.

    None before batch norm, which would take it out again.
    """
    bound = math.sqrt(3 / (inputs * math.prod(window)))
    kernel = jax.random.uniform(key, (*window, inputs, outputs), jnp.float32, -bound, bound)
    return {"kernel": kernel} | ({"bias": jnp.zeros(outputs, jnp.float32)} if bias else {})


def dense(params: Params, x: Array) -> Array:
    """A projection of the last axis: at every position, a 1x1 convolution."""
    return _biased(params, jnp.einsum("...i,io->...o", x, params["kernel"].astype(x.dtype)))


def conv(params: Params, x: Array) -> Array:
    """A convolution of ``[batch, h, w, channels]`` at the same size."""
    kernel = params["kernel"].astype(x.dtype)
    return _biased(
        params, jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    )


def _biased(params: Params, y: Array) -> Array:
    return y + params["bias"].astype(y.dtype).reshape(*(1,) * (y.ndim - 1), -1) if "bias" in params else y


def norm_init(channels: int) -> Params:
    """Scale 1 and bias 0."""
    return {"scale": jnp.ones(channels, jnp.float32), "bias": jnp.zeros(channels, jnp.float32)}


def batch_norm(params: Params, x: Array, where: Any = None) -> Array:
    """Batch norm by the batch's own statistics: what is dropped after training needs no running ones.

    Args:
      params: of :func:`norm_init`.
      x: ``[batch, ..., channels]``.
      where: ``[batch]`` bools: whose statistics count.
    """
    axes, flat = tuple(range(x.ndim - 1)), (*(1,) * (x.ndim - 1), -1)
    mask = jnp.broadcast_to(True if where is None else expanded(where, x), x.shape)
    mean = mean_where(x, mask, axes).reshape(flat)
    variance = mean_where((x - mean) ** 2, mask, axes).reshape(flat)
    scale, bias = (params[name].astype(x.dtype).reshape(flat) for name in ("scale", "bias"))
    return (x - mean) / jnp.sqrt(variance + 1e-5) * scale + bias


def pool(x: Array, size: tuple[int, ...]) -> Array:
    """Averages ``[batch, h, w, channels]`` over windows that cover it, to a smaller size; they overlap where it must.

    Window i of n over m positions is from floor(i m / n) to ceil((i + 1) m / n): "adaptive" average pooling.
    """
    for axis, n in enumerate(size, 1):
        if x.shape[axis] != n:
            weights = jnp.asarray(windows(x.shape[axis], n), x.dtype)
            x = jnp.moveaxis(jnp.tensordot(x, weights, ((axis,), (0,))), -1, axis)
    return x


def windows(m: int, n: int) -> Any:
    """``[m, n]``: what each of m positions weighs in each of n windows."""
    weights = np.zeros((m, n))
    for i in range(n):
        start, stop = i * m // n, -((i + 1) * m // -n)
        weights[start:stop, i] = 1 / (stop - start)
    return weights


def repeat(x: Array, size: tuple[int, ...]) -> Array:
    """Each position of ``[batch, h, w, channels]`` again and again, to a size: nearest-neighbor resizing."""
    for axis, n in enumerate(size, 1):
        if x.shape[axis] != n:
            x = jnp.take(x, np.arange(n) * x.shape[axis] // n, axis=axis)
    return x


def resize(x: Array, size: tuple[int, ...]) -> Array:
    """``[batch, h, w, channels]`` at a size: averaged where that is smaller, linear between positions where larger."""
    smaller = tuple(min(a, b) for a, b in zip(x.shape[1:-1], size, strict=True))
    x = pool(x, smaller)
    return x if smaller == tuple(size) else jax.image.resize(x, (x.shape[0], *size, x.shape[-1]), "linear")
