"""Distributions reach their total to the unit, give no layer less for more, and name what they cannot reach."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcomp as jc
from jaxcomp.core.errors import ArgumentError, RuleError
from jaxcomp.prune import prune
from jaxcomp.prune.distributions import Layer, erk, fill
from tests.prune import loops

SHAPES = {"bias": (10,), "head": (64, 10), "middle": (3, 3, 8, 16), "stem": (3, 3, 3, 8)}


@pytest.fixture
def params(rng):
    return {path: jnp.asarray(rng.normal(size=shape), jnp.float32) for path, shape in SHAPES.items()}


TOTAL = sum(int(np.prod(shape)) for shape in SHAPES.values())


def zeros(masks):
    return sum(int((~mask).sum()) for mask in masks.values())


@pytest.mark.parametrize("distribution", ["global", "erk", "lamp"])
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.815, 0.97])
def test_the_total_is_reached_to_the_weight(params, distribution, sparsity):
    assert zeros(prune(sparsity, distribution=distribution).init(params)) == round(sparsity * TOTAL)


@pytest.mark.parametrize("density", [0.02, 0.1, 0.3, 0.6, 0.9])
def test_erk_is_the_closed_form(density):
    shapes = list(SHAPES.values())
    layers = [Layer(path, shape, int(np.prod(shape))) for path, shape in SHAPES.items()]
    keep = erk().share(1 - density, layers, 0).keep
    for count, wanted, layer in zip(keep, loops.erk_densities(shapes, density), layers, strict=True):
        assert abs(int(count) - wanted * layer.units) <= 1 + 1e-6 * layer.units


def test_erk_of_resnet_50_is_exact_at_full_size():
    """25 million weights, of which float32 cannot count the total."""
    shapes = [(7, 7, 3, 64), *[(3, 3, 512, 512)] * 8, *[(1, 1, 1024, 2048)] * 2, (2048, 1000)]
    layers = [Layer(str(i), shape, int(np.prod(shape))) for i, shape in enumerate(shapes)]
    total = sum(layer.units for layer in layers)
    for density in (0.013, 0.1, 0.2):
        keep = [int(k) for k in erk().share(1 - density, layers, 0).keep]
        assert sum(keep) == total - round((1 - density) * total)
        for count, wanted, layer in zip(keep, loops.erk_densities(shapes, density), layers, strict=True):
            assert count == pytest.approx(wanted * layer.units, rel=1e-6, abs=2)


def test_quotas_are_rounded_to_the_nearest(rng):
    """Wherever the nearest integers have the total's sum, and by less than a unit everywhere else."""
    assert fill(29, [3.0, 2.0], [1, 1], [99, 99]).tolist() == [17, 12]  # 17.4 and 11.6
    exact = 0
    for _ in range(60):
        slopes = rng.uniform(0.2, 9, int(rng.integers(2, 7))).astype(np.float32)
        total = int(rng.integers(len(slopes) * 8, 400))
        quotas = total * np.float64(slopes) / np.float64(slopes).sum()
        counts = np.asarray(fill(total, slopes, [0] * len(slopes), [999] * len(slopes)), int)
        nearest = np.rint(quotas).astype(int)
        assert counts.sum() == total
        assert (np.abs(counts - quotas) < 1).all()
        exact += nearest.sum() == total
        assert nearest.sum() != total or (counts == nearest).all()
    assert 20 < exact < 60


def test_no_count_falls_when_the_total_rises(rng):
    slopes, most = rng.uniform(0.1, 9, 6), np.array([3, 17, 40, 2, 9, 25])
    rows = np.stack([fill(total, slopes, [1] * 6, most) for total in range(6, most.sum() + 1)])
    np.testing.assert_array_equal(rows.sum(1), np.arange(6, most.sum() + 1))
    assert (np.diff(rows.astype(int), axis=0) >= 0).all()
    assert (rows <= most).all()


@pytest.mark.parametrize(
    "distribution", ["erk", *[pytest.param(own, marks=pytest.mark.exhaustive) for own in ("uniform", "global", "lamp")]]
)
def test_masks_nest_along_a_rising_schedule(params, distribution):
    pruner = prune(optax.polynomial_schedule(0.0, 0.95, 3, 5), distribution=distribution)
    update, state = jax.jit(pruner.update), pruner.init(params)
    for step in range(1, 6):
        new = update(params, state, step)
        assert all((new[path] <= state[path]).all() for path in params)
        assert zeros(new) > zeros(state)
        state = new


def test_lamp_is_the_papers_score_ranked_globally(params):
    masks = prune(0.8, distribution="lamp").init(params)
    scores = np.concatenate([loops.lamp_scores(weights).ravel() for weights in params.values()])
    wanted = loops.top(scores, TOTAL - round(0.8 * TOTAL))
    np.testing.assert_array_equal(np.concatenate([np.ravel(mask) for mask in masks.values()]), wanted)


def test_lamp_holds_where_numbers_are_odd():
    params = {"zero": jnp.zeros(4), "wild": jnp.array([jnp.inf, 1e-30, jnp.nan, 2.0]), "none": jnp.zeros((0, 3))}
    masks = prune(0.5, distribution="lamp").init(params)
    assert masks["wild"].all()
    assert not masks["zero"].any()


