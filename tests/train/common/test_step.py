"""The training step, against steps written out: what the recipe is shown, and what is trained."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import jaxcomp as jc
from jaxcomp.core.paths import named_leaves
from train import models
from train.common import views
from train.common.step import hard_loss, init_state, make_step, network, on_outputs, shown


class Net(nn.Module):
    """Two layers and no batch norm."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, valid: Any = None) -> jax.Array:
        del train, valid
        return nn.Dense(3)(nn.relu(nn.Dense(8)(x.reshape(len(x), -1))))


MODEL = network(Net(), (0.5,), (0.25,))
RNG = np.random.default_rng(0)
BATCH = {
    "image": RNG.integers(0, 256, (12, 3, 3, 1)).astype(np.uint8),
    "label": RNG.integers(0, 3, 12),
    "valid": np.ones(12, np.float32),
}
OPTIMIZER = optax.sgd(0.5, momentum=0.9)
VARIABLES = MODEL.init(jax.random.key(0), BATCH["image"])


def trained(recipe: jc.Compressor, steps: int = 4, model: Any = MODEL, **how: Any) -> Any:
    step = jax.jit(make_step(on_outputs(model, hard_loss), recipe, OPTIMIZER, record_every=2, **how))
    state = init_state(VARIABLES, recipe, OPTIMIZER, average="ema" in how)
    for _ in range(steps):
        state = step(state, {}, BATCH)
    return state


def loss(params: Any) -> jax.Array:
    return mean_loss(MODEL.infer({"params": params}, BATCH["image"]))


def mean_loss(logits: jax.Array) -> jax.Array:
    return jnp.mean(jc.distill.cross_entropy(logits, BATCH["label"]))


def kernels(recipe: jc.Compressor) -> jc.Compressor:
    return jc.partition([(".*kernel", recipe)])


@pytest.mark.parametrize("score", ["magnitude", "taylor", "snip", "movement"])
def test_scores_and_regrowth_see_the_gradients_at_the_view(score: str) -> None:
    regrow = "rigl" if score == "magnitude" else None
    recipe = kernels(jc.prune.prune(0.5, score, regrow=regrow))
    params, compressor = VARIABLES["params"], recipe.init(VARIABLES["params"])
    opt_state, first = OPTIMIZER.init(params), compressor
    for i in range(4):
        view = recipe.apply(params, compressor)
        at_view = jax.grad(loss)(view)
        updates, opt_state = OPTIMIZER.update(recipe.apply(at_view, compressor), opt_state)  # the view is linear
        params = optax.apply_updates(params, updates)
        compressor = recipe.update(params, compressor, i + 1, grads=at_view)
    state = trained(recipe)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), state.params, params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), state.compressor, compressor)
    masks = [np.asarray(leaf) for leaf in jax.tree.leaves(state.compressor) if leaf.dtype == bool]
    assert masks
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(compressor), strict=True))


def test_what_a_recipe_learns_is_trained_with_the_parameters() -> None:
    recipe = kernels(jc.prune.learned_threshold(-3.0))
    start = recipe.init(VARIABLES["params"])
    both: Any = VARIABLES["params"], jc.learned(start)
    opt_state = OPTIMIZER.init(both)
    for _ in range(4):
        grads = jax.grad(lambda both: loss(recipe.apply(both[0], jc.with_learned(start, both[1]))))(both)
        updates, opt_state = OPTIMIZER.update(grads, opt_state)
        both = optax.apply_updates(both, updates)
    state = trained(recipe)
    got = state.params, jc.learned(state.compressor)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), got, both)
    assert all(float(value) != -3.0 for value in jc.learned(state.compressor).values())


def test_the_state_fits_its_parameters_at_every_step() -> None:
    recipe = kernels(jc.prune.magnitude(optax.linear_schedule(0.0, 0.8, 4)))
    state = trained(recipe)
    jax.tree.map(np.testing.assert_array_equal, state.compressor, recipe.update(state.params, state.compressor, 4))


