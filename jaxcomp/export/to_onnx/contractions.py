"""Rules for matmuls and convolutions: of any dimension numbers, in NCHW, between quantized operands if they are."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from jaxcomp.export.to_onnx.codes import decoded, on_grid
from jaxcomp.export.to_onnx.graph import Graph, count
from jaxcomp.export.to_onnx.operands import Coded, Const, Operand, Tensor, inverse
from jaxcomp.export.to_onnx.shapes import padded
from jaxcomp.trace.contraction import Contraction
from jaxcomp.trace.ir import Node

Change = Callable[[Tensor | Const], Tensor | Const]


def _moved(graph: Graph, x: Any, change: Change) -> Tensor | Const:
    """An operand in the layout that a site wants: quantized in it, not quantized and then moved."""
    if not isinstance(x, Tensor) or x.name not in graph.grids:
        return change(x)
    source, book = graph.grids[x.name]
    return on_grid(graph, graph.tensor(change(Tensor(source, x.dims, x.axes, x.dtype))), book)


def _weight(graph: Graph, x: Any, order: Sequence[int], shape: Sequence[Any], wide: bool) -> Tensor | Const:
    """A constant operand in the order and shape that a site wants."""
    moved = x.transposed(tuple(order)).reshaped(tuple(shape))
    return decoded(graph, replace(moved, wide=wide)) if isinstance(moved, Coded) else moved


def _checked(graph: Graph, node: Node) -> None:
    if not np.issubdtype(node.outs[0].dtype, np.floating) and node.outs[0].dtype.name != "bfloat16":
        raise graph.refused(
            f"{node.op} of integers ({node.ins[0].dtype}) has no rule",
            "give the function that jaxcomp.rewrite.quantize returned itself, not one that was jitted around it before",
        )


def convolution(graph: Graph, node: Node, operands: Sequence[Any]) -> Operand:
    """Emits Conv, or ConvTranspose where the input has gaps (lhs_dilation)."""
    _checked(graph, node)
    p, numbers = node.params, node.params["dimension_numbers"]
    if p["batch_group_count"] > 1:
        raise graph.refused("a convolution with its batch in groups has no operator", "use feature_group_count")
    x, kernel = operands
    axes = inverse(tuple(numbers.lhs_spec))
    x = graph.tensor(_moved(graph, x, lambda x: graph.laid(graph.full(x, node.ins[0].dims), axes)))
    space = len(p["window_strides"])
    low, high = ([each[side] for each in p["padding"]] for side in (0, 1))
    out = tuple(node.outs[0].dims[i] for i in numbers.out_spec)
    made_axes = inverse(tuple(numbers.out_spec))
    if any(by > 1 for by in p["lhs_dilation"]):
        return _transposed(graph, node, x, kernel, out, made_axes)
    if min(*low, *high) < 0:
        before, after = ([0, 0, *(min(n, 0) for n in side)] for side in (low, high))
        plain = Tensor(x.name, x.dims, tuple(range(len(x.dims))), x.dtype)
        x = graph.tensor(_moved(graph, plain, lambda x: padded(graph, graph.tensor(x), before, after, 0)))
        low, high = ([max(n, 0) for n in side] for side in (low, high))
    weight = _kernel(graph, kernel, numbers.rhs_spec, node.ins[1].dims, x.name in graph.grids)
    return graph.emit(
        "Conv",
        [x, weight],
        out,
        x.dtype,
        made_axes,
        group=p["feature_group_count"],
        strides=list(p["window_strides"]),
        dilations=list(p["rhs_dilation"]),
        pads=[*low, *high],
        kernel_shape=[node.ins[1].dims[i] for i in numbers.rhs_spec[2:]][:space],
    )


def _kernel(graph: Graph, kernel: Any, order: Sequence[int], dims: Any, wide: bool) -> Tensor | Const:
    if isinstance(kernel, Tensor):
        return graph.laid(graph.full(kernel, dims), inverse(tuple(order)))
    kernel = graph.full(kernel, dims) if isinstance(kernel, Const) else kernel
    return _weight(graph, kernel, order, [dims[i] for i in order], wide)


def _transposed(graph: Graph, node: Node, x: Tensor, kernel: Any, out: Sequence[Any], axes: tuple[int, ...]) -> Operand:
    """ConvTranspose of the kernel turned about; what it pads beyond the kernel's reach are zeros around the result."""
    p, order = node.params, node.params["dimension_numbers"].rhs_spec
    if any(by > 1 for by in p["window_strides"]) or isinstance(kernel, Tensor):
        raise graph.refused(
            "a convolution of an input with gaps (lhs_dilation) by strides, or by a computed kernel, has no operator",
            "a stride on one side, and a kernel that is a parameter",
        )
    groups, dims = p["feature_group_count"], [node.ins[1].dims[i] for i in order]
    kernel = graph.full(kernel, node.ins[1].dims) if isinstance(kernel, Const) else kernel
    turned = kernel.transposed(tuple(order)).reshaped((groups, dims[0] // groups, *dims[1:]))
    turned = turned.transposed((0, 2, 1, *range(3, len(dims) + 1)))
    turned = turned.reshaped((groups * dims[1], dims[0] // groups, *dims[2:]))
    space = tuple(range(2, len(dims)))
    flipped = (
        replace(turned, codes=np.flip(turned.codes, space), wide=x.name in graph.grids)
        if isinstance(turned, Coded)
        else replace(turned, array=np.flip(turned.array, space))
    )
    weight = decoded(graph, flipped) if isinstance(flipped, Coded) else flipped
    reach = [by * (k - 1) for by, k in zip(p["rhs_dilation"], dims[2:], strict=True)]
    low, high = ([r - each[side] for r, each in zip(reach, p["padding"], strict=True)] for side in (0, 1))
    before, after = ([0, 0, *(max(-n, 0) for n in side)] for side in (low, high))
    inner = tuple(n - a - b for n, a, b in zip(out, before, after, strict=True))
    made = graph.emit(
        "ConvTranspose",
        [x, weight],
        inner,
        x.dtype,
        group=groups,
        strides=list(p["lhs_dilation"]),
        dilations=list(p["rhs_dilation"]),
        pads=[max(n, 0) for n in (*low, *high)],
        kernel_shape=dims[2:],
    )
    made = padded(graph, made, before, after, 0)
    return Tensor(made.name, made.dims, axes, made.dtype)


def dot_general(graph: Graph, node: Node, operands: Sequence[Any]) -> Operand:
    """Emits MatMul of rows by columns, each operand's axes moved and merged to that."""
    _checked(graph, node)
    site = Contraction(node)
    if isinstance(operands[1], Tensor) and not isinstance(operands[0], Tensor) and not site.batch:
        # By a weight from the left: the same product from the right, whose result says that its axes are the other way.
        made = _product(graph, node, (operands[1], operands[0]), (1, 0))
        left, right = (len(own) for own in site.free)
        axes = (*range(right, right + left), *range(right))
        return Tensor(made.name, made.dims, axes, made.dtype)
    return _product(graph, node, tuple(operands), (0, 1))


def _product(graph: Graph, node: Node, operands: tuple[Any, Any], sides: tuple[int, int]) -> Tensor:
    site = Contraction(node)
    left, right = (site.operands[side] for side in sides)
    dims = [node.ins[side].dims for side in sides]
    batch, summed = ([dims[0][i] for i in own] for own in (left.batch, left.contracted))
    rows, columns = [dims[0][i] for i in left.free], [dims[1][i] for i in right.free]
    x, w = operands
    whole = not batch and not isinstance(w, Tensor)  # rows may stay as they are
    merged = rows if whole else [count(rows)]

    def in_rows(x: Tensor | Const) -> Tensor | Const:
        laid = graph.laid(graph.full(x, dims[0]), inverse((*left.batch, *left.free, *left.contracted)))
        return graph.reshaped(_lying(laid), (*batch, *merged, count(summed)))

    def in_columns(x: Tensor | Const) -> Tensor | Const:
        laid = graph.laid(graph.full(x, dims[1]), inverse((*right.batch, *right.contracted, *right.free)))
        return graph.reshaped(_lying(laid), (*batch, count(summed), count(columns)))

    if not isinstance(x, Tensor):
        order = (*left.batch, *left.free, *left.contracted)
        x = graph.full(x, dims[0]) if isinstance(x, Const) else x
        x = _weight(graph, x, order, (*batch, *merged, count(summed)), isinstance(w, Tensor) and w.name in graph.grids)
    else:
        x = _moved(graph, x, in_rows)
    if isinstance(w, Tensor):
        w = _moved(graph, w, in_columns)
    else:
        order = (*right.batch, *right.contracted, *right.free)
        w = graph.full(w, dims[1]) if isinstance(w, Const) else w
        w = _weight(
            graph, w, order, (*batch, count(summed), count(columns)), isinstance(x, Tensor) and x.name in graph.grids
        )
    made = graph.emit("MatMul", [x, w], (*batch, *merged, count(columns)), node.outs[0].dtype)
    done = graph.reshaped(made, (*batch, *rows, *columns))
    assert isinstance(done, Tensor)
    return done


def _lying(x: Tensor | Const) -> Tensor | Const:
    """An operand whose axes are those in the file."""
    return replace(x, axes=tuple(range(len(x.dims)))) if isinstance(x, Tensor) else x


RULES: dict[str, Callable[[Graph, Node, Sequence[Any]], Operand]] = {
    "conv_general_dilated": convolution,
    "dot_general": dot_general,
}
