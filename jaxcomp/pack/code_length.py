r"""How many bits a tensor's codes take, as a function that has gradients: a model of four numbers a tensor.

A code c is 0 or not, and if not has a sign and a size that ends with each step or goes on:

.. math:: -\log_2 q(0) = \sigma_+(u), \quad -\log_2 q(c) = \sigma_+(-u) + 1 + \sigma_+(v) + (|c| - 1)\, \sigma_+(-v)

with :math:`\sigma_+(t) = \log_2(1 + e^t)`, :math:`v = c + d r`, :math:`u = a + b r`, or less, where else 1 and -1
would be likelier than 0. r is the log of how active, beside the mean of the tensor, a weight's input and output are:
what the coder's contexts go by as well (``contexts``). So a nonzero code is dear in a channel that is all but dead, and
such channels die.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from jaxcomp.core.meshes import spread_like
from jaxcomp.core.straight_through import with_slope
from jaxcomp.core.types import Grid, Learned
from jaxcomp.quant.granularity import numbers_for
from jaxcomp.quant.lsq import Steps, learning_grid
from jaxcomp.share.codebook import Codebook, held

_LEAN = 4
"""Codes of mean size that are counted beside a channel's own, as in ``contexts``."""
_BITS = 1 / math.log(2)


class Places(NamedTuple):
    """Where a tensor's weights are among the numbers that they can become.

    Attributes:
      codes: ``[...]`` whole numbers in floating point, 0 of the weights that are stored as 0; constants.
      between: ``[...]``, the same before rounding, with gradients to the weights and to a learned scale.
    """

    codes: Array
    between: Array


def places(w: Array, view: Array, node: Any) -> Places | None:
    """Returns the places of a tensor by the state of the compressor that shows it; None for a state that has none.

    Args:
      w: ``[...]``, what is shown.
      view: ``[...]``, as it is shown.
      node: a :class:`jaxcomp.core.types.Grid` of integers, :class:`jaxcomp.quant.Steps`, or
        :class:`jaxcomp.share.Codebook`.

    Example:
      >>> w = jnp.array([0.3, 1.0, -0.1])
      >>> places(w, jnp.array([0.5, 1.0, 0.0]), Grid(jnp.array([0.5]), jnp.array([0]))).codes.tolist()
      [1.0, 2.0, 0.0]
    """
    if isinstance(node, Codebook):
        return _in_codebook(w, view, held(node.centers))
    if isinstance(node, Steps):
        return _on_grid(w, view, learning_grid(node), node.scale.value == 0)
    if isinstance(node, Grid):
        return _on_grid(w, view, node._replace(scale=stop_gradient(node.scale)), None)
    return None


