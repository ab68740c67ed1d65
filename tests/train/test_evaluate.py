"""A file is scored if it says what it is and holds numbers; else it is refused by name, whatever was altered."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from train import evaluate, models
from train.common import data
from train.common.errors import UserError
from train.common.step import make_eval, network

DIGITS = data.load("digits")
MODEL = network(models.create("cnn", 10, {"widths": (2,)}), (0.3,), (0.4,))
VARIABLES = jax.tree.map(
    lambda leaf: np.zeros(leaf.shape, leaf.dtype), jax.eval_shape(MODEL.init, jax.random.key(0), DIGITS.test.images[:1])
)
ABOUT: dict[str, Any] = {
    "model": "cnn",
    "options": {"widths": [2]},
    "classes": 10,
    "dataset": "digits",
    "image_size": 0,
}
ABOUT |= {"mean": [0.3], "std": [0.4]}


def score(path: Path, variables: Any = VARIABLES, **changes: Any) -> dict[str, Any]:
    jc.pack.save(path / "m.jcz", variables, metadata=ABOUT | changes)
    return evaluate.score_artifact(str(path / "m.jcz"), None)


def test_a_sound_file_is_scored(tmp_path: Path) -> None:
    found = score(tmp_path)
    assert found["accuracy"] == np.mean(DIGITS.test.labels == 0)  # of zeros the first class is the largest
    assert found["undefined"] == 0


WRONG: list[tuple[str, Any]] = [
    *((field, value) for field in ABOUT for value in (None, True, 1.5, float("nan"), "mnits", "", [], {"a": 1}, -1)),
    *(("std", value) for value in ([0.0], [0], [-0.4], [float("inf")], [1e-30], ["0.4"], [[0.4]], [0.4, 0.4])),
    *(("mean", value) for value in ([float("nan")], ["0"], [0.3, 0.3], {"0": 0.3})),
    *(
        ("options", value)
        for value in ([], {"widths": [4]}, {"widths": 2}, {"widths": ["2"]}, {"widths": [10**9]}, {"depth": 3})
    ),
    *(("model", value) for value in ("lenet5", "resnet", "CNN", ["cnn"])),
    *(("classes", value) for value in (0, 3, 11, 10**30, "10")),
]
SOUND = [("image_size", None)]


@pytest.mark.parametrize(("field", "value"), [pair for pair in WRONG if pair not in SOUND])
def test_metadata_that_cannot_be_are_refused(tmp_path: Path, field: str, value: Any) -> None:
    if field == "dataset" and value == "mnits":
        pytest.importorskip("tensorflow_datasets")
    with pytest.raises((UserError, jc.errors.JaxcompError)) as caught:
        score(tmp_path, **{field: value})
    message = str(caught.value)
    assert str(tmp_path / "m.jcz") in message or "unknown dataset" in message
    assert "Traceback" not in message


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path: Path, bad: float) -> None:
    variables = jax.tree.map(np.copy, VARIABLES)
    variables["params"]["Dense_0"]["bias"][3] = bad
    with pytest.raises(UserError, match="params/Dense_0/bias: NaN or infinity"):
        score(tmp_path, variables)


@pytest.mark.parametrize(
    "variables",
    [
        {"params": {"w": np.ones(3, np.float32)}},
        [np.ones(2, np.float32)],
        {"variables": VARIABLES, "keep": {"x": np.ones(3, bool)}},
        {"params": {**VARIABLES["params"], "Dense_9": VARIABLES["params"]["Dense_0"]}},
        {"params": jax.tree.map(lambda leaf: leaf[..., :-1], VARIABLES["params"])},
    ],
)
def test_parameters_of_another_model_are_refused(tmp_path: Path, variables: Any) -> None:
    with pytest.raises((UserError, jc.errors.JaxcompError)):
        score(tmp_path, variables)


def test_a_rewritten_network_is_scored_or_refused(tmp_path: Path) -> None:
    made = jc.rewrite.shrink(MODEL.infer, VARIABLES, DIGITS.test.images[:1], keep={"params/Conv_0/kernel": KEPT})
    jc.rewrite.save(tmp_path / "m.jcz", *made, metadata=ABOUT)
    assert evaluate.score_artifact(str(tmp_path / "m.jcz"), None)["accuracy"] == np.mean(DIGITS.test.labels == 0)
    jc.rewrite.save(tmp_path / "m.jcz", *made, metadata=ABOUT | {"options": {"widths": [3]}})
    with pytest.raises(UserError, match=r"its metadata do not fit what it holds .*shrink cannot be done again"):
        evaluate.score_artifact(str(tmp_path / "m.jcz"), None)


KEPT = np.array([True, False])


def test_an_answer_that_is_no_number_is_no_answer(tmp_path: Path) -> None:
    def broken(variables: Any, images: jax.Array) -> jax.Array:
        return images[:, :3, 0, 0] / jnp.asarray([1, 0, 1], jnp.float32)

    images = np.zeros((2, 3, 1, 1), np.uint8)
    images[1] = [[[2]], [[3]], [[1]]]  # 0/0 is NaN; 3/0 is infinity, which is the largest
    assert make_eval(broken)({}, images).tolist() == [-1, 1]
    variables = jax.tree.map(np.copy, VARIABLES)
    variables["params"]["Conv_0"]["kernel"][:] = 3e38  # infinity, which the next layer's zeros make NaN
    with pytest.raises(UserError, match=r"the outputs for [0-9]+ images are NaN: it cannot be scored"):
        score(tmp_path, variables)
