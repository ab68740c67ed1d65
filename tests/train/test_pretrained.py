"""Published networks score what was published: the weights, the architecture and the data path are theirs."""

import os
from pathlib import Path

import jax
import numpy as np
import pytest

from train import data, evaluate
from train.errors import UserError
from train.models.pretrained import MEAN, STD, load_resnet
from train.step import Classifier

TFDS = os.environ.get("TFDS_DATA_DIR", "")
WEIGHTS = Path(TFDS).parent / "weights" / "resnet20_akamaster.npz"


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


def test_every_array_finds_its_place(tmp_path: Path) -> None:
    arrays = torch_names()
    np.savez(tmp_path / "r.npz", **arrays, **{"bn1.num_batches_tracked": np.array(7)})
    module, variables, options = load_resnet(tmp_path / "r.npz")
    assert options == {"depth": 8, "width": 4}
    fresh = jax.eval_shape(lambda: module.init(jax.random.key(0), np.zeros((1, 32, 32, 3))))
    assert jax.tree.map(np.shape, dict(variables)) == jax.tree.map(np.shape, dict(fresh))
    kernel = variables["params"]["Block_1"]["Conv_0"]["kernel"]
    assert kernel[2, 0, 3, 5] == arrays["layer2.0.conv1.weight"][5, 3, 2, 0]
    assert variables["batch_stats"]["Block_2"]["BatchNorm_1"]["var"][3] == arrays["layer3.0.bn2.running_var"][3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.pop("bn1.bias"), "is no CIFAR ResNet with option-A shortcuts: it lacks 'bn1.bias'"),
        (lambda arrays: arrays.update({"layer2.0.shortcut.weight": np.ones(3)}), "it also holds layer2.0.shortcut"),
        (lambda arrays: arrays.update({"conv1.weight": np.array([{}])}), "needs? to be an .npz of plain arrays"),
    ],
)
def test_another_network_is_refused(tmp_path: Path, change, message: str) -> None:
    arrays = torch_names()
    change(arrays)
    np.savez(tmp_path / "r.npz", **arrays)
    with pytest.raises(UserError, match=message):
        load_resnet(tmp_path / "r.npz")


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.npz: weights need to be an \.npz"):
        load_resnet(tmp_path / "nowhere.npz")


@pytest.mark.exhaustive
@pytest.mark.shared
@pytest.mark.skipif(not WEIGHTS.is_file(), reason="the published weights are not beside TFDS_DATA_DIR")
def test_resnet_20_reproduces_its_published_accuracy() -> None:
    module, variables, options = load_resnet(WEIGHTS)
    assert options == {"depth": 20, "width": 16}
    scored = evaluate.score(Classifier(module, MEAN, STD), variables, data.load("cifar10", TFDS).test)
    assert scored["correct"] == 9173
