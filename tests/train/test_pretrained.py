"""Published networks score what was published: the weights, the architecture and the data path are theirs."""

import argparse
import dataclasses
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxcomp.core.paths import path_string
from train import models
from train.common import data, published
from train.common.errors import UserError
from train.common.published import Published
from train.common.scoring import score
from train.models.pretrained import load

TFDS = os.environ.get("TFDS_DATA_DIR", "")
WEIGHTS = Path(TFDS).parent / "weights"


def torch_names(depth: int = 8, width: int = 4) -> dict[str, np.ndarray]:
    """A small network's weights as PyTorch would name and shape them."""
    rng, shapes = np.random.default_rng(0), {"conv1.weight": (width, 3, 3, 3), "linear.weight": (10, 4 * width)}
    norms = {"bn1": width}
    for stage in (1, 2, 3):
        for block in range((depth - 2) // 6):
            out = width * 2 ** (stage - 1)
            before = out if block or stage == 1 else out // 2
            name = f"layer{stage}.{block}"
            shapes |= {f"{name}.conv1.weight": (out, before, 3, 3), f"{name}.conv2.weight": (out, out, 3, 3)}
            norms |= {f"{name}.bn1": out, f"{name}.bn2": out}
    shapes["linear.bias"] = (10,)
    for name, size in norms.items():
        shapes |= {f"{name}.{part}": (size,) for part in ("weight", "bias", "running_mean", "running_var")}
    return {name: rng.uniform(0.5, 1, shape).astype(np.float32) for name, shape in shapes.items()}


def keras_names(width: int = 4) -> dict[str, np.ndarray]:
    """A small ResNet-8's weights as Keras would name and shape them."""
    rng, one, two, four = np.random.default_rng(0), width, 2 * width, 4 * width
    kernels = [(3, 3, one), (3, one, one), (3, one, one), (3, one, two), (3, two, two), (1, one, two)]
    kernels += [(3, two, four), (3, four, four), (1, two, four)]
    shapes: dict[str, tuple[int, ...]] = {"dense.kernel": (four, 10), "dense.bias": (10,)}
    for i, (side, before, out) in enumerate(kernels):
        name = f"conv2d_{i}" if i else "conv2d"
        shapes |= {f"{name}.kernel": (side, side, before, out), f"{name}.bias": (out,)}
    for i, size in enumerate((one, one, one, two, two, four, four)):
        name = f"batch_normalization_{i}" if i else "batch_normalization"
        shapes |= {f"{name}.{part}": (size,) for part in ("gamma", "beta", "moving_mean", "moving_variance")}
    shapes["conv2d.kernel"] = (3, 3, 3, width)
    return {name: rng.uniform(0.5, 1, shape).astype(np.float32) for name, shape in shapes.items()}


CASES = {
    "PyTorch": (
        torch_names,
        {"depth": 8, "width": 4},
        {
            "params/Block_1/Conv_0/kernel": ("layer2.0.conv1.weight", (2, 3, 1, 0)),
            "batch_stats/Block_2/BatchNorm_1/var": ("layer3.0.bn2.running_var", (0,)),
        },
    ),
    "Keras": (
        keras_names,
        {"width": 4},
        {
            "params/TinyBlock_2/Conv_2/kernel": ("conv2d_8.kernel", (0, 1, 2, 3)),
            "params/TinyBlock_1/Conv_1/bias": ("conv2d_4.bias", (0,)),
            "batch_stats/TinyBlock_1/BatchNorm_1/mean": ("batch_normalization_4.moving_mean", (0,)),
        },
    ),
}


@pytest.mark.parametrize("framework", CASES)
def test_every_array_finds_its_place(tmp_path: Path, framework: str) -> None:
    names, options, places = CASES[framework]
    arrays = names()
    extra = {"bn1.num_batches_tracked": np.array(7)} if framework == "PyTorch" else {}
    np.savez(tmp_path / "r.npz", **arrays, **extra)
    found = load(tmp_path / "r.npz")
    assert found.options == options
    fresh = jax.eval_shape(lambda: found.module.init(jax.random.key(0), np.zeros((1, 32, 32, 3))))
    assert jax.tree.map(np.shape, found.variables) == jax.tree.map(np.shape, dict(fresh))
    assert models.create(found.name, 10, options) == found.module
    by_path = {path_string(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(found.variables)}
    for path, (name, axes) in places.items():
        np.testing.assert_array_equal(by_path[path], arrays[name].transpose(axes))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.pop("bn1.bias"), "is not a CIFAR ResNet with option-A shortcuts: it lacks 'bn1.bias'"),
        (lambda arrays: arrays.update({"layer2.0.shortcut.weight": np.ones(3)}), "it also holds layer2.0.shortcut"),
        (lambda arrays: arrays.update({"conv1.weight": np.array([{}])}), "needs? to be an .npz of plain arrays"),
    ],
)
def test_another_network_is_refused(tmp_path: Path, change, message: str) -> None:
    arrays = torch_names()
    change(arrays)
    np.savez(tmp_path / "r.npz", **arrays)
    with pytest.raises(UserError, match=message):
        load(tmp_path / "r.npz")


