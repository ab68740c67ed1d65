"""Matmuls and convolutions by a weight in parts: one after the other, each part once."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from jaxcomp.trace import compat
from jaxcomp.trace.contraction import Contraction
from jaxcomp.trace.ir import Node
from jaxcomp.trace.packed.leaf import Indices, Packed


def apply(node: Node, x: Any, weight: Packed, side: int) -> Any:
    """Computes a site's result part by part.

    Args:
      node: the ``dot_general`` or ``conv_general_dilated``.
      x: its other operand.
      weight: the packed operand.
      side: which operand the weight is, 0 or 1.

    Returns:
      The result; None if the parts do not follow each other as the site reads them.
    """
    if node.op == "dot_general":
        return _dot(node, x, weight, side)
    return _conv(node, x, weight) if side == 1 else None


def _names(weight: Packed, axes: Sequence[int]) -> Indices:
    return tuple(name for i in axes for name in weight.axes[i])


class AxisNames(NamedTuple):
    """The indices of a weight that a site runs over in each of the ways of :class:`jaxcomp.trace.contraction.Axes`.

    Those of the window are apart, axis by axis.
    """

    batch: Indices
    contracted: Indices
    free: Indices
    window: tuple[Indices, ...]


def axis_names(node: Node, weight: Packed, side: int) -> AxisNames:
    """Names the axes of a site's weight.

    Args:
      node: the ``dot_general`` or ``conv_general_dilated``.
      weight: the packed operand.
      side: which operand the weight is, 0 or 1.
    """
    own = Contraction(node).operands[side]
    batch, contracted, free = (_names(weight, axes) for axes in (own.batch, own.contracted, own.free))
    return AxisNames(batch, contracted, free, tuple(weight.axes[i] for i in own.window))


def _ordered(weight: Packed, first: Indices, last: Indices, shared: Indices) -> list[tuple[Any, Indices]] | None:
    """The parts in the order in which they follow each other from ``first`` to ``last``; None if they do not."""
    parts = list(zip(weight.parts.values(), weight.names, strict=True))
    for order in (parts, parts[::-1]):
        starts, ends = (set(order[i][1]) for i in (0, -1))
        links = [set(a[1]) & set(b[1]) - set(shared) for a, b in itertools.pairwise(order)]
        if set(first) <= starts and set(last) <= ends and all(len(link) == 1 and min(link) < 0 for link in links):
            return order
    return None


def _dot(node: Node, x: Any, weight: Packed, side: int) -> Any:
    batch, summed, free, _ = axis_names(node, weight, side)
    parts = _ordered(weight, summed, free, batch)
    if parts is None or set(free) & set(parts[0][1]) or any(not set(batch) <= set(names) for _, names in parts):
        return None
    sizes = weight.sizes
    axes = Contraction(node).operands
    own = {i: weight.axes[j] for i, j in zip(axes[1 - side].met, axes[side].met, strict=True)}
    # The other operand's axes split into the weight's indices.
    labels: list[int | None] = [name for i in range(x.ndim) for name in own.get(i, (None,))]
    shape = [n for i, s in enumerate(x.shape) for n in ([sizes[name] for name in own[i]] if i in own else [s])]
    h, here, dtype = x.reshape(shape), list(labels), x.dtype
    settings = {name: node.params[name] for name in ("precision", "preferred_element_type")}
    for part, names in parts:
        link = [name for name in names if name in here and name not in batch]
        dims = [[seq.index(name) for name in these] for these in (link, batch) for seq in (here, names)]
        h = lax.dot_general(h.astype(dtype), part, ((dims[0], dims[1]), (dims[2], dims[3])), **settings)
        rest = [name for name in here if name is None]
        here = [*batch, *rest, *(name for name in names if name not in (*link, *batch))]
    return _arranged(h, here, batch, free, side).reshape(node.outs[0].dims)


def _arranged(h: Any, here: list[int | None], batch: Indices, free: Indices, side: int) -> Any:
    """A matmul's result in the order that its primitive promises: batch axes, the left free ones, the right ones."""
    passed = [i for i, name in enumerate(here) if name is None]
    made = [here.index(name) for name in free]
    order = [*(here.index(name) for name in batch), *(passed + made if side else made + passed)]
    return h if order == list(range(len(order))) else jnp.transpose(h, order)


def _conv(node: Node, x: Any, weight: Packed) -> Any:
    params = node.params
    _, reads, out, window = axis_names(node, weight, 1)
    parts = _ordered(weight, reads, out, ())
    if parts is None or params["feature_group_count"] > 1 or params["batch_group_count"] > 1:
        return None
    places = [_part_of(parts, axis) for axis in window]
    if None in places:
        return None
    sizes, dtype = weight.sizes, x.dtype
    for i, (part, names) in enumerate(parts):
        into = reads if i == 0 else _link(names, parts[i - 1][1])
        made = out if i == len(parts) - 1 else _link(names, parts[i + 1][1])
        spots = [axis if place == i else () for axis, place in zip(window, places, strict=True)]
        kernel = _kernel(part, names, [*spots, into, made], sizes)
        last = i == len(parts) - 1
        x = _stage(x.astype(dtype), kernel, node, [place == i for place in places], last)
    return x


def _part_of(parts: Sequence[tuple[Any, Indices]], axis: Indices) -> int | None:
    """The one part that slides along an axis of the window; the first with any window, for an axis of size 1."""
    if not axis:
        wide = [i for i, (part, names) in enumerate(parts) if part.ndim > 2]
        return wide[0] if wide else 0
    held = [i for i, (_, names) in enumerate(parts) if set(axis) <= set(names)]
    return held[0] if len(held) == 1 else None


def _link(names: Indices, other: Indices) -> Indices:
    return tuple(name for name in names if name < 0 and name in other)


def _kernel(part: Any, names: Indices, groups: Sequence[Indices], sizes: dict[int, int]) -> Any:
    """A part as ``[window..., in, out]``."""
    order = [names.index(name) for group in groups for name in group]
    return jnp.transpose(part, order).reshape([math.prod(sizes[name] for name in group) for group in groups])


def _stage(x: Any, kernel: Any, node: Node, moves: Sequence[bool], last: bool) -> Any:
    """One convolution of a chain: with the site's strides, padding and dilations along the axes that are its own."""
    n, params, numbers = len(moves), node.params, node.params["dimension_numbers"]

    def mine(setting: str, neutral: Any) -> list[Any]:
        return [own if move else neutral for own, move in zip(params[setting], moves, strict=True)]

    # By its primitive: the function of that name refuses a padding of which the size has a name.
    (made,) = compat.bind(
        node.equation,
        [x, kernel],
        window_strides=tuple(mine("window_strides", 1)),
        padding=tuple(mine("padding", (0, 0))),
        lhs_dilation=tuple(mine("lhs_dilation", 1)),
        rhs_dilation=tuple(mine("rhs_dilation", 1)),
        dimension_numbers=lax.ConvDimensionNumbers(
            numbers.lhs_spec, (n + 1, n, *range(n)), numbers.out_spec if last else numbers.lhs_spec
        ),
    )
    return made
