"""Operators of ``.onnx`` files are computed as ONNX Runtime computes them; what is not known is named."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from train.common.errors import UserError
from train.readers import onnx_file
from train.readers.graph import Network
from train.readers.onnx_rules import RULES

onnx = pytest.importorskip("onnx", reason="jaxcomp[onnx] is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


class Case(NamedTuple):
    """An operator, its attributes, and operands: the first is an input, the others are constants of the file."""

    kind: str
    attributes: dict[str, Any]
    operands: tuple[np.ndarray | None, ...]
    results: int = 1
    opset: int = 18


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape, np.float32)


def whole(*numbers: int) -> np.ndarray:
    return np.asarray(numbers, np.int64)


IMAGE, ROW = normal(2, 4, 9, 7), normal(3, 5)
CASES = (
    *(Case(kind, {}, (ROW, normal(5))) for kind in ("Add", "Sub", "Mul", "Div")),
    *(Case(kind, {}, (ROW,)) for kind in ("Erf", "Exp", "Identity", "Relu", "Sigmoid", "HardSwish", "Tanh")),
    Case("Sqrt", {}, (np.abs(ROW),)),
    Case("Pow", {}, (ROW, np.float32(2))),
    Case("HardSigmoid", {"alpha": 0.1667, "beta": 0.4}, (ROW,)),
    Case("Div", {}, (np.int32([7, -7, 7, -7, -6]), np.int32([2, 2, -2, -2, 3]))),
    Case("Softmax", {}, (IMAGE,)),
    Case("Softmax", {}, (IMAGE,), opset=11),
    Case("Softmax", {"axis": -2}, (IMAGE,), opset=11),
    Case("Clip", {}, (ROW, np.float32(-0.5), np.float32(1))),
    Case("Clip", {"max": 0.5}, (ROW,), opset=10),
    Case("Cast", {"to": 6}, (3 * ROW,)),
    Case("MatMul", {}, (ROW, normal(5, 4))),
    Case("Gemm", {"transB": 1}, (ROW, normal(4, 5), normal(4))),
    Case("Conv", {"strides": [2, 1], "pads": [1, 0, 2, 1], "group": 2}, (IMAGE, normal(6, 2, 3, 2), normal(6))),
    Case("Conv", {"strides": [2, 3], "auto_pad": "SAME_UPPER"}, (IMAGE, normal(6, 4, 3, 2))),
    Case("Conv", {"dilations": [2], "pads": [1, 1]}, (IMAGE[..., 0], normal(6, 4, 3))),
    Case("ConvTranspose", {"strides": [2, 2], "pads": [1, 0, 0, 1], "output_padding": [1, 0]},
         (IMAGE, normal(4, 3, 3, 2), normal(3))),
    Case("BatchNormalization", {"epsilon": 1e-3}, (IMAGE, normal(4), normal(4), normal(4), np.abs(normal(4)))),
    Case("GlobalAveragePool", {}, (IMAGE,)),
    Case("MaxPool", {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"}, (IMAGE,)),
    Case("MaxPool", {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1]}, (IMAGE,)),
    Case("AveragePool", {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1]}, (IMAGE,)),
    Case("AveragePool", {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1], "count_include_pad": 1}, (IMAGE,)),
    Case("ReduceMean", {"keepdims": 0}, (IMAGE, whole(1, -1))),
    Case("ReduceMean", {"axes": [1]}, (IMAGE,), opset=13),
    Case("ReduceMean", {}, (IMAGE, whole())),
    *(Case("ReduceMean", {}, (np.int32([[7, -9, 1], [-8, 1, 0]]), whole(axis))) for axis in (0, 1)),
    Case("ReduceSum", {}, (IMAGE, whole(2))),
    Case("ReduceSum", {}, (np.int32([[7, -9, 1], [-8, 1, 0]]), whole(1))),
    Case("ReduceSum", {"noop_with_empty_axes": 1}, (IMAGE,)),
    Case("Concat", {"axis": 1}, (ROW, normal(3, 2))),
    Case("Gather", {"axis": 1}, (ROW, whole(4, 0))),
    Case("Slice", {}, (IMAGE, whole(8, -3), whole(-20, 9), whole(2, 3), whole(-2, 1))),
    *(Case("Slice", {}, (ROW, *map(whole, (start, end, 1, step))))
      for start, end, step in ((-20, -21, -1), (20, -20, -3), (-20, -3, -1), (4, -5, -2), (-1, 0, -1), (9, 20, 2))),
    Case("Slice", {"axes": [1, 3], "starts": [1, -3], "ends": [9, -1]}, (IMAGE,), opset=9),
    Case("Squeeze", {}, (IMAGE[:, :1], whole(1))),
    Case("Squeeze", {"axes": [1]}, (IMAGE[:1, :1],), opset=11),
    Case("Unsqueeze", {}, (ROW, whole(0, -1))),
    Case("Unsqueeze", {"axes": [1]}, (ROW,), opset=11),
    Case("Transpose", {"perm": [0, 2, 3, 1]}, (IMAGE,)),
    Case("Reshape", {}, (IMAGE, whole(0, -1, 7))),
    *(Case("Shape", own, (IMAGE,)) for own in ({}, {"start": 1, "end": -1}, {"start": -2})),
    Case("Pad", {"mode": "reflect"}, (ROW, whole(0, 2, 0, 1))),
    Case("Pad", {}, (ROW, whole(1, 0, 0, 2), np.float32(3))),
    Case("Pad", {"pads": [1, 0, 0, 2], "value": 0.3}, (ROW,), opset=10),
    Case("Resize", {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
         (IMAGE, None, np.float32([1, 1, 2, 3]))),
    Case("Resize", {}, (IMAGE, np.float32([1, 1, 2, 3])), opset=10),
    Case("Resize", {}, (IMAGE, None, np.float32([1, 1, 4, 3]))),
    Case("Resize", {"axes": [-1, 2], "nearest_mode": "round_prefer_ceil",
                    "coordinate_transformation_mode": "pytorch_half_pixel"}, (IMAGE, None, None, whole(14, 27))),
    Case("LSTM", {"hidden_size": 3}, (normal(6, 2, 5), normal(1, 12, 5), normal(1, 12, 3), normal(1, 24)), 3),
    Case("LSTM", {"hidden_size": 3}, (normal(6, 2, 5), normal(1, 12, 5), normal(1, 12, 3)), 3),
    Case("LSTM", {"hidden_size": 3},
         (normal(6, 2, 5), normal(1, 12, 5), normal(1, 12, 3), normal(1, 24), None, *[normal(1, 2, 3)] * 2), 3),
)  # fmt: skip


def written(path: Path, case: Case) -> Path:
    """A file of one operator."""
    names = [f"in{i}" if each is not None else "" for i, each in enumerate(case.operands)]
    results = [f"out{i}" for i in range(case.results)]
    node = onnx.helper.make_node(case.kind, names, results, name="only", **case.attributes)
    own = zip(names[1:], case.operands[1:], strict=True)
    constants = [onnx.numpy_helper.from_array(np.asarray(each), name) for name, each in own if each is not None]
    kind = onnx.helper.np_dtype_to_tensor_dtype(case.operands[0].dtype)
    given = onnx.helper.make_tensor_value_info("in0", kind, case.operands[0].shape)
    made = [onnx.helper.make_empty_tensor_value_info(name) for name in results]
    graph = onnx.helper.make_graph([node], "one", [given], made, constants)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", case.opset)], ir_version=8)
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return path


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind)
def test_an_operator_is_computed_as_its_runtime_does(case: Case, tmp_path: Path) -> None:
    path = written(tmp_path / "m.onnx", case)
    network, given = onnx_file.read(path), np.asarray(case.operands[0])
    wanted = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"in0": given})
    found = jax.jit(network)(network.params, given)
    for own, other in zip(jax.tree.leaves(found), wanted, strict=True):
        assert own.shape == other.shape
        np.testing.assert_allclose(own, other, rtol=2e-5, atol=2e-6)


def test_every_rule_has_a_case() -> None:
    assert {case.kind for case in CASES} | {"ConstantOfShape"} == RULES.keys()  # it has none but constants


def test_what_is_not_known_is_named_with_its_place(tmp_path: Path) -> None:
    path = written(tmp_path / "m.onnx", Case("Selu", {}, (ROW,)))
    with pytest.raises(
        UserError, match=r"m\.onnx: has operators without a rule here: Selu \(operator 0, only\); known"
    ):
        onnx_file.read(path)
    odd = onnx_file.read(written(path, Case("MaxPool", {"kernel_shape": [2, 2], "ceil_mode": 1}, (IMAGE,))))
    with pytest.raises(UserError, match=r"takes 1 inputs \(in0\), got 2"):
        odd(odd.params, IMAGE, IMAGE)
    with pytest.raises(UserError, match=r"is of opset 6; from 7 on"):
        onnx_file.read(written(path, Case("Relu", {}, (ROW,), opset=6)))
    path.write_bytes(b"no model")
    with pytest.raises(UserError, match=r"is no \.onnx file"):
        onnx_file.read(path)


SCALED = (IMAGE, None, np.float32([1, 1, 1, 3]))
ASYMMETRIC = {"coordinate_transformation_mode": "asymmetric"}
REFUSED = (
    (Case("BatchNormalization", {"spatial": 0}, (ROW, *[normal(5)] * 4), opset=8), "training_mode or spatial=0"),
    (Case("LSTM", {"hidden_size": 3, "input_forget": 1}, (normal(6, 2, 5), normal(1, 12, 5), normal(1, 12, 3)), 3),
     "activations, clip, layout=1 or input_forget=1"),
    (Case("MaxPool", {"kernel_shape": [2, 2], "ceil_mode": 1}, (IMAGE,)), "ceil_mode"),
    (Case("Pad", {"mode": "wrap"}, (ROW, whole(0, 2, 0, 1)), opset=19), "mode=wrap"),
    (Case("Pad", {}, (ROW, whole(0, -1, 0, 1))), r"mode=constant and pads=\[0, -1"),
    (Case("Resize", ASYMMETRIC, SCALED), "coordinate_transformation_mode=asymmetric,"),
    (Case("Resize", ASYMMETRIC | {"nearest_mode": "ceil"}, SCALED), ".*nearest_mode=ceil,"),
    (Case("Resize", {"coordinate_transformation_mode": "align_corners"}, SCALED), ".*=align_corners,"),
    (Case("Resize", {"mode": "linear"}, SCALED), "mode=linear,"),
    (Case("Resize", {"keep_aspect_ratio_policy": "not_larger"}, (IMAGE, None, None, whole(2, 4, 9, 14))),
     "keep_aspect_ratio_policy=not_larger"),
)  # fmt: skip


@pytest.mark.parametrize(("case", "said"), REFUSED, ids=lambda each: each.kind if isinstance(each, Case) else "")
def test_what_a_rule_cannot_do_is_named_with_its_place(case: Case, said: str, tmp_path: Path) -> None:
    network = onnx_file.read(written(tmp_path / "m.onnx", case))
    with pytest.raises(UserError, match=rf"m\.onnx: {case.kind} \(operator 0, only\) has {said}.*there is no rule"):
        network(network.params, case.operands[0])


def test_constants_are_folded_and_weights_have_one_home(tmp_path: Path) -> None:
    helper, kernel = onnx.helper, normal(5, 5)
    nodes = [
        helper.make_node("Identity", ["w"], ["same"]),
        helper.make_node("MatMul", ["x", "same"], ["y"]),
        helper.make_node("ConstantOfShape", ["sizes"], ["zeros"]),
        helper.make_node("Add", ["y", "zeros"], ["shifted"]),
        helper.make_node("MatMul", ["shifted", "same"], ["z"]),
    ]
    given, made = (helper.make_tensor_value_info(name, 1, [None, 5]) for name in ("x", "z"))
    constants = [onnx.numpy_helper.from_array(each, name) for each, name in ((kernel, "w"), (whole(3, 1), "sizes"))]
    graph = helper.make_graph(nodes, "tied", [given], [made], constants)
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
    network: Network = onnx_file.read(tmp_path / "m.onnx")
    assert jax.tree.map(np.shape, network.params) == {"Add_0": {"value": (3, 1)}, "MatMul_0": {"kernel": (5, 5)}}
    np.testing.assert_allclose(network(network.params, ROW), ROW @ kernel @ kernel, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("operators", "said"), [
    (("ConvTranspose", "Conv"), r"Conv \(operator 1\) has operand 1, which ConvTranspose_0 keeps in another layout"),
    (("Conv", "ConvTranspose"), r"ConvTranspose \(operator 1\) has operand 1, which Conv_0 keeps in another layout"),
    (("ConvTranspose", "Concat"), r"Concat \(operator 1\) has operand 1, which ConvTranspose_0 keeps in another"),
    (("Sqrt", "ConvTranspose"), r"ConvTranspose \(operator 1\) has operand 1, which is no weight"),
])  # fmt: skip
def test_a_weight_has_one_layout(operators: tuple[str, str], said: str, tmp_path: Path) -> None:
    helper, (first, last) = onnx.helper, operators
    ins = ["x"] if first == "Sqrt" else ["x", "w"]
    nodes = [
        helper.make_node(first, ins, ["y"]),
        helper.make_node(last, ["y", "w" if len(ins) == 2 else "y"], ["z"], **{"axis": 0} if last == "Concat" else {}),
    ]
    given, made = (helper.make_tensor_value_info(name, 1, None) for name in ("x", "z"))
    graph = helper.make_graph(nodes, "two", [given], [made], [onnx.numpy_helper.from_array(normal(4, 4, 3, 3), "w")])
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
    with pytest.raises(UserError, match=said):
        onnx_file.read(tmp_path / "m.onnx")
