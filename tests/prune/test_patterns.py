"""Patterns prune the units that slow loops prune, to the unit, on every layout, and name what they do not fit."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import jaxcomp as jc
from jaxcomp.core.errors import ArgumentError
from jaxcomp.prune import blocks, filters, kernels, nm, prune
from tests.prune import loops


def values(shape, seed=0, dtype=jnp.float32):
    """A third ties, some zeros of both signs."""
    rng = np.random.default_rng(seed)
    normal = rng.normal(size=shape)
    return jnp.asarray(np.where(rng.random(shape) < 0.4, np.round(normal), normal), dtype)


MORE = pytest.mark.exhaustive  # another size is compiled anew

LAYOUTS = {
    "dense": (16, 6),
    "odd": (15, 7),
    "ten-class-head": (18, 10),
    "stem": (3, 3, 3, 8),
    "convolution": (3, 3, 8, 5),
    "grouped": (3, 3, 2, 8),
    "depthwise": (3, 3, 1, 8),
    "one-by-one": (1, 1, 8, 4),
    "one-input": (1, 5),
}


@pytest.mark.parametrize(("layout", "n", "m"), [
    *((layout, 2, 4) for layout in LAYOUTS),
    *(pytest.param(layout, *((1, 4), (1, 2), (3, 8))[i % 3], marks=MORE) for i, layout in enumerate(LAYOUTS)),
])  # fmt: skip
def test_nm_is_the_best_n_of_m_along_what_is_contracted(layout, n, m):
    weights = values(LAYOUTS[layout])
    mask = prune(1 - n / m, pattern=nm(n, m)).init(weights)
    np.testing.assert_array_equal(mask, loops.nm_mask(np.abs(weights), n, m))


def test_nm_of_other_layouts_is_that_of_the_transposed(rng):
    weights = values((8, 3, 3, 5))
    mask = prune(0.5, pattern=nm(2, 4, axes=(1, 2, 3))).init(weights)  # [out, in, h, w]
    wanted = loops.nm_mask(np.abs(np.transpose(weights, (1, 2, 3, 0))), 2, 4)
    np.testing.assert_array_equal(np.transpose(mask, (1, 2, 3, 0)), wanted)
    heads = values((8, 2, 3))
    mask = prune(0.5, pattern=nm(2, 4, axes=(0,))).init(heads)  # [in, heads, size]
    np.testing.assert_array_equal(mask, loops.nm_mask(np.abs(heads).reshape(8, 6), 2, 4).reshape(8, 2, 3))


@pytest.mark.parametrize(
    ("n_of_m", "distribution"),
    [
        ((3, 10), "global"),
        *[pytest.param(own, "uniform", marks=MORE) for own in ((1, 4), (2, 3), (3, 5), (3, 10))],
    ],
)
def test_nm_nests_from_dense_to_exactly_n_of_m(n_of_m, distribution):
    """The cubic schedule's last value is that of float32, in which 0.7 is less than 0.7."""
    n, m = n_of_m
    steps, params = 4, {"a": values((3, 3, 3, 4)), "b": values((20, 5), 1)}
    pruner = prune(optax.polynomial_schedule(0.0, 1 - n / m, 3, steps), pattern=nm(n, m), distribution=distribution)
    update, states = jax.jit(pruner.update), [pruner.init(params)]
    assert all(mask.all() for mask in states[0].values())
    for step in range(1, steps + 1):
        states.append(update(params, states[-1], step))
    for earlier, later in itertools.pairwise(states):
        for path in params:
            assert (later[path] <= earlier[path]).all()
    for path, weights in params.items():
        np.testing.assert_array_equal(states[-1][path], loops.nm_mask(np.abs(weights), n, m))


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_nm_holds_where_numbers_are_not_finite(special):
    weights = values((16, 3)).at[::5].set(special)
    mask = prune(0.5, pattern=nm(2, 4)).init(weights)
    np.testing.assert_array_equal(mask, loops.nm_mask(np.where(np.isnan(weights), np.inf, np.abs(weights)), 2, 4))


def test_a_group_that_is_filled_up_is_remarked_on():
    params = {"stem": values((3, 3, 3, 8)), "fits": values((8, 4))}
    pruner = prune(0.5, pattern=nm(2, 4))
    notes = pruner.describe(params, pruner.init(params), 0)
    assert notes["stem"].remark == "the last group of 4 holds 3 weights and 1 zeros that fill it up"
    assert notes["stem"].sparsity == pytest.approx(1 - 14 / 27)
    assert notes["fits"] == jc.Note(sparsity=0.5)
    text = str(jc.measure.summary(pruner.apply(params, pruner.init(params)), notes=notes))
    assert "the last group of 4" in text


@pytest.mark.parametrize(
    ("pattern", "shape", "block"),
    [
        (blocks((2, 3)), (4, 6), (2, 3)),
        (blocks((2, 3)), (5, 7), (2, 3)),
        (blocks((8, 128)), (20, 300), (8, 128)),
        (blocks((2, 2)), (3, 3, 4, 5), (1, 1, 2, 2)),
        (blocks((3,)), (11,), (3,)),
        (kernels(), (3, 3, 4, 5), (3, 3, 1, 1)),
        (kernels(), (5, 4, 3), (5, 1, 1)),
        (filters(), (3, 3, 4, 8), (3, 3, 4, 1)),
        (filters(axis=0), (6, 5), (1, 5)),
    ],
    ids=lambda own: own.name if isinstance(own, jc.prune.Pattern) else str(own),
)
@pytest.mark.parametrize("order", [1, pytest.param(2, marks=MORE)])
def test_blocks_of_highest_mean_are_kept(pattern, shape, block, order):
    weights = values(shape)
    mask = prune(0.5, jc.prune.magnitude_score(order), pattern=pattern).init(weights)
    np.testing.assert_array_equal(mask, loops.block_mask(np.abs(np.float64(weights)) ** order, block, 0.5))


