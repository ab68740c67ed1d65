"""Files trained towards short codes: a stage does what it says, and what is written is what is scored."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate

import jaxcomp as jc
from train import deep_compression
from train.common import rated
from train.common.sparse_training import Data, Knobs
from train.common.step import network
from train.models.lenet import LeNet5, LeNet300, by_patches
from train.models.strided import Strided


def test_strided_patches_convolve_as_scipy_does() -> None:
    rng = np.random.default_rng(0)
    images, kernel = rng.normal(size=(2, 9, 12, 3)), rng.normal(size=(5, 5, 3, 4))
    whole = np.stack([[correlate(image, kernel[..., o], "valid")[..., 0] for o in range(4)] for image in images])
    found = by_patches(jnp.asarray(images, jnp.float32), jnp.asarray(kernel, jnp.float32), (2, 3), "VALID")
    np.testing.assert_allclose(found, whole.transpose(0, 2, 3, 1)[:, ::2, ::3], atol=1e-4)


@pytest.mark.parametrize(
    "model", [LeNet300(4), LeNet5(4, patches=True), Strided(4)], ids=lambda model: type(model).__name__
)
def test_widths_follow_from_shapes(model: Any) -> None:
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 28, 28, 1)))["params"]
    assert rated.widths(shapes) == model.widths


@pytest.mark.exhaustive
@pytest.mark.parametrize("make", [LeNet5, Strided], ids=lambda make: make.__name__)
def test_dead_channels_are_cut_and_widths_tell_the_module(make: Any) -> None:
    rng, widths = np.random.default_rng(0), (4, 5, 6) if make is LeNet5 else (4, 5)
    images = jnp.asarray(rng.integers(0, 256, (2, 28, 28, 1)), jnp.uint8)
    model = network(make(4, widths=widths), (0.5,), (0.3,))
    params = model.init(jax.random.key(0), images)["params"]
    params["Conv_0"]["kernel"] = params["Conv_0"]["kernel"].at[..., 1].set(0)  # its bias is 0
    small = rated.cut(model, params, images[:1])
    assert rated.widths(small) == (3, *widths[1:])
    narrow = network(make(4, widths=rated.widths(small)), (0.5,), (0.3,))
    whole = model.infer({"params": params}, images)
    np.testing.assert_allclose(narrow.infer({"params": small}, images), whole, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def trained() -> tuple[Any, Data, rated.Net]:
    """A network of 8x8 images whose class is how bright two of the pixels are, charged for its bits."""
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.integers(0, 256, (512, 8, 8, 1)), jnp.uint8)
    labels = (images[:, 2, 2, 0] > 127).astype(jnp.int32) + 2 * (images[:, 5, 5, 0] > 127).astype(jnp.int32)
    data = Data(images, labels, jnp.zeros((512, 4)))
    model = network(LeNet300(4, widths=(24, 12)), (0.5,), (0.3,))
    params = model.init(jax.random.key(0), images[:1])["params"]
    knobs = Knobs(0.0, 960, 5e-3, 0.0, strength=2e-3, begin=0.0, end=0.5)
    return model, data, rated.trained(params, knobs, data, bits=4, model=model, batch_size=16, seed=0)


@pytest.mark.exhaustive
def test_what_the_charge_leaves_is_small_cut_and_computes_the_same(trained: Any, tmp_path: Path) -> None:
    model, data, net = trained
    view = jax.device_get(rated.view(net, 4))
    small = rated.cut(model, view, data.images[:1])
    assert sum(rated.widths(small)) < 36
    narrow = network(LeNet300(4, widths=rated.widths(small)), (0.5,), (0.3,))
    expected = model.infer({"params": view}, data.images)
    np.testing.assert_allclose(narrow.infer({"params": small}, data.images), expected, atol=1e-4)
    assert float(jnp.mean(jnp.argmax(expected, -1) == data.labels)) > 0.9

    pixels = rated.Pixels(small)
    assert {2 * 8 + 2, 5 * 8 + 5} <= set(pixels.read.tolist())
    assert len(pixels.read) < 48
    few = narrow.infer({"params": pixels.rows(small)}, pixels.images(data).images)
    np.testing.assert_allclose(few, expected, atol=1e-4)
    back = pixels.back(pixels.rows(small), small)
    jax.tree.map(np.testing.assert_array_equal, back, small)

    told = rated.write(tmp_path / "x.jcz", model, net, 4, data.images[:1], pixels=True)
    assert told["bytes"] == (tmp_path / "x.jcz").stat().st_size
    assert told["rate"] * 0.6 - 40 < told["bytes"] < told["rate"] * 1.2 + 200
    kinds = [tensor.kind for tensor in jc.pack.inspect(tmp_path / "x.jcz").tensors]
    assert all(kind.startswith("codes") for kind in kinds[:-1] if not kind.startswith("plain"))
    read = rated.Pixels.restored(jc.pack.load(tmp_path / "x.jcz")[0], jax.tree.structure(small))
    np.testing.assert_allclose(narrow.infer({"params": read}, data.images), expected, atol=0.02)  # scales are shorter


@pytest.mark.exhaustive
def test_zeros_stay_zeros_on_grids_that_fit_the_others(trained: Any) -> None:
    model, data, _ = trained
    params = model.init(jax.random.key(1), data.images[:1])["params"]
    mask = np.random.default_rng(0).random((64, 24)) < 0.05
    params["Dense_0"]["kernel"] = params["Dense_0"]["kernel"] * mask
    knobs = Knobs(0.0, 64, 1e-3, strength=1e-5, begin=-1.0, end=0.0)
    net = rated.trained(params, knobs, data, bits=4, model=model, batch_size=16, seed=0)
    kernel = np.asarray(rated.view(net, 4)["Dense_0"]["kernel"])
    assert not kernel[~mask].any()
    assert (kernel[mask] != 0).mean() > 0.5


def test_the_table_has_means_and_deviations() -> None:
    rows = [{"sparsity": 0.0, "error": 0.01}, {"sparsity": 0.99, "bytes": 1000, "error": 0.015}]
    assert deep_compression.table(rows).splitlines()[2:] == ["| 99 | 1,000 | 1.50 |"]


def test_widths_that_do_not_fit_the_model_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        deep_compression.parse(["--model", "lenet300", "--widths", "3"])
    assert "lenet300 has 2 layers" in capsys.readouterr().err


@pytest.mark.exhaustive
def test_every_point_is_trained_once_drawn_and_decoded(here: Callable[..., Any], tmp_path: Path) -> None:
    command = [
        "--model=lenet300",
        "--dataset=digits",
        "--dense_epochs=3",
        "--epochs=6",
        "--rounded=2",
        "--batch_size=32",
    ]
    command += ["--seeds", "0", f"--workdir={tmp_path}", "--held_out=200"]
    for sparsities in (["0.92"], ["0.92", "0.97"]):
        done = here(*command, "--sparsities", *sparsities, module="train.deep_compression")
        assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "summary.json").read_text())["rows"]
    assert [row["sparsity"] for row in rows] == [0.0, 0.92, 0.97]
    assert rows[2]["bytes"] < rows[1]["bytes"]
    assert (tmp_path / "error.png").stat().st_size > 10_000
    checked = here(*command, "--check", module="train.deep_compression")
    assert checked.stdout.count("as before") == 2
    (tmp_path / "0.97-0.jcz").write_bytes((tmp_path / "0.92-0.jcz").read_bytes())
    assert "and its row has" in here(*command, "--check", module="train.deep_compression").stderr
