"""Channel masks: as many as asked, those that matter least, and what is masked is what shrink removes."""

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxcomp as jc
from jaxcomp.core.errors import ArgumentError, RuleError
from jaxcomp.core.leaves import is_real
from jaxcomp.core.paths import named_leaves
from tests.rewrite import models
from tests.rewrite.channels.test_models import Block
from tests.rewrite.parity import TOLERANCE, distance, randomize

IMAGE = jnp.asarray(np.random.default_rng(0).standard_normal((2, 8, 8, 3)), jnp.float32)
X = jnp.asarray(np.random.default_rng(1).standard_normal((6, 3)), jnp.float32)
PARAMS = randomize({"a": jnp.ones((3, 8)), "b": jnp.ones(8), "c": jnp.ones((8, 6)), "d": jnp.ones((6, 2))})


def mlp(p: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(jnp.tanh(x @ p["a"] + p["b"]) @ p["c"]) @ p["d"]


def soft_mlp(p: Any, x: jax.Array) -> jax.Array:
    """Softplus of 0 is not 0: its channels can be cut under the lenient law alone."""
    return jax.nn.softplus(jax.nn.softplus(x @ p["a"] + p["b"]) @ p["c"]) @ p["d"]


class Net(NamedTuple):
    """A function of a whole tree, the tree, its input, and whether its groups are lenient."""

    apply_fn: Any
    params: Any
    example: jax.Array
    lenient: bool


@functools.cache
def net(name: str) -> Net:
    if name == "resnet":
        model = models.BasicResNet()
        return Net(model.apply, randomize(jax.eval_shape(model.init, jax.random.key(0), IMAGE)), IMAGE, False)
    if name == "nnx":
        model = Block(nnx.Rngs(0))
        model.train()
        graph, state = nnx.split(model)
        return Net(lambda state, x: nnx.merge(graph, state, copy=True)(x), randomize(state), IMAGE, False)
    return Net(soft_mlp if name == "lenient" else mlp, PARAMS, X, name == "lenient")


@functools.cache
def found(name: str) -> jc.trace.Groups:
    return jc.trace.groups(net(name).apply_fn, net(name).params, net(name).example, lenient=net(name).lenient)


def begin(view: jc.Compressor, params: Any) -> Any:
    """Compiled as one program, which takes less time than op by op."""
    return jax.jit(view.init)(params)


def noisy(params: Any, seed: int) -> Any:
    """Parameters some steps later; variances stay positive."""
    moved = randomize(params, seed)
    return jax.tree.map(lambda old, new: old + new / 2 if is_real(old) else old, params, moved)


@pytest.mark.parametrize(
    ("name", "soft", "score"),
    [
        ("strict", False, "l2"),
        ("lenient", True, "taylor"),
        ("resnet", False, "taylor"),
        *(  # every pair of two of them
            pytest.param(name, (i + j) % 2 == 0, score, marks=pytest.mark.exhaustive)
            for i, name in enumerate(("strict", "lenient", "resnet", "nnx"))
            for j, score in enumerate(("l1", "l2", "taylor"))
        ),
    ],
)
def test_shrink_removes_what_is_masked(name: str, soft: bool, score: str) -> None:
    """The parity law: ranked anew, with rising fractions, in a scan; then the masks go to shrink as they are."""
    apply_fn, params, example, lenient = net(name)
    prune = jc.prune.channels(found(name), optax.linear_schedule(0.0, 0.6, 3), score=score, soft=soft, scope="global")
    moved = [noisy(params, seed) for seed in range(4)]

    def step(state: Any, inputs: Any) -> Any:
        tree, i = inputs
        grads = jax.tree.map(lambda leaf: jnp.cos(leaf) if is_real(leaf) else leaf, tree)
        return prune.update(tree, state, i, grads=grads), None

    trees = jax.tree.map(lambda *leaves: jnp.stack(leaves), *moved)
    start = {group.name: jnp.ones(group.size, bool) for group in found(name)}
    state, _ = jax.lax.scan(step, start, (trees, jnp.arange(1, 5)))
    total = sum(mask.size for mask in state.values())
    assert sum(int(mask.sum()) for mask in state.values()) == total - round(0.6 * total)
    new, small = jc.rewrite.shrink(apply_fn, moved[-1], example, keep=state, lenient=lenient)
    both = jax.jit(lambda tree, small: (apply_fn(prune.apply(tree, state), example), new(small, example)))
    assert distance(*both(moved[-1], small)) <= TOLERANCE


@pytest.mark.parametrize("name", ["strict", "lenient", "resnet"])
def test_the_view_is_the_mask_of_the_same_choice(name: str) -> None:
    groups, params = found(name), net(name).params
    more = ("l1", "lamp", "fpgm") if name == "lenient" else ()
    for scope, scores in (("group", ("norm_scale", *more)), ("global", ("l2",))):
        for score in scores:
            options: Any = {"score": score, "scope": scope, "minimum": 2, "rules": [(groups.free[0].name, 0.25)]}
            prune = jc.prune.channels(groups, 0.5, **options)
            state = begin(prune, params)
            keep = jc.rewrite.choose(0.5, **options)(groups, params)
            assert {n: m.tolist() for n, m in state.items()} == {n: m.tolist() for n, m in keep.items()}
        masked = named_leaves(jc.rewrite.mask(groups, params, keep))
        for path, leaf in named_leaves(prune.apply(params, state)).items():
            np.testing.assert_array_equal(leaf, masked[path])


@pytest.mark.exhaustive
def test_taylor_waits_for_gradients_and_then_follows_them() -> None:
    groups = found("strict")
    prune = jc.prune.channels(groups, 0.5, score="taylor")
    state = begin(prune, PARAMS)
    assert all(mask.all() for mask in state.values())
    grads = jax.grad(lambda p: (mlp(p, X) ** 2).sum())(PARAMS)
    cut = prune.update(PARAMS, state, 1, grads=grads)
    keep = jc.rewrite.choose(0.5, "taylor", grads=grads)(groups, PARAMS)
    assert {n: m.tolist() for n, m in cut.items()} == {n: m.tolist() for n, m in keep.items()}
    assert jax.tree.all(jax.tree.map(jnp.array_equal, prune.update(PARAMS, cut, 2), cut))
    overflown = jax.tree.map(lambda grad: grad * jnp.inf, grads)  # as loss scaling has it now and then
    stood = jax.jit(prune.update)(PARAMS, state, 1, grads=overflown)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, stood, state))


