"""The laws of losses: values, gradients, what does not count, meshes, narrow types, strict modes, what is no number."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from .losses import BATCH, CLASSES, rows

ROWS = rows()
COUNTS = np.arange(BATCH) % 4 != 2
every = pytest.mark.parametrize("name", ROWS)


def is_shape(node: Any) -> bool:
    return isinstance(node, tuple) and all(isinstance(n, int) for n in node)


def inputs(name: str, seed: int = 0) -> tuple[Any, Any, Any]:
    """Student, teacher and labels, float32 and int32."""
    rng = np.random.default_rng(seed)
    row = ROWS[name]
    draw = functools.partial(jax.tree.map, lambda shape: np.float32(rng.normal(size=shape) * 2), is_leaf=is_shape)
    return draw(row.student), draw(row.teacher), np.int32(rng.integers(0, CLASSES, BATCH))


@functools.cache
def program(name: str) -> Any:
    """``(student, teacher, labels, where) -> (loss, gradient to the student, gradient to the teacher)``, jitted."""
    return jax.jit(functools.partial(both, name))


def both(name: str, student: Any, teacher: Any, labels: Any, where: Any) -> Any:
    def total(student: Any, teacher: Any) -> Any:
        loss = ROWS[name].loss(student, teacher, labels, where)
        weights = jnp.arange(1, loss.size + 1, dtype=loss.dtype).reshape(loss.shape)
        return (loss * weights).sum(), loss

    (to_student, to_teacher), loss = jax.grad(total, (0, 1), has_aux=True)(student, teacher)
    return loss, to_student, to_teacher


def expected(name: str, student: Any, teacher: Any, labels: Any, counts: Any) -> np.ndarray:
    student, teacher = (jax.tree.map(lambda x: np.float64(x[counts]), tree) for tree in (student, teacher))
    return np.asarray(ROWS[name].reference(student, teacher, labels[counts]))


def near(got: Any, wanted: Any, *, rtol: float = 2e-4, atol: float = 2e-6) -> None:
    for a, b in zip(*(jax.tree.leaves(tree) for tree in (got, wanted)), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol * max(1, np.abs(b).max(initial=0)))


def finite(tree: Any) -> bool:
    return all(np.isfinite(np.asarray(x, np.float64)).all() for x in jax.tree.leaves(tree))


def none(tree: Any) -> bool:
    return not any(np.asarray(x).any() for x in jax.tree.leaves(tree))


@every
def test_value_and_gradient_are_the_references(name: str) -> None:
    given = inputs(name)
    everyone = np.ones(BATCH, bool)
    loss, to_student, to_teacher = program(name)(*given, everyone)
    wanted = expected(name, *given, everyone)
    assert loss.shape == wanted.shape
    assert loss.shape in ((), (BATCH,))
    near(loss, wanted)
    assert none(to_teacher)
    if not ROWS[name].differentiable:
        return
    student, teacher, labels = given
    rng = np.random.default_rng(9)
    along = jax.tree.map(lambda x: rng.normal(size=x.shape), student)
    weights = np.arange(1, wanted.size + 1).reshape(wanted.shape)

    def at(distance: float) -> Any:
        moved = jax.tree.map(lambda x, d: np.float64(x) + distance * d, student, along)
        return (expected(name, moved, teacher, labels, everyone) * weights).sum()

    slope = (at(1e-5) - at(-1e-5)) / 2e-5
    got = sum(float((np.float64(g) * d).sum()) for g, d in zip(*map(jax.tree.leaves, (to_student, along)), strict=True))
    np.testing.assert_allclose(got, slope, rtol=1e-3, atol=1e-3 * abs(wanted).max())


@every
def test_what_does_not_count_adds_nothing_whatever_it_holds(name: str) -> None:
    student, teacher, labels = inputs(name)
    loss, to_student, _ = program(name)(student, teacher, labels, COUNTS)
    wanted = expected(name, student, teacher, labels, COUNTS)
    near(loss[COUNTS] if loss.shape else loss, wanted)
    spoilt = [jax.tree.map(lambda x: np.where(COUNTS.reshape(-1, *(1,) * (x.ndim - 1)), x, np.nan), tree)
              for tree in (student, teacher)]  # fmt: skip
    again, to_spoilt, _ = program(name)(*spoilt, np.where(COUNTS, labels, -1), COUNTS)
    near((again, to_spoilt), (loss, to_student), rtol=1e-5)
    assert not loss.shape or none(loss[~COUNTS])
    assert none(jax.tree.map(lambda x: x[~COUNTS], to_student))
    nobody, gradient, _ = program(name)(student, teacher, labels, np.zeros(BATCH, bool))
    assert none((nobody, gradient))


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.student == row.teacher])
def test_equals_cost_nothing_and_stay(name: str) -> None:
    student, _, labels = inputs(name)
    row = ROWS[name]
    loss, gradient, _ = program(name)(student, student, labels, COUNTS)
    assert finite((loss, gradient))
    if row.zero:
        near(loss, np.zeros(loss.shape), atol=1e-6)
    if row.least:
        near(gradient, jax.tree.map(np.zeros_like, gradient), atol=1e-5)


@every
@pytest.mark.parametrize("constant", [0.0, 1.0, 1e-30])
def test_gradients_are_finite_where_all_is_alike(name: str, constant: float) -> None:
    """Norms, deviations and distances are 0, where a root has no slope."""
    student, teacher, labels = inputs(name)
    alike = [jax.tree.map(lambda x: np.full_like(x, constant), tree) for tree in (student, teacher)]
    for pair in (alike, (alike[0], teacher), (student, alike[1])):
        assert finite(program(name)(*pair, labels, COUNTS)[:2])


@every
def test_the_order_of_examples_does_not_matter(name: str) -> None:
    given = *inputs(name), COUNTS
    order = np.random.default_rng(1).permutation(BATCH)
    moved = jax.tree.map(lambda x: x[order], given)
    loss, again = program(name)(*given)[0], program(name)(*moved)[0]
    near(again, loss[order] if loss.shape else loss, rtol=1e-5)


@every
@pytest.mark.parametrize("side", ["student", "teacher"])
def test_what_is_no_number_shows(name: str, side: str) -> None:
    given = dict(zip(("student", "teacher", "labels"), inputs(name), strict=True))
    leaves, tree = jax.tree.flatten(given[side])
    leaves[0] = leaves[0].copy()
    leaves[0][1, ..., 0] = np.nan
    given[side] = jax.tree.unflatten(tree, leaves)
    loss = program(name)(*given.values(), np.ones(BATCH, bool))[0]
    assert np.isnan(loss[1] if loss.shape else loss)


@every
def test_bfloat16_is_computed_in_float32(name: str) -> None:
    student, teacher, labels = inputs(name)
    narrow = [jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), tree) for tree in (student, teacher)]
    same = [jax.tree.map(np.float32, tree) for tree in narrow]
    loss, gradient, _ = program(name)(*narrow, labels, COUNTS)
    wide_loss, wide_gradient, _ = program(name)(*same, labels, COUNTS)
    assert loss.dtype == jnp.float32
    assert all(x.dtype == jnp.bfloat16 for x in jax.tree.leaves(gradient))
    near(loss, wide_loss, rtol=1e-5)
    near(gradient, wide_gradient, rtol=1e-2, atol=1e-2)


@every
def test_strict_modes(name: str) -> None:
    student, teacher, labels = inputs(name)
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float64):
        wide = dtype == jnp.float64
        pair = [jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), tree) for tree in (student, teacher)]  # noqa: B023
        with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"), jax.enable_x64(wide):
            for where in (COUNTS, None):
                loss, gradient, _ = jax.eval_shape(functools.partial(both, name, where=where), *pair, labels)
                assert loss.dtype == (jnp.float64 if wide else jnp.float32)
                assert all(x.dtype == dtype for x in jax.tree.leaves(gradient))


@every
@pytest.mark.parametrize(
    ("kind", "is_set"),
    [
        (AxisType.Explicit, False),
        pytest.param(AxisType.Explicit, True, marks=pytest.mark.exhaustive),
        pytest.param(AxisType.Auto, False, marks=pytest.mark.exhaustive),
    ],
)
def test_a_batch_on_eight_devices_is_a_batch_on_one(name: str, kind: Any, is_set: bool) -> None:
    given = *inputs(name), COUNTS
    mesh = jax.make_mesh((8,), ("x",), axis_types=(kind,))
    split = jax.device_put(given, NamedSharding(mesh, PartitionSpec("x")))
    wanted = program(name)(*given)
    if is_set:
        with jax.set_mesh(mesh):
            got = program(name)(*split)
    else:
        got = program(name)(*split)
    near(got, wanted, rtol=1e-4, atol=1e-5)


@every
@pytest.mark.exhaustive
def test_mapped_over_a_stack_of_batches(name: str) -> None:
    first, second = ((*inputs(name, seed), COUNTS) for seed in (0, 1))
    stacked = jax.tree.map(lambda a, b: np.stack([a, b]), first, second)
    got = jax.vmap(program(name))(*stacked)
    wanted = jax.tree.map(lambda a, b: np.stack([a, b]), program(name)(*first), program(name)(*second))
    near(got, wanted, rtol=1e-4, atol=1e-5)
