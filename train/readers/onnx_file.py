"""Graphs of ``.onnx`` files, as the ``onnx`` package reads them."""

from pathlib import Path
from typing import Any

import numpy as np

from train.common.errors import UserError
from train.readers.graph import Graph, Network, Operator
from train.readers.onnx_rules import RULES

OPERANDS = {
    "Clip": ("min", "max"),
    "Pad": ("pads", "value"),
    "ReduceMean": ("axes",),
    "ReduceSum": ("axes",),
    "Slice": ("starts", "ends", "axes"),
    "Squeeze": ("axes",),
    "Unsqueeze": ("axes",),
}
"""What older versions of operators have as attributes, and newer ones as operands after the first."""

OLDEST = 7
"""The first opset in which operands of other shapes are broadcast as NumPy does; ONNX Runtime reads none before."""


def read(path: Path) -> Network:
    """The function of an ``.onnx`` file, in the file's layouts: channels first.

    Raises:
      UserError: if the file is none, needs what there is no rule for, or the ``onnx`` package is missing.
    """
    return Network(graph(path), RULES)


def graph(path: Path) -> Graph:
    """The operators and constants of a file."""
    try:
        import onnx
        from onnx import helper, numpy_helper
    except ImportError as error:
        raise UserError(f"{path} is read by the onnx package: pip install 'jaxcomp[onnx]'") from error
    try:
        model: Any = onnx.load(path)
    except OSError:
        raise
    except Exception as error:  # protobuf's own, of which there are several
        raise UserError(f"{path}: is no .onnx file, or damaged ({error})") from error
    own, opset = model.graph, {each.domain or "ai.onnx": each.version for each in model.opset_import}.get("ai.onnx", 1)
    if opset < OLDEST:
        raise UserError(f"{path}: is of opset {opset}; from {OLDEST} on they are read here")
    constants = {each.name: numpy_helper.to_array(each) for each in own.initializer}
    operators = []
    for number, node in enumerate(own.node):
        attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        attributes |= {
            name: numpy_helper.to_array(each) for name, each in attributes.items() if isinstance(each, onnx.TensorProto)
        }
        place = f"operator {number}" + (f", {node.name}" if node.name else "")
        if node.op_type == "Constant":
            constants[node.output[0]] = _constant(attributes)
        else:
            kind = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
            given = _operands(kind, attributes)
            constants |= {f"{place}: {name}": each for name, each in given.items()}
            more = [f"{place}: {name}" if name in given else "" for name in OPERANDS[kind]] if given else []
            ins = (*node.input, *more)
            operators.append(Operator(kind, ins, tuple(node.output), {**attributes, "opset": opset}, place))
    inputs = tuple(each.name for each in own.input if each.name not in constants)
    return Graph(str(path), operators, inputs, tuple(each.name for each in own.output), constants)


def _constant(attributes: dict[str, Any]) -> np.ndarray:
    (name, value), *_ = attributes.items()
    return value if name == "value" else np.asarray(value, np.float32 if name.startswith("value_float") else np.int64)


def _operands(kind: str, attributes: dict[str, Any]) -> dict[str, np.ndarray]:
    """Takes out of an operator's attributes those that have become operands."""
    given = {name: attributes.pop(name) for name in OPERANDS.get(kind, ()) if name in attributes}
    return {name: np.asarray(each, np.float32 if isinstance(each, float) else np.int64) for name, each in given.items()}
