"""Rules for what moves numbers about: axes moved, merged and split by saying so where that is possible."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxcomp.export.to_onnx.graph import Graph, count
from jaxcomp.export.to_onnx.operands import Coded, Const, Dims, Operand, Tensor, valued
from jaxcomp.trace import compat
from jaxcomp.trace.ir import Node

END = np.iinfo(np.int64).max
Group = tuple[tuple[int, ...], tuple[int, ...]]


def transposed(graph: Graph, node: Node, operands: Sequence[Any]) -> Operand:
    """Reorders the axes, which is no work yet."""
    (x,), order = operands, tuple(node.params["permutation"])
    if not isinstance(x, Tensor):
        return x.transposed(order)
    return Tensor(x.name, x.dims, tuple(x.axes[i] for i in order), x.dtype)


def broadcast_in_dim(graph: Graph, node: Node, operands: Sequence[Any]) -> Operand:
    """Adds axes of size 1; the shape alone says how far they are broadcast."""
    x, places = operands[0], node.params["broadcast_dimensions"]
    shape = [1] * len(node.outs[0].dims)
    for size, place in zip(x.shape, places, strict=True):
        shape[place] = size
    if not isinstance(x, Tensor):
        return x.reshaped(tuple(shape))
    return regrouped(graph, x, tuple(shape), [((i,), (place,)) for i, place in enumerate(places)])


def reshape(graph: Graph, node: Node, operands: Sequence[Any]) -> Operand:
    """Reshapes; without a Transpose if no axes are merged that lie apart in the file."""
    x, (before,), (after,) = operands[0], node.ins[:1], node.outs
    if not isinstance(x, Tensor):
        if tuple(x.shape) == tuple(before.dims):
            return x.reshaped(tuple(after.dims))
        if count(x.shape) == 1:
            return _constant(x).reshaped((1,) * len(after.dims))
        unit = _unit_shape(x.shape, before.dims, after.dims)
        if unit is not None:
            return _constant(x).reshaped(unit)
        return reshape(graph, node, [graph.full(valued(x), before.dims)])
    groups = split_groups(before.dims, after.dims)
    if all(len(own) < 2 and len(new) < 2 for own, new in groups):
        shape = [1] * len(after.dims)
        for own, new in groups:
            if own and new:
                shape[new[0]] = x.shape[own[0]]
        return regrouped(graph, x, tuple(shape), groups)
    x = graph.whole(x, before.dims)
    if not all(_together(x, before.dims, own) for own, _ in groups):
        x = graph.tensor(graph.plain(x))
    return regrouped(graph, x, tuple(after.dims), groups)


def _constant(x: Const | Coded) -> Const:
    return x.value if isinstance(x, Coded) else x


def _unit_shape(own: Dims, before: Dims, after: Dims) -> tuple[int, ...] | None:
    """The shape of a constant that is yet to be broadcast, if axes of size 1 alone come and go."""
    groups = split_groups(before, after)
    if any(len(a) > 1 or len(b) > 1 for a, b in groups):
        return None
    shape = [1] * len(after)
    for a, b in groups:
        if a and b:
            shape[b[0]] = own[a[0]]
    return tuple(shape)


def split_groups(before: Dims, after: Dims) -> list[Group]:
    """Splits two shapes of the same elements into the shortest runs of axes that become each other.

    Args:
      before: the shape that is reshaped.
      after: the shape of the result; axes of size 1 are in no run.
    """
    groups: list[Group] = []
    i = j = 0
    while i < len(before) or j < len(after):
        if i < len(before) and _is_one(before[i]):
            groups.append(((i,), ()))
            i += 1
        elif j < len(after) and _is_one(after[j]):
            groups.append(((), (j,)))
            j += 1
        else:
            own, new = [i], [j]
            while not _same(before, own, after, new):
                grown = own if _is_less(before, own, after, new) else new
                other = before if grown is own else after
                if grown[-1] + 1 >= len(other):
                    own, new = list(range(i, len(before))), list(range(j, len(after)))
                    break
                grown.append(grown[-1] + 1)
            groups.append((tuple(own), tuple(new)))
            i, j = own[-1] + 1, new[-1] + 1
    return groups


def _is_one(size: Any) -> bool:
    return not compat.is_symbolic(size) and size == 1


def _same(before: Dims, own: Sequence[int], after: Dims, new: Sequence[int]) -> bool:
    return bool(count([before[k] for k in own]) == count([after[k] for k in new]))


def _is_less(before: Dims, own: Sequence[int], after: Dims, new: Sequence[int]) -> bool:
    left, right = count([before[k] for k in own]), count([after[k] for k in new])
    try:
        return bool(left < right)
    except Exception:  # named sizes that cannot be compared: the run goes on to the end
        return not compat.is_symbolic(left)


def _together(x: Tensor, dims: Dims, own: Sequence[int]) -> bool:
    """Whether axes that are merged follow each other in the file, but for axes of size 1."""
    wide = [p for p, logical in enumerate(x.order) if not _is_one(dims[logical])]
    places = [wide.index(x.axes[k]) for k in own if not _is_one(dims[k])]
    return all(b == a + 1 for a, b in itertools.pairwise(places))


def regrouped(graph: Graph, x: Tensor, shape: Dims, groups: Sequence[Group]) -> Tensor:
    """Reshapes a tensor run of axes by run, each where it lies.

    Args:
      graph: of the file.
      x: the tensor.
      shape: afterwards.
      groups: of :func:`split_groups`.
    """
    made = {own[0]: new for own, new in groups if own}
    laid = [axis for logical in x.order for axis in made.get(logical, ())]
    for axis in range(len(shape)):
        if axis not in laid:
            laid.insert(axis, axis)
    axes = tuple(laid.index(axis) for axis in range(len(shape)))
    moved = graph.reshaped(x, tuple(shape[axis] for axis in laid), axes)
    assert isinstance(moved, Tensor)
    return moved


def concatenate(graph: Graph, node: Node, operands: Sequence[Any]) -> Operand:
    """Emits Concat along one axis."""
    parts = [graph.full(x, value.dims) for x, value in zip(operands, node.ins, strict=True)]
    tensors = [x for x in parts if isinstance(x, Tensor)]
    axes = max(tensors, key=lambda x: not x.is_plain).axes
    laid = [graph.laid(x, axes) for x in parts]
    dims = [0] * len(axes)
    for logical, p in enumerate(axes):
        dims[p] = node.outs[0].dims[logical]
    axis = axes[node.params["dimension"]]
    return graph.emit("Concat", laid, tuple(dims), tensors[0].dtype, axes, axis=axis)


def _stack(graph: Graph, node: Node, operands: Sequence[Any]) -> Operand:
    """Along a new axis."""
    axis, (out,) = node.params["axis"], node.outs
    parts = [graph.plain(graph.full(x, value.dims)) for x, value in zip(operands, node.ins, strict=True)]
    rows = [graph.reshaped(x, (*x.shape[:axis], 1, *x.shape[axis:])) for x in parts]
    return graph.emit("Concat", rows, out.dims, rows[0].dtype, axis=axis)


def _unstack(graph: Graph, node: Node, operands: Sequence[Any]) -> list[Operand]:
    """Each slice along an axis, without that axis."""
    axis, x = node.params["axis"], graph.whole(operands[0], node.ins[0].dims)
    axes = tuple(p - (p > x.axes[axis]) for i, p in enumerate(x.axes) if i != axis)
    dims = tuple(n for p, n in enumerate(x.dims) if p != x.axes[axis])
    return [
        graph.emit("Gather", [x, np.asarray(i, np.int64)], dims, x.dtype, axes, axis=x.axes[axis])
        for i in range(len(node.outs))
    ]


def _tile(graph: Graph, node: Node, operands: Sequence[Any]) -> Operand:
    """Repeated along axes."""
    x, reps = graph.whole(operands[0], node.ins[0].dims), node.params["reps"]
    dims = tuple(node.outs[0].dims[logical] for logical in x.order)
    return graph.emit("Tile", [x, np.asarray([reps[i] for i in x.order], np.int64)], dims, x.dtype, x.axes)


def sliced(
    graph: Graph, x: Tensor, starts: Sequence[Any], ends: Sequence[Any], steps: Sequence[int], shape: Dims
) -> Tensor:
    """Emits a Slice, by the value's axes.

    Args:
      graph: of the file.
      x: the tensor.
      starts, ends, steps: for each axis.
      shape: of the result.
    """
    cut = [i for i, size in enumerate(x.shape) if (starts[i], steps[i]) != (0, 1) or not bool(ends[i] == size)]
    if not cut:
        return x
    ends = [END if compat.is_symbolic(end) and end == size else end for end, size in zip(ends, x.shape, strict=True)]
    odd = [i for i in cut if compat.is_symbolic(starts[i]) or compat.is_symbolic(ends[i])]
    if odd:
        raise graph.refused(f"a slice to {ends[odd[0]]} depends on a symbolic size", "give it as a number")
    at = [np.asarray([values[i] for i in cut], np.int64) for values in (starts, ends)]
    on = np.asarray([x.axes[i] for i in cut], np.int64)
    dims = tuple(shape[logical] for logical in x.order)
    return graph.emit("Slice", [x, *at, on, np.asarray([steps[i] for i in cut], np.int64)], dims, x.dtype, x.axes)


def _slice(graph: Graph, node: Node, operands: Sequence[Any]) -> Operand:
    p, x = node.params, graph.whole(operands[0], node.ins[0].dims)
    return sliced(
        graph, x, p["start_indices"], p["limit_indices"], p["strides"] or [1] * len(x.shape), node.outs[0].dims
    )


def _split(graph: Graph, node: Node, operands: Sequence[Any]) -> list[Operand]:
    x, axis = graph.whole(operands[0], node.ins[0].dims), node.params["axis"]
    outs: list[Operand] = []
    begin = 0
    for size, out in zip(node.params["sizes"], node.outs, strict=True):
        starts, ends = [0] * len(x.shape), list(x.shape)
        starts[axis], ends[axis] = begin, begin + size
        outs.append(sliced(graph, x, starts, ends, [1] * len(starts), out.dims))
        begin += size
    return outs


def _rev(graph: Graph, node: Node, operands: Sequence[Any]) -> Operand:
    x, axes = graph.whole(operands[0], node.ins[0].dims), node.params["dimensions"]
    steps = [-1 if i in axes else 1 for i in range(len(x.shape))]
    starts = [-1 if i in axes else 0 for i in range(len(x.shape))]
    ends = [-END if i in axes else n for i, n in enumerate(x.shape)]
    return sliced(graph, x, starts, ends, steps, node.outs[0].dims)


def padded(graph: Graph, x: Tensor, low: Sequence[int], high: Sequence[int], value: Any) -> Tensor:
    """Emits a Pad, and a Slice for what is taken away, by the value's axes.

    Args:
      graph: of the file.
      x: the tensor.
      low, high: for each axis; negative takes away.
      value: of the padding.
    """
    before = [max(n, 0) for n in low]
    after = [max(n, 0) for n in high]
    if any(before) or any(after):
        shape = [n + a + b for n, a, b in zip(x.shape, before, after, strict=True)]
        dims = tuple(shape[logical] for logical in x.order)
        pads = np.asarray([side[logical] for side in (before, after) for logical in x.order], np.int64)
        x = graph.emit("Pad", [x, pads, np.asarray(value, x.dtype)], dims, x.dtype, x.axes, mode="constant")
    if min(*low, *high, 0) < 0:
        starts = [max(-n, 0) for n in low]
        ends = [n - max(-b, 0) for n, b in zip(x.shape, high, strict=True)]
        shape = [b - a for a, b in zip(starts, ends, strict=True)]
        ends = [-max(-b, 0) if compat.is_symbolic(n) and b < 0 else n for n, b in zip(ends, high, strict=True)]
        x = sliced(graph, x, starts, ends, [1] * len(starts), tuple(shape))
    return x


def _pad(graph: Graph, node: Node, operands: Sequence[Any]) -> Operand:
    x, value = graph.whole(operands[0], node.ins[0].dims), operands[1]
    config = node.params["padding_config"]
    if not isinstance(value, Const):
        raise graph.refused("padding by a computed value has no rule", "pad by a constant")
    for axis, (_, _, inner) in enumerate(config):
        if inner:
            x = _spaced(graph, x, axis, inner, value)
    low, high = ([each[side] for each in config] for side in (0, 1))
    return padded(graph, x, low, high, value.array.reshape(()))


def _spaced(graph: Graph, x: Tensor, axis: int, inner: int, value: Const) -> Tensor:
    """With other numbers in between along an axis."""
    x, size = graph.tensor(graph.plain(x)), x.shape[axis]
    split = (*x.dims[: axis + 1], 1, *x.dims[axis + 1 :])
    wide: Any = graph.reshaped(x, split)
    low = [0] * len(split)
    wide = padded(graph, wide, low, [inner if i == axis + 1 else 0 for i in range(len(split))], value.array.reshape(()))
    wide = graph.reshaped(wide, (*x.dims[:axis], size * (inner + 1), *x.dims[axis + 1 :]))
    none = [0] * len(x.dims)
    return padded(graph, wide, none, [-inner if i == axis else 0 for i in range(len(x.dims))], 0)


RULES: dict[str, Callable[[Graph, Node, Sequence[Any]], Any]] = {
    "transpose": transposed,
    "broadcast_in_dim": broadcast_in_dim,
    "reshape": reshape,
    "squeeze": reshape,
    "expand_dims": reshape,
    "concatenate": concatenate,
    "stack": _stack,
    "unstack": _unstack,
    "tile": _tile,
    "slice": _slice,
    "split": _split,
    "rev": _rev,
    "pad": _pad,
}

MOVES = ("transpose", "broadcast_in_dim", "reshape", "squeeze", "expand_dims")
"""Rules that take constants and codes too, and leave them such."""

__all__ = ["MOVES", "RULES", "Coded", "padded", "regrouped", "sliced", "split_groups"]
