"""Graphs of ``.tflite`` files, as LiteRT's own schema reads them."""

import struct
from pathlib import Path
from typing import Any

import numpy as np

from train.common.errors import UserError
from train.readers.graph import Graph, Network, Operator
from train.readers.litert_rules import RULES

TYPES = {0: np.float32, 1: np.float16, 2: np.int32, 3: np.uint8, 4: np.int64, 6: np.bool_, 7: np.int16, 9: np.int8}
"""NumPy's, by the schema's numbers."""

TRANSPOSED = "Convolution2DTransposeBias"
"""An operator of MediaPipe's own, which LiteRT has since taken up as one that may have a bias."""


def read(path: Path) -> Network:
    """The function of a ``.tflite`` file of one graph in floating point, channels last; weights may be float16.

    Raises:
      UserError: if the file is none, needs what there is no rule for, or LiteRT's package is missing.
    """
    return Network(graph(path), RULES)


def graph(path: Path) -> Graph:
    """The operators and constants of a file."""
    model, schema = _opened(path)
    if len(model.subgraphs) != 1:
        raise UserError(f"{path}: has {len(model.subgraphs)} graphs, and what is read here has one")
    kinds = {number: name for name, number in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    (own,) = model.subgraphs
    names = [f"{i}" for i in range(len(own.tensors))]
    constants = {}
    for name, tensor in zip(names, own.tensors, strict=True):
        data = model.buffers[tensor.buffer].data
        if data is not None and len(data):
            constants[name] = _array(path, tensor, data)
    operators = []
    for number, each in enumerate(own.operators):
        code = model.operatorCodes[each.opcodeIndex]
        kind = kinds[max(code.builtinCode, code.deprecatedBuiltinCode)]
        attributes = dict(vars(each.builtinOptions)) if each.builtinOptions is not None else {}
        if kind == "CUSTOM":
            kind, attributes = _custom(code.customCode.decode(), each)
        ins = tuple(names[i] if i >= 0 else "" for i in each.inputs)
        outs = tuple(names[i] for i in each.outputs)
        place = f"operator {number}, which makes {own.tensors[each.outputs[0]].name.decode()}"
        operators.append(Operator(kind, ins, outs, attributes, place))
    inputs, results = (tuple(names[i] for i in which) for which in (own.inputs, own.outputs))
    return Graph(str(path), operators, inputs, results, constants)


def runnable(path: Path) -> bytes:
    """The file with LiteRT's own operator in place of MediaPipe's transposed convolution, which its runtime has not."""
    model, schema = _opened(path)
    (own,) = model.subgraphs
    for each in own.operators:
        code = model.operatorCodes[each.opcodeIndex]
        if code.customCode is None or code.customCode.decode() != TRANSPOSED:
            continue
        _, given = _custom(TRANSPOSED, each)
        options = schema.TransposeConvOptionsT()
        options.padding, options.strideH, options.strideW = given["padding"], given["strideH"], given["strideW"]
        each.builtinOptions, each.builtinOptionsType = options, schema.BuiltinOptions.TransposeConvOptions
        each.customOptions = None
        shape, buffer, size = schema.TensorT(), schema.BufferT(), own.tensors[each.outputs[0]].shape
        buffer.data = np.frombuffer(np.asarray(size, np.int32).tobytes(), np.uint8)
        shape.buffer, shape.shape, shape.type = len(model.buffers), [len(size)], schema.TensorType.INT32
        shape.name = b"shape"
        model.buffers.append(buffer)
        own.tensors.append(shape)
        x, kernel, *bias = each.inputs
        each.inputs = [len(own.tensors) - 1, kernel, x, *bias]
    for code in model.operatorCodes:
        if code.customCode is not None and code.customCode.decode() == TRANSPOSED:
            code.customCode, code.version = None, 3
            code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.TRANSPOSE_CONV
    builder = schema.flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _opened(path: Path) -> tuple[Any, Any]:
    try:
        from ai_edge_litert import schema_py_generated as schema
    except ImportError as error:
        raise UserError(f"{path} is read by LiteRT's package: pip install 'jaxcomp[litert]'") from error
    data = Path(path).read_bytes()
    if data[4:8] != b"TFL3":
        raise UserError(f"{path}: is no .tflite file")
    try:
        return schema.ModelT.InitFromPackedBuf(data, 0), schema
    except (struct.error, IndexError, TypeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is damaged ({error})") from error


def _array(path: Path, tensor: Any, data: Any) -> np.ndarray:
    if tensor.type not in TYPES:
        raise UserError(
            f"{path}: constant {tensor.name.decode()} has type {tensor.type} of the schema, which is not read here"
        )
    if tensor.sparsity is not None:
        raise UserError(f"{path}: constant {tensor.name.decode()} is stored sparse, which is not read here")
    if tensor.quantization is not None and tensor.quantization.scale is not None and len(tensor.quantization.scale):
        raise UserError(
            f"{path}: constant {tensor.name.decode()} is quantized; networks in floating point are read here"
        )
    found: np.ndarray = np.frombuffer(np.asarray(data, np.uint8).tobytes(), TYPES[tensor.type])
    return found.reshape([] if tensor.shape is None else [int(n) for n in tensor.shape])


def _custom(name: str, operator: Any) -> tuple[str, dict[str, Any]]:
    """MediaPipe's transposed convolution says of itself its padding and strides, three integers."""
    if name != TRANSPOSED:
        return name, {}
    padding, width, height = struct.unpack_from("<iii", np.asarray(operator.customOptions, np.uint8).tobytes())
    return name, {"padding": {1: 0, 2: 1}[padding], "strideW": width, "strideH": height}
