"""Graphs of ``.onnx`` files, as the ``onnx`` package reads them."""

from pathlib import Path
from typing import Any

import numpy as np

from train.common.errors import UserError
from train.readers.graph import Graph, Network, Operator
from train.readers.onnx_rules import RULES


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
    own = model.graph
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
            operators.append(Operator(node.op_type, tuple(node.input), tuple(node.output), attributes, place))
    inputs = tuple(each.name for each in own.input if each.name not in constants)
    return Graph(str(path), operators, inputs, tuple(each.name for each in own.output), constants)


def _constant(attributes: dict[str, Any]) -> np.ndarray:
    (name, value), *_ = attributes.items()
    return value if name == "value" else np.asarray(value, np.float32 if name.startswith("value_float") else np.int64)