def test_hard_masks_only_fall_and_soft_ones_come_back() -> None:
    schedule = optax.linear_schedule(0.2, 0.7, 5)
    masks: dict[bool, list[Any]] = {}
    for soft in (False, True):
        prune = jc.prune.channels(found("strict"), schedule, soft=soft)
        states = [begin(prune, PARAMS)]
        for i in range(1, 6):
            states.append(jax.jit(prune.update)(noisy(PARAMS, i), states[-1], i))
        masks[soft] = [np.concatenate([np.asarray(mask) for mask in state.values()]) for state in states]
    hard, soft_ones = ([later & ~earlier for earlier, later in itertools.pairwise(m)] for m in masks.values())
    assert not np.any(hard)
    assert np.any(soft_ones)
    assert [m.sum() for m in masks[False]] == [m.sum() for m in masks[True]]


def test_a_falling_fraction_brings_no_hard_mask_back() -> None:
    prune = jc.prune.channels(found("strict"), lambda step: jnp.where(step < 2, 0.5, 0.25))
    state = prune.update(PARAMS, begin(prune, PARAMS), 1)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, prune.update(PARAMS, state, 5), state))


def test_masked_channels_get_no_gradient_unless_it_is_passed_through() -> None:
    prune = jc.prune.channels(found("strict"), 0.5)
    state = begin(prune, PARAMS)

    def slope(view: jc.Compressor) -> Any:
        return jax.grad(lambda p: (mlp(view.apply(p, state), X) ** 2).sum())(PARAMS)

    cut = ~np.asarray(state["a"])
    assert not np.any(np.asarray(slope(prune)["a"])[:, cut])
    assert not np.any(np.asarray(slope(prune)["b"])[cut])
    passed = slope(jc.straight_through(prune))
    assert np.all(np.asarray(passed["a"])[:, cut].any(0))


def test_it_composes_with_other_views() -> None:
    recipe = jc.partition([(".*", jc.chain(jc.prune.channels(found("strict"), 0.5), jc.quant.fake(8, axis=-1)))])
    state = begin(recipe, PARAMS)
    keep = state[0][0]
    new, small = jc.rewrite.shrink(mlp, jax.jit(recipe.apply)(PARAMS, state), X, keep=keep)
    both = jax.jit(lambda tree, small: (mlp(recipe.apply(tree, state), X), new(small, X)))
    assert distance(*both(PARAMS, small)) <= TOLERANCE


def test_a_function_can_score() -> None:
    prune = jc.prune.channels(found("strict"), 0.5, score=lambda p: {"a": jnp.arange(8), "c": -jnp.arange(6)})
    state = begin(prune, PARAMS)
    assert state["a"].tolist() == [False] * 4 + [True] * 4
    assert state["c"].tolist() == [True] * 3 + [False] * 3
    nan = jc.prune.channels(
        found("strict"), 0.5, score=lambda p: {"a": jnp.full(8, jnp.nan).at[0].set(1), "c": p["c"][0]}
    )
    assert not begin(nan, PARAMS)["a"][0]


