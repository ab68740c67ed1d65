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
    """Calls ``function(values, x, *others)`` with its result split as the batch of ``x`` is.

    Values may be on no mesh while features are on one with Explicit axes: their gradients, sums over a batch that is
    split, would be errors of type there.

    Args:
      function: of the arguments, to an array ``[batch, ...]``.
      values: learned, a tree of arrays.
      x: ``[batch, ...]``.
      *others: further arguments.
    """
    out = None
    if is_explicit(x):
        own = jax.typeof(x).sharding
        out = NamedSharding(own.mesh, PartitionSpec(own.spec[0]))
    return automatic(function, values, x, *others, out=out)


def dense_init(key: Array, inputs: int, outputs: int, *, window: tuple[int, ...] = (), bias: bool = True) -> Params:
    """Draws a kernel, uniform with variance 1 / (values that an output reads), and a bias of 0.

    Args:
      key: a random key.
      inputs: features that are read.
      outputs: features that are made.
      window: spatial sizes of a convolution; () for a dense layer.
      bias: False before batch norm, which would remove it.

    Returns:
      ``{"kernel": [*window, inputs, outputs], "bias": [outputs]}``.
    """
    bound = math.sqrt(3 / (inputs * math.prod(window)))
    kernel = jax.random.uniform(key, (*window, inputs, outputs), jnp.float32, -bound, bound)
    return {"kernel": kernel} | ({"bias": jnp.zeros(outputs, jnp.float32)} if bias else {})


def dense(params: Params, x: Array) -> Array:
    """Projects the last axis of ``x``, ``[..., inputs]`` to ``[..., outputs]``, by ``params`` of :func:`dense_init`."""
    return _biased(params, jnp.einsum("...i,io->...o", x, params["kernel"].astype(x.dtype)))


def conv(params: Params, x: Array) -> Array:
    """Convolves ``x`` ``[batch, h, w, channels]`` by ``params`` of :func:`dense_init`, padded to the same size."""
    kernel = params["kernel"].astype(x.dtype)
    return _biased(
        params, jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    )


def _biased(params: Params, y: Array) -> Array:
    return y + params["bias"].astype(y.dtype).reshape(*(1,) * (y.ndim - 1), -1) if "bias" in params else y


def norm_init(channels: int) -> Params:
    """Makes a scale of 1 and a bias of 0, ``[channels]`` float32 each.

    Example:
      >>> norm_init(2)["scale"].tolist()
      [1.0, 1.0]
    """
    return {"scale": jnp.ones(channels, jnp.float32), "bias": jnp.zeros(channels, jnp.float32)}


def batch_norm(params: Params, x: Array, where: Any = None) -> Array:
    """Normalizes by the batch's own statistics; a connector is dropped after training and needs no running ones.

    Args:
      params: of :func:`norm_init`.
      x: ``[batch, ..., channels]``.
      where: ``[batch]`` bools, the examples whose statistics count; None: all.
    """
    axes, flat = tuple(range(x.ndim - 1)), (*(1,) * (x.ndim - 1), -1)
    mask = jnp.broadcast_to(True if where is None else expanded(where, x), x.shape)
    mean = mean_where(x, mask, axes).reshape(flat)
    variance = mean_where((x - mean) ** 2, mask, axes).reshape(flat)
    scale, bias = (params[name].astype(x.dtype).reshape(flat) for name in ("scale", "bias"))
    return (x - mean) / jnp.sqrt(variance + 1e-5) * scale + bias


def pool(x: Array, size: tuple[int, ...]) -> Array:
    """Averages over windows that cover the image, to a smaller size: "adaptive" average pooling.

    Window i of n over m positions is from floor(i m / n) to ceil((i + 1) m / n); windows overlap where they must.

    Args:
      x: ``[batch, h, w, channels]``.
      size: height and width of the result.

    Example:
      >>> pool(jnp.arange(3.0).reshape(1, 1, 3, 1), (1, 2)).ravel().tolist()
      [0.5, 1.5]
    """
    for axis, n in enumerate(size, 1):
        if x.shape[axis] != n:
            weights = jnp.asarray(windows(x.shape[axis], n), x.dtype)
            x = jnp.moveaxis(jnp.tensordot(x, weights, ((axis,), (0,))), -1, axis)
    return x


def windows(m: int, n: int) -> Any:
    """Returns the weight of each of ``m`` positions in each of ``n`` windows: ``[m, n]`` float64."""
    weights = np.zeros((m, n))
    for i in range(n):
        start, stop = i * m // n, -((i + 1) * m // -n)
        weights[start:stop, i] = 1 / (stop - start)
    return weights


def repeat(x: Array, size: tuple[int, ...]) -> Array:
    """Resizes ``x`` ``[batch, h, w, channels]`` to ``size`` by the nearest neighbor."""
    for axis, n in enumerate(size, 1):
        if x.shape[axis] != n:
            x = jnp.take(x, np.arange(n) * x.shape[axis] // n, axis=axis)
    return x


def resize(x: Array, size: tuple[int, ...]) -> Array:
    """Resizes ``x`` ``[batch, h, w, channels]`` to ``size``: averages to a smaller one, linearly to a larger."""
    smaller = tuple(min(a, b) for a, b in zip(x.shape[1:-1], size, strict=True))
    x = pool(x, smaller)
    return x if smaller == tuple(size) else jax.image.resize(x, (x.shape[0], *size, x.shape[-1]), "linear")
