"""The step gives the numbers of one device on eight, under jit and under pmap, whether the batch divides or not.

Sums over devices are rounded otherwise than sums on one: parameters may differ by TOLERANCE, masks not at all.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from train import models
from train.common import data
from train.common.distillation import soft_targets, taught
from train.common.parallel import DataParallel, data_parallel
from train.common.phases import make_recipe
from train.common.step import Functions, TrainState, init_state, make_step, network
from train.configs import default

TOLERANCE = 2e-5  # relative and absolute; 3e-7 was measured in the parameters and statistics, 1e-5 in a loss of 48
MODELS = {"cnn": {"widths": (8, 8)}, "resnet": {"depth": 8, "width": 4}}
DATASET = data.load("digits")
STEPS = 4


def named(name: str, axis: str | None = None) -> Functions:
    return network(models.create(name, 10, MODELS[name], axis_name=axis), (0.3,), (0.4,))


def batch_of(size: int, step: int) -> dict[str, np.ndarray]:
    return data.train_batch(DATASET.train, step, size, 0, shift=1, flip=False)


@functools.cache
def variables(name: str) -> Any:
    """Fresh variables, on the host."""
    return jax.device_get(jax.jit(named(name).init)(jax.random.key(0), DATASET.train.images[:1]))


def train(name: str, parallel: DataParallel, size: int, padding: int | None = None) -> TrainState:
    """A few steps of the student; ``padding`` fills the batch with that many rows of noise that are not valid."""
    config = default.get_config()
    config.student.sparsity, config.student.prune_every, config.student.prune_until = 0.6, 1, 1.0
    recipe, optimizer = make_recipe(config, STEPS), optax.sgd(0.05, momentum=0.9)
    objective = taught(named(name, parallel.axis), named("cnn"), [soft_targets(4.0, 0.5)])
    step = make_step(objective, recipe, optimizer, record_every=3, axis=parallel.axis)
    fresh = variables(name)
    start = jax.device_get(jax.jit(lambda tree: init_state(tree, recipe, optimizer))(fresh))
    frozen = parallel.put(variables("cnn"))
    compiled, state = parallel.compile(step), parallel.put(start)
    for i in range(STEPS):
        batch = batch_of(size, i)
        split = parallel.split(batch) if padding is None else with_noise(batch, padding)
        state = compiled(state, frozen, split)
    return jax.device_get(parallel.get(state))


def with_noise(batch: dict[str, np.ndarray], rows: int) -> dict[str, np.ndarray]:
    padded, rng = data.pad(batch, len(batch["label"]) + rows), np.random.default_rng(0)
    padded["image"][-rows:] = rng.integers(0, 256, padded["image"][-rows:].shape)
    padded["label"][-rows:] = rng.integers(0, 10, rows)
    return padded


def assert_same(state: TrainState, expected: TrainState) -> None:
    for got, want in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        if want.dtype == np.float32:
            np.testing.assert_allclose(got, want, rtol=TOLERANCE, atol=TOLERANCE)
        else:
            np.testing.assert_array_equal(got, want)  # the step, the masks
    assert state.sums["examples"] == expected.sums["examples"] > 0
    assert state.sums["correct"] == expected.sums["correct"]
    masks = [leaf for leaf in jax.tree.leaves(expected.compressor) if leaf.dtype == bool]
    assert masks
    assert any(not mask.all() for mask in masks)  # something was pruned


@functools.cache
def single(name: str) -> TrainState:
    """36 images a step, on one device, without padding."""
    return train(name, data_parallel("jit", jax.devices()[:1]), 36)


@pytest.mark.parametrize(
    ("name", "mode"),
    [("cnn", "jit"), ("cnn", "pmap"), pytest.param("resnet", "pmap", marks=pytest.mark.exhaustive)],
)
def test_eight_devices_do_not_divide_36_images(name: str, mode: str) -> None:
    assert jax.device_count() == 8
    assert_same(train(name, data_parallel(mode), 36), single(name))


@pytest.mark.parametrize("name", ["cnn", pytest.param("resnet", marks=pytest.mark.exhaustive)])
def test_padding_has_no_influence(name: str) -> None:
    assert_same(train(name, data_parallel("jit", jax.devices()[:1]), 36, padding=12), single(name))


@pytest.mark.parametrize("mode", ["jit", "pmap"])
def test_what_is_put_comes_back(mode: str) -> None:
    tree: dict[str, Any] = {"w": np.arange(6.0, dtype=np.float32).reshape(2, 3), "n": np.int32(3), "e": {}}
    parallel = data_parallel(mode)
    back = parallel.get(parallel.put(tree))
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    for got, want in zip(jax.tree.leaves(back), jax.tree.leaves(tree), strict=True):
        np.testing.assert_array_equal(got, want)


def test_a_split_batch_is_spread_over_all_devices() -> None:
    batch = batch_of(36, 0)
    under_jit, under_pmap = (data_parallel(mode).split(batch) for mode in ("jit", "pmap"))
    assert under_jit["image"].shape[0] == 40
    assert len(under_jit["image"].sharding.device_set) == 8
    assert under_pmap["image"].shape[:2] == (8, 5)
    for key in ("image", "label", "valid"):
        rows = np.asarray(under_jit[key])
        np.testing.assert_array_equal(np.reshape(under_pmap[key], rows.shape), rows)
    np.testing.assert_array_equal(np.asarray(under_jit["valid"]), jnp.arange(40) < 36)
