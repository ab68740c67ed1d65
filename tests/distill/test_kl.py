"""Distillation losses against scipy in float64, their gradients against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, rel_entr, softmax

from jaxcomp.core.errors import ArgumentError
from jaxcomp.distill import cross_entropy, kl, soft_and_hard

temperatures = pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])


def logits(rng, shape=(3, 7, 10), spread=5.0):
    student, teacher = np.float32(rng.normal(size=(2, *shape)) * spread)
    return student, teacher


def reference_kl(student, teacher, temperature):
    """T**2 sum p log(p / q)."""
    p, q = (softmax(np.asarray(z, np.float64) / temperature, axis=-1) for z in (teacher, student))
    return temperature**2 * rel_entr(p, q).sum(-1)


@temperatures
def test_kl_agrees_with_scipy(rng, temperature):
    student, teacher = logits(rng)
    got = kl(student, teacher, temperature=temperature)
    assert (got.shape, got.dtype) == ((3, 7), jnp.float32)
    np.testing.assert_allclose(got, reference_kl(student, teacher, temperature), rtol=1e-4, atol=1e-5)


@temperatures
def test_the_gradient_of_kl_is_t_times_the_difference(rng, temperature):
    student, teacher = logits(rng, (5, 10))
    to_student, to_teacher = jax.grad(lambda s, t: kl(s, t, temperature=temperature).sum(), (0, 1))(student, teacher)
    p, q = (softmax(np.asarray(z, np.float64) / temperature, axis=-1) for z in (teacher, student))
    np.testing.assert_allclose(to_student, temperature * (q - p), atol=1e-5)
    assert not to_teacher.any()


def test_kl_of_equals_is_zero_and_has_no_gradient(rng):
    same, _ = logits(rng, (40, 10))
    value, gradient = jax.value_and_grad(lambda z: kl(z, same, temperature=3.0).sum())(same)
    assert value == 0
    np.testing.assert_allclose(gradient, np.zeros_like(same), atol=1e-6)


def test_kl_is_at_least_zero_but_for_rounding(rng):
    """Of nearly equal logits, float32 sums of terms of either sign may round to less."""
    teacher = np.float32(rng.normal(size=(2000, 10)))
    for difference in (0, 1e-7, 1e-6, 1e-5, 1e-4):
        student = np.float32(teacher + rng.normal(size=teacher.shape) * difference)
        assert np.asarray(kl(student, teacher)).min() > -1e-6


def test_classes_that_the_teacher_rules_out_add_nothing(rng):
    student, teacher = logits(rng, (6, 10))
    teacher[:, ::3] = -np.inf
    value, gradient = jax.vmap(jax.value_and_grad(kl))(student, teacher)
    np.testing.assert_allclose(value, reference_kl(student, teacher, 1.0), rtol=1e-4)
    p, q = softmax(np.float64(teacher), axis=-1), softmax(np.float64(student), axis=-1)
    np.testing.assert_allclose(gradient, q - p, atol=1e-5)


def test_classes_that_both_rule_out_add_nothing(rng):
    student, teacher = logits(rng, (6, 10))
    student[:, 2] = teacher[:, 2] = -np.inf
    value, gradient = jax.vmap(jax.value_and_grad(kl))(student, teacher)
    np.testing.assert_allclose(value, reference_kl(np.delete(student, 2, 1), np.delete(teacher, 2, 1), 1.0), rtol=1e-4)
    assert np.isfinite(gradient).all()
    assert not gradient[:, 2].any()


def test_a_student_that_rules_out_what_the_teacher_holds_possible_is_infinitely_far():
    assert kl(jnp.array([0.0, -jnp.inf]), jnp.array([0.0, 0.0])) == jnp.inf


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_logits_are_computed_in_float32(rng, dtype):
    student, teacher = (jnp.asarray(z, dtype) for z in logits(rng, (8, 10)))
    got = kl(student, teacher, temperature=2.0)
    assert got.dtype == jnp.float32
    wide = np.asarray(student, np.float64), np.asarray(teacher, np.float64)
    np.testing.assert_allclose(got, reference_kl(*wide, 2.0), rtol=1e-4, atol=1e-5)
    assert jax.grad(lambda s: kl(s, teacher).sum())(student).dtype == dtype
    np.testing.assert_array_equal(
        cross_entropy(student, jnp.arange(8)), cross_entropy(jnp.float32(student), jnp.arange(8))
    )


def test_large_logits_stay_finite():
    value, gradient = jax.value_and_grad(kl)(jnp.array([1e4, -1e4, 0.0]), jnp.array([-1e4, 1e4, 0.0]))
    assert value == 2e4
    assert np.isfinite(gradient).all()


def test_the_temperature_may_be_traced(rng):
    student, teacher = logits(rng, (4, 5))
    traced = jax.jit(lambda t: kl(student, teacher, temperature=t))(3.0)
    np.testing.assert_allclose(traced, kl(student, teacher, temperature=3.0), rtol=1e-5)


def test_cross_entropy_takes_classes_or_probabilities(rng):
    z, other = logits(rng, (6, 10))
    labels = rng.integers(0, 10, 6)
    want = -log_softmax(np.float64(z), axis=-1)[np.arange(6), labels]
    np.testing.assert_allclose(cross_entropy(z, labels), want, rtol=1e-5)
    np.testing.assert_allclose(cross_entropy(z, jax.nn.one_hot(labels, 10)), want, rtol=1e-5)
    soft = softmax(np.float64(other), axis=-1)
    want = -(soft * log_softmax(np.float64(z), axis=-1)).sum(-1)
    np.testing.assert_allclose(cross_entropy(z, np.float32(soft)), want, rtol=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_soft_and_hard_weighs_both(rng, alpha):
    student, teacher = logits(rng, (6, 10))
    labels = rng.integers(0, 10, 6)
    hard = -log_softmax(np.float64(student), axis=-1)[np.arange(6), labels]
    want = alpha * reference_kl(student, teacher, 4.0) + (1 - alpha) * hard
    np.testing.assert_allclose(soft_and_hard(student, teacher, labels, alpha=alpha), want, rtol=1e-4)
    soft = np.float32(np.eye(10)[labels] * 0.9 + 0.01)
    hard = -(soft * log_softmax(np.float64(student), axis=-1)).sum(-1)
    got = soft_and_hard(student, teacher, soft, temperature=2.0, alpha=alpha)
    np.testing.assert_allclose(got, alpha * reference_kl(student, teacher, 2.0) + (1 - alpha) * hard, rtol=1e-4)


@pytest.mark.parametrize("temperature", [0, 0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_above_0_is_refused(temperature):
    with pytest.raises(ArgumentError, match="temperature must be above 0, got"):
        kl(jnp.zeros(3), jnp.zeros(3), temperature=temperature)


def test_logits_of_different_shapes_are_refused():
    with pytest.raises(ArgumentError, match=r"got \(2, 3\) and \(3,\)"):
        kl(jnp.zeros((2, 3)), jnp.zeros(3))


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_an_alpha_that_is_no_weight_is_refused(alpha):
    with pytest.raises(ArgumentError, match=r"alpha weighs .* must be in \[0, 1\], got"):
        soft_and_hard(jnp.zeros((1, 3)), jnp.zeros((1, 3)), jnp.zeros(1, int), alpha=alpha)


@pytest.mark.parametrize("labels", [jnp.zeros((2,), jnp.float32), jnp.zeros((3,), int), jnp.zeros((2, 1), int)])
def test_labels_that_do_not_fit_are_refused(labels):
    with pytest.raises(
        ArgumentError, match=r"labels must be integers of shape \(2,\) or probabilities of shape \(2, 3\)"
    ):
        cross_entropy(jnp.zeros((2, 3)), labels)
