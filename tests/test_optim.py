"""The optax adaptor trains as the explicit loop does, wherever optax puts it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx, serialization

import jaxcomp as jc
from jaxcomp.core.errors import ArgumentError
from jaxcomp.optim import compress, describe, finalize

STEPS = 6


def problem():
    rng = np.random.default_rng(0)
    inputs, targets = jnp.asarray(rng.normal(size=(32, 8)), jnp.float32), jnp.asarray(rng.normal(size=32), jnp.float32)
    params = {
        "kernel": jnp.asarray(rng.normal(size=(8, 5)), jnp.float32),
        "head": jnp.asarray(rng.normal(size=5), jnp.float32),
    }

    def loss(params):
        return jnp.mean((jnp.tanh(inputs @ params["kernel"]) @ params["head"] - targets) ** 2)

    return params, jax.jit(jax.value_and_grad(loss)), loss


RECIPES = {
    "prune": lambda: jc.partition([("kernel", jc.prune.magnitude(optax.polynomial_schedule(0.2, 0.8, 3, 4)))]),
    "quantize": lambda: jc.quant.fake(4, axis=-1, symmetric=False),
    "both": lambda: jc.partition([("kernel", jc.chain(jc.prune.magnitude(0.5), jc.quant.fake(8)))]),
    "soft": lambda: jc.partition([("kernel", jc.straight_through(jc.every(2, jc.prune.magnitude(0.5))))]),
}


def explicit(params, loss, optimizer, recipe, steps):
    """The loop that one would write: the view inside the loss, an update of the compressor after each step."""

    @jax.jit
    def train_step(params, inner, state, step):
        grads = jax.grad(lambda params: loss(recipe.apply(params, state)))(params)
        updates, inner = optimizer.update(grads, inner, params)
        params = optax.apply_updates(params, updates)
        state = recipe.update(params, state, step)
        return params, inner, state, recipe.apply(params, state)

    inner, state = optimizer.init(params), recipe.init(params)
    views = [recipe.apply(params, state)]
    for step in range(1, steps + 1):
        params, inner, state, view = train_step(params, inner, state, step)
        views.append(view)
    return views


def adapted(params, value_and_grad, tx, recipe, steps):
    """A loop that knows nothing of compression, but that it starts from the view."""
    opt_state = tx.init(params)
    params = finalize(opt_state, recipe)
    update = jax.jit(tx.update)
    seen = [params]
    for _ in range(steps):
        updates, opt_state = update(value_and_grad(params)[1], opt_state, params)
        params = optax.apply_updates(params, updates)
        seen.append(params)
    return seen, opt_state


@pytest.mark.parametrize(
    ("name", "inner"),
    [(name, optax.adamw(0.05)) for name in RECIPES] + [("quantize", optax.sgd(0.1, momentum=0.9))],
    ids=[*RECIPES, "momentum"],
)
def test_agrees_with_the_explicit_loop(name, inner):
    params, value_and_grad, loss = problem()
    recipe = RECIPES[name]()
    wanted = explicit(params, loss, inner, recipe, STEPS)
    seen, opt_state = adapted(params, value_and_grad, compress(inner, recipe), recipe, STEPS)
    for got, want in zip(seen, wanted, strict=True):
        for key in params:
            np.testing.assert_array_equal(got[key] == 0, want[key] == 0)
            np.testing.assert_allclose(got[key], want[key], rtol=1e-4, atol=2e-6)
    for key, final in finalize(opt_state, recipe).items():
        np.testing.assert_allclose(final, wanted[-1][key], rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(final == 0, seen[-1][key] == 0)
        # The loop adds a difference: it is off by a rounding of the larger of the values before and after.
        larger = np.maximum(np.abs(seen[-2][key]), np.abs(final))
        assert (np.abs(seen[-1][key] - final) <= np.spacing(larger)).all()


def test_the_first_update_turns_dense_parameters_into_the_view():
    params, value_and_grad, _ = problem()
    recipe = jc.partition([("kernel", jc.prune.magnitude(0.9))])
    tx = compress(optax.sgd(0.1), recipe)
    updates, opt_state = tx.update(value_and_grad(params)[1], tx.init(params), params)
    params = optax.apply_updates(params, updates)
    assert int((params["kernel"] != 0).sum()) == 4
    assert opt_state.step == 1


def test_learns(rng):
    params, value_and_grad, _ = problem()
    recipe = RECIPES["both"]()
    seen, opt_state = adapted(params, value_and_grad, compress(optax.adam(0.03), recipe), recipe, 60)
    assert value_and_grad(finalize(opt_state, recipe))[0] < 0.5 * value_and_grad(seen[0])[0]


def test_works_inside_chain():
    params, value_and_grad, _ = problem()
    recipe = RECIPES["both"]()
    tx = optax.chain(optax.clip_by_global_norm(1.0), compress(optax.sgd(0.1), recipe))
    seen, opt_state = adapted(params, value_and_grad, tx, recipe, 3)
    np.testing.assert_allclose(finalize(opt_state, recipe)["kernel"], seen[-1]["kernel"], rtol=1e-5, atol=1e-6)


def test_works_inside_multi_steps():
    """Two half batches make one update, and one count of the compressor's schedule."""
    params, value_and_grad, _ = problem()
    recipe = RECIPES["prune"]()
    once = compress(optax.sgd(0.1), recipe)
    twice = optax.MultiSteps(once, every_k_schedule=2)
    opt_state, update = twice.init(params), jax.jit(twice.update)
    for step in range(4):
        updates, opt_state = update(value_and_grad(params)[1], opt_state, params)
        assert step % 2 == 1 or not any(leaf.any() for leaf in jax.tree.leaves(updates))
        params = optax.apply_updates(params, updates)
    start, _, _ = problem()
    wanted, single = start, once.init(start)
    for _ in range(2):
        updates, single = once.update(value_and_grad(wanted)[1], single, wanted)
        wanted = optax.apply_updates(wanted, updates)
    np.testing.assert_allclose(params["kernel"], wanted["kernel"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(finalize(opt_state, recipe)["kernel"], wanted["kernel"], rtol=1e-5, atol=1e-6)


def test_a_step_may_donate_parameters_and_state():
    params, value_and_grad, _ = problem()
    recipe = RECIPES["both"]()
    tx = compress(optax.adam(0.1), recipe)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, opt_state):
        updates, opt_state = tx.update(value_and_grad(params)[1], opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    kept = jax.tree.map(np.array, params)
    opt_state = tx.init(params)
    for _ in range(3):
        view = finalize(opt_state, jc.identity())
        held = jax.tree.map(np.array, view)
        params, opt_state = step(params, opt_state)
    jax.tree.map(np.testing.assert_array_equal, view, held)  # it shares nothing with what was donated
    seen, _ = adapted_without_donation(kept, value_and_grad, tx)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), params, seen)


