"""Rules for what is computed of many numbers: sums and maxima along axes, and over windows."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxcomp.export.to_onnx.elementwise import apply, file_dtype, like, onnx_dtype
from jaxcomp.export.to_onnx.graph import Graph
from jaxcomp.export.to_onnx.operands import Operand, Tensor, inverse, valued
from jaxcomp.trace.ir import Node


def reduced(graph: Graph, op: str, x: Tensor, axes: Sequence[int], dtype: Any = None, **attributes: Any) -> Tensor:
    """Emits a reduction along axes of the value, which go.

    Args:
      graph: of the file.
      op: the operator's name.
      x: the operand.
      axes: of the value.
      dtype: of the result; None: of the operand.
      **attributes: of the operator.
    """
    gone = sorted(x.axes[i] for i in axes)
    laid = [p for p in range(len(x.dims)) if p not in gone]
    kept = tuple(laid.index(x.axes[i]) for i in range(len(x.axes)) if i not in axes)
    dims = tuple(x.dims[p] for p in laid)
    ins: list[Any] = [x]
    if op.startswith("Arg"):
        attributes["axis"] = gone[0]
    else:
        ins.append(np.asarray(gone, np.int64))
    return graph.emit(op, ins, dims, x.dtype if dtype is None else dtype, kept, keepdims=0, **attributes)


def _reduce(op: str) -> Callable[[Graph, Node, Sequence[Any]], Operand]:
    def rule(graph: Graph, node: Node, operands: Sequence[Any]) -> Operand:
        x = graph.whole(valued(operands[0]), node.ins[0].dims)
        axes = node.params["axes"]
        if not axes:
            return x
        if x.dtype == np.bool_:
            x = apply(graph, "Cast", [x], np.int32, to=onnx_dtype(np.int32))
            return apply(graph, "Cast", [reduced(graph, op, x, axes)], bool, to=onnx_dtype(bool))
        return reduced(graph, op, x, axes)

    return rule


def _arg(op: str) -> Callable[[Graph, Node, Sequence[Any]], Operand]:
    def rule(graph: Graph, node: Node, operands: Sequence[Any]) -> Operand:
        x = graph.whole(valued(operands[0]), node.ins[0].dims)
        found = reduced(graph, op, x, node.params["axes"], np.int64)
        dtype = np.dtype(node.params["index_dtype"])
        return apply(graph, "Cast", [found], dtype, to=onnx_dtype(dtype))

    return rule


def _cumulative(graph: Graph, node: Node, operands: Sequence[Any]) -> Operand:
    x = graph.whole(valued(operands[0]), node.ins[0].dims)
    axis = np.asarray(x.axes[node.params["axis"]], np.int64)
    return graph.emit("CumSum", [x, axis], x.dims, x.dtype, x.axes, reverse=int(node.params["reverse"]))


def _window(op: str) -> Callable[[Graph, Node, Sequence[Any]], Operand]:
    def rule(graph: Graph, node: Node, operands: Sequence[Any]) -> Operand:
        return pooled(graph, node, graph.whole(valued(operands[0]), node.ins[0].dims), op)

    return rule


def pooled(graph: Graph, node: Node, x: Tensor, op: str) -> Tensor:
    """Emits MaxPool or, for sums, AveragePool times the size of the window.

    Args:
      graph: of the file.
      node: the pool.
      x: its operand.
      op: the operator's name.
    """
    p, rank = node.params, len(x.dims)
    if any(by != 1 for by in p["base_dilation"]):
        raise graph.refused("a window over an input with gaps (base_dilation) has no operator", "leave the gaps out")
    window, dims = p["window_dimensions"], node.outs[0].dims
    still = [
        i for i in range(rank) if window[i] == 1 and p["window_strides"][i] == 1 and tuple(p["padding"][i]) == (0, 0)
    ]
    added = max(0, 2 - len(still))
    if not added and not {x.order[0], x.order[1]} <= set(still):
        order = (still[0], still[-1], *(i for i in range(rank) if i not in (still[0], still[-1])))
        x = graph.tensor(graph.laid(x, inverse(order)))
    elif added:
        order = (*still, *(i for i in range(rank) if i not in still))
        x = graph.tensor(graph.laid(x, inverse(order)))
    order, laid = x.order, x.axes
    if added:
        x = graph.tensor(graph.reshaped(x, (1,) * added + x.dims))
    space = order[2 - added :]
    settings: dict[str, Any] = {
        "kernel_shape": [window[i] for i in space],
        "strides": [p["window_strides"][i] for i in space],
        "pads": [p["padding"][i][side] for side in (0, 1) for i in space],
    }
    if any(step != 1 for step in p["window_dilation"]):  # ONNX Runtime has means of integers for those without the word
        settings["dilations"] = [p["window_dilation"][i] for i in space]
    if op == "AveragePool" and any(settings["pads"]):
        x, settings["pads"] = _padded(graph, x, settings["pads"]), [0] * 2 * len(space)
    out = (1,) * added + tuple(dims[i] for i in order)
    made: Any = graph.emit(op, [x], out, x.dtype, laid if not added else None, **settings)
    made = graph.reshaped(made, out[added:], laid) if added else made
    if op == "AveragePool":
        made = apply(graph, "Mul", [made, like(made, int(np.prod(window)))], made.dtype)
    return made


def _padded(graph: Graph, x: Tensor, pads: Sequence[int]) -> Tensor:
    """Zeros around the last axes: OpenVINO's means of integers take the code 0 for what they pad, whatever it is."""
    still = len(x.dims) - len(pads) // 2
    low, high = ([0] * still + list(side) for side in (pads[: len(pads) // 2], pads[len(pads) // 2 :]))
    dims = tuple(n + a + b for n, a, b in zip(x.dims, low, high, strict=True))
    return graph.emit("Pad", [x, np.asarray([*low, *high], np.int64), like(x, 0)], dims, x.dtype, x.axes)


def _window_min(graph: Graph, node: Node, operands: Sequence[Any]) -> Operand:
    x = graph.whole(valued(operands[0]), node.ins[0].dims)
    largest = pooled(graph, node, apply(graph, "Neg", [x], x.dtype), "MaxPool")
    return apply(graph, "Neg", [largest], x.dtype)


RULES: dict[str, Callable[[Graph, Node, Sequence[Any]], Any]] = {
    "reduce_sum": _reduce("ReduceSum"),
    "reduce_max": _reduce("ReduceMax"),
    "reduce_min": _reduce("ReduceMin"),
    "reduce_prod": _reduce("ReduceProd"),
    "reduce_and": _reduce("ReduceMin"),
    "reduce_or": _reduce("ReduceMax"),
    "argmax": _arg("ArgMax"),
    "argmin": _arg("ArgMin"),
    "cumsum": _cumulative,
    "reduce_window_max": _window("MaxPool"),
    "reduce_window_sum": _window("AveragePool"),
    "reduce_window_min": _window_min,
}

__all__ = ["RULES", "file_dtype", "pooled", "reduced"]
