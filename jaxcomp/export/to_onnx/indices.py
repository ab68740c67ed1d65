"""Rules for what is looked up: gathers of whole slices, slices whose start is computed, sorting."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxcomp.export.to_onnx.elementwise import apply, like, onnx_dtype
from jaxcomp.export.to_onnx.graph import Graph
from jaxcomp.export.to_onnx.operands import Const, Operand, Tensor, valued
from jaxcomp.export.to_onnx.shapes import sliced
from jaxcomp.trace.ir import Node


def _gather(graph: Graph, node: Node, operands: Sequence[Any]) -> Operand:
    x, where = operands
    numbers, sizes = node.params["dimension_numbers"], node.params["slice_sizes"]
    axes, shape = tuple(numbers.start_index_map), node.ins[0].dims
    whole = all(bool(size == n) for i, (size, n) in enumerate(zip(sizes, shape, strict=True)) if i not in axes)
    if whole and tuple(numbers.collapsed_slice_dims) == tuple(sorted(axes)) and not numbers.operand_batching_dims:
        if isinstance(where, Const):
            rows = _rows(np.broadcast_to(where.array, node.ins[1].shape))
            if rows is not None:
                return _grid(graph, node, graph.whole(x, shape), rows)
        if len(axes) == 1:
            return _looked_up(graph, node, x, where)
    raise graph.refused(
        f"a gather of {sizes} out of {tuple(shape)} along {axes} has no rule",
        "whole slices along one axis can be looked up: jnp.take(x, indices, axis)",
    )


def _rows(indices: np.ndarray) -> list[tuple[int, np.ndarray]] | None:
    """For each axis that is indexed: along which axis of the indices, and which; None if these are no grid."""
    found: list[tuple[int, np.ndarray]] = []
    for each in np.moveaxis(indices, -1, 0):
        along = [i for i, n in enumerate(each.shape) if n > 1 and (each != each.take([0], i)).any()]
        free = [i for i in range(each.ndim) if i not in [axis for axis, _ in found]]
        axis = along[0] if along else next((i for i in free if each.shape[i] == 1), None)
        if len(along) > 1 or axis is None or axis not in free:
            return None
        found.append((axis, np.moveaxis(each, axis, 0).reshape(each.shape[axis], -1)[:, 0]))
    return found if len(found) == indices.ndim - 1 else None


def _grid(graph: Graph, node: Node, x: Tensor, rows: list[tuple[int, np.ndarray]]) -> Operand:
    """Known places along some axes each: a Slice where they follow each other evenly, else a Gather."""
    numbers = node.params["dimension_numbers"]
    for axis, (_, wanted) in zip(numbers.start_index_map, rows, strict=True):
        which = np.clip(wanted, 0, x.shape[axis] - 1).astype(np.int64)
        steps = np.unique(np.diff(which))
        dims = tuple(len(which) if p == x.axes[axis] else n for p, n in enumerate(x.dims))
        if len(steps) == 0 or (len(steps) == 1 and steps[0] > 0):
            starts, ends, by = [0] * len(dims), list(x.shape), [1] * len(dims)
            starts[axis], ends[axis], by[axis] = int(which[0]), int(which[-1]) + 1, int(steps[0]) if len(steps) else 1
            x = sliced(graph, x, starts, ends, by, tuple(dims[p] for p in x.axes))
        else:
            x = graph.emit("Gather", [x, which], dims, x.dtype, x.axes, axis=x.axes[axis])
    places = {along: axis for axis, (along, _) in zip(numbers.start_index_map, rows, strict=True)}
    offsets = iter(i for i in range(len(x.dims)) if i not in numbers.start_index_map)
    looked = iter(range(len(rows)))
    order = [next(offsets) if i in numbers.offset_dims else places[next(looked)] for i in range(len(x.dims))]
    return Tensor(x.name, x.dims, tuple(x.axes[i] for i in order), x.dtype)


def _looked_up(graph: Graph, node: Node, x: Tensor | Const, where: Tensor | Const) -> Operand:
    """Whole slices along one axis, at places that are computed or in no order."""
    numbers, axes, shape = (
        node.params["dimension_numbers"],
        node.params["dimension_numbers"].start_index_map,
        node.ins[0].dims,
    )
    (axis,), count = axes, node.ins[1].dims[:-1]
    source = graph.whole(x, shape)
    if isinstance(where, Const):
        inside = np.clip(np.broadcast_to(where.array, (*count, 1))[..., 0], 0, shape[axis] - 1)
        which: Any = Const(inside.astype(np.int64))
    else:
        flat = graph.reshaped(graph.plain(graph.full(where, node.ins[1].dims)), count)
        which = apply(graph, "Clip", [flat, like(flat, 0), like(flat, shape[axis] - 1)], flat.dtype)
    place = source.axes[axis]
    dims = (*source.dims[:place], *count, *source.dims[place + 1 :])
    made = graph.emit("Gather", [source, which], dims, source.dtype, axis=place)
    # The result in the file: the source's axes, those of the indices in place of one of them.
    rest = [i for i in range(len(shape)) if i != axis]
    at = {i: source.axes[i] + (len(count) - 1 if source.axes[i] > place else 0) for i in rest}
    offsets = iter(rest)
    looked = iter(range(place, place + len(count)))
    out = [at[next(offsets)] if i in numbers.offset_dims else next(looked) for i in range(len(dims))]
    return Tensor(made.name, dims, tuple(out), made.dtype)


def _dynamic_slice(graph: Graph, node: Node, operands: Sequence[Any]) -> Operand:
    x, *starts = operands
    sizes, shape = node.params["slice_sizes"], node.ins[0].dims
    x = graph.whole(x, shape)
    cut = [i for i, (size, n) in enumerate(zip(sizes, shape, strict=True)) if not bool(size == n)]
    if all(isinstance(starts[i], Const) for i in cut):
        begin = [
            0 if i not in cut else int(np.clip(starts[i].array, 0, shape[i] - sizes[i])) for i in range(len(shape))
        ]
        ends = [n if i not in cut else begin[i] + sizes[i] for i, n in enumerate(shape)]
        return sliced(graph, x, begin, ends, [1] * len(begin), node.outs[0].dims)
    parts: list[Any] = []
    for i in cut:
        start = graph.tensor(starts[i])
        wide = graph.emit("Cast", [start], (), np.int64, to=onnx_dtype(np.int64))
        wide = graph.emit(
            "Clip", [wide, np.asarray(0, np.int64), np.asarray(shape[i] - sizes[i], np.int64)], (), np.int64
        )
        parts.append(graph.reshaped(wide, (1,)))
    begins = parts[0] if len(parts) == 1 else graph.emit("Concat", parts, (len(parts),), np.int64, axis=0)
    ends_at = graph.emit("Add", [begins, np.asarray([sizes[i] for i in cut], np.int64)], (len(cut),), np.int64)
    on = np.asarray([x.axes[i] for i in cut], np.int64)
    dims = tuple(node.outs[0].dims[logical] for logical in x.order)
    return graph.emit("Slice", [x, begins, ends_at, on], dims, x.dtype, x.axes)


def _dynamic_update_slice(graph: Graph, node: Node, operands: Sequence[Any]) -> Operand:
    x, update, *starts = operands
    shape, sizes = node.ins[0].dims, node.ins[1].dims
    cut = [i for i, (size, n) in enumerate(zip(sizes, shape, strict=True)) if not bool(size == n)]
    if len(cut) > 1 or not all(isinstance(starts[i], Const) for i in cut):
        raise graph.refused(
            "an update of a slice at a computed start, or along several axes, has no rule",
            "update along one axis at a known start, or select by jnp.where",
        )
    new = graph.whole(valued(update), sizes)
    if not cut:
        return new
    axis, whole = cut[0], graph.tensor(graph.laid(graph.full(valued(x), shape), new.axes))
    start = int(np.clip(starts[axis].array, 0, shape[axis] - sizes[axis]))
    parts: list[Tensor] = []
    for begin, end in ((0, start), (start + sizes[axis], shape[axis])):
        if begin < end:
            begins, ends = [0] * len(shape), list(shape)
            begins[axis], ends[axis] = begin, end
            kept = tuple(end - begin if i == axis else n for i, n in enumerate(shape))
            parts.append(sliced(graph, whole, begins, ends, [1] * len(shape), kept))
    parts.insert(1 if start else 0, new)
    dims = tuple(shape[logical] for logical in new.order)
    return graph.emit("Concat", parts, dims, new.dtype, new.axes, axis=new.axes[axis])


def _top_k(graph: Graph, node: Node, operands: Sequence[Any]) -> list[Operand]:
    axis = node.params.get("axis", -1)
    return _largest(graph, node, operands[0], node.params["k"], axis % len(node.ins[0].dims), 1)


def _sort(graph: Graph, node: Node, operands: Sequence[Any]) -> Operand:
    if len(operands) > 1:
        raise graph.refused("a sort of several arrays by one has no rule", "use jax.lax.top_k or jnp.sort")
    axis = node.params["dimension"]
    return _largest(graph, node, operands[0], node.ins[0].dims[axis], axis, 0)[0]


def _largest(graph: Graph, node: Node, x: Any, k: int, axis: int, largest: int) -> list[Operand]:
    x = graph.whole(x, node.ins[0].dims)
    dims = tuple(k if p == x.axes[axis] else n for p, n in enumerate(x.dims))
    values = graph.emit(
        "TopK", [x, np.asarray([k], np.int64)], dims, x.dtype, x.axes, axis=x.axes[axis], largest=largest
    )
    places = graph.fresh("topk_indices")
    graph.operators[-1].outs.append(places)
    wide = Tensor(places, dims, x.axes, np.dtype(np.int64))
    return [values, apply(graph, "Cast", [wide], np.int32, to=onnx_dtype(np.int32))]


RULES: dict[str, Callable[[Graph, Node, Sequence[Any]], Any]] = {
    "gather": _gather,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "top_k": _top_k,
    "sort": _sort,
}