def test_blocks_of_all_layers_are_ranked_as_one():
    params = {"a": values((4, 6)), "b": values((6, 9), 1) * 2}
    masks = prune(0.5, pattern=blocks((2, 3)), distribution="global").init(params)
    means = [np.abs(w).reshape(w.shape[0] // 2, 2, -1, 3).mean((1, 3)) for w in map(np.float64, params.values())]
    wanted = loops.top(np.concatenate([m.ravel() for m in means]), 8)  # of 4 + 9, 6.5 are pruned: to even, 6
    kept = np.concatenate([np.asarray(mask)[::2, ::3].ravel() for mask in masks.values()])
    assert wanted.sum() - kept.sum() in (0, 1)
    np.testing.assert_array_equal(kept, loops.top(np.concatenate([m.ravel() for m in means]), int(kept.sum())))
    assert int(kept.sum()) == 13 - round(0.5 * 13)


@pytest.mark.exhaustive
@pytest.mark.parametrize("pattern", [nm(2, 4), blocks((2, 3)), kernels(), filters()], ids=lambda p: p.name)
def test_masks_are_the_same_however_the_weights_are_sharded(mesh, pattern):
    params = {"a": values((3, 3, 8, 8)), "b": values((2, 1, 16, 24), 1)}
    pruner = prune(optax.constant_schedule(0.4), pattern=pattern, distribution="global")
    wanted = pruner.init(params)
    for axis in (2, 3):
        spec = PartitionSpec(*["x" if i == axis else None for i in range(4)])
        sharded = jax.device_put(params, NamedSharding(mesh, spec))
        for path, mask in jax.jit(pruner.init)(sharded).items():
            np.testing.assert_array_equal(mask, wanted[path])


@pytest.mark.parametrize("pattern", [nm(2, 4), pytest.param(blocks((2, 3)), marks=MORE)], ids=lambda p: p.name)
def test_units_of_sharded_weights_are_ranked_where_they_are(mesh, pattern, sums_few_numbers):
    """Here no unit crosses a shard: the only collectives are sums of a few numbers."""
    shape = jax.ShapeDtypeStruct((64, 48), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(None, "x")))
    pruner = prune(lambda step: 0.01 * step, pattern=pattern, distribution="global")
    update = jax.jit(lambda params, step: pruner.update(params, None, step))
    sums_few_numbers(update.lower([shape, shape], jnp.int32(1)).compile().as_text())


@pytest.mark.parametrize(
    ("sparsity", "pattern", "shape", "message"),
    [
        (0.3, nm(2, 4), (8, 4), r"2:4 has a sparsity of 0.5, and cannot express 0.3; .* 0.25 of 3:4 or 0.5 of 2:4"),
        (0.6, nm(2, 4), (8, 4), r"cannot express 0.6; .* 0.5 of 2:4 or 0.75 of 1:4"),
        (0.5, nm(2, 4), (8,), r"2:4 does not fit 'layer' of shape \(8,\): it has no reduction axis.*dense=\["),
        (0.5, kernels(), (8, 4), r"kernels does not fit 'layer' of shape \(8, 4\): it has no spatial axes"),
        (0.5, blocks((8, 128)), (8,), r"it has 1 axes, and blocks of \(8, 128\) need 2"),
        (0.5, filters(axis=2), (8, 4), r"it has no axis 2"),
        (0.2, blocks((4, 4)), (4, 8), r"'layer' of shape \(4, 8\) has 2 units .* of 0.2; the nearest are 0 or 0.5"),
        (0.9, blocks((4, 4)), (4, 8), r"of 0.9; the nearest are 0.5, or 1, which would empty it"),
    ],
)
def test_what_a_pattern_cannot_express_is_refused(sparsity, pattern, shape, message):
    with pytest.raises(ArgumentError, match=message):
        prune(sparsity, pattern=pattern).init({"layer": values(shape)})


def test_a_schedule_beyond_nm_is_refused_where_it_is_concrete_and_clipped_where_not():
    pruner, weights = prune(lambda step: step * 0.3, pattern=nm(2, 4)), values((8, 3))
    state = pruner.init(weights)
    with pytest.raises(ArgumentError, match=r"cannot express 0.6 at step 2"):
        pruner.update(weights, state, 2)
    np.testing.assert_array_equal(jax.jit(pruner.update)(weights, state, 2), loops.nm_mask(np.abs(weights), 2, 4))


@pytest.mark.parametrize("arguments", [(0, 4), (4, 4), (2.0, 4)])
def test_numbers_that_are_no_nm_are_refused(arguments):
    with pytest.raises(ArgumentError, match="1 <= n < m"):
        nm(*arguments)


def test_blocks_without_a_size_are_refused():
    for shape in ((), (0, 2)):
        with pytest.raises(ArgumentError, match="whole number of at least 1"):
            blocks(shape)


def test_means_of_blocks_have_the_same_bits_in_every_program(rng):
    """Squares that a compiler fuses with their sums would be rounded once less."""
    pool = jc.prune.blocks((2, 2)).pool
    means = lambda w: pool(jnp.square(w))  # noqa: E731
    weight = jnp.asarray(rng.normal(size=(64, 64)), jnp.float32)
    np.testing.assert_array_equal(means(weight), jax.jit(means)(weight))
