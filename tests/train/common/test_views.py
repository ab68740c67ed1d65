"""Views of training images in the step: named in a text, the same again after an interruption and on any devices."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcomp as jc
from train import models
from train.common import data, views
from train.common.errors import UserError
from train.common.loop import Phase, fit
from train.common.parallel import data_parallel
from train.common.step import TrainState, hard_loss, init_state, make_step, network, on_outputs

DATASET = data.load("digits")
MODEL = network(models.create("cnn", 10, {"widths": (4,)}), (0.3,), (0.4,))
PHASE = Phase("teacher", steps=6, record_every=2, batch_size=400, seed=3, shift=1, flip=False)
TEXT = "pad_crop(1), trivial_augment(operations=['rotate']), one_of(mixup(0.4), cutmix())"


def run(workdir: Path, steps: int, parallel: str = "jit") -> TrainState:
    """Two steps an epoch, by SGD."""
    optimizer = optax.sgd(0.1)
    view = views.read(TEXT, DATASET)
    assert view is not None
    seen = views.in_step(view, PHASE.seed, len(DATASET.train) // PHASE.batch_size)
    spread = data_parallel(parallel)
    step = make_step(
        on_outputs(MODEL, hard_loss), jc.identity(), optimizer, record_every=2, axis=spread.axis, views=seen
    )
    start = jax.jit(lambda key: init_state(MODEL.init(key, DATASET.train.images[:1]), jc.identity(), optimizer))
    phase = dataclasses.replace(PHASE, steps=steps)
    return fit(phase, step, start(jax.random.key(0)), {}, DATASET, spread, workdir, lambda state: {})[0]


def test_a_run_that_goes_on_sees_the_same_views(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", 6)
    run(tmp_path / "parts", 3)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(whole), jax.device_get(run(tmp_path / "parts", 6)))
    assert 0 < float(whole.sums["correct"]) < float(whole.sums["examples"])


def test_pmap_sees_what_jit_sees(tmp_path: Path) -> None:
    one, other = (jax.device_get(run(tmp_path / mode, 2, mode).params) for mode in ("jit", "pmap"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), one, other)


def test_an_image_has_one_view_an_epoch() -> None:
    view = views.read("pad_crop(2), rand_augment(1, 20, operations=['rotate', 'shear_x'])", DATASET)
    assert view is not None
    seen = jax.jit(views.in_step(view, 0, per_epoch=4))
    images, labels = DATASET.train.images[:8], DATASET.train.labels[:8]
    batch = {"image": images, "label": labels, "index": np.arange(8), "valid": np.ones(8, np.float32)}
    first, same, other = (seen(jnp.int32(step), batch)["image"] for step in (0, 3, 4))
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()
    turned = {name: x[::-1] for name, x in batch.items()}
    np.testing.assert_array_equal(seen(jnp.int32(1), turned)["image"], first[::-1])


def test_images_that_come_several_times_are_seen_differently() -> None:
    """Other images of an epoch, as often; the first of each as alone; together what all hosts read."""
    how = {"shift": 0, "flip": False, "repeats": 3}
    batches = [data.train_batch(DATASET.train, step, 10, 5, **how) for step in range(140)]
    plain = data.train_batch(DATASET.train, 0, 4, 5, shift=0, flip=False)
    n, first = len(DATASET.train), batches[0]
    assert (first["index"] // n).tolist() == [0] * 4 + [1] * 4 + [2] * 2
    np.testing.assert_array_equal(first["index"][:4], plain["index"])
    np.testing.assert_array_equal(first["index"][4:8] - n, plain["index"])
    np.testing.assert_array_equal(first["image"][4:8], plain["image"])
    parts = [data.train_batch(DATASET.train, 0, 10, 5, **how, rows=slice(k, k + 5)) for k in (0, 5)]
    for key in first:
        np.testing.assert_array_equal(np.concatenate([part[key] for part in parts]), first[key])
    per_epoch = n // 10
    once = np.concatenate([batch["index"] for batch in batches[:per_epoch]]) % n
    assert len(set(once)) == 4 * per_epoch
    view = views.read("pad_crop(2), rand_augment(1, 20, operations=['rotate', 'shear_x'])", DATASET)
    assert view is not None
    batch = {**first, "valid": np.ones(10, np.float32)}
    seen = np.asarray(views.in_step(view, 0, per_epoch)(jnp.int32(0), batch)["image"])
    assert all((seen[k] != seen[k + 4]).any() for k in range(4))


def test_padding_adds_nothing_to_its_neighbor() -> None:
    view = views.read("mixup(0.4)", DATASET)
    assert view is not None
    batch = {"image": DATASET.train.images[:4], "label": np.array([1, 2, 3, 0]), "index": np.arange(4)}
    labels = views.in_step(view, 0, 1)(jnp.int32(0), {**batch, "valid": np.float32([1, 1, 1, 0])})["label"]
    assert labels.shape == (4, 10)
    assert labels[2, 0] == 0
    assert float(labels[2].sum()) < 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("blur()", "blur() is none of these calls"),
        ("flip", "flip is none of these calls"),
        ("normalize(0.5, 0.5)", "is none of these calls"),
        ("flip(2)", "probability in [0, 1], got 2"),
        ("flip(p=1)", "unexpected keyword argument 'p'"),
        ("cutout(size)", "malformed node"),
        ("flip(", "'flip('"),
        ("flip() cutout(3)", "calls of jc.augment's"),
        ("random_resized_crop((4, 4))", "must keep the images' size (8, 8, 1), got (4, 4, 1)"),
        ("__import__('os').getcwd()", "is none of these calls"),
    ],
)
def test_what_names_no_views_is_told(text: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        views.read(text, DATASET)
    assert words in str(caught.value)


def test_nothing_is_no_views() -> None:
    assert views.read("  ", DATASET) is None
    assert repr(views.read("flip(),", DATASET)) == "sequence(flip(0.5))"
