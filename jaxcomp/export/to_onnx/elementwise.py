"""Rules for what is computed number by number; operands are broadcast by the file's operators, as NumPy does."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxcomp.export.to_onnx.graph import Graph, broadcast
from jaxcomp.export.to_onnx.operands import Const, Operand, Tensor
from jaxcomp.trace import compat
from jaxcomp.trace.ir import Node

Rule = Callable[[Graph, Node, Sequence[Any]], Operand]


def apply(graph: Graph, op: str, operands: Sequence[Tensor | Const], dtype: Any, **attributes: Any) -> Tensor:
    """Emits an elementwise operator, its operands in one layout: that of the largest.

    Args:
      graph: of the file.
      op: the operator's name.
      operands: of one shape, or broadcasting.
      dtype: of the result.
      **attributes: of the operator.
    """
    axes = layout(operands)
    laid = [graph.laid(x, axes) for x in operands]
    dims = broadcast([x.dims if isinstance(x, Tensor) else x.shape for x in laid])
    return graph.emit(op, laid, dims, dtype, axes if len(axes) == len(dims) else None, **attributes)


def layout(operands: Sequence[Tensor | Const]) -> tuple[int, ...]:
    """Returns the layout of the tensor that is broadcast the least."""
    tensors = [x for x in operands if isinstance(x, Tensor)]
    return max(tensors, key=lambda x: sum(compat.is_symbolic(n) or n != 1 for n in x.dims) + len(x.dims) / 100).axes


def scalar(x: Any) -> float | None:
    """Returns the one number of a constant; None if it is none or has several."""
    return x.array.reshape(()).item() if isinstance(x, Const) and x.array.size == 1 else None


def _simple(op: str, relation: bool = False) -> Rule:
    def rule(graph: Graph, node: Node, operands: Sequence[Any]) -> Operand:
        of_bits = op in ("And", "Or", "Xor", "Not") and operands[0].dtype != np.bool_
        return apply(graph, f"Bitwise{op}" if of_bits else op, operands, bool if relation else operands[-1].dtype)

    return rule


def _negated(op: str) -> Rule:
    def rule(graph: Graph, node: Node, operands: Sequence[Any]) -> Operand:
        return apply(graph, "Not", [apply(graph, op, operands, bool)], bool)

    return rule


def like(x: Any, value: float) -> Const:
    """Makes a constant ``value`` of the dtype of an operand ``x``."""
    return Const(np.asarray(value, x.dtype))


def _max(graph: Graph, node: Node, operands: Sequence[Any]) -> Operand:
    x, bound = sorted(operands, key=lambda x: isinstance(x, Const))
    number = scalar(bound)
    if number == 0 and np.issubdtype(x.dtype, np.floating):
        return apply(graph, "Relu", [x], x.dtype)
    if number is not None and x.dtype == np.float32:
        return x if number == -np.inf else apply(graph, "Clip", [x, like(x, number)], x.dtype)
    return apply(graph, "Max", operands, x.dtype)


def _min(graph: Graph, node: Node, operands: Sequence[Any]) -> Operand:
    x, bound = sorted(operands, key=lambda x: isinstance(x, Const))
    number = scalar(bound)
    if number is not None and x.dtype == np.float32:
        if number == np.inf:
            return x
        made = apply(graph, "Clip", [x], x.dtype)
        graph.operators[-1].ins += ["", graph.constant(like(x, number).array)]
        return made
    return apply(graph, "Min", operands, x.dtype)


def _clamp(graph: Graph, node: Node, operands: Sequence[Any]) -> Operand:
    low, x, high = operands
    ends = [scalar(low), scalar(high)]
    if None not in ends:
        return apply(graph, "Clip", [x, *(like(x, end) for end in ends if end is not None)], x.dtype)
    return apply(graph, "Min", [apply(graph, "Max", [x, low], x.dtype), high], x.dtype)


def _integer_pow(graph: Graph, node: Node, operands: Sequence[Any]) -> Operand:
    (x,), y = operands, node.params["y"]
    if y == 2:
        return apply(graph, "Mul", [x, x], x.dtype)
    if y == 3:
        return apply(graph, "Mul", [apply(graph, "Mul", [x, x], x.dtype), x], x.dtype)
    if y == -1:
        return apply(graph, "Reciprocal", [x], x.dtype)
    return apply(graph, "Pow", [x, like(x, y)], x.dtype)


def _round(graph: Graph, node: Node, operands: Sequence[Any]) -> Operand:
    (x,) = operands
    if int(node.params["rounding_method"]) == 1:  # halves to even, as the file's Round has it
        return apply(graph, "Round", [x], x.dtype)
    half = apply(graph, "Add", [apply(graph, "Abs", [x], x.dtype), like(x, 0.5)], x.dtype)
    whole = apply(graph, "Floor", [half], x.dtype)
    return apply(graph, "Mul", [apply(graph, "Sign", [x], x.dtype), whole], x.dtype)


def _div(graph: Graph, node: Node, operands: Sequence[Any]) -> Operand:
    x, by = operands
    number = scalar(by)
    if number and np.issubdtype(x.dtype, np.floating) and np.log2(abs(number)) % 1 == 0:
        return apply(graph, "Mul", [x, like(x, 1 / number)], x.dtype)  # exact, and what a file's optimizers fold
    return apply(graph, "Div", operands, x.dtype)


def _cast(graph: Graph, node: Node, operands: Sequence[Any]) -> Operand:
    return cast(graph, operands[0], node.outs[0].dtype)


def cast(graph: Graph, x: Tensor, dtype: Any) -> Tensor:
    """Casts a tensor ``x`` of a ``graph`` to another ``dtype``."""
    target = file_dtype(graph, dtype)
    if target == file_dtype(graph, x.dtype):
        return Tensor(x.name, x.dims, x.axes, np.dtype(dtype))
    return apply(graph, "Cast", [x], target, to=onnx_dtype(target))


def file_dtype(graph: Graph, dtype: Any) -> np.dtype:
    """Returns the dtype in which a ``graph`` holds ``dtype``: float32 for bfloat16, which CPU runtimes lack."""
    if np.dtype(dtype).name == "bfloat16":
        graph.notes["bfloat16 is float32"] = None
        return np.dtype(np.float32)
    return np.dtype(dtype)


def onnx_dtype(dtype: Any) -> int:
    """Returns the number that ONNX's files have for a NumPy ``dtype``: 1 for float32, 3 for int8."""
    from onnx import helper

    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def _select(graph: Graph, node: Node, operands: Sequence[Any]) -> Operand:
    which, *cases = operands
    if len(cases) != 2 or which.dtype != np.bool_:
        raise graph.refused(f"select_n of {len(cases)} cases has no operator", "use jnp.where of a condition")
    return apply(graph, "Where", [which, cases[1], cases[0]], cases[0].dtype)