def test_notes_say_what_is_asked_and_why_a_leaf_is_left_out() -> None:
    params = {**PARAMS, "count": jnp.array(3)}
    groups = jc.trace.groups(mlp, params, X)
    prune = jc.prune.channels(groups, 0.5, rules=[("c", 1 / 6)])
    notes = prune.describe(params, prune.init(params), 0)
    assert notes["a"] == notes["b"] == jc.Note(sparsity=0.5)
    assert notes["c"].sparsity == pytest.approx(1 / 6)
    assert notes["d"] == jc.Note(skipped="it makes no channel that can be cut")
    assert notes["count"] == jc.Note(skipped="not a floating-point tensor")
    lenient = jc.prune.channels(found("lenient"), 0.5)
    assert lenient.describe(PARAMS, begin(lenient, PARAMS), 0)["c"].sparsity == pytest.approx(0.75)
    rows = jc.measure.summary(prune.apply(params, prune.init(params)), notes=notes)
    assert "0.5" in str(rows) or "50" in str(rows)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"fraction": 1.0}, ArgumentError, r"fraction must be a fraction of channels in \[0, 1\), got 1.0"),
        ({"scope": "layer"}, ArgumentError, "scope must be 'group' or 'global'"),
        ({"score": "l3"}, ArgumentError, "score must be one of l1, l2"),
        ({"score": "hessian"}, ArgumentError, "needs a curvature"),
        ({"combine": "median"}, ArgumentError, "combine must be one of"),
        ({"rules": ["nothing"]}, RuleError, "matches no parameter"),
        ({"minimum": 0}, ArgumentError, "minimum must be at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(wrong: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        jc.prune.channels(found("strict"), **{"fraction": 0.5, **wrong})


def test_a_part_of_the_tree_is_refused() -> None:
    prune = jc.prune.channels(found("resnet"), 0.5)
    with pytest.raises(ArgumentError, match="this tree lacks: give the whole tree"):
        prune.init({"params": net("resnet").params["params"]})
    with pytest.raises(ArgumentError, match=r"'a' of shape \(3, 8\), which has shape \(4, 8\) here"):
        jc.prune.channels(found("strict"), 0.5).init({**PARAMS, "a": jnp.ones((4, 8))})


@pytest.mark.parametrize("name", ["strict", "resnet"])
def test_group_lasso_is_the_sum_of_weighted_norms(name: str) -> None:
    groups, params = found(name), net(name).params
    leaves = {path: np.asarray(leaf, np.float64) for path, leaf in named_leaves(params).items()}
    expected = 0.0
    for group in groups:
        kernels = [m for m in group.members if leaves[m.path].ndim > 1]
        for channel in range(group.size):
            own = [np.take(leaves[m.path], m.indices[channel], m.axis).ravel() for m in kernels]
            entries = np.concatenate(own)
            expected += np.sqrt(entries.size) * np.linalg.norm(entries)
    assert float(jax.jit(functools.partial(jc.prune.group_lasso, groups))(params)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_group_lasso_is_the_same_in_any_unit(scale: float) -> None:
    step = jax.jit(jax.value_and_grad(functools.partial(jc.prune.group_lasso, found("strict"))))
    (value, slope), (wanted, slopes) = step(jax.tree.map(lambda leaf: leaf * scale, PARAMS)), step(PARAMS)
    assert float(value) / scale == pytest.approx(float(wanted), rel=1e-5)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), slope, slopes)


def test_group_lasso_has_a_gradient_where_a_channel_is_zero() -> None:
    dead = jc.rewrite.mask(found("lenient"), PARAMS, {"a": np.arange(8) > 1})
    value, slope = jax.jit(jax.value_and_grad(functools.partial(jc.prune.group_lasso, found("lenient"))))(dead)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))
    column = np.concatenate([np.asarray(PARAMS["a"])[:, 0], np.asarray(PARAMS["c"])[0]])
    slope = jax.jit(jax.grad(functools.partial(jc.prune.group_lasso, found("strict"))))(PARAMS)
    expected = np.sqrt(column.size) * np.asarray(PARAMS["a"])[:, 0] / np.linalg.norm(column)
    np.testing.assert_allclose(slope["a"][:, 0], expected, rtol=1e-5)


def test_group_lasso_drives_whole_channels_to_zero() -> None:
    """Descent on the penalty alone takes every channel down at one speed, so that the weakest are gone first."""
    penalty = jax.jit(jax.grad(functools.partial(jc.prune.group_lasso, found("strict"))))
    params = {**PARAMS, "a": PARAMS["a"] * jnp.array([1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1])}
    params["c"] = params["c"] * jnp.array([1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1])[:, None]
    for _ in range(20):
        params = jax.tree.map(lambda p, g: p - 0.005 * g, params, penalty(params))
    norms = np.linalg.norm(np.concatenate([params["a"].T, params["c"]], axis=1), axis=1)
    assert norms[4:].max() < 0.1 * norms[:4].min()