def adapted_without_donation(params, value_and_grad, tx):
    opt_state = tx.init(params)
    for _ in range(3):
        updates, opt_state = jax.jit(tx.update)(value_and_grad(params)[1], opt_state, params)
        params = optax.apply_updates(params, updates)
    return params, opt_state


def test_narrow_parameters_keep_their_dtype():
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), problem()[0])
    tx = compress(optax.sgd(0.1), RECIPES["both"]())
    updates, opt_state = tx.update(params, tx.init(params), params)
    assert {leaf.dtype for leaf in jax.tree.leaves((updates, opt_state.params))} == {jnp.dtype(jnp.bfloat16)}


def test_the_optimizer_of_nnx_holds_the_view():
    """Under clipping, momentum and weight decay, zeros are exact after every step, and 2 of 4 stay."""
    recipe = jc.partition([(".*kernel", jc.prune.prune(0.5, pattern=jc.prune.nm(2, 4), regrow="rigl"))])
    inputs = jnp.asarray(np.random.default_rng(0).normal(size=(16, 8)), jnp.float32)
    model = nnx.Linear(8, 6, rngs=nnx.Rngs(0))
    tx = optax.chain(optax.clip_by_global_norm(1.0), compress(optax.adamw(0.05, weight_decay=0.1), recipe))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        optimizer.update(model, nnx.grad(lambda model: jnp.mean((model(inputs) - 1) ** 2))(model))

    masks = []
    for _ in range(3):
        step(model, optimizer)
        masks.append(np.asarray(model.kernel[...] != 0))
        assert (masks[-1].reshape(2, 4, 6).sum(1) == 2).all()
    assert (masks[0] != masks[2]).any()
    np.testing.assert_array_equal(np.asarray(finalize(optimizer.opt_state, recipe)["kernel"]) != 0, masks[2])
    assert (np.asarray(model.bias[...]) != 0).all()


