"""An artifact becomes files of other runtimes, which are compared with what it computes."""

import json
from pathlib import Path

import jax
import pytest

import jaxcomp as jc
from tests.train.test_evaluate import ABOUT, DIGITS, MODEL
from train import export
from train.common import runtimes
from train.common.errors import UserError


def artifact(folder: Path, quantized: bool) -> str:
    variables = MODEL.init(jax.random.key(0), DIGITS.test.images[:1])
    folder.mkdir(exist_ok=True)
    path, images = str(folder / "m.jcz"), DIGITS.test.images[:64]
    if not quantized:
        jc.pack.save(path, variables, metadata=ABOUT)
        return path
    ranges = jc.rewrite.calibrate(MODEL.infer, variables, [images])
    fn, packed = jc.rewrite.quantize(MODEL.infer, variables, images, ranges=ranges)
    jc.rewrite.save(path, fn, packed, metadata=ABOUT)
    return path


def test_parameters_in_the_names_of_another_framework(tmp_path: Path) -> None:
    (row,) = export.job(artifact(tmp_path, False), ["safetensors"], None, 8, 8)
    assert row["bytes"] == (tmp_path / "m.safetensors").stat().st_size
    assert "m.safetensors" in export.shown([row])
    held = jc.export.load_safetensors(tmp_path / "m.safetensors")
    assert held.params["params/Conv_0/kernel"].shape == (3, 3, 1, 2)


def test_what_cannot_be_exported_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="at least 1"):
        export.job(artifact(tmp_path, False), ["safetensors"], None, 0, 8)
    monkeypatch.setattr("train.common.runtimes.find_spec", lambda name: None)
    with pytest.raises(UserError, match="what runs it is not here: pip install onnxruntime"):
        export.job(artifact(tmp_path, False), ["onnx"], None, 8, 8)


@pytest.mark.parametrize(("name", "runtime"), [("litert", runtimes.LITERT), ("onnx", runtimes.ONNX_RUNTIME)])
@pytest.mark.parametrize("quantized", [False, True])
def test_a_file_answers_as_the_artifact(tmp_path: Path, quantized: bool, name: str, runtime: runtimes.Runtime) -> None:
    if not runtime.is_here:
        pytest.skip(f"{runtime.package} is not installed")
    whole = artifact(tmp_path / "whole", False)
    own = artifact(tmp_path, True) if quantized else whole
    rows = export.job(own, [name], None, 64, 100, weights=Path(whole), rounds={1: 1, 16: 1})
    assert str(runtime) in {row["runtime"] for row in rows}
    for row in rows:
        assert (row["products_in_floats"] == 0) == quantized or row["runtime"] != str(runtime)
        assert row["agreement"] >= (0.95 if quantized else 1)
        assert row["largest_difference"] < (0.1 if quantized else 1e-4)
        assert {each["variant"] for each in row["times"]["16"]} == {"file", "float", "ours"}
    assert str(rows[0]["runtime"]) in export.shown(rows)


def test_rows_of_other_artifacts_and_formats_stay(tmp_path: Path) -> None:
    path = tmp_path / "export.json"
    rows = [{"artifact": own, "file": file} for own, file in (("a", "a.onnx"), ("a", "a.tflite"), ("b", "b.onnx"))]
    path.write_text(json.dumps({"rows": rows}))
    new = rows[0] | {"bytes": 3}
    assert export.merged(path, [new])["rows"] == [*rows[1:], new]
    for other in ("[]", "{}", "[1", '{"rows": [1]}'):
        path.write_text(other)
        with pytest.raises(UserError, match="holds no rows of this script"):
            export.merged(path, [new])
