"""OpenVINO computes what a file's function computes: floats to rounding, integers in integers, to a few steps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxcomp import export
from jaxcomp.rewrite import Scheme, quantize
from tests.export.test_onnx import IMAGES, PARAMS, integers, small
from train.common.runtimes import Engine, openvino

pytest.importorskip("openvino", reason="openvino is not installed")

FEW = np.asarray(IMAGES[:3])


def off(engine: Engine, fn: Callable[..., Any], params: Any, x: np.ndarray = FEW) -> float:
    """The greatest difference between an engine's results and a function's, in units of the greatest result."""
    wanted = np.asarray(jax.jit(fn)(params, x))
    return float(np.abs(engine.run(x) - wanted).max() / np.abs(wanted).max())


def test_floats_of_another_batch(tmp_path: Path) -> None:
    export.onnx(tmp_path / "m.onnx", small, PARAMS, IMAGES, shapes="batch, ...")
    engine = openvino(tmp_path / "m.onnx", len(FEW))
    assert off(engine, small, PARAMS) < 1e-5
    assert engine.products == {"f32": 5}


@pytest.mark.parametrize("batches", [None, [IMAGES]], ids=["as they are", "rounded between layers"])
def test_integers(batches: Any, tmp_path: Path) -> None:
    fn, params = integers()
    export.onnx(tmp_path / "m.onnx", fn, params, IMAGES, shapes="batch, ...", batches=batches)
    engine = openvino(tmp_path / "m.onnx", len(FEW))
    assert off(engine, fn, params) < 0.05
    assert engine.products["f32"] <= 1  # the last, whose scales lie along columns


def test_weights_alone(tmp_path: Path) -> None:
    fn, params = quantize(small, PARAMS, IMAGES, scheme=Scheme(4, inputs=None))
    export.onnx(tmp_path / "m.onnx", fn, params, FEW)
    assert off(openvino(tmp_path / "m.onnx", len(FEW)), fn, params) < 0.02


def test_means_of_integers_over_padded_windows(tmp_path: Path) -> None:
    def fn(p: Any, x: jax.Array) -> jax.Array:
        y = jax.lax.conv_general_dilated(x, p["stem"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        sums = jax.lax.reduce_window(y, 0.0, jax.lax.add, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")
        return (sums / 9).mean((1, 2)) @ p["ends"]

    params = {"stem": PARAMS["stem"], "ends": PARAMS["point"][0, 0]}
    new, codes = integers(fn=fn, params=params)
    export.onnx(tmp_path / "m.onnx", new, codes, FEW, batches=[FEW])
    assert off(openvino(tmp_path / "m.onnx", len(FEW)), new, codes) < 0.05


def test_tflite_files(tmp_path: Path) -> None:
    pytest.importorskip("litert_converter", reason="jaxcomp[litert] is not installed")
    export.litert(tmp_path / "m.tflite", small, PARAMS, FEW)
    assert off(openvino(tmp_path / "m.tflite", len(FEW)), small, PARAMS) < 1e-5
    fn, params = integers()
    export.litert(tmp_path / "m.tflite", fn, params, FEW, batches=[IMAGES])
    engine = openvino(tmp_path / "m.tflite", len(FEW))
    assert off(engine, fn, params) < 0.1
    assert engine.products["f32"] <= 1
