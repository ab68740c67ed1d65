"""Stored labels: the bytes that were promised, probabilities near those given, and what is no number stays none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.core.errors import ArgumentError
from jaxcomp.distill.stored import LEVELS


def there_and_back(logits, k):
    stored = jax.jit(jc.distill.store_labels, static_argnums=1)(logits, k)
    assert stored.dtype == jnp.uint8
    assert stored.shape == (*logits.shape[:-1], jc.distill.stored_bytes(logits.shape[-1], k))
    return jax.jit(jc.distill.load_labels, static_argnums=(1, 2))(stored, logits.shape[-1], k)


def reference(logits, k):
    """Written out, an example at a time."""
    found = []
    for row in np.asarray(logits, np.float64):
        p = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        order = np.argsort(-p, kind="stable")
        top, left = order[:k], order[k:]
        beside = [np.log(p[i] / p[top[0]]) for i in top[1:]]
        beside.append(np.log(p[left].sum() / p[top[0]]) if len(left) and p[left].sum() else -np.inf)
        codes = [min(range(16), key=lambda c, b=b: abs(LEVELS[c] - max(b, -99))) for b in beside]
        sizes = np.array([np.exp(LEVELS[c]) if c < 15 else 0.0 for c in codes])
        q = np.full(len(p), sizes[-1] / max(len(left), 1))
        q[top] = [1.0, *sizes[:-1]]
        found.append(q / q.sum())
    return np.array(found)


def test_a_batch_of_none_is_stored():
    stored = jc.distill.store_labels(jnp.zeros((0, 10)))
    assert stored.shape == (0, jc.distill.stored_bytes(10))
    assert jc.distill.load_labels(stored, 10).shape == (0, 10)


@pytest.mark.parametrize(("classes", "k"), [(10, 5), (1000, 5), (3, 3), (2, 2), (300, 12)])
def test_probabilities_are_those_of_the_reference(rng, classes, k):
    logits = rng.normal(size=(40, classes)).astype(np.float32) * rng.choice([0.1, 1, 4, 20], size=(40, 1))
    found = np.exp(np.asarray(there_and_back(jnp.asarray(logits, jnp.float32), k), np.float64))
    np.testing.assert_allclose(found, reference(logits, k), atol=1e-5)
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)


def test_probabilities_are_near_those_given(rng):
    logits = rng.normal(size=(4000, 10)) * rng.uniform(0.2, 8, size=(4000, 1))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    wrong = np.abs(np.exp(np.asarray(there_and_back(jnp.asarray(logits, jnp.float32), 10))) - p)
    assert wrong.max() < 0.06
    assert wrong.mean() < 0.01


def test_what_is_no_number_stays_none():
    logits = jnp.array([[0.0, jnp.nan, 1.0], [-jnp.inf] * 3, [jnp.inf, 0.0, 0.0], [5.0, -jnp.inf, 0.0]])
    found = there_and_back(logits, 2)
    assert jnp.isnan(found[0]).all()
    assert jnp.isneginf(found[1]).all()
    assert jnp.isnan(found[2]).all()
    assert float(jnp.exp(found[3])[1]) == 0
    assert jc.distill.kl(logits[3:] + 1, found[3:])[0] < 0.01


def test_strict_types_and_layouts(rng):
    logits = jnp.asarray(rng.normal(size=(2, 3, 6)), jnp.bfloat16)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        found = there_and_back(logits, 3)
    assert found.shape == (2, 3, 6)
    np.testing.assert_array_equal(found, jax.vmap(lambda each: there_and_back(each, 3))(logits))


def test_what_is_wrong_is_said():
    for call, words in (
        (lambda: jc.distill.store_labels(jnp.zeros((2, 4)), 5), "from 2 to the 4 classes, got 5"),
        (lambda: jc.distill.store_labels(jnp.zeros((2, 1)), 2), "2 to 65,536 classes"),
        (lambda: jc.distill.load_labels(jnp.zeros((2, 4), jnp.uint8), 10, 5), r"uint8 \[..., 5\], got uint8 of"),
        (lambda: jc.distill.load_labels(jnp.zeros((2, 5), jnp.int8), 10, 5), "got int8 of"),
    ):
        with pytest.raises(ArgumentError, match=words):
            call()
