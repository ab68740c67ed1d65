"""A masked optimizer is its optimizer where all is kept, and knows nothing of pruned weights: over those of optax."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxcomp as jc
from jaxcomp.core.errors import ArgumentError

ELEMENTWISE = (
    *("adabelief", "adadelta", "adagrad", "adam", "adamax", "adamaxw", "adamw", "adan", "amsgrad", "lion", "nadam"),
    *("nadamw", "optimistic_adam_v2", "optimistic_gradient_descent", "radam", "rmsprop", "rprop", "sign_sgd"),
    *("signum", "yogi", "contrib.acprop", "contrib.ademamix", "contrib.adopt", "contrib.cocob", "contrib.madgrad"),
    *("contrib.schedule_free_adamw", "contrib.simplified_ademamix"),
)
"""Optimizers under which a weight's update follows from that weight's gradients alone."""
MIXING = (
    *("fromage", "lamb", "lars", "novograd", "sm3", "polyak_sgd", "contrib.dadapt_adamw", "contrib.dog"),
    *("contrib.dowg", "contrib.galore", "contrib.momo", "contrib.momo_adam", "contrib.muon", "contrib.prodigy"),
)
OPTIMIZERS = {
    **{
        name: functools.partial(functools.reduce(getattr, name.split("."), optax), 0.1) for name in ELEMENTWISE + MIXING
    },
    "momentum": lambda: optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adafactor": lambda: optax.adafactor(0.1, min_dim_size_to_factor=4, momentum=0.9),
    "lbfgs": lambda: optax.lbfgs(memory_size=3),
    "mechanize": lambda: optax.contrib.mechanize(optax.adam(0.1)),
    "noisy": lambda: optax.noisy_sgd(0.1, key=0),
}
WRAPPERS = {
    "masked": lambda base: optax.masked(base, {"body": True, "head": [True, False]}),
    "masked-subtree": lambda base: optax.masked(base, {"body": True, "head": False}),
    "masked-by-rank": lambda base: optax.masked(base, lambda tree: jax.tree.map(lambda leaf: leaf.ndim > 1, tree)),
    "partition": lambda base: optax.partition({0: base, 1: optax.sgd(0.1)}, {"body": 0, "head": [0, 1]}),
    "chain": lambda base: optax.named_chain(("clip", optax.clip_by_global_norm(1.0)), ("base", base)),
    "flatten": optax.flatten,
    "inject": lambda base: optax.inject_hyperparams(lambda rate: optax.chain(base, optax.scale(rate)))(rate=0.5),
    "multi-steps": lambda base: optax.MultiSteps(base, 2).gradient_transformation(),
    "if-finite": lambda base: optax.apply_if_finite(base, 3),
    "schedule-free": lambda base: optax.contrib.schedule_free(base, 0.1),
}
TABLE = {name: make() for name, make in OPTIMIZERS.items()} | {
    f"{wrapper}-{name}": wrap(OPTIMIZERS[name]())
    for i, (wrapper, wrap) in enumerate(WRAPPERS.items())
    for name in ("adam", ("adafactor", "sm3")[i % 2])
}
DEFAULT = ("adafactor", "sm3", "contrib.muon", *(f"{wrapper}-adam" for wrapper in WRAPPERS))
CASES = [pytest.param(name, marks=[] if name in DEFAULT else pytest.mark.exhaustive) for name in TABLE]


def tree(seed, kind=lambda leaf: leaf):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: kind(jnp.asarray(rng.normal(size=shape), jnp.float32))  # noqa: E731
    return {"body": draw(4, 6), "head": [draw(2, 3, 5), draw(7)]}


def stepped(tx, steps, params, **masks):
    state = tx.init(params)
    for seed in range(1, steps + 1):
        grads = tree(seed)
        more = {"value": jnp.float32(3.0), "grad": grads, "value_fn": lambda p: optax.global_norm(p) ** 2}
        updates, state = tx.update(grads, state, params, **masks, **more)
        params = optax.apply_updates(params, updates)
    return updates, state


def as_numbers(leaf):
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


@pytest.mark.parametrize("name", CASES)
def test_where_all_is_kept_nothing_differs(name):
    base, params = optax.with_extra_args_support(TABLE[name]), tree(0)
    masks = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), params)
    wanted, got = stepped(base, 3, params), stepped(jc.prune.masked_optimizer(base), 3, params, masks=masks)
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(as_numbers, got), jax.tree.map(as_numbers, wanted))


@pytest.mark.parametrize("name", CASES)
def test_pruned_weights_stay_and_leave_no_trace(name):
    base, masks = optax.with_extra_args_support(TABLE[name]), tree(9, lambda leaf: leaf > 0)
    params = jax.tree.map(lambda leaf, mask: jnp.where(mask, leaf, 0), tree(0), masks)
    updates, state = stepped(jc.prune.masked_optimizer(base), 2, params, masks=masks)
    plain, start = stepped(base, 2, params)
    assert jax.tree.structure(state) == jax.tree.structure(start)
    assert [leaf.dtype for leaf in jax.tree.leaves(state)] == [leaf.dtype for leaf in jax.tree.leaves(start)]
    for update, mask, of_base in zip(*map(jax.tree.leaves, (updates, masks, plain)), strict=True):
        assert not update[~mask].any()
        if name in ELEMENTWISE:
            np.testing.assert_array_equal(update[mask], of_base[mask])
    for held in jax.tree.leaves(state):
        if held.shape == (2, 3, 5):
            assert not held[~masks["head"][0]].any()


def test_what_only_looks_like_the_weights_is_left_alone():
    """Three numbers of its own beside three weights that are the whole tree; means of columns, as many as biases."""
    params, masks = jnp.array([1.0, 2.0, 3.0]), jnp.array([True, False, True])
    own = optax.GradientTransformation(
        lambda params: (jnp.ones(3), params), lambda updates, state, params: (updates, state)
    )
    tx = jc.prune.masked_optimizer(own)
    _, state = tx.update(params, tx.init(params), params, masks=masks)
    assert [held.tolist() for held in state] == [[1.0, 1.0, 1.0], [1.0, 0.0, 3.0]]
    params = {"bias": jnp.ones(6), "kernel": jnp.ones((4, 6))}
    tx = jc.prune.masked_optimizer(optax.adafactor(0.1, min_dim_size_to_factor=4))
    masks = {"bias": jnp.arange(6) > 2, "kernel": jnp.arange(24).reshape(4, 6) > 2}
    _, state = tx.update(params, tx.init(params), params, masks=masks)
    assert state[0].v_col["kernel"].all()
    assert (state[0].v["bias"] != 0).tolist() == masks["bias"].tolist()


def test_flattened_moments_are_masked_as_those_by_leaf():
    masks = tree(9, lambda leaf: leaf > 0)
    params = jax.tree.map(lambda leaf, mask: jnp.where(mask, leaf, 0), tree(0), masks)
    one, other = (
        stepped(jc.prune.masked_optimizer(wrap(optax.adam(0.1))), 2, params, masks=masks)
        for wrap in (lambda tx: tx, optax.flatten)
    )
    rows = [[np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(held)]) for held in (updates, s[0].mu, s[0].nu)]
            for updates, s in (one, other)]  # fmt: skip
    for alone, flat in zip(*rows, strict=True):
        np.testing.assert_allclose(flat, alone, rtol=1e-6, atol=0)
        assert (flat == 0).any()


def test_parts_of_an_optimizer_can_be_masked():
    """Inside optax.masked and optax.partition, whose parts see other trees than the masks are."""
    masks = tree(9, lambda leaf: leaf > 0)
    params = jax.tree.map(lambda leaf, mask: jnp.where(mask, leaf, 0), tree(0), masks)
    for wrapper in ("masked", "masked-subtree", "partition"):
        wrap = WRAPPERS[wrapper]
        inside, _ = stepped(wrap(jc.prune.masked_optimizer(optax.adam(0.1))), 2, params, masks=masks)
        outside, _ = stepped(jc.prune.masked_optimizer(wrap(optax.adam(0.1))), 2, params, masks=masks)
        np.testing.assert_array_equal(inside["body"], outside["body"])


def test_fast_and_slow_weights_are_both_masked():
    masks = {"w": jnp.array([True, False])}
    params = optax.LookaheadParams.init_synced({"w": jnp.array([1.0, 0.0])})
    tx = jc.prune.masked_optimizer(optax.lookahead(optax.sgd(0.5), sync_period=2, slow_step_size=0.5))
    state = tx.init(params)
    for _ in range(2):
        updates, state = jax.jit(tx.update)({"w": jnp.ones(2)}, state, params, masks=masks)
        params = optax.apply_updates(params, updates)
    assert params.fast["w"].tolist() == params.slow["w"].tolist() == [0.5, 0.0]


def test_masks_are_matched_by_path_and_shape():
    params = nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
    tx, plain = jc.prune.masked_optimizer(optax.adam(0.1)), {"kernel": jnp.eye(2, 3) > 0, "bias": jnp.ones(3, bool)}
    updates, state = tx.update(params, tx.init(params), params, masks=plain)
    np.testing.assert_array_equal(np.asarray(updates["kernel"]) != 0, plain["kernel"])
    np.testing.assert_array_equal(np.asarray(state[0].mu["kernel"]) != 0, plain["kernel"])
    with pytest.raises(ArgumentError, match=r"masks must have a leaf for every gradient, and 'bias' has none"):
        tx.update(params, state, params, masks={"kernel": plain["kernel"]})
    with pytest.raises(ArgumentError, match=r"the mask of 'kernel' must have its shape, \(2, 3\), and has \(3,\)"):
        tx.update(params, state, params, masks={"kernel": jnp.ones(3, bool), "bias": True})
