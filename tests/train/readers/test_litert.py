"""Operators of ``.tflite`` files are computed as LiteRT computes them; what is not known is named."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from train.common.errors import UserError
from train.packaged import runtimes
from train.readers import litert_file
from train.readers.litert_rules import RULES

schema = pytest.importorskip("ai_edge_litert.schema_py_generated", reason="jaxcomp[litert] is not installed")
CONV = {"strideH": 2, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1, "fusedActivationFunction": 3}
POOL = {"filterHeight": 3, "filterWidth": 2, "strideH": 2, "strideW": 2}
CUSTOM = litert_file.TRANSPOSED


class Case(NamedTuple):
    """An operator, the class and fields of its options, its operands (the first is an input) and its result's shape."""

    kind: str
    options: str
    fields: dict[str, Any]
    operands: tuple[np.ndarray, ...]
    result: tuple[int, ...]


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape, np.float32)


def whole(*numbers: int) -> np.ndarray:
    return np.asarray(numbers, np.int32)


IMAGE = normal(1, 9, 7, 4)
SAME, VALID = {"padding": 0}, {"padding": 1}
CASES = (
    *(Case(kind, f"{kind.title()}Options", {}, (IMAGE, normal(4)), IMAGE.shape) for kind in ("ADD", "MUL", "SUB")),
    *(Case(kind, "", {}, (IMAGE,), IMAGE.shape) for kind in ("LOGISTIC", "RELU", "RELU6", "HARD_SWISH")),
    *(Case("AVERAGE_POOL_2D", "Pool2DOptions", POOL | own, (IMAGE,), shape)
      for own, shape in ((SAME, (1, 5, 4, 4)), (VALID, (1, 4, 3, 4)))),
    Case("MAX_POOL_2D", "Pool2DOptions", POOL | SAME, (IMAGE,), (1, 5, 4, 4)),
    Case("CONCATENATION", "ConcatenationOptions", {"axis": 3}, (IMAGE, normal(1, 9, 7, 2)), (1, 9, 7, 6)),
    Case("CONV_2D", "Conv2DOptions", CONV | SAME, (IMAGE, normal(6, 3, 2, 4), normal(6)), (1, 5, 7, 6)),
    Case("CONV_2D", "Conv2DOptions", CONV | VALID, (IMAGE, normal(6, 3, 2, 4), normal(6)), (1, 4, 6, 6)),
    Case("DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions", CONV | SAME | {"strideW": 2, "depthMultiplier": 2},
         (IMAGE, normal(1, 3, 3, 8), normal(8)), (1, 5, 4, 8)),
    Case(CUSTOM, "", {}, (IMAGE, normal(3, 2, 2, 4), normal(3)), (1, 18, 14, 3)),
    Case("FULLY_CONNECTED", "FullyConnectedOptions", {"fusedActivationFunction": 1},
         (normal(1, 4), normal(5, 4), normal(5)), (1, 5)),
    Case("FULLY_CONNECTED", "FullyConnectedOptions", {"keepNumDims": True},
         (normal(1, 3, 4), normal(5, 4), normal(5)), (1, 3, 5)),
    Case("MEAN", "ReducerOptions", {"keepDims": True}, (IMAGE, whole(1, 2)), (1, 1, 1, 4)),
    Case("PAD", "PadOptions", {}, (IMAGE, whole(0, 0, 1, 0, 0, 2, 0, 3).reshape(4, 2)), (1, 10, 9, 7)),
    Case("PRELU", "", {}, (IMAGE, normal(1, 1, 4)), IMAGE.shape),
    *(Case("RESHAPE", "ReshapeOptions", {}, (IMAGE, whole(1, n, 4)), (1, 63, 4)) for n in (63, -1)),
    *(Case("RESIZE_BILINEAR", "ResizeBilinearOptions", {"alignCorners": corners, "halfPixelCenters": halves},
           (IMAGE, whole(18, 10)), (1, 18, 10, 4)) for corners, halves in ((0, 0), (1, 0), (0, 1))),
)  # fmt: skip


def written(path: Path, case: Case, half: bool = False) -> Path:
    """A file of one operator; of ``half``, its weights are float16, and brought to float32 before they are read."""
    model, own, code, operator = schema.ModelT(), schema.SubGraphT(), schema.OperatorCodeT(), schema.OperatorT()
    model.version, model.buffers, own.tensors, own.operators = 3, [schema.BufferT()], [], []
    model.operatorCodes, model.subgraphs = [code], [own]

    def tensor(name: str, shape: Any, kind: int, data: np.ndarray | None = None) -> int:
        each = schema.TensorT()
        each.name, each.shape, each.type, each.buffer = name, list(shape), kind, 0
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            each.buffer = len(model.buffers)
            model.buffers.append(buffer)
        own.tensors.append(each)
        return len(own.tensors) - 1

    first, *others = case.operands
    operator.inputs = [tensor("given", first.shape, 0)]
    for each in others:
        if half and each.dtype == np.float32:
            stored, wide = tensor("half", each.shape, 1, each.astype(np.float16)), tensor("wide", each.shape, 0)
            widened = schema.OperatorT()
            widened.opcodeIndex, widened.inputs, widened.outputs = 1, [stored], [wide]
            own.operators.append(widened)
            operator.inputs.append(wide)
        else:
            operator.inputs.append(tensor("known", each.shape, 0 if each.dtype == np.float32 else 2, each))
    operator.outputs = [tensor("made", case.result, 0)]
    kind = "CUSTOM" if case.kind == CUSTOM else case.kind
    code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, kind)
    if case.kind == CUSTOM:
        code.customCode, operator.customOptions = case.kind, np.frombuffer(np.int32([1, 2, 2]).tobytes(), np.uint8)
    if half:
        widening = schema.OperatorCodeT()
        widening.builtinCode = widening.deprecatedBuiltinCode = schema.BuiltinOperator.DEQUANTIZE
        model.operatorCodes.append(widening)
    if case.options:
        operator.builtinOptions = getattr(schema, f"{case.options}T")()
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, case.options)
        for name, value in case.fields.items():
            setattr(operator.builtinOptions, name, value)
    own.operators.append(operator)
    own.inputs, own.outputs = operator.inputs[:1], operator.outputs
    builder = schema.flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(builder.Output())
    return path


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind)
def test_an_operator_is_computed_as_its_runtime_does(case: Case, tmp_path: Path) -> None:
    path = written(tmp_path / "m.tflite", case, half=case.kind in ("CONV_2D", CUSTOM))
    network = litert_file.read(path)
    wanted = runtimes.litert(path)(case.operands[0])
    found = jax.jit(network)(network.params, case.operands[0])
    assert found.shape == wanted.shape == case.result
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-6)
    if case.kind != "CONCATENATION":  # files are of one example, functions of any number
        several = jax.eval_shape(network, network.params, np.repeat(case.operands[0], 3, axis=0))
        assert several.shape == (3, *case.result[1:])


def test_every_rule_has_a_case() -> None:
    assert {case.kind for case in CASES} | {"DEQUANTIZE"} == RULES.keys()


def test_what_is_not_known_is_named_with_its_place(tmp_path: Path) -> None:
    path = written(tmp_path / "m.tflite", Case("COS", "", {}, (IMAGE,), IMAGE.shape))
    with pytest.raises(UserError, match=r"without a rule here: COS \(operator 0, which makes made\); known are ADD"):
        litert_file.read(path)
    path.write_bytes(b"no model")
    with pytest.raises(UserError, match=r"is no \.tflite file"):
        litert_file.read(path)
