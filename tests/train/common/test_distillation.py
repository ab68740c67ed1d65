"""Ways to distill in the step: against losses written out, taps by name, connectors that learn, and refusals."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcomp as jc
from train import models
from train.common import data
from train.common.distillation import METHODS, Tap, find_taps, named, soft_targets, taught
from train.common.errors import UserError
from train.common.parallel import data_parallel
from train.common.step import init_state, make_step, network

RNG = np.random.default_rng(0)
BATCH: Any = {
    "image": RNG.integers(0, 256, (16, 8, 8, 1)).astype(np.uint8),
    "label": RNG.integers(0, 10, 16).astype(np.int32),
    "valid": np.ones(16, np.float32),
}


def made(name: str, seed: int, axis: str | None = None, **options: Any) -> tuple[Any, Any]:
    model = network(models.create(name, 10, options, axis_name=axis), (0.5,), (0.25,))
    plain = network(models.create(name, 10, options), (0.5,), (0.25,))
    return model, jax.device_get(jax.jit(plain.init)(jax.random.key(seed), BATCH["image"][:1]))


TEACHER, TAUGHT = made("cnn", 0, widths=(6, 8))
STUDENT, START = made("cnn", 1, widths=(4, 5))
LOGITS, SOFT = STUDENT.infer(START, BATCH["image"]), TEACHER.infer(TAUGHT, BATCH["image"])
HARD = jc.distill.cross_entropy(LOGITS, BATCH["label"])


def loss_of(text: str, **options: Any) -> Any:
    objective = taught(STUDENT, TEACHER, named(text), **options)
    frozen = {} if "stored" in options else TAUGHT
    return objective.of(objective.init(jax.random.key(0)), START, BATCH, frozen)[0]


def test_methods_of_logits_are_what_they_are_called() -> None:
    both = 0.9 * jc.distill.kl(LOGITS, SOFT, temperature=4.0) + 0.1 * HARD
    np.testing.assert_allclose(loss_of("soft targets"), both, rtol=1e-5)
    np.testing.assert_allclose(loss_of("alone"), HARD, rtol=1e-6)
    np.testing.assert_allclose(loss_of("mse"), HARD + 0.1 * jc.distill.mse(LOGITS, SOFT), rtol=1e-5)
    np.testing.assert_allclose(loss_of("soft targets + mse"), both + 0.1 * jc.distill.mse(LOGITS, SOFT), rtol=1e-5)


def test_stored_answers_stand_for_the_teacher() -> None:
    kept = jc.distill.store_labels(SOFT / 4, 4)
    soft = 4 * jc.distill.load_labels(kept, 10, 4)
    BATCH["soft"] = kept
    try:
        got = loss_of("mse", stored=4)
    finally:
        del BATCH["soft"]
    np.testing.assert_allclose(got, HARD + 0.1 * jc.distill.mse(LOGITS, soft), rtol=1e-5)


def test_features_are_those_that_heads_read_and_the_last_maps() -> None:
    taps = find_taps(TEACHER, TAUGHT, STUDENT, START, BATCH)
    assert {kind: (tap.ours, tap.theirs) for kind, (tap,) in taps.items()} == {
        "features": ((16, 5), (16, 8)),
        "map": ((16, 4, 4, 5), (16, 4, 4, 8)),
    }
    (mlp, fresh) = made("lenet300", 0)
    assert set(find_taps(TEACHER, TAUGHT, mlp, fresh, BATCH)) == {"features"}


def test_named_taps_are_compared_each() -> None:
    taps = find_taps(TEACHER, TAUGHT, STUDENT, START, BATCH, "Conv_0=Conv_1 Dense_0:input=Dense_0:input")
    assert [tap[:2] for tap in taps["features"]] == [("Conv_0", "Conv_1"), ("Dense_0:input", "Dense_0:input")]
    assert taps["map"] == [Tap("Conv_0", "Conv_1", (16, 8, 8, 4), (16, 4, 4, 8))]
    ours, theirs = (
        jc.trace.tap(model.infer, own, BATCH["image"], at=[conv, "Dense_0:input"])(own, BATCH["image"])[1]
        for model, own, conv in ((STUDENT, START, "Conv_0"), (TEACHER, TAUGHT, "Conv_1"))
    )
    pairs = zip(ours.values(), theirs.values(), strict=True)
    wanted = HARD + sum(30000 * jc.distill.pkt(own, other) for own, other in pairs)
    np.testing.assert_allclose(loss_of("pkt", taps=taps), wanted, rtol=1e-4)


@pytest.mark.parametrize("text", ["Conv_0", "=Conv_1", "Conv_0=", "a=b=c"])
def test_taps_are_pairs(text: str) -> None:
    with pytest.raises(UserError, match="pairs STUDENT=TEACHER"):
        find_taps(TEACHER, TAUGHT, STUDENT, START, BATCH, text)


def test_what_cannot_be_is_told() -> None:
    with pytest.raises(
        UserError, match=r"'magic' is no way to distill: there are alone, soft targets, .*joined by '\+'"
    ):
        named("dkd + magic")
    with pytest.raises(UserError, match="it compares feature maps, and one of the networks has none"):
        loss_of("hint", taps={"features": []})
    with pytest.raises(UserError, match="it compares features, and of a teacher that ran once"):
        loss_of("rkd", stored=5)
    with pytest.raises(jc.errors.ArgumentError, match="'Conv_7' names no value"):
        find_taps(TEACHER, TAUGHT, STUDENT, START, BATCH, "Conv_7=Conv_1")


def trained(text: str, batch: Any, mode: str = "jit", count: int = 1, name: str = "tiny_resnet", **own: Any) -> Any:
    """Two steps of a student, with batch norm or without, on one device or on several."""
    own = own or {"width": 3}
    parallel = data_parallel(mode, jax.devices()[:count] if mode == "jit" else None)
    student, start = made(name, 1, **own)
    spread, _ = made(name, 1, parallel.axis, **own)
    taps = find_taps(TEACHER, TAUGHT, student, start, BATCH)
    objective, optimizer = taught(spread, TEACHER, named(text), taps), optax.sgd(1e-4)
    step = parallel.compile(make_step(objective, jc.identity(), optimizer, record_every=10, axis=parallel.axis))
    first = jax.device_get(init_state(start, jc.identity(), optimizer, objective.init(jax.random.key(2))))
    state, frozen = parallel.put(first), parallel.put(TAUGHT)
    for _ in range(2):
        state = step(state, frozen, parallel.split(batch) if count > 1 else batch)  # splitting pads anew
    return first.learned, jax.device_get(parallel.get(state))


def test_connectors_are_trained_beside_the_student_and_padding_adds_nothing() -> None:
    own: Any = {"name": "cnn", "widths": (4, 5)}
    first, state = trained("soft targets + hint", BATCH, **own)
    assert {name: leaf.shape for name, leaf in first["1"].items()} == {"kernel": (5, 8), "bias": (8,)}
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), first, state.learned)
    assert min(jax.tree.leaves(moved)) > 0
    padded = data.pad({name: BATCH[name] for name in ("image", "label")}, 24)
    padded["image"][16:] = 255
    _, again = trained("soft targets + hint", padded, **own)
    for got, want in zip(jax.tree.leaves(again.params), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-5)


@pytest.mark.exhaustive
@pytest.mark.parametrize(("mode", "text"), [("jit", "soft targets + hint + rkd"), ("pmap", "soft targets + hint")])
def test_eight_devices_are_one(mode: str, text: str) -> None:
    _, one = trained(text, BATCH)
    _, many = trained(text, BATCH, mode, 8)
    for got, want in zip(jax.tree.leaves(many), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=2e-5)


@pytest.mark.exhaustive
def test_every_method_has_a_finite_loss_of_what_counts() -> None:
    labels, counts = jnp.asarray(RNG.integers(0, 5, 8)), np.arange(8) < 6
    batch: Any = {"label": labels}
    shapes = {
        "outputs": ((8, 5), (8, 5)),
        "logits": ((8, 5), (8, 5)),
        "features": ((8, 6), (8, 9)),
        "map": ((8, 4, 4, 6), (8, 5, 9)),
    }
    for name, method in METHODS.items():
        student, teacher = (RNG.normal(size=shape).astype(np.float32) for shape in shapes[method.reads])
        if method.reads != "outputs":  # of which a step leaves out what does not count
            student[6:], teacher[6:] = np.nan, np.nan
        init, term = method.make(student.shape, teacher.shape)
        loss = term(init(jax.random.key(0)), jnp.asarray(student), jnp.asarray(teacher), batch, jnp.asarray(counts))
        assert loss.shape in ((8,), ()), name
        assert jnp.isfinite(loss).all(), name


def test_temperature_and_share_are_those_of_soft_targets() -> None:
    objective = taught(STUDENT, TEACHER, [soft_targets(2.0, 0.5)])
    wanted = 0.5 * jc.distill.kl(LOGITS, SOFT, temperature=2.0) + 0.5 * HARD
    np.testing.assert_allclose(objective.of({}, START, BATCH, TAUGHT)[0], wanted, rtol=1e-5)