@pytest.mark.parametrize(
    ("name", "options", "heads"),
    [("vit", {"patch": 1, "width": 4, "depth": 1, "heads": 2, "distilled": True}, 2),
     pytest.param("googlenet", {"width": 1 / 16, "halvings": 0, "auxiliary": True,
                                "stages": (((16,) * 6,), ((16,) * 6,) * 4)}, 3, marks=pytest.mark.exhaustive)],
)  # fmt: skip
def test_heads_beside_the_first_are_taught_at_three_tenths(name: str, options: Any, heads: int) -> None:
    model = network(models.create(name, 3, options), (0.5,), (0.25,))
    fresh = jax.jit(model.init)(jax.random.key(0), BATCH["image"])
    optimizer = optax.sgd(1.0)
    step = jax.jit(make_step(on_outputs(model, hard_loss), jc.identity(), optimizer, record_every=1))
    state = step(init_state(fresh, jc.identity(), optimizer), {}, BATCH)

    def total(params: Any) -> jax.Array:
        (first, *others), _ = model.learn({**fresh, "params": params}, BATCH)
        assert len(others) == heads - 1
        return mean_loss(first) + 0.3 * sum(map(mean_loss, others))

    lost, slopes = jax.jit(jax.value_and_grad(total))(fresh["params"])
    assert all(np.any(leaf) for path, leaf in named_leaves(slopes).items() if "head" in path.lower())
    np.testing.assert_allclose(state.sums["loss"] / 12, lost, rtol=1e-5)
    moved = jax.tree.map(jnp.subtract, fresh["params"], slopes)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), state.params, moved)


def test_a_batch_in_parts_gives_the_whole_batch_s_gradients() -> None:
    recipe = kernels(jc.prune.magnitude(0.5))
    whole, parts = (trained(recipe, parts=count) for count in (1, 3))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), parts, whole)


def test_averages_are_those_of_a_loop_and_hold_what_is_pruned_at_zero() -> None:
    recipe, ema = kernels(jc.prune.magnitude(optax.linear_schedule(0.0, 0.6, 4))), 0.3
    mean = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), VARIABLES["params"])
    for n in range(4):
        decay, params = min(ema, (1 + n) / (10 + n)), trained(recipe, n + 1).params
        mean = jax.tree.map(lambda a, b, d=decay: d * a + (1 - d) * np.asarray(b, np.float64), mean, params)
    state = trained(recipe, ema=ema)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), state.average["params"], mean)
    found, view = (
        named_leaves(shown(state, recipe)["params"]),
        named_leaves(recipe.apply(state.params, state.compressor)),
    )
    assert sum((leaf == 0).sum() for leaf in found.values()) > 0.5 * 9 * 8
    for path, leaf in found.items():
        np.testing.assert_array_equal(leaf == 0, view[path] == 0)


def test_half_precision_computes_in_it_and_trains_float32() -> None:
    half = network(Net(), (0.5,), (0.25,), jnp.bfloat16)
    dots = [
        eqn for eqn in jax.make_jaxpr(half.infer)(VARIABLES, BATCH["image"]).eqns if eqn.primitive.name == "dot_general"
    ]
    assert [str(eqn.outvars[0].aval.dtype) for eqn in dots] == ["bfloat16"] * 2
    assert half.infer(VARIABLES, BATCH["image"]).dtype == jnp.float32
    one, other = (trained(jc.identity(), model=model) for model in (half, MODEL))
    for a, b in zip(*(jax.tree.leaves(state) for state in (one, other)), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=0.05, atol=0.02)
    assert any((a != b).any() for a, b in zip(*(jax.tree.leaves(s.params) for s in (one, other)), strict=True))


def test_labels_are_spread_over_all_classes() -> None:
    smooth = views.smoothed(None, 0.3, 3)(jnp.int32(0), BATCH)["label"]
    wanted = [[0.8 if label == c else 0.1 for c in range(3)] for label in BATCH["label"]]
    np.testing.assert_allclose(smooth, wanted, rtol=1e-6)
    again = views.smoothed(lambda step, batch: {**batch, "label": smooth}, 0.3, 3)(jnp.int32(0), BATCH)["label"]
    np.testing.assert_allclose(again, 0.7 * np.asarray(wanted) + 0.1, rtol=1e-6)  # of mixtures too


def test_branches_of_a_vit_are_left_out_in_training_alone() -> None:
    """Of one encoder in two, two branches: equal images have four results, one of them what inference computes."""
    options = {"patch": 4, "width": 8, "depth": 2, "heads": 2}
    plain, dropping = (
        network(models.create("vit", 3, options | own), (0.5,), (0.25,)) for own in ({}, {"drop_path": 0.5})
    )
    image = np.broadcast_to(RNG.integers(0, 256, (1, 8, 8, 1)).astype(np.uint8), (256, 8, 8, 1))
    variables = plain.init(jax.random.key(0), image[:1])
    jax.tree.map(np.testing.assert_array_equal, variables, dropping.init(jax.random.key(0), image[:1]))
    np.testing.assert_array_equal(plain.infer(variables, image[:2]), dropping.infer(variables, image[:2]))
    learn = jax.jit(lambda step: dropping.learn(variables, {"image": image, "valid": np.ones(256), "step": step})[0])
    first, again, other = (np.asarray(learn(step)) for step in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    kinds, counts = np.unique(first.round(4), axis=0, return_counts=True)
    assert len(kinds) == 4
    assert counts.min() > 256 / 4 - 28  # 4 deviations
