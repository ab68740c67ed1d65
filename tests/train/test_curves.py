"""Sparse training from scratch: every method reaches what is asked of it, and a run that stopped goes on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from scipy.ndimage import shift
from scipy.signal import correlate

from tests.train.conftest import Cli
from train import curves
from train.common.errors import UserError
from train.common.sparse_training import DRAWN, METHODS, MOVES, Data, Knobs, cubic, moved, shifted, sparsity_of, train
from train.common.step import network
from train.models.lenet import LeNet5, LeNet300, by_patches, halved


def test_patches_convolve_as_scipy_does() -> None:
    rng = np.random.default_rng(0)
    images, kernel = rng.normal(size=(2, 7, 9, 3)), rng.normal(size=(5, 5, 3, 4))
    expected = np.stack(
        [[correlate(image, kernel[..., o], "valid")[..., 0] for o in range(4)] for image in images]
    ).transpose(0, 2, 3, 1)
    found = by_patches(jnp.asarray(images, jnp.float32), jnp.asarray(kernel, jnp.float32), (1, 1), "VALID")
    np.testing.assert_allclose(found, expected, atol=1e-4)
    pixels = jnp.asarray(rng.normal(size=(2, 6, 8, 3)), jnp.float32)
    np.testing.assert_array_equal(halved(pixels), nn.max_pool(pixels, (2, 2), (2, 2)))


def test_a_lenet_by_patches_is_the_same_function() -> None:
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 28, 28, 1)), jnp.float32)
    params = LeNet5(10).init(jax.random.key(0), images)
    plain, patches = (LeNet5(10, patches=patches).apply(params, images) for patches in (False, True))
    np.testing.assert_allclose(patches, plain, atol=1e-5)


def test_the_cubic_schedule_begins_and_ends_where_it_is_told() -> None:
    knobs = Knobs(0.9, 100, begin=0.2, end=0.6)
    found = [float(cubic(knobs)(step)) for step in (0, 20, 40, 60, 100)]
    np.testing.assert_allclose(found, [0, 0, 0.9 * (1 - 0.5**3), 0.9, 0.9], rtol=1e-6)
    risen = [float(cubic(knobs._replace(start=0.5))(step)) for step in (0, 20, 40, 60, 100)]
    np.testing.assert_allclose(risen, [0.5, 0.5, 0.9 - 0.4 * 0.5**3, 0.9, 0.9], rtol=1e-6)
    assert float(cubic(knobs._replace(start=0.95))(0)) == pytest.approx(0.9)  # never above what is asked


def test_images_are_moved_as_scipy_moves_them() -> None:
    images = np.random.default_rng(0).integers(1, 256, (9, 6, 7, 2)).astype(np.uint8)
    chosen = np.arange(9) % len(MOVES)
    expected = np.stack([shift(image, (*MOVES[k], 0), order=0) for image, k in zip(images, chosen, strict=True)])
    np.testing.assert_array_equal(moved(jnp.asarray(images), jnp.asarray(chosen)), expected)
    data = Data(jnp.asarray(images), jnp.arange(9), jnp.zeros((9, 2)))
    drawn = DRAWN[np.random.default_rng(1).integers(8, size=9)]
    found = shifted(data, np.random.default_rng(1))
    np.testing.assert_array_equal(found.images, moved(data.images, jnp.asarray(drawn)))
    assert np.bincount(DRAWN).tolist() == [4, 1, 1, 1, 1]  # half of them stay
    assert sorted(MOVES[1:]) == [(-1, 0), (0, -1), (0, 1), (1, 0)]
    assert found.labels is data.labels
    assert found.targets is data.targets
    targets = np.arange(5 * 9 * 2.0).reshape(5, 9, 2)
    taught = shifted(data, np.random.default_rng(1), jnp.asarray(targets)).targets
    np.testing.assert_array_equal(taught, targets[drawn, np.arange(9)])


def test_a_run_too_short_to_rank_weights_is_refused() -> None:
    with pytest.raises(UserError, match=r"needs 32 of them .* it has 50 in all"):
        train({}, Knobs(0.9, 50), Data(*3 * [jnp.zeros(1)]), model=None, method=METHODS["cubic"], batch_size=1, seed=0)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", list(METHODS))
def test_a_method_reaches_what_is_asked_without_being_compiled_anew(name: str) -> None:
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.integers(0, 256, (160, 8, 8, 1)), jnp.uint8)
    data = Data(images, jnp.asarray(images[:, 0, 0, 0] // 64, jnp.int32), jnp.zeros((160, 4)))
    model = network(LeNet300(4), (0.5,), (0.3,))
    params = model.init(jax.random.key(0), images[:1])["params"]
    for asked in (0.0,) if name == "masked" else (0.8, 0.95):
        knobs = Knobs(asked, 200, strength=20.0 if name == "STR" else 0.1)
        view = train(params, knobs, data, model=model, method=METHODS[name], batch_size=16, seed=0)
        reached = float(sparsity_of(view))
        assert reached == pytest.approx(asked, abs=0.05 if name == "STR" else 1e-4)
        assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(view))


def test_the_table_has_means_and_deviations() -> None:
    points = (("x", 0.9, 0.9, 0.01), ("x", 0.9, 0.9, 0.03), ("y", 0.99, 0.985, 0.5))
    rows = [dict(zip(("method", "asked", "sparsity", "error"), point, strict=True)) for point in points]
    assert curves.table(rows).splitlines() == [
        "| method | 90 % | 99 % |",
        "| --- | ---: | ---: |",
        "| x | 2.00 ± 1.41 |  |",
        "| y |  | 50.00 (at 98.5 %) |",
    ]


@pytest.mark.exhaustive
def test_every_point_is_trained_once_and_drawn(cli: Cli, here: Callable[..., Any], tmp_path: Path) -> None:
    command = [
        "--model=lenet300",
        "--dataset=digits",
        "--epochs=2",
        "--batch_size=8",
        f"--workdir={tmp_path}",
        "--seeds",
        "0",
    ]
    methods = ["--methods", "cubic", "lottery ticket", "steep distilled, shifted"]
    first = cli(*command, *methods, "--sparsities", "0.8", module="train.curves")
    assert first.returncode == 0, first.stderr
    done = here(*command, *methods, "--sparsities", "0.8", "0.9", module="train.curves")
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "summary.json").read_text())["rows"]
    points = [(row["method"], row["asked"]) for row in rows]
    names = ("cubic", "lottery ticket", "steep distilled, shifted")
    assert sorted(points) == sorted(
        [("dense", 0.0), ("dense, shifted", 0.0), *((name, s) for name in names for s in (0.8, 0.9))]
    )
    assert all(row["sparsity"] == pytest.approx(row["asked"], abs=1e-4) for row in rows)
    assert all(row["error"] < 0.6 for row in rows)
    assert done.stdout.count("cubic ") == 3  # a row that was known, one that was not, and the table
    assert (tmp_path / "error.png").stat().st_size > 10_000