def _on_grid(w: Array, view: Array, grid: Grid, idle: Array | None) -> Places:
    constant = grid._replace(scale=stop_gradient(grid.scale))
    if idle is not None:  # grids that have not begun, of weights that are all 0; to divide by their scales is no number
        constant = constant._replace(scale=jnp.where(idle, 1, constant.scale))
    scale, _ = numbers_for(w, constant)
    codes = jnp.round(stop_gradient(view).astype(scale.dtype) / scale)
    if idle is None:
        return _clipped(w, scale, codes)
    # The gradient to a learned scale is as LSQ's, which divides it by how many weights pull, and how far.
    members = max(w.size // max(grid.scale.size, 1), 1)
    share = jax.lax.rsqrt(members * jnp.maximum(jnp.max(jnp.abs(codes), initial=1), 1))
    learning = constant._replace(scale=with_slope(constant.scale, grid.scale, share))
    at = _clipped(w, numbers_for(w, learning)[0], codes)
    begun = numbers_for(w, constant._replace(scale=1 - idle.astype(scale.dtype)))[0] > 0
    return Places(jnp.where(begun, at.codes, 0), jnp.where(begun, at.between, 0))


def _clipped(w: Array, scale: Array, codes: Array) -> Places:
    return Places(codes, jnp.clip(w.astype(scale.dtype) / scale, codes - 0.5, codes + 0.5))  # beyond the last code flat


def _in_codebook(w: Array, view: Array, centers: Array) -> Places:
    ordered = stop_gradient(jnp.sort(centers, axis=-1))
    real = w.astype(ordered.dtype)
    shown, plain = stop_gradient(view).astype(ordered.dtype), stop_gradient(real)
    codes, between, slope = (jnp.zeros_like(shown) for _ in range(3))
    for j in range(ordered.shape[-1] - 1):
        low, high = (spread_like(ordered[..., j + i], w) for i in (0, 1))
        gap, middle = high - low, low / 2 + high / 2
        above = jnp.where(gap > 0, (plain - low) / jnp.where(gap > 0, gap, 1), 0)
        codes += (shown > middle).astype(codes.dtype) - (middle < 0).astype(codes.dtype)  # counted from 0
        between += jnp.clip(above, 0, 1) - (middle < 0).astype(codes.dtype)
        slope = jnp.where((above >= 0) & (above < 1) & (gap > 0), 1 / jnp.where(gap > 0, gap, 1), slope)
    return Places(codes, with_slope(between, real, slope))


def activity(codes: Array) -> Array:
    """Returns the log of how active a weight's input and output are, over the mean: ``[...]``; 0 of a vector.

    Axes are those of Flax kernels ``[..., in, out]``; a channel leans on the mean as if it had four codes more.

    Example:
      >>> activity(jnp.array([[0.0, 2.0], [0.0, 2.0]])).round(2)
      Array([[-0.41,  0.29],
             [-0.41,  0.29]], dtype=float32)
    """
    if codes.ndim < 2 or not codes.size:
        return jnp.zeros_like(codes)
    size = jnp.abs(codes)
    mean = jnp.mean(size)
    safe = jnp.where(mean > 0, mean, 1)
    found = []
    for axis in (-1, -2):
        others = tuple(i for i in range(codes.ndim) if i != codes.ndim + axis)
        own, count = jnp.sum(size, axis=others, keepdims=True), codes.size // codes.shape[axis]
        found.append(jnp.log((own / safe + _LEAN) / (count + _LEAN)))
    return jnp.where(mean > 0, found[0] + found[1], 0)


def fitted(codes: Array) -> Array:
    """Fits a model to begin with, ``[4]``: odds of nonzeros and their slope by activity, 1; mean size and its, 0.

    Example:
      >>> fitted(jnp.array([0.0, 0.0, 1.0, -1.0])).round(2)
      Array([ 0.  ,  1.  , -1.79,  0.  ], dtype=float32)
    """
    size = jnp.abs(codes)
    some, total = jnp.sum(size > 0, dtype=codes.dtype), jnp.sum(size)
    odds = (some + 0.5) / (codes.size - some + 0.5)
    beyond = (total - some + 0.5) / (some + 1)
    return jnp.stack([jnp.log(odds), jnp.ones_like(odds), jnp.log(beyond), jnp.zeros_like(odds)]).astype(codes.dtype)


def code_length(at: Places, model: Array) -> Array:
    """Counts the bits of all codes together: a scalar.

    Gradients reach the model as of the codes. They reach the weights as of the mean over uniform noise of one step's
    width, which is the straight line between the lengths of the codes on either side.

    Args:
      at: of a tensor.
      model: ``[4]``, (a, b, c, d).

    Example:
      >>> codes = jnp.array([0.0, 1.0, -2.0])
      >>> float(code_length(Places(codes, codes), jnp.zeros(4)))  # 1 bit a zero; 1 a nonzero, 1 its sign, 1 a step
      8.0

    Reference: Oktay et al., Scalable model compression by entropy penalized reparameterization, 2020; Girish et al.,
    LilNetX, 2023 (whole channels).
    """
    codes = stop_gradient(at.codes)
    active = stop_gradient(activity(codes))
    model = model.astype(codes.dtype)
    a, b, c, d = (model[i] for i in range(4))
    v = c + d * active
    soft_v = jnp.logaddexp(0.0, v)
    u = jnp.minimum(a + b * active, soft_v)  # 0 is no rarer than 1 and -1: to leave it costs the sign at least
    soft_u = jnp.logaddexp(0.0, u)
    size = jnp.abs(codes)
    lengths = jnp.where(size > 0, soft_u - u + soft_v + (size - 1) * (soft_v - v), soft_u) * _BITS + jnp.sign(size)
    first, further = (soft_v - u) * _BITS + 1, (soft_v - v) * _BITS
    slope = jnp.where(jnp.abs(at.between) < 1, first, further) * jnp.sign(at.between)
    return jnp.sum(with_slope(lengths, at.between, stop_gradient(slope)))


def start(w: Array, view: Array, node: Any) -> Learned | None:
    """Returns the model that a tensor begins with; None for a state without places.

    Args:
      w: ``[...]``, what is shown.
      view: ``[...]``, as it is shown.
      node: the state, as of :func:`places`.
    """
    at = places(w, view, node)
    return None if at is None else Learned(stop_gradient(fitted(at.codes)))
