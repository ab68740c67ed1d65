"""The step gives the numbers of one device on eight, under jit and under pmap, whether the batch divides or not.

Sums over devices are rounded otherwise than sums on one: parameters may differ by TOLERANCE, masks not at all.
"""

import functools
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcomp as jc
from tests.tpu.hlo import collectives
from train import compress, models
from train.common import data, parallel
from train.common.distillation import soft_targets, taught
from train.common.errors import UserError
from train.common.parallel import DataParallel, data_parallel, mesh_sizes
from train.common.phases import make_recipe
from train.common.step import Functions, TrainState, hard_loss, init_state, make_step, network, on_outputs
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


def train(name: str, spread: DataParallel, size: int, padding: int | None = None) -> TrainState:
    """A few steps of the student; ``padding`` fills the batch with that many rows of noise that are not valid."""
    config = default.get_config()
    config.student.sparsity, config.student.prune_every, config.student.prune_until = 0.6, 1, 1.0
    recipe, optimizer = make_recipe(config, STEPS), optax.sgd(0.05, momentum=0.9)
    objective = taught(named(name, spread.axis), named("cnn"), [soft_targets(4.0, 0.5)])
    step = make_step(objective, recipe, optimizer, record_every=3, axis=spread.axis)
    fresh = variables(name)
    start = jax.device_get(jax.jit(lambda tree: init_state(tree, recipe, optimizer))(fresh))
    frozen = spread.put(variables("cnn"))
    compiled, state = spread.compile(step, start), spread.put(start)
    for i in range(STEPS):
        batch = batch_of(size, i)
        split = spread.split(batch) if padding is None else with_noise(batch, padding)
        state = compiled(state, frozen, split)
    return jax.device_get(spread.get(state))


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


@pytest.mark.parametrize(
    ("mesh", "axes"),
    [
        ("data=2,fsdp=4", "explicit"),
        pytest.param("fsdp=8", "auto", marks=pytest.mark.exhaustive),
        pytest.param("data=*", "explicit", marks=pytest.mark.exhaustive),
    ],
)
def test_a_state_in_parts_is_that_of_one_device(mesh: str, axes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "SMALL", 64)
    assert_same(train("cnn", data_parallel("jit", mesh=mesh, axes=axes), 36), single("cnn"))


def full_size() -> Any:
    """The state of a ResNet-50 at 224 under a recipe and AdamW, as shapes."""
    recipe = make_recipe(default.get_config(), 100)
    model = network(models.create("imagenet_resnet", 1000, {}), (0.5,) * 3, (0.5,) * 3)
    images = jax.ShapeDtypeStruct((8, 224, 224, 3), jnp.uint8)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    return jax.eval_shape(lambda tree: init_state(tree, recipe, optax.adamw(1e-3)), variables)


def test_eight_devices_hold_an_eighth_each_of_a_large_state() -> None:
    """Masks and moments are in parts as parameters are: nearly all of it is."""
    state, spread = full_size(), data_parallel("jit", mesh="fsdp=8")
    bytes_of = lambda shape, leaf: np.prod(shape, dtype=np.int64) * leaf.dtype.itemsize  # noqa: E731
    pairs = list(zip(jax.tree.leaves(state), jax.tree.leaves(spread.layouts(state)), strict=True))
    whole = sum(bytes_of(leaf.shape, leaf) for leaf, _ in pairs)
    held = sum(bytes_of(layout.shard_shape(leaf.shape), leaf) for leaf, layout in pairs)
    assert whole > 3 * 4 * 25e6
    assert held <= whole / 7.5
    by_shape = {}
    for leaf, layout in pairs:  # what is of one shape is laid out alike
        assert by_shape.setdefault(leaf.shape, layout) == layout


@pytest.mark.exhaustive
def test_a_recipe_collects_no_more_weights_than_the_plain_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the compiled text: thresholds take numbers of scalars, not weights."""
    monkeypatch.setattr(parallel, "SMALL", 64)
    config, spread, fresh = default.get_config(), data_parallel("jit", mesh="fsdp=8"), variables("cnn")

    def gathered(recipe: Any) -> int:
        """The numbers that all-gathers of a step make, all together."""
        optimizer = optax.adamw(1e-3)
        step = make_step(on_outputs(named("cnn"), hard_loss), recipe, optimizer, record_every=3)
        state = init_state(fresh, recipe, optimizer)
        batch = spread.split(batch_of(40, 0))
        text = spread.compile(step, state).lower(spread.put(state), {}, batch).compile().as_text()
        return sum(int(found[11:-1]) for found in collectives(text) if found.startswith("all-gather["))

    plain, with_recipe = gathered(jc.identity()), gathered(make_recipe(config, STEPS))
    assert plain > 0  # the network needs its weights
    assert with_recipe <= 1.05 * plain


MISTAKES = {
    "data=3": "--mesh=data=3 is made of 3 devices, and there are 8: give sizes whose product is 8",
    "data=*,fsdp=3": "--mesh=data=*,fsdp=3 is made of 3 devices times *, and there are 8",
    "data=*,fsdp=*": "made of 1 devices times * times *",
    "model=8": "--mesh=model=8 has 'model=8': give axes with sizes, as in --mesh=data=8,fsdp=4 (data: the batch",
    "data=2,data=4": "has 'data=4'",
    "fsdp": "has 'fsdp'",
    "fsdp=0": "has 'fsdp=0'",
}


@pytest.mark.parametrize("spec", MISTAKES)
def test_meshes_that_do_not_divide_are_told(spec: str) -> None:
    with pytest.raises(UserError, match=re.escape(MISTAKES[spec])):
        mesh_sizes(spec, 8)


def test_a_mesh_is_of_jit() -> None:
    with pytest.raises(UserError, match="leave out --parallel=pmap"):
        data_parallel("pmap", mesh="data=8")


@pytest.mark.parametrize("name", ["cnn", pytest.param("resnet", marks=pytest.mark.exhaustive)])
def test_padding_has_no_influence(name: str) -> None:
    assert_same(train(name, data_parallel("jit", jax.devices()[:1]), 36, padding=12), single(name))


@pytest.mark.parametrize("how", [{"mode": "jit"}, {"mode": "pmap"}, {"mode": "jit", "mesh": "data=2,fsdp=4"}])
def test_what_is_put_comes_back(how: dict[str, str]) -> None:
    tree: dict[str, Any] = {"w": np.arange(6.0, dtype=np.float32).reshape(2, 3), "n": np.int32(3), "e": {}}
    tree["large"] = np.arange(4096.0).reshape(64, 64).astype(np.float32)
    spread = data_parallel(**how)
    back = spread.get(spread.put(tree))
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


def test_a_student_that_is_rewritten_by_each_host_is_whole(tmp_path: Path) -> None:
    config, spread = default.get_config(), data_parallel("jit", mesh="fsdp=8")
    job = compress.Job(config, DATASET, spread, tmp_path, {})
    for name, devices in (("teacher", 8), ("student", 1)):
        kernel = compress.fresh(job, name, 0).variables["params"]["Conv_2"]["kernel"]
        assert len(kernel.sharding.device_set) == devices