def test_leaves_without_gradients_stay_beside_those_that_have():
    """Counters and flags, with zeros for gradients, as optax takes them."""
    params = {"kernel": problem()[0]["kernel"], "count": jnp.array(3), "flag": jnp.array(True), "none": None, "no": {}}
    prune = jc.prune.magnitude(0.5)
    tx = compress(optax.adam(0.1), prune)
    updates, opt_state = jax.jit(tx.update)(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    params = optax.apply_updates(params, updates)
    assert (int(params["count"]), bool(params["flag"])) == (3, True)
    assert int((params["kernel"] == 0).sum()) == int((finalize(opt_state, prune)["kernel"] == 0).sum()) == 20


def test_extra_arguments_reach_the_inner_optimizer():
    params, value_and_grad, _ = problem()
    inner = optax.contrib.reduce_on_plateau()
    tx = compress(optax.chain(optax.sgd(0.1), inner), jc.identity())
    value, grads = value_and_grad(params)
    updates, _ = tx.update(grads, tx.init(params), params, value=value)
    assert jax.tree.structure(updates) == jax.tree.structure(params)


def test_an_update_without_parameters_is_refused():
    tx = compress(optax.sgd(0.1), jc.identity())
    params = {"w": jnp.ones(2)}
    with pytest.raises(ArgumentError, match=r"call tx.update\(grads, opt_state, params\)"):
        tx.update(params, tx.init(params))


@pytest.mark.parametrize("count", [0, 2])
def test_finalize_needs_exactly_one_adaptor(count):
    tx = optax.chain(*[compress(optax.sgd(0.1), jc.identity())] * count, optax.clip(1.0))
    with pytest.raises(ArgumentError, match=f"must hold one state of jaxcomp.optim.compress, it holds {count}"):
        finalize(tx.init({"w": jnp.ones(2)}), jc.identity())


def parts(tx):
    return optax.partition({0: tx, 1: optax.sgd(0.1), 2: optax.set_to_zero()}, {"kernel": 0, "head": 1, "count": 2})


NESTINGS = {
    "masked": lambda tx: optax.masked(tx, {"kernel": True, "head": False, "count": False}),
    "partition": parts,
    "chain": lambda tx: optax.named_chain(("clip", optax.clip(1.0)), ("parts", parts(tx))),
    "multi-steps": lambda tx: optax.MultiSteps(parts(tx), 1).gradient_transformation(),
    "inject": lambda tx: optax.inject_hyperparams(lambda rate: optax.chain(parts(tx), optax.scale(rate)))(rate=1.0),
    "if-finite": lambda tx: optax.apply_if_finite(parts(tx), 2),
}


@pytest.mark.parametrize("nesting", NESTINGS)
def test_what_the_adaptor_was_not_given_comes_from_the_parameters(nesting):
    recipe, (params, value_and_grad, _) = jc.quant.fake(4, axis=-1), problem()
    tx = NESTINGS[nesting](compress(optax.sgd(0.1), recipe))
    opt_state, params = once(tx, params | {"count": jnp.array(3)}, value_and_grad(params)[1] | {"count": jnp.array(0)})
    with pytest.raises(
        ArgumentError, match=r"a part of the parameters, without count, head: .*\(opt_state, recipe, params\)"
    ):
        finalize(opt_state, recipe)
    view = finalize(opt_state, recipe, params)
    assert jax.tree.map(jnp.result_type, view) == jax.tree.map(jnp.result_type, params)  # no leaf is masked in it
    for key in ("head", "count"):
        np.testing.assert_array_equal(view[key], params[key])
    np.testing.assert_allclose(view["kernel"], params["kernel"], rtol=1e-5, atol=1e-6)
    assert len(np.unique(view["kernel"][:, 0])) <= 15
    assert view["head"] is not params["head"]
    jax.tree.map(np.testing.assert_array_equal, finalize(serialization.to_state_dict(opt_state), recipe, params), view)


def once(tx, params, grads):
    """The state and the parameters after an update."""
    updates, opt_state = tx.update(grads, tx.init(params), params)
    return opt_state, optax.apply_updates(params, updates)


@pytest.mark.parametrize("recipe", ["prune", "quantize"])
def test_notes_are_those_of_the_recipe_wherever_its_state_is(recipe):
    """The asked sparsity is that of the adaptor's step, the grid that of its state."""
    own, (params, value_and_grad, _) = RECIPES[recipe](), problem()
    grads = value_and_grad(params)[1]
    alone, _ = once(compress(optax.sgd(0.1), own), {"kernel": params["kernel"]}, {"kernel": grads["kernel"]})
    wanted = own.describe(alone.params, alone.compressor, 1)
    assert wanted.keys() == {"kernel"}
    assert wanted["kernel"] != own.describe(alone.params, alone.compressor, 9)["kernel"] or recipe == "quantize"
    params, grads = params | {"count": jnp.array(3)}, grads | {"count": jnp.array(0)}
    for nesting in NESTINGS.values():
        opt_state, after = once(nesting(compress(optax.sgd(0.1), own)), params, grads)
        for notes in (describe(opt_state, own), describe(serialization.to_state_dict(opt_state), own, after)):
            assert notes.keys() == wanted.keys()
            jax.tree.map(np.testing.assert_array_equal, notes, dict(wanted))


def test_dictionaries_that_lost_what_is_empty_are_states_all_the_same():
    """NNX keeps neither the state of plain descent nor that of a recipe without one."""
    model = nnx.Linear(8, 6, rngs=nnx.Rngs(0))
    params = nnx.state(model, nnx.Param)
    for recipe in (jc.prune.magnitude(0.5), jc.identity()):
        held = nnx.state(nnx.Optimizer(model, compress(optax.sgd(0.1), recipe), wrt=nnx.Param))
        view = finalize(held, recipe, params)
        jax.tree.map(np.testing.assert_array_equal, view, recipe.apply(params, recipe.init(params)))
        assert describe(held, recipe, params) == recipe.describe(params, recipe.init(params), 0)


def test_what_was_excluded_as_a_subtree_comes_back_in_its_own_structure():
    params = {"body": {"kernel": jnp.arange(4.0)}, "head": [jnp.ones(2), {"count": jnp.array(3)}]}
    tx = optax.masked(compress(optax.sgd(0.1), jc.prune.magnitude(0.5)), {"body": True, "head": False})
    view = finalize(tx.init(params), jc.prune.magnitude(0.5), params)
    assert jax.tree.structure(view) == jax.tree.structure(params)
    assert view["body"]["kernel"].tolist() == [0.0, 0.0, 2.0, 3.0]


def test_each_part_with_a_recipe_of_its_own_is_finalized_in_turn():
    params, prune, quant = problem()[0], jc.prune.magnitude(0.5), jc.quant.fake(2)
    tx = optax.partition(
        {0: compress(optax.sgd(0.1), prune), 1: compress(optax.sgd(0.1), quant)}, {"kernel": 0, "head": 1}
    )
    opt_state = tx.init(params)
    with pytest.raises(
        ArgumentError, match=r"it holds 2, at .inner_states\[0\].* and .inner_states\[1\].*: finalize one part"
    ):
        finalize(opt_state, prune, params)
    view = finalize(opt_state.inner_states[1], quant, finalize(opt_state.inner_states[0], prune, params))
    assert (int((view["kernel"] == 0).sum()), len(np.unique(view["head"]))) == (20, 2)


def test_another_recipe_is_refused_with_what_both_hold():
    params = problem()[0]
    opt_state = compress(optax.sgd(0.1), jc.prune.magnitude(0.5)).init(params)
    for other in (jc.quant.fake(4), jc.chain(jc.prune.magnitude(0.5), jc.quant.fake(4))):
        with pytest.raises(
            ArgumentError,
            match=r"this one's state is another: it holds .*scale.* float32\[1\].*; the optimizer's 'head' bool\[5\]",
        ):
            finalize(opt_state, other)
    jax.tree.map(np.testing.assert_array_equal, finalize(opt_state, jc.identity()), params)
    with pytest.raises(ArgumentError, match=r"params must be the loop's, which hold head; got kernel"):
        finalize(opt_state, jc.prune.magnitude(0.5), {"kernel": params["kernel"]})


def test_the_optimizer_of_nnx_is_a_state_like_any_other():
    recipe, model = jc.partition([(".*kernel", jc.quant.fake(4, axis=-1))]), nnx.Linear(8, 6, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.chain(compress(optax.adam(0.1), recipe)), wrt=nnx.Param)
    params = nnx.state(model, nnx.Param)
    views = [finalize(held, recipe, params) for held in (optimizer.opt_state, optimizer, nnx.state(optimizer))]
    for view in views:
        assert jax.tree.structure(view) == jax.tree.structure(params)
        jax.tree.map(np.testing.assert_array_equal, view, recipe.apply(params, recipe.init(params)))
    with pytest.raises(ArgumentError, match="made of dictionaries"):
        finalize(nnx.state(optimizer), recipe)


def test_it_is_finalized_inside_of_transformations():
    prune, params = jc.prune.magnitude(0.5), {"w": jnp.arange(8.0).reshape(2, 4)}
    ensemble = jax.vmap(compress(optax.sgd(0.1), prune).init)(params)
    views = jax.jit(jax.vmap(lambda held: finalize(held, prune)))(ensemble)
    assert views["w"].tolist() == [[0, 0, 2, 3], [0, 0, 6, 7]]