def _parts(*steps: tuple[str, float | None]) -> Rule:
    """One operator after the other, each with a number beside it or none."""

    def rule(graph: Graph, node: Node, operands: Sequence[Any]) -> Operand:
        (x,) = operands
        for op, number in steps:
            x = apply(graph, op, [x] if number is None else [x, like(x, number)], x.dtype)
        return x

    return rule


def _finite(graph: Graph, node: Node, operands: Sequence[Any]) -> Operand:
    (x,) = operands
    odd = apply(graph, "Or", [apply(graph, op, [x], bool) for op in ("IsNaN", "IsInf")], bool)
    return apply(graph, "Not", [odd], bool)


def _exp2(graph: Graph, node: Node, operands: Sequence[Any]) -> Operand:
    return apply(graph, "Pow", [like(operands[0], 2), operands[0]], operands[0].dtype)


def _erfc(graph: Graph, node: Node, operands: Sequence[Any]) -> Operand:
    (x,) = operands
    return apply(graph, "Sub", [like(x, 1), apply(graph, "Erf", [x], x.dtype)], x.dtype)


def _same(graph: Graph, node: Node, operands: Sequence[Any]) -> Operand:
    return operands[0]


def _rem(graph: Graph, node: Node, operands: Sequence[Any]) -> Operand:
    return apply(graph, "Mod", operands, operands[0].dtype, fmod=1)


def _reduce_precision(graph: Graph, node: Node, operands: Sequence[Any]) -> Operand:
    graph.notes["rounding to fewer bits (reduce_precision) is left out"] = None
    return operands[0]


_ONE = {
    "abs": "Abs", "sign": "Sign", "neg": "Neg", "exp": "Exp", "log": "Log", "tanh": "Tanh", "logistic": "Sigmoid",
    "sqrt": "Sqrt", "floor": "Floor", "ceil": "Ceil", "erf": "Erf", "sin": "Sin", "cos": "Cos", "tan": "Tan",
    "asin": "Asin", "acos": "Acos", "atan": "Atan", "sinh": "Sinh", "cosh": "Cosh", "asinh": "Asinh",
    "acosh": "Acosh", "atanh": "Atanh", "not": "Not", "add": "Add", "add_any": "Add", "sub": "Sub", "mul": "Mul",
    "pow": "Pow", "and": "And", "or": "Or", "xor": "Xor",
}  # fmt: skip
_RELATIONS = {"eq": "Equal", "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual"}

RULES: dict[str, Rule] = {
    **{name: _simple(op) for name, op in _ONE.items()},
    **{name: _simple(op, relation=True) for name, op in _RELATIONS.items()},
    "pow": lambda graph, node, operands: apply(graph, "Pow", operands, operands[0].dtype),
    "ne": _negated("Equal"),
    "max": _max,
    "min": _min,
    "clamp": _clamp,
    "div": _div,
    "rem": _rem,
    "round": _round,
    "integer_pow": _integer_pow,
    "square": lambda graph, node, operands: apply(graph, "Mul", [operands[0]] * 2, operands[0].dtype),
    "rsqrt": _parts(("Sqrt", None), ("Reciprocal", None)),
    "log1p": _parts(("Add", 1.0), ("Log", None)),
    "expm1": _parts(("Exp", None), ("Sub", 1.0)),
    "exp2": _exp2,
    "erfc": _erfc,
    "is_finite": _finite,
    "select_n": _select,
    "convert_element_type": _cast,
    "reduce_precision": _reduce_precision,
    **dict.fromkeys(("copy", "copy_p", "stop_gradient", "optimization_barrier", "name"), _same),
    **dict.fromkeys(("reshard", "sharding_constraint", "layout_constraint", "mesh_cast", "pvary", "pcast"), _same),
}
