"""Regrowth keeps the count to the unit, exchanges what its paper exchanges, and follows from the step alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcomp as jc
from jaxcomp.core.errors import ArgumentError
from jaxcomp.prune import blocks, filters, gradient_growth, kernels, nm, prune, random_growth
from tests.prune import loops

SHAPES = {"bias": (10,), "conv": (3, 3, 3, 8), "head": (16, 10)}
"""A tree with an unpruned bias, and batch norm beside it."""


@pytest.fixture
def moved(rng):
    """Parameters and gradients of four steps."""
    draw = lambda: {path: jnp.asarray(rng.normal(size=shape), jnp.float32) for path, shape in SHAPES.items()}  # noqa: E731
    return [(draw(), draw()) for _ in range(4)]


@pytest.mark.parametrize(
    ("method", "distribution"),
    [
        ("rigl", "erk"),
        *[
            pytest.param(*own, marks=pytest.mark.exhaustive)
            for own in (("set", "erk"), ("set", "global"), ("rigl", "global"))
        ],
    ],
)
def test_the_count_stays_and_masks_move(moved, method, distribution):
    pruner = prune(0.8, regrow=method, distribution=distribution, dense=["bias"])
    params, state = moved[0][0], pruner.init(moved[0][0])
    kept = [sum(int(mask.sum()) for mask in state.values())]
    assert kept == [386 - round(0.8 * 386)]
    update = jax.jit(lambda params, state, i, grads: pruner.update(params, state, i, grads=grads))
    by_layer = {path: int(mask.sum()) for path, mask in state.items()}
    for i, (params, grads) in enumerate(moved[1:], 1):
        new = update(params, state, i, grads)
        assert sum(int(mask.sum()) for mask in new.values()) == kept[0]
        assert new["bias"].all()
        assert (new["head"] != state["head"]).any()
        if distribution == "erk":
            assert {path: int(mask.sum()) for path, mask in new.items()} == by_layer
        again = pruner.update(params, state, i, grads=grads)
        jax.tree.map(np.testing.assert_array_equal, again, new)
        state = new


def test_rigl_is_the_papers_exchange(moved):
    """The smallest 30 % of what is kept go; the largest gradients among all that is then not kept come."""
    (params, grads), pruner = moved[1], prune(0.5, regrow=gradient_growth(0.3))
    state = pruner.init(params)
    new = pruner.update(params, state, 7, grads=grads)
    for path, mask in state.items():
        count = int(mask.sum())
        stay = count - round(0.3 * count)
        kept = loops.top(np.where(mask, np.abs(params[path]), -1), stay)
        grown = loops.top(np.where(kept, -1, np.abs(grads[path])), count - stay)
        np.testing.assert_array_equal(new[path], kept | grown)


def test_step_0_starts_afresh_and_a_drop_of_0_ends_it(moved):
    pruner = prune(0.7, regrow=random_growth(optax.linear_schedule(0.5, 0.0, 2)))
    first = pruner.init(moved[0][0])
    jax.tree.map(
        np.testing.assert_array_equal, first, prune(0.7, "random").init(moved[0][0])
    )  # static random is where SET begins
    update, masks = jax.jit(pruner.update), [first]
    for i, (params, _) in enumerate(moved[1:], 1):
        masks.append(update(params, masks[-1], i))
    assert (masks[1]["head"] != first["head"]).any()
    jax.tree.map(np.testing.assert_array_equal, masks[3], masks[2])
    jax.tree.map(np.testing.assert_array_equal, update(moved[3][0], masks[3], 0), first)


PATTERNS = {
    "blocks": (blocks((4, 5)), "head", lambda x: x.reshape(4, 4, 2, 5).transpose(0, 2, 1, 3).reshape(8, 20)),
    "kernels": (kernels(), "conv", lambda x: x.reshape(9, 24).T),
    "filters": (filters(), "conv", lambda x: x.reshape(27, 8).T),
}
"""A pattern, a tensor, and its units as the rows of a matrix."""


@pytest.mark.parametrize("name", PATTERNS)
def test_regrowth_exchanges_whole_units(moved, name):
    (params, grads), (pattern, path, rows) = moved[1], PATTERNS[name]
    pruner = prune(0.5, pattern=pattern, regrow=gradient_growth(0.5, start=jc.prune.magnitude_score()))
    weight, grad = rows(np.abs(params[path])).mean(1), rows(np.abs(grads[path])).mean(1)
    first = pruner.init(params[path])
    alive = loops.top(weight, len(weight) // 2)
    np.testing.assert_array_equal(rows(np.asarray(first)), np.broadcast_to(alive[:, None], rows(first).shape))
    state = rows(np.asarray(pruner.update(params[path], first, 3, grads=grads[path])))
    kept = loops.top(np.where(alive, weight, -1), len(weight) // 4)
    wanted = kept | loops.top(np.where(kept, -1, grad), len(weight) // 4)
    np.testing.assert_array_equal(state, np.broadcast_to(wanted[:, None], state.shape))


@pytest.mark.parametrize("distribution", ["uniform", pytest.param("global", marks=pytest.mark.exhaustive)])
def test_nm_exchanges_within_its_groups(moved, distribution):
    """The least of what is kept go, and in each group of 4 those of largest gradient fill up."""
    params, grads = ({path: tree[path] for path in ("conv", "head")} for tree in moved[1])
    growth = gradient_growth(0.4, start=jc.prune.magnitude_score())
    pruner = prune(0.5, pattern=nm(2, 4), regrow=growth, distribution=distribution)
    first = pruner.init(params)
    update = jax.jit(lambda state, i: pruner.update(params, state, i, grads=grads))
    new, afresh = update(first, 3), update(first, 0)
    sizes = {path: np.where(mask, np.abs(params[path]), -1) for path, mask in first.items()}
    counts = {path: int(mask.sum()) for path, mask in first.items()}
    if distribution == "global":
        flat = loops.top(np.concatenate([own.ravel() for own in sizes.values()]), round(0.6 * sum(counts.values())))
        stays = np.split(flat, [sizes["conv"].size])
    else:
        stays = [loops.top(own, counts[path] - round(0.4 * counts[path])) for path, own in sizes.items()]
    for (path, mask), stay in zip(first.items(), stays, strict=True):
        ranked = np.where(stay.reshape(mask.shape), np.inf, np.abs(grads[path]))
        np.testing.assert_array_equal(new[path], loops.nm_mask(ranked, 2, 4))
        np.testing.assert_array_equal(mask, loops.nm_mask(np.abs(params[path]), 2, 4))
        np.testing.assert_array_equal(afresh[path], mask)
        assert (new[path] != mask).any()


def test_a_layer_keeps_its_minimum_while_others_grow(moved):
    params, grads = moved[1]
    grads = {**grads, "bias": 0 * grads["bias"]}
    pruner = prune(0.8, regrow="rigl", distribution="global", minimum=6)
    params = {**params, "bias": params["bias"] * 1e-3}
    state = pruner.init(params)
    for step in (1, 2):
        state = pruner.update(params, state, step, grads=grads)
        assert int(state["bias"].sum()) == 6
        assert sum(int(mask.sum()) for mask in state.values()) == 386 - round(0.8 * 386)


def test_masks_are_exchanged_every_so_many_steps(moved):
    pruner = prune(0.7, regrow="set", every=2)
    first = pruner.init(moved[0][0])
    update = jax.jit(pruner.update)
    jax.tree.map(np.testing.assert_array_equal, update(moved[1][0], first, 1), first)
    jax.tree.map(np.testing.assert_array_equal, pruner.update(moved[1][0], first, 1), first)
    assert (update(moved[2][0], first, 2)["head"] != first["head"]).any()


def test_gradients_that_the_growth_needs_are_named(moved):
    pruner = prune(0.7, regrow="rigl")
    with pytest.raises(ArgumentError, match="the growth by gradients needs the gradient of 'bias'"):
        pruner.update(moved[0][0], pruner.init(moved[0][0]), 1)


def test_what_cannot_be_exchanged_is_refused():
    with pytest.raises(ArgumentError, match="which nested masks cannot"):
        prune(0.5, regrow="set", nested=True)
    with pytest.raises(ArgumentError, match="drop must be a fraction of kept weights"):
        random_growth(1.0)
    with pytest.raises(ArgumentError, match="regrow must be one of set, rigl, or a value"):
        prune(0.5, regrow="grow")


def test_the_adaptor_hands_dense_gradients_to_the_growth(moved):
    """Pulled back through the mask, they would be 0 wherever something can grow."""
    (params, grads), pruner = moved[0], prune(0.5, regrow="rigl")
    tx = jc.optim.compress(optax.sgd(0.0), pruner)
    _, state = tx.update(grads, tx.init(params), params)
    wanted = pruner.update(params, pruner.init(params), 1, grads=grads)
    jax.tree.map(np.testing.assert_array_equal, state.compressor, wanted)