def torchs_own(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", b"\x80\x02}.")


OTHERS: dict[str, Callable[[Path], Any]] = {
    "missing": lambda path: None,
    "PyTorch's": torchs_own,
    "PyTorch's, before 1.6": lambda path: path.write_bytes(b"\x80\x02}."),
    "one array": lambda path: np.save(path.open("wb"), np.ones(3)),
    "empty": lambda path: path.touch(),
    "torn": lambda path: path.write_bytes(b"PK\x03\x04torn"),
}


@pytest.mark.parametrize("write", OTHERS.values(), ids=OTHERS)
def test_a_file_of_another_kind_is_refused_with_what_makes_one(tmp_path: Path, write: Callable[[Path], Any]) -> None:
    write(tmp_path / "other.npz")
    with pytest.raises(UserError, match=r"other\.npz: weights need to be an \.npz of plain arrays") as caught:
        load(tmp_path / "other.npz")
    assert "torch.load(" in str(caught.value)
    assert "numpy.savez(" in str(caught.value)


def test_names_of_networks_that_were_trained_on_several_devices_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "r.npz", **{f"module.{name}": array for name, array in torch_names().items()})
    assert load(tmp_path / "r.npz").options == CASES["PyTorch"][1]


def test_what_does_not_fit_is_refused_before_anything_runs(tmp_path: Path) -> None:
    np.savez(tmp_path / "r.npz", **keras_names())
    digits = data.load("digits")
    assert Published.read(tmp_path / "r.npz", digits).about["model"] == "tiny_resnet"
    with pytest.raises(UserError, match="tells 10 classes apart, and digits has 7"):
        Published.read(tmp_path / "r.npz", dataclasses.replace(digits, classes=7))
    options = {"dataset": "digits", "data_dir": None, "weights": tmp_path / "r.npz"}
    held = published.load(argparse.Namespace(held_out=100, **options)).dataset
    assert (len(held.test), len(held.train)) == (100, len(digits.train) - 100)
    np.testing.assert_array_equal(held.train.labels, digits.train.labels[100:])
    for wrong in (-1, len(digits.train)):
        with pytest.raises(UserError, match="--held_out must leave some of"):
            published.load(argparse.Namespace(held_out=wrong, **options))


@pytest.mark.exhaustive
@pytest.mark.shared
@pytest.mark.skipif(not WEIGHTS.is_dir(), reason="the published weights are not beside TFDS_DATA_DIR")
@pytest.mark.parametrize(("file", "correct"), [("resnet20_akamaster", 9173), ("resnet8_mlperf_tiny", 8721)])
def test_published_weights_reproduce_their_accuracy(file: str, correct: int) -> None:
    found = Published.read(WEIGHTS / f"{file}.npz", data.load("cifar10", TFDS))
    assert score(found.model, found.variables, found.dataset.test)["correct"] == correct
