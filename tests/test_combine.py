"""Combinators: who sees what, in which order, when; and what a rule says when it does not apply."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcomp as jc
from jaxcomp.core.errors import ArgumentError, RuleError

PARAMS = {
    "conv": {"kernel": jnp.array([[1.0, -2.0], [3.0, -4.0]]), "bias": jnp.array([0.1, 0.2])},
    "dense": {"kernel": jnp.array([[5.0], [0.5]])},
}


def counting(log=None) -> jc.Compressor:
    """Holds the sum of what it last saw and how often it was updated; adds nothing to the view."""

    def update(params, state, step, *, grads=None, **extra):
        if log is not None:
            log.append({"params": params, "step": step, "grads": grads, **extra})
        seen = sum(jnp.sum(leaf) for leaf in jax.tree.leaves(params))
        return {"seen": jnp.float32(seen), "updates": state["updates"] + 1}

    init = lambda params: update(params, {"updates": jnp.int32(-1)}, 0)  # noqa: E731
    return jc.Compressor(init, update, lambda params, state: params)


def scaling(factor: float) -> jc.Compressor:
    """A view that shows ``factor`` times the parameters."""
    return jc.identity()._replace(apply=lambda params, state: jax.tree.map(lambda leaf: leaf * factor, params))


def test_identity_is_the_unit_of_chain():
    fake = jc.quant.fake(2)
    wanted = fake.apply(PARAMS, fake.init(PARAMS))
    for recipe in (jc.chain(jc.identity(), fake), jc.chain(fake, jc.identity()), jc.chain(fake)):
        view = recipe.apply(PARAMS, recipe.init(PARAMS))
        assert all(jax.tree.leaves(jax.tree.map(jnp.array_equal, view, wanted)))
    assert jc.chain().apply(PARAMS, jc.chain().init(PARAMS)) is PARAMS
    assert jc.identity().describe(PARAMS, (), 0) == {}


def test_in_a_chain_each_sees_its_predecessors_view():
    log = []
    recipe = jc.chain(scaling(2.0), counting(log), scaling(10.0), counting(log))
    state = recipe.init({"w": jnp.array([1.0, 2.0])})
    state = recipe.update({"w": jnp.array([2.0, 3.0])}, state, 1)
    assert [entry["params"]["w"].tolist() for entry in log] == [[2, 4], [20, 40], [4, 6], [40, 60]]
    assert recipe.apply({"w": jnp.array([1.0])}, state)["w"].tolist() == [20.0]
    assert state[1]["seen"] == 10.0


def test_in_a_chain_the_successor_fits_the_new_view():
    """After an update: the grid fits what the new mask has left, not what the old one had."""
    recipe = jc.chain(jc.prune.magnitude(0.5), jc.quant.fake(8))
    state = recipe.init({"w": jnp.array([100.0, 1.0])})
    state = recipe.update({"w": jnp.array([0.5, 1.27])}, state, 1)
    np.testing.assert_allclose(state[1]["w"].scale, [0.01], rtol=1e-6)
    assert recipe.apply({"w": jnp.array([0.5, 1.27])}, state)["w"].tolist() == pytest.approx([0, 1.27])


def test_a_chains_notes_complete_each_other():
    recipe = jc.chain(jc.prune.magnitude(0.5), jc.quant.fake(4))
    params = {"w": jnp.array([1.0, 2.0])}
    note = recipe.describe(params, recipe.init(params), 0)["w"]
    assert (note.sparsity, note.bits, note.skipped) == (0.5, 4, None)
    later = jc.chain(jc.quant.fake(8), jc.quant.fake(2))
    assert later.describe(params, later.init(params), 0)["w"].bits == 2


def test_partition_gives_each_leaf_to_the_first_rule():
    recipe = jc.partition([("conv/.*", scaling(2.0)), (".*/kernel", scaling(10.0))])
    view = recipe.apply(PARAMS, recipe.init(PARAMS))
    assert view["conv"]["kernel"].tolist() == [[2, -4], [6, -8]]
    assert view["dense"]["kernel"].tolist() == [[50], [5]]
    assert jax.tree.structure(view) == jax.tree.structure(PARAMS)


def test_partition_ranks_within_a_rule():
    """Global scope is global to the rule."""
    recipe = jc.partition([(".*/kernel", jc.prune.magnitude(0.5, scope="global"))])
    state = recipe.init(PARAMS)
    assert set(state[0]) == {"conv/kernel", "dense/kernel"}
    assert state[0]["conv/kernel"].tolist() == [[False, False], [True, True]]
    assert state[0]["dense/kernel"].tolist() == [[True], [False]]


def test_what_no_rule_matches_is_the_same_object():
    recipe = jc.partition([("conv/kernel", jc.quant.fake(2))])
    view = recipe.apply(PARAMS, recipe.init(PARAMS))
    assert view["conv"]["bias"] is PARAMS["conv"]["bias"]
    assert view["dense"]["kernel"] is PARAMS["dense"]["kernel"]
    notes = recipe.describe(PARAMS, recipe.init(PARAMS), 0)
    assert notes["conv/bias"] == jc.Note(skipped="no rule matches it")
    assert notes["conv/kernel"].bits == 2


def test_partitions_nest():
    inner = jc.partition([("conv/.*", scaling(2.0)), (".*", jc.identity())])
    recipe = jc.chain(jc.partition([(".*/kernel", inner)]), jc.partition([("dense/kernel", scaling(3.0))]))
    view = recipe.apply(PARAMS, recipe.init(PARAMS))
    assert view["conv"]["kernel"].tolist() == [[2, -4], [6, -8]]
    assert view["dense"]["kernel"].tolist() == [[15], [1.5]]
    assert view["conv"]["bias"] is PARAMS["conv"]["bias"]


def test_notes_say_skipped_only_where_all_skip():
    """What one rule treats and another leaves out is treated."""
    kernels = jc.partition([(".*/kernel", jc.prune.magnitude(0.5))])
    dense = jc.partition([("dense/kernel", jc.quant.fake(4)), ("conv/bias", jc.identity())])
    for recipe in (jc.chain(kernels, dense), jc.chain(dense, kernels)):
        notes = recipe.describe(PARAMS, recipe.init(PARAMS), 0)
        assert notes["conv/kernel"] == jc.Note(sparsity=0.5)
        assert notes["dense/kernel"]._replace(grid=None) == jc.Note(sparsity=0.5, bits=4, format="int4")
        assert notes["conv/bias"].skipped in ("no rule matches it", "its rule changes nothing")


def test_partition_splits_the_gradients_and_passes_the_rest():
    log = []
    recipe = jc.partition([("conv/kernel", counting(log)), (".*", jc.identity())])
    grads = jax.tree.map(jnp.ones_like, PARAMS)
    state = recipe.init(PARAMS)
    recipe.update(PARAMS, state, 3, grads=grads, temperature=7)
    assert set(log[-1]["grads"]) == {"conv/kernel"}
    assert log[-1]["grads"]["conv/kernel"] is grads["conv"]["kernel"]
    assert (log[-1]["step"], log[-1]["temperature"]) == (3, 7)
    recipe.update(PARAMS, state, 4)
    assert log[-1]["grads"] is None


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([("kernel", jc.identity())], "matches no parameter(.|\n)*  conv/bias\n  conv/kernel\n  dense/kernel"),
        ([(".*/kernel", jc.identity()), ("conv/kernel", jc.identity())], "the earlier rule '.\\*/kernel' takes"),
        ([("*kernel", jc.identity())], "is not a regular expression"),
    ],
)
def test_a_rule_that_does_not_apply_is_an_error(rules, message):
    with pytest.raises(RuleError, match=message):
        jc.partition(rules).init(PARAMS)


def test_partition_of_a_single_array_and_of_nothing():
    recipe = jc.partition([("", jc.prune.magnitude(0.5))])
    w = jnp.array([1.0, 2.0])
    assert recipe.apply(w, recipe.init(w)).tolist() == [0.0, 2.0]
    assert jc.partition([]).apply(PARAMS, jc.partition([]).init(PARAMS))["conv"]["bias"] is PARAMS["conv"]["bias"]
    assert jc.partition([(".*", jc.prune.magnitude(0.5))]).init({}) == ({},)


@pytest.mark.parametrize("as_step", [int, np.int64, jnp.int32], ids=["int", "numpy", "jax"])
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_every_updates_at_multiples(as_step, wrap):
    sometimes = jc.every(3, counting())
    state, update = sometimes.init({"w": jnp.array([1.0])}), wrap(sometimes.update)
    updates = []
    for step in range(8):
        state = update({"w": jnp.array([float(step)])}, state, as_step(step))
        updates.append((int(state["updates"]), float(state["seen"])))
    assert updates == [(1, 0), (1, 0), (1, 0), (2, 3), (2, 3), (2, 3), (3, 6), (3, 6)]


def test_every_one_is_the_compressor_itself():
    state = jc.every(1, counting()).init(PARAMS)
    for step in range(4):
        state = jc.every(1, counting()).update(PARAMS, state, step)
    assert state["updates"] == 4


@pytest.mark.parametrize("n", [0, -1, 2.0, True, "3", None])
def test_every_needs_a_whole_number(n):
    with pytest.raises(ArgumentError, match="needs a whole number of steps of at least 1, got"):
        jc.every(n, jc.identity())


def test_straight_through_has_the_view_and_the_identitys_gradient(rng):
    recipe = jc.chain(jc.prune.magnitude(0.5), jc.quant.fake(2))
    soft = jc.straight_through(recipe)
    params = {"w": jnp.asarray(rng.normal(size=(30, 10)), jnp.float32), "count": jnp.array(2)}
    state = soft.init(params)
    view, same = soft.apply(params, state), recipe.apply(params, state)
    np.testing.assert_array_equal(view["w"], same["w"])
    assert view["count"] is params["count"]
    factor = jnp.asarray(rng.normal(size=(30, 10)), jnp.float32)
    gradient = jax.grad(lambda w: jnp.sum(factor * soft.apply({**params, "w": w}, state)["w"]))(params["w"])
    np.testing.assert_array_equal(gradient, factor)
    assert soft.describe(params, state, 0).keys() == recipe.describe(params, state, 0).keys()


def test_a_pruned_weight_comes_back_through_straight_through():
    soft = jc.straight_through(jc.prune.magnitude(0.5))
    w = jnp.array([1.0, 0.9])
    state = soft.init(w)
    for step in range(1, 5):
        w = w - 0.1 * jax.grad(lambda w, state=state: jnp.sum(soft.apply(w, state) * jnp.array([0.0, -1.0])))(w)
        state = soft.update(w, state, step)
    assert state.tolist() == [False, True]


def test_a_whole_training_loop_is_one_scan():
    recipe = jc.partition([(".*/kernel", jc.every(2, jc.chain(jc.prune.magnitude(0.5), jc.quant.fake(4))))])

    def body(carry, step):
        params, state = carry
        state = recipe.update(params, state, step)
        loss = lambda params: sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(recipe.apply(params, state)))  # noqa: E731
        value, grads = jax.value_and_grad(loss)(params)
        return (jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), state), value

    (params, state), losses = jax.jit(lambda carry: jax.lax.scan(body, carry, jnp.arange(20)))(
        (PARAMS, recipe.init(PARAMS))
    )
    assert losses[-1] < 0.1 * losses[0]
    assert int(jnp.sum(recipe.apply(params, state)["conv"]["kernel"] == 0)) == 2


@pytest.mark.parametrize("wrap", [lambda update: update, jax.jit], ids=["python", "traced"])
def test_a_schedule_arrives_at_the_end_of_every_whatever_its_steps(wrap):
    params, schedule = jnp.arange(1.0, 11.0), optax.linear_schedule(0.0, 0.8, 11)
    sometimes = jc.every(4, jc.prune.magnitude(schedule), begin=1, end=11)
    state, update, kept = sometimes.init(params), wrap(sometimes.update), []
    for step in range(1, 14):
        state = update(params, state, step)
        kept.append(int(state.sum()))
    assert kept == [9, 9, 9, 9, 6, 6, 6, 6, 3, 3, 2, 2, 2]


def test_every_begins_and_ends_where_it_is_told():
    """Step 0 always starts afresh."""
    count = jc.Compressor(
        lambda params: jnp.int32(0), lambda params, state, step, **extra: jnp.int32(step), lambda params, state: params
    )
    sometimes = jc.every(3, count, begin=2, end=8)
    seen = {"python": [0], "traced": [0]}
    for step in range(1, 12):
        seen["python"].append(int(sometimes.update({}, jnp.int32(seen["python"][-1]), step)))
        seen["traced"].append(int(jax.jit(sometimes.update)({}, jnp.int32(seen["traced"][-1]), step)))
    assert seen["python"] == seen["traced"] == [0, 0, 2, 2, 2, 5, 5, 5, 8, 8, 8, 8]
    assert int(sometimes.update({}, jnp.int32(8), 0)) == 0
