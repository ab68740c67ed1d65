"""The file's own form: a graph as an ONNX model, checked by ONNX itself."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from jaxcomp.core.errors import ArgumentError
from jaxcomp.export.to_onnx.elementwise import file_dtype, onnx_dtype
from jaxcomp.export.to_onnx.graph import IR_VERSION, OPSET, Graph
from jaxcomp.export.to_onnx.operands import Dims
from jaxcomp.trace import compat

MOST_BYTES = 2**31 - 2**20
"""The bytes that a protocol buffer holds in one message."""

LARGE = 1024
"""The bytes from which on a constant says nothing of shapes."""

Port = tuple[str, Dims, Any]
"""An input or a result: its name, its sizes and its dtype."""


def built(graph: Graph, inputs: Sequence[Port], results: Sequence[Port], metadata: Mapping[str, str]) -> Any:
    """Builds the model of a graph.

    Args:
      graph: of the file.
      inputs, results: its ports.
      metadata: strings beside it.

    Raises:
      ArgumentError: for parameters of more than 2 GiB; if ONNX refuses the model, which is an error of ours.
    """
    size = sum(array.nbytes for array in graph.constants.values())
    if size > MOST_BYTES:
        raise ArgumentError(
            f"the file would hold {size:,} bytes of parameters, and an ONNX file holds {MOST_BYTES:,}: quantize the "
            "function, export it in parts, or save it by jaxcomp.export.save"
        )
    large = {name: array for name, array in graph.constants.items() if array.nbytes > LARGE}
    model = _without(graph, large, inputs, results, metadata)
    for name, array in large.items():
        model.graph.initializer.append(_tensor(graph, name, array))
    return model


def _without(
    graph: Graph, large: Collection[str], inputs: Sequence[Port], results: Sequence[Port], metadata: Mapping[str, str]
) -> Any:
    """The model without its large constants; it is checked with inputs in their place, since checking copies it."""
    from onnx import checker, helper, shape_inference

    nodes = [
        helper.make_node(each.op, each.ins, each.outs, name=f"{each.op}_{i}", doc_string=each.place, **each.attributes)
        for i, each in enumerate(graph.operators)
    ]
    held = [_tensor(graph, name, array) for name, array in graph.constants.items() if name not in large]
    given, made = ([_port(graph, *port) for port in each] for each in (inputs, results))
    whole = helper.make_graph(nodes, "main", given, made, initializer=held)
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(whole, opset_imports=opsets, ir_version=IR_VERSION, producer_name="jaxcomp")
    helper.set_model_props(model, dict(metadata))
    model.graph.input.extend(_stand_in(graph, name) for name in large)
    try:
        checker.check_model(model, full_check=False)
        shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except (checker.ValidationError, shape_inference.InferenceError) as error:
        raise ArgumentError(f"ONNX refuses the graph of this function, which is a fault of jaxcomp: {error}") from error
    del model.graph.input[len(given) :]
    return model


def _stand_in(graph: Graph, name: str) -> Any:
    from onnx import TensorProto, helper

    array = graph.constants[name]
    kind = TensorProto.INT4 if name in graph.nibbles else onnx_dtype(file_dtype(graph, array.dtype))
    return helper.make_tensor_value_info(name, kind, array.shape)


def _port(graph: Graph, name: str, dims: Dims, dtype: Any) -> Any:
    from onnx import helper

    sizes = [str(n) if compat.is_symbolic(n) else int(n) for n in dims]
    return helper.make_tensor_value_info(name, onnx_dtype(file_dtype(graph, dtype)), sizes)


def _tensor(graph: Graph, name: str, array: np.ndarray) -> Any:
    from onnx import TensorProto, helper, numpy_helper

    if name in graph.nibbles:
        flat = array.reshape(-1).view(np.uint8) & 15
        flat = np.append(flat, np.zeros(flat.size % 2, np.uint8))
        packed = (flat[0::2] | flat[1::2] << 4).astype(np.uint8)
        return helper.make_tensor(name, TensorProto.INT4, array.shape, packed.tobytes(), raw=True)
    return numpy_helper.from_array(
        np.ascontiguousarray(array, file_dtype(graph, array.dtype)).reshape(array.shape), name
    )
