"""What has no probability adds nothing, and what is no class is ignored: values and gradients against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.distill import cross_entropy, kl, soft_and_hard

T = 2.0


def probabilities(logits):
    """Softmax of each row; none where all is ruled out."""
    top = np.max(logits, axis=-1, keepdims=True)
    powers = np.exp(logits - np.where(np.isneginf(top), 0, top))
    return powers / np.maximum(powers.sum(-1, keepdims=True), 1e-300)


def minus_p_log_q(p, q):
    return -np.sum(np.where(p == 0, 0, p * np.log(np.where(p == 0, 1, q))), axis=-1)


def reference(loss, student, teacher, labels):
    """Value and gradient to the student's logits, of one row after another."""
    p, q, soft = (probabilities(z) for z in (teacher / T, student / T, student))
    if loss == "kl":
        return T**2 * (minus_p_log_q(p, q) - minus_p_log_q(p, p)), T * (q * p.sum(-1, keepdims=True) - p)
    if labels.ndim < student.ndim:
        labels = np.where((labels >= 0) & (labels < student.shape[-1]), labels, -1)[..., None]
        labels = (labels == np.arange(student.shape[-1])).astype(np.float64)
    hard = minus_p_log_q(labels, soft), soft * labels.sum(-1, keepdims=True) - labels
    if loss == "hard":
        return hard
    return tuple(0.75 * a + 0.25 * b for a, b in zip(reference("kl", student, teacher, labels), hard, strict=True))


LOSSES = {
    "kl": lambda student, teacher, labels: kl(student, teacher, temperature=T),
    "hard": lambda student, teacher, labels: cross_entropy(student, labels),
    "both": lambda student, teacher, labels: soft_and_hard(student, teacher, labels, temperature=T, alpha=0.75),
}


def example(rng, dtype, labels):
    """Logits of six classes: some ruled out by both, one by the teacher alone; a row that is padding throughout."""
    student, teacher = (np.array(jnp.asarray(rng.normal(size=(7, 6)) * 3, dtype), np.float64) for _ in range(2))
    student[:, 1] = teacher[:, 1] = student[::2, 4] = teacher[::2, 4] = -np.inf
    teacher[:, 2] = -np.inf
    student[3] = teacher[3] = -np.inf
    if labels == "integers":
        return student, teacher, np.array([0, -1, 5, -100, 6, 255, 3])
    smooth = np.where(np.isneginf(student), 0, rng.integers(0, 5, student.shape) / 4)
    return student, teacher, smooth


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("labels", ["integers", "probabilities"])
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_agree_with_float64_where_classes_are_ruled_out(rng, loss, labels, dtype):
    student, teacher, given = example(rng, dtype, labels)
    expected, slope = reference(loss, student, teacher, given)
    args = [jnp.asarray(z, dtype) for z in (student, teacher)]
    given = jnp.asarray(given, jnp.int32 if labels == "integers" else dtype)
    weights = jnp.arange(1.0, 8.0)  # of examples, as of a batch that is padded
    run = jax.jit(lambda student: (LOSSES[loss](student, args[1], given) * weights).sum())
    value = LOSSES[loss](*args, given)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, expected, rtol=2e-5, atol=1e-5)
    small = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 2e-3}[dtype]  # in the type of the logits
    gradient = np.asarray(jax.grad(run)(args[0]), np.float64)
    np.testing.assert_allclose(gradient, slope * np.asarray(weights)[:, None], rtol=small, atol=small)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "uint32"])
def test_labels_of_no_class_are_ignored_in_every_type(dtype):
    logits = jnp.log(jnp.arange(1.0, 301.0))[None].repeat(3, 0)  # more classes than an int8 can name
    labels = jnp.asarray([100, np.iinfo(dtype).max, np.iinfo(dtype).min], dtype)
    got = cross_entropy(logits, labels)
    counts = [0 <= int(label) < 300 for label in labels]
    expected = [np.log(45150 / (int(label) + 1)) if own else 0 for label, own in zip(labels, counts, strict=True)]
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_a_label_or_a_teacher_that_is_ruled_out_is_infinitely_far():
    logits = jnp.array([0.0, -jnp.inf])
    assert cross_entropy(logits, jnp.array(1)) == cross_entropy(logits, jnp.array([0.5, 0.5])) == jnp.inf
    assert kl(logits, logits[::-1]) == jnp.inf
    assert soft_and_hard(logits, logits, jnp.array(1), alpha=1) == 0  # what does not count is not even infinite
    assert soft_and_hard(logits, logits[::-1], jnp.array(0), alpha=0) == 0


def test_what_is_no_number_shows():
    good, bad = jnp.zeros(2), jnp.array([0.0, jnp.nan])
    for value in (kl(good, bad), kl(bad, good), cross_entropy(bad, jnp.array(0)), cross_entropy(good, bad)):
        assert jnp.isnan(value)


def test_a_learned_temperature_has_a_finite_gradient():
    student, teacher = jnp.array([[1.0, -jnp.inf, 0.5]]), jnp.array([[0.0, -jnp.inf, 2.0]])
    assert 0 < abs(jax.grad(lambda t: kl(student, teacher, temperature=t).sum())(2.0)) < jnp.inf
