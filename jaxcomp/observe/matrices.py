"""Matrices: a parameter, what flows into its sites and what comes out of them, as the field's formulas have them."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcomp.core.leaves import wide
from jaxcomp.core.meshes import replicated
from jaxcomp.trace.packed.leaf import Indices
from jaxcomp.trace.uses import Use


def flat(groups: Sequence[Indices]) -> Indices:
    """Joins groups of indices."""
    return tuple(name for group in groups for name in group)


def arranged(use: Use, leaf: Any, groups: Sequence[Indices]) -> np.ndarray:
    """Transposes a parameter to ``[stack, group, group, ...]``, float64.

    Args:
      use: the site that reads it.
      leaf: the parameter.
      groups: of its indices, each of which becomes an axis.
    """
    home = flat(use.home)
    array = np.asarray(leaf, np.float64).reshape([use.sizes[name] for name in home])
    order = [home.index(name) for name in (*use.stack, *flat(groups))]
    return array.transpose(order).reshape([use.size(group) for group in (use.stack, *groups)])


def reduction(use: Use) -> Indices:
    """Returns the indices that a site sums over: of a convolution, the window's and the input channels of a group."""
    return (*flat(use.window), *use.summed)


def feature_groups(use: Use) -> int:
    """Counts the groups of a site's features, each computed from inputs of its own."""
    return use.contraction.groups


def matrix(use: Use, leaf: Any) -> np.ndarray:
    """Reshapes a parameter ``leaf`` of the site ``use`` to ``[stack x groups, reduction, out]``, float64."""
    weight = arranged(use, leaf, (reduction(use), use.free))
    stack, size, _ = weight.shape
    split = weight.reshape(stack, size, feature_groups(use), -1)
    return split.swapaxes(1, 2).reshape(-1, size, split.shape[-1])


def unmatrix(use: Use, weight: Any, shape: Sequence[int]) -> np.ndarray:
    """Inverts :func:`matrix`: a ``weight`` of the site ``use`` gets the parameter's ``shape``, in its own dtype."""
    groups, size = feature_groups(use), weight.shape[1]
    joined = np.asarray(weight).reshape(-1, groups, size, weight.shape[2]).swapaxes(1, 2)
    names = (*use.stack, *reduction(use), *use.free)
    order = [names.index(name) for name in flat(use.home)]
    return joined.reshape([use.sizes[name] for name in names]).transpose(order).reshape(shape)


def output_rows(use: Use, result: Any) -> jax.Array:
    """Reshapes the ``result`` of a site ``use`` to ``[matmul batch, positions, features]``, float32 or wider."""
    result = replicated(result)
    result = result.astype(wide(result.dtype))
    axes = use.contraction
    rows = jnp.transpose(result, (*axes.batch, *axes.free[1 - use.side], *axes.window, *axes.free[use.side]))
    return rows.reshape(use.size(use.stack[len(use.scans) :]), -1, use.size(use.free))


def input_rows(use: Use, x: Any, places: int | None = None) -> Any:
    """Arranges a site's inputs as rows, float32 or wider: ``[matmul batch x groups, positions, reduction]``.

    Of a convolution these are the patches under its window, one for each position of its result; of more than
    ``places`` every third, fifth, ... along each axis (odd, so that a later stride of 2 does not see others).

    An array of NumPy is arranged as one.

    Args:
      use: the site.
      x: its operand beside the parameter.
      places: positions of each result that count at most; None: all.
    """
    x = replicated(x)
    x = x.astype(wide(x.dtype))
    size = use.size(reduction(use))
    if use.is_conv:
        patches = _patches(use, x, places)
        patches = patches.reshape(*patches.shape[:2], feature_groups(use), -1)
        return patches.transpose(2, 0, 1, 3).reshape(feature_groups(use), -1, size)
    x = x.transpose(*use.input.passed, *use.input.contracted)
    return x.reshape(use.size(use.stack[len(use.scans) :]), -1, size)


def rows_read(use: Use) -> Any:
    """Tells how a site's inputs become rows, hashable: sites of one value that agree in it read the same rows."""
    sizes = use.size(use.stack), use.size(reduction(use)), [use.size(axis) for axis in use.window]
    window = [use.node.outs[0].shape[axis] for axis in use.contraction.window]
    layout = [use.node.params.get(name) for name in ("padding", "window_strides", "lhs_dilation", "rhs_dilation")]
    factor = np.asarray(use.factor, np.float64).tolist()
    return repr((use.is_conv, use.input, feature_groups(use), len(use.scans), sizes, window, layout, factor))


def _patches(use: Use, x: Any, places: int | None) -> Any:
    """``[batch x places, window, channels]``: taken axis by axis, which compiles in a fifth of the time of slices."""
    params = use.node.params
    x = x.transpose(*use.input.free, *use.input.window, *use.input.contracted)
    inner = [(low, high, by - 1) for (low, high), by in zip(params["padding"], params["lhs_dilation"], strict=True)]
    x = _padded(x, [(0, 0, 0), *inner, (0, 0, 0)])
    counts = [use.node.outs[0].shape[axis] for axis in use.contraction.window]
    every = 1
    while places and math.prod(-(-n // every) for n in counts) > places:
        every += 2
    counts = [-(-n // every) for n in counts]
    strides, steps = [by * every for by in params["window_strides"]], params["rhs_dilation"]
    windows, take = [use.size(axis) for axis in use.window], (np if isinstance(x, np.ndarray) else jnp).take
    for i, (size, count, by, step) in enumerate(zip(windows, counts, strides, steps, strict=True)):
        places = np.arange(count)[:, None] * by + np.arange(size) * step
        x = take(x, places, axis=1 + 2 * i, mode="clip")  # [batch, (places, window) of some axes, ..., channels]
    ndim = len(windows)
    x = x.transpose(0, *range(1, 2 * ndim, 2), *range(2, 2 * ndim + 1, 2), 2 * ndim + 1)
    return x.reshape(-1, math.prod(windows), x.shape[-1])


def _padded(x: Any, widths: Sequence[tuple[int, int, int]]) -> Any:
    """Pads with zeros as ``lax.pad`` does; an array of NumPy too."""
    if not isinstance(x, np.ndarray):
        return lax.pad(x, jnp.zeros((), x.dtype), widths)
    if not np.any(widths):
        return x
    spread = [slice(None, None, inner + 1) for *_, inner in widths]
    spaced = np.zeros([max(n + (n - 1) * inner, 0) for n, (*_, inner) in zip(x.shape, widths, strict=True)], x.dtype)
    spaced[tuple(spread)] = x
    cut = [slice(max(-low, 0), n - max(-high, 0)) for n, (low, high, _) in zip(spaced.shape, widths, strict=True)]
    return np.pad(spaced[tuple(cut)], [(max(low, 0), max(high, 0)) for low, high, _ in widths])
