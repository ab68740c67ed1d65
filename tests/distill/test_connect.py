"""Connectors reach the teacher's shape, by values from shapes alone; pooling and resizing against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxcomp.core.errors import ArgumentError
from jaxcomp.distill import connect
from jaxcomp.distill.layers import batch_norm, norm_init, pool, repeat

from . import references as ref

JOINED = {
    "same": ((8, 4, 4, 3), (8, 4, 4, 3), 0),
    "vectors": ((8, 6), (8, 10), 0),
    "wider": ((8, 4, 4, 3), (8, 4, 4, 7), 0),
    "smaller": ((8, 5, 6, 3), (8, 2, 4, 7), 0),
    "larger": ((8, 2, 2, 3), (8, 4, 5, 2), 0),
    "both ways": ((8, 2, 8, 3), (8, 4, 4, 3), 0),
    "pooled": ((8, 4, 4, 3), (8, 5), 0),
    "tokens": ((8, 9, 3), (8, 9, 5), 0),
    "fewer tokens": ((8, 17, 3), (8, 5, 6), 1),
    "map to tokens": ((8, 4, 4, 3), (8, 11, 6), 2),
    "tokens to map": ((8, 10, 3), (8, 5, 5, 6), 1),
    "tokens to vector": ((8, 10, 3), (8, 6), 1),
    "any tokens to vector": ((8, 7, 3), (8, 6), 0),
}


def features(shape):
    return np.float32(np.random.default_rng(0).normal(size=shape))


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("name", JOINED)
def test_shapes_are_joined(name, norm):
    student, teacher, prefix = JOINED[name]
    connector = connect(student, (64, *teacher[1:]), prefix=prefix, norm=norm)
    values = jax.eval_shape(connector.init, jax.random.key(0))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(values))
    assert ("kernel" in values) == (student[-1] != teacher[-1])
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        for dtype in (jnp.float32, jnp.bfloat16):
            got = jax.eval_shape(connector.apply, values, jax.ShapeDtypeStruct(student, dtype))
            assert (got.shape, got.dtype) == (teacher, dtype)


def test_a_projection_is_a_product_at_every_position():
    connector = connect((2, 3, 3, 4), (2, 3, 3, 6))
    values = connector.init(jax.random.key(1))
    values["bias"] = jnp.arange(6.0)
    x = features((2, 3, 3, 4))
    np.testing.assert_allclose(connector.apply(values, x), x @ values["kernel"] + values["bias"], rtol=1e-5, atol=1e-6)
    assert 0.5 < np.asarray(values["kernel"]).var() * 4 < 2


def test_where_positions_change_the_projection_goes_on_either_side():
    x = features((2, 4, 4, 3))
    connector = connect(x.shape, (2, 2, 2, 5))
    values = connector.init(jax.random.key(1))
    wanted = np.stack([ref.averaged(each, 2) for each in x]) @ values["kernel"]
    np.testing.assert_allclose(connector.apply(values, x), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("size", "n"), [((5, 6), 4), ((7, 3), 2), ((4, 4), 1)])
def test_averages_are_over_windows_that_cover(size, n):
    x = features((2, *size, 3))
    np.testing.assert_allclose(pool(x, (n, n)), np.stack([ref.averaged(each, n) for each in x]), rtol=1e-5, atol=1e-6)


def test_positions_are_repeated():
    x = features((2, 2, 3, 4))
    np.testing.assert_array_equal(repeat(x, (5, 6)), ref.nearest(x, (5, 6)))


def test_a_map_becomes_tokens_row_by_row_and_back():
    x = features((2, 3, 3, 4))
    tokens = connect(x.shape, (2, 11, 4), prefix=2).apply({}, x)
    np.testing.assert_allclose(tokens[:, 2:], x.reshape(2, 9, 4), rtol=1e-6)
    np.testing.assert_allclose(tokens[:, :2], np.broadcast_to(x.mean((1, 2))[:, None], (2, 2, 4)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(connect((2, 11, 4), x.shape, prefix=2).apply({}, tokens), x, rtol=1e-6)
    np.testing.assert_allclose(
        connect((2, 11, 4), (2, 4), prefix=2).apply({}, tokens), x.mean((1, 2)), rtol=1e-5, atol=1e-6
    )


def test_class_tokens_stay_where_tokens_become_others():
    x = features((2, 17, 3))
    got = connect(x.shape, (2, 5, 3), prefix=1).apply({}, x)
    np.testing.assert_array_equal(got[:, 0], x[:, 0])
    wanted = np.stack([ref.averaged(each.reshape(4, 4, 3), 2).reshape(4, 3) for each in x[:, 1:]])
    np.testing.assert_allclose(got[:, 1:], wanted, rtol=1e-5, atol=1e-6)


def test_norms_count_the_examples_that_count():
    x = features((6, 2, 2, 3)) * 5 + 2
    keep = np.array([True, False, True, True, False, True])
    spoilt = np.where(keep[:, None, None, None], x, np.nan)
    got = batch_norm(norm_init(3), spoilt, keep)
    wanted = ref.batch_norm(np.float64(x[keep]), {"scale": np.ones(3), "bias": np.zeros(3)})
    np.testing.assert_allclose(got[keep], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["smaller", "larger", "map to tokens"])
def test_a_batch_on_eight_devices_is_a_batch_on_one(name):
    student, teacher, prefix = JOINED[name]
    connector = connect(student, teacher, prefix=prefix, norm=True)
    values, x = connector.init(jax.random.key(0)), features(student)

    def total(values, x):
        return (connector.apply(values, x) ** 3).sum()

    run = jax.jit(jax.value_and_grad(total, (0, 1)))
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Explicit,))
    split = jax.device_put(x, NamedSharding(mesh, PartitionSpec("x")))
    for a, b in zip(jax.tree.leaves(run(values, split)), jax.tree.leaves(run(values, x)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("student", "teacher", "prefix", "message"),
    [
        ((8, 5), (8, 4, 4, 5), 0, "a vector has no positions"),
        ((8, 5), (8, 9, 5), 0, "a vector has no positions"),
        ((8, 4, 4, 3), (8, 10, 3), 0, "10 tokens, 0 of them before those of positions, make no square: see prefix"),
        ((8, 10, 3), (8, 4, 4, 3), 0, "10 tokens, 0 of them"),
        ((8, 17, 3), (8, 10, 3), 0, "make no square"),
        ((8, 1, 3), (8, 3), 1, "1 tokens, 1 of them"),
        ((8,), (8, 3), 0, "connect joins vector"),
        ((8, 2, 2, 2, 3), (8, 3), 0, "connect joins vector"),
    ],
)
def test_shapes_that_nothing_joins_are_refused(student, teacher, prefix, message):
    with pytest.raises(ArgumentError, match=message):
        connect(student, teacher, prefix=prefix)


def test_features_of_another_shape_are_refused():
    connector = connect((8, 4, 4, 3), (8, 4, 4, 5))
    with pytest.raises(ArgumentError, match=r"made for features \[batch, 4, 4, 3\), got \(8, 4, 4, 5\)"):
        connector.apply(connector.init(jax.random.key(0)), jnp.zeros((8, 4, 4, 5)))