def test_dense_layers_are_whole_and_others_make_up_for_them(params):
    for distribution in ("global", "erk"):
        pruner = prune(0.6, distribution=distribution, dense=["stem", ".*bias"])
        masks = pruner.init(params)
        assert masks["stem"].all()
        assert masks["bias"].all()
        assert zeros(masks) == round(0.6 * TOTAL)
        assert pruner.describe(params, masks, 0)["stem"] == jc.Note(skipped="it is kept dense")
    masks = prune(0.5, dense=["stem"]).init(params)
    assert [zeros({path: mask}) for path, mask in masks.items()] == [5, 320, 576, 0]


def test_a_layer_keeps_its_minimum(params):
    params["middle"] *= 1e-3
    emptied = prune(0.9, distribution="global")
    state = emptied.init(params)
    assert not state["middle"].any()
    summary = jc.measure.summary(emptied.apply(params, state), notes=emptied.describe(params, state, 0))
    assert {row.path: row.note for row in summary.rows}["middle"] == "every weight is zero"
    masks = prune(0.9, distribution="global", minimum=7).init(params)
    np.testing.assert_array_equal(masks["middle"], loops.top(np.abs(params["middle"]), 7))
    assert zeros(masks) == round(0.9 * TOTAL)
    assert int(prune(0.99, minimum=7).init(params)["bias"].sum()) == 7


def test_each_layer_can_have_a_sparsity_of_its_own(params):
    pruner = prune(0.5, distribution=[("stem", 0.0), ("head", optax.linear_schedule(0.0, 0.8, 2)), (".*", 0.25)])
    state = pruner.update(params, pruner.init(params), 1)
    assert {path: zeros({path: mask}) for path, mask in state.items()} == {
        "bias": 2, "head": 256, "middle": 288, "stem": 0
    }  # fmt: skip
    assert pruner.describe(params, state, 1)["head"].sparsity == pytest.approx(0.4)
    assert zeros({"rest": prune(0.5, distribution={"stem": 0.0}).init(params)["middle"]}) == 576


def test_what_cannot_be_reached_is_refused_with_what_can(params):
    with pytest.raises(ArgumentError, match=r"'global' cannot reach a sparsity of 0.9: .*'middle'.* allows 0.429"):
        prune(0.9, distribution="global", dense=["middle"]).init(params)
    with pytest.raises(ArgumentError, match=r"'erk' cannot reach a sparsity of 0.999: 400 of 2108 .* minimum"):
        prune(0.999, distribution="erk", minimum=100, dense=["bias"]).init({**params, "bias": jnp.ones(100)})
    whole = {path: leaf for path, leaf in params.items() if path != "bias"}
    with pytest.raises(ArgumentError, match=r"'global' have 32 units .* of 0.01; the nearest are 0 or 0.03125"):
        prune(0.01, pattern=jc.prune.filters(), distribution="global", dense="head").init(whole | {"head": jnp.ones(8)})
    with pytest.raises(RuleError, match="'nothing', matches no parameter"):
        prune(0.5, dense=["nothing"]).init(params)
    with pytest.raises(RuleError, match="'nothing' is none; the nearest is"):
        prune(0.5, distribution={"nothing": 0.5}).init(params)
    with pytest.raises(ArgumentError, match="sparsity of 'head' must be a fraction"):
        prune(0.5, distribution={"head": 1.5})


def test_describe_says_what_is_asked_of_each_layer(params):
    pruner = prune(0.8, distribution="erk")
    state = pruner.init(params)
    notes = pruner.describe(params, state, 0)
    for path, mask in state.items():
        assert notes[path].sparsity == pytest.approx(1 - float(mask.mean()), abs=1e-6)
    assert prune(0.8, distribution="global").describe(params, state, 0)["head"].sparsity == 0.8


def test_a_schedule_passes_through_what_whole_units_cannot_express(params):
    """A number of Python's is on its way like one of optax's, and can be described there."""
    pruner = prune(lambda step: 0.02 * step, pattern=jc.prune.filters())
    state = pruner.update(params["stem"], pruner.init(params["stem"]), 1)
    assert state.all()
    assert pruner.describe(params["stem"], state, 1)[""].sparsity == pytest.approx(0.02)


@pytest.mark.parametrize(("axes", "shape"), [(None, (3, 3, 2, 6)), ((1, 2, 3), (6, 2, 3, 3))])
def test_every_output_keeps_as_many_and_the_next_best_outputs_one_more(rng, axes, shape):
    """Of 18 weights 5.4 are kept: 5 of each output, and 2 more of all."""
    weights = jnp.asarray(rng.normal(size=shape), jnp.float32).at[1, 1].set(0).at[2, 0, 0, 0].set(jnp.nan)
    mask = prune(0.7, distribution=jc.prune.per_output(axes)).init(weights)
    turn = (lambda x: np.asarray(x).reshape(18, 6)) if axes is None else (lambda x: np.asarray(x).reshape(6, 18).T)
    scores = np.where(np.isnan(turn(weights)), np.inf, np.abs(turn(weights)))
    wanted = np.stack([loops.top(column, 5) for column in scores.T], 1)
    sixth = np.stack([loops.top(column, 6) for column in scores.T], 1) & ~wanted
    wanted |= loops.top(np.where(sixth, scores, -1), 108 - round(0.7 * 108) - 30)
    np.testing.assert_array_equal(turn(mask), wanted)
