"""Mixtures: who is mixed with whom, by how much, and that classes say the same as pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxcomp import augment
from jaxcomp.augment.mix import STEPS, below
from jaxcomp.core.errors import ArgumentError
from tests.augment.cases import KEY

CONSTANT = np.broadcast_to(np.arange(7, dtype=np.uint8)[:, None, None, None] * 40, (7, 8, 8, 1))


@pytest.mark.parametrize("alpha", [0.01, 0.2, 0.5, 1.0, 1.5, 4.0, 100.0, 1e4])
def test_shares_are_of_a_beta_distribution(alpha: float) -> None:
    expected = stats.beta(alpha, alpha).cdf((np.arange(STEPS) + 0.5) / STEPS)
    np.testing.assert_allclose(below(alpha), expected, atol=1e-7)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_mixup_is_of_pixels_what_it_is_of_classes(dtype: type) -> None:
    images = CONSTANT if dtype == np.uint8 else np.float32(CONSTANT / 255)
    found, classes = augment.mixup(0.4, classes=7)(KEY, images, np.arange(7))
    levels = np.arange(7) * 40 / (1 if dtype == np.uint8 else 255)
    expected = np.asarray(classes, np.float64) @ levels
    expected = np.floor(expected + 0.5) if dtype == np.uint8 else expected
    np.testing.assert_allclose(found, np.broadcast_to(expected[:, None, None, None], found.shape), atol=1e-6)
    neighbors = [{0, 1}, {0, 1}, {2, 3}, {2, 3}, {4, 5}, {4, 5}, {6}]
    assert all(set(np.nonzero(row)[0]) <= pair for row, pair in zip(np.asarray(classes), neighbors, strict=True))
    assert classes[6, 6] == 1


def test_cutmix_pastes_one_rectangle_and_counts_its_area() -> None:
    masks = np.broadcast_to(np.arange(7)[:, None, None], (7, 8, 8))
    seen = set()
    for turn in range(10):
        labels = augment.Labels(np.arange(7), masks=masks)
        found, labels = augment.cutmix(classes=7)(jax.random.key(turn), CONSTANT, labels)
        np.testing.assert_array_equal(found[..., 0], labels.masks * 40)
        for i in range(6):
            pasted = np.asarray(labels.masks[i]) == (i ^ 1)
            assert pasted.sum() + (np.asarray(labels.masks[i]) == i).sum() == 64
            rows, columns = pasted.any(1), pasted.any(0)
            assert (pasted == rows[:, None] & columns).all()
            assert labels.classes[i, i ^ 1] == pasted.mean()
            seen.add(int(pasted.sum()))
    assert len(seen) > 10


def test_probabilities_are_mixed_as_they_are() -> None:
    given = np.float32([[0.5, 0.5, 0], [0, 0.25, 0.75], [0, 0, 1], [1, 0, 0]])
    twice = augment.sequence(augment.mixup(classes=3), augment.cutmix())
    found = twice(KEY, CONSTANT[:4], given)[1]
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found.sum(1), np.ones(4), atol=1e-6)


def test_an_image_without_a_class_adds_none() -> None:
    found = augment.mixup(classes=3)(KEY, CONSTANT[:4], np.array([-1, 1, -1, -1]))[1]
    assert found[0].tolist() == [0, float(found[0, 1]), 0]
    assert 0 < float(found[0, 1]) < 1
    assert not found[2:].any()


def test_a_class_out_of_range_is_none_under_jit() -> None:
    found = jax.jit(lambda labels: augment.mixup(classes=3)(KEY, CONSTANT[:2], labels))(jnp.array([7, 7]))[1]
    assert not found.any()


def test_labels_that_a_traced_function_closes_over_are_seen() -> None:
    images, labels = jnp.zeros((4, 3, 3, 1)), jnp.array([0, 1, 2, 1])
    mix = augment.mixup(1.0, classes=3)
    _, wanted = mix(jax.random.key(0), images, labels)
    _, found = jax.jit(lambda key: mix(key, images, labels))(jax.random.key(0))
    np.testing.assert_array_equal(found, wanted)
    with pytest.raises(ArgumentError, match="was given class 2"):
        jax.jit(lambda key: augment.mixup(1.0, classes=2)(key, images, labels))(jax.random.key(0))
