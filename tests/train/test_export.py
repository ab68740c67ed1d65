"""An artifact becomes files of other runtimes, which are compared with what it computes."""

from pathlib import Path

import jax
import numpy as np
import pytest

import jaxcomp as jc
from tests.train.test_evaluate import ABOUT, DIGITS, MODEL
from train import export
from train.common.errors import UserError


def artifact(folder: Path, quantized: bool) -> str:
    variables = MODEL.init(jax.random.key(0), DIGITS.test.images[:1])
    path, images = str(folder / "m.jcz"), DIGITS.test.images[:64]
    if not quantized:
        jc.pack.save(path, variables, metadata=ABOUT)
        return path
    ranges = jc.rewrite.calibrate(MODEL.infer, variables, [images])
    fn, packed = jc.rewrite.quantize(MODEL.infer, variables, images, ranges=ranges)
    jc.rewrite.save(path, fn, packed, metadata=ABOUT)
    return path


def test_parameters_in_the_names_of_another_framework(tmp_path: Path) -> None:
    rows = export.job(artifact(tmp_path, False), ["safetensors"], None, 8, 8)
    assert rows["safetensors"]["bytes"] == (tmp_path / "m.safetensors").stat().st_size
    assert "m.safetensors" in export.shown(rows)
    held = jc.export.load_safetensors(tmp_path / "m.safetensors")
    assert held.params["params/Conv_0/kernel"].shape == (3, 3, 1, 2)


def test_what_cannot_be_exported_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least 1"):
        export.job(artifact(tmp_path, False), ["safetensors"], None, 0, 8)


@pytest.mark.parametrize(
    ("name", "runtime"), [("litert", "ai_edge_litert"), ("onnx", "onnxruntime")], ids=["litert", "onnx"]
)
@pytest.mark.parametrize("quantized", [False, True])
def test_a_file_answers_as_the_artifact(tmp_path: Path, quantized: bool, name: str, runtime: str) -> None:
    pytest.importorskip(runtime, reason=f"{runtime} is not installed")
    row = export.job(artifact(tmp_path, quantized), [name], None, 64, 100)[name]
    assert (row["float_products"] == 0) == quantized
    assert row["agreement"] >= (0.95 if quantized else 1)
    assert row["largest_difference"] < (0.1 if quantized else 1e-4)
    assert np.isfinite(row["milliseconds"])
