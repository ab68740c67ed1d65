"""Clustered views: as few values as were asked for, near the least squared error, with the papers' gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcomp as jc
from jaxcomp.core.errors import ArgumentError
from jaxcomp.share import starts

STARTS = ("optimal", "linear", "density", "kmeans++")


def error(w: np.ndarray, view: np.ndarray) -> float:
    return float(np.square(np.asarray(w, np.float64) - np.asarray(view, np.float64)).sum())


@pytest.mark.parametrize("start", STARTS)
def test_centers_come_near_the_least_error(rng, start):
    w = rng.normal(size=(64, 50)).astype(np.float32)
    share = jc.share.cluster(8, start=start)
    view = share.apply(w, share.init(w))
    best = jc.share.optimal(w, 8)
    least = np.square(w.reshape(-1, 1) - best).min(1).sum()
    assert len(np.unique(view)) == 8
    assert error(w, view) <= least * {"optimal": 1.001, "density": 1.1}.get(start, 1.5)


def test_each_channel_has_a_codebook_and_all_tensors_may_have_one(rng):
    params = {"a": rng.normal(size=(40, 3)).astype(np.float32), "b": rng.normal(size=30).astype(np.float32)}
    own = jc.partition([("a", jc.share.cluster(4, axis=-1))])
    assert [len(np.unique(column)) for column in np.asarray(own.apply(params, own.init(params))["a"]).T] == [4, 4, 4]
    shared = jc.share.cluster(5, scope="global")
    view = shared.apply(params, shared.init(params))
    assert len(np.unique(np.concatenate([np.ravel(leaf) for leaf in view.values()]))) == 5


@pytest.mark.parametrize("k", [4, 40])
def test_values_that_are_few_already_stay_bit_for_bit(rng, k):
    levels = np.sort(rng.normal(size=k)).astype(np.float32)
    w = jnp.asarray(rng.choice(levels, size=(30, k)))
    share = jc.share.cluster(k)
    assert (share.apply(w, share.init(w)) == w).all()


def test_zeros_and_the_number_of_values_survive_pruning_sharing_and_training(rng):
    w, target = (jnp.asarray(rng.normal(size=(32, 16)), jnp.float32) for _ in range(2))
    recipe = jc.chain(jc.prune.magnitude(0.5), jc.share.cluster(6, learn=True), jc.quant.fake(8))
    state, tx = recipe.init(w), optax.adam(0.05)
    both = w, jc.learned(state)
    opt_state = tx.init(both)

    def loss(both, state):
        w, values = both
        return jnp.square(recipe.apply(w, jc.with_learned(state, values)) - target).mean()

    @jax.jit
    def step(both, opt_state, state, i):
        value, grads = jax.value_and_grad(loss)(both, state)
        updates, opt_state = tx.update(grads, opt_state, both)
        w, values = optax.apply_updates(both, updates)
        return (w, values), opt_state, recipe.update(w, jc.with_learned(state, values), i), value

    losses = []
    for i in range(8):
        both, opt_state, state, value = step(both, opt_state, state, i + 1)
        losses.append(float(value))
        view = np.asarray(recipe.apply(both[0], state))
        assert (view == 0).mean() >= 0.5
        assert len(np.unique(view)) <= 6
    assert losses[-1] < losses[0]


def test_a_centers_gradient_is_the_sum_over_its_weights(rng):
    w, g = (jnp.asarray(rng.normal(size=200), jnp.float32) for _ in range(2))
    share = jc.share.cluster(5, learn=True)
    state = share.init(w)
    centers = jc.learned(state)

    def shown(w, values):
        return (share.apply(w, jc.with_learned(state, values)) * g).sum()

    of_w, of_centers = jax.grad(shown, (0, 1))(w, centers)
    (book,) = (np.asarray(each) for each in centers.values())
    nearest = np.abs(np.asarray(w)[:, None] - book).argmin(1)
    wanted = np.bincount(nearest, np.asarray(g, np.float64), minlength=5)
    np.testing.assert_allclose(next(iter(of_centers.values()))[0], wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(of_w, g)


def test_many_centers_are_found_by_halves_as_few_one_after_another(rng):
    w = jnp.asarray(rng.normal(size=(50, 6)), jnp.float32)
    for axis in (None, -1):
        share = jc.share.cluster(40, axis=axis)
        centers = share.init(w).centers
        nearest = np.abs(np.asarray(w)[..., None] - np.asarray(centers)).argmin(-1)
        wanted = np.take_along_axis(np.broadcast_to(centers, (*w.shape, 40)), nearest[..., None], -1)[..., 0]
        np.testing.assert_array_equal(share.apply(w, share.init(w)), wanted)


def test_dkm_shows_the_nearest_center_and_learns_by_the_soft_choice(rng):
    w = jnp.asarray(rng.normal(size=60), jnp.float32)
    share = jc.share.dkm(3, temperature=0.5, rounds=1)
    state = share.init(w)
    c = np.asarray(state.centers, np.float64).reshape(-1)
    assert set(np.unique(share.apply(w, state))) <= set(np.float32(c))

    def soft(w):
        d = np.square((w[:, None] - c) / ((c.max() - c.min()) / 2)) / 0.5
        a = np.exp(-d) / np.exp(-d).sum(1, keepdims=True)
        return (a @ ((a * w[:, None]).sum(0) / a.sum(0))).sum()

    x = np.asarray(w, np.float64)
    slopes = [(soft(x + d) - soft(x - d)) / 2e-5 for d in np.eye(60)[:5] * 1e-5]
    np.testing.assert_allclose(jax.grad(lambda w: share.apply(w, state).sum())(w)[:5], slopes, rtol=1e-3, atol=1e-3)


def test_what_is_wrong_is_said(rng):
    w = {"w": jnp.asarray(rng.normal(size=(3, 2)), jnp.float32)}
    for make, words in (
        (lambda: jc.share.cluster(0), "k is a number of centers, from 1 to 65,536; got 0"),
        (lambda: jc.share.cluster(4, scope="tensor"), "scope must be 'layer' or 'global'"),
        (lambda: jc.share.cluster(4, start="best"), "start must be one of 'optimal'"),
        (lambda: jc.share.cluster(4, scope="global", axis=0), "has no axis"),
        (lambda: jc.share.dkm(4, temperature=0), "temperature must be above 0"),
        (lambda: jc.share.cluster(7).init(w), r"w: 7 centers for 6 weights \(shape \(3, 2\), axis None\)"),
        (lambda: jc.share.cluster(7, scope="global").init(w), "7 centers for 6 weights in all"),
        (lambda: jc.share.cluster(2).init({"w": w["w"].at[0, 0].set(jnp.nan)}), "w: the weights hold NaN or infinity"),
    ):
        with pytest.raises(ArgumentError, match=words):
            make()


def test_starts_are_the_papers(rng):
    from jaxcomp.share.histogram import BINS, histogram

    found = histogram([jnp.asarray(rng.normal(size=3000), jnp.float32)])
    np.testing.assert_allclose(starts.linear(found, 4), BINS * np.array([1, 3, 5, 7]) / 8)
    below = np.cumsum(np.asarray(found.counts))[np.asarray(starts.density(found, 4)).astype(int)] / 3000
    np.testing.assert_allclose(below, [0.125, 0.375, 0.625, 0.875], atol=0.01)


@pytest.mark.parametrize("axis", [None, -1])
def test_important_weights_pull_centers_to_the_least_weighted_error(rng, axis):
    w = rng.normal(size=(300, 2)).astype(np.float32)
    f = np.float32(rng.lognormal(sigma=2.0, size=w.shape))
    share = jc.share.cluster(6, axis=axis, importance={"w": f})
    view = np.asarray(share.apply({"w": w}, share.init({"w": w}))["w"], np.float64)
    own = [(w, f, view)] if axis is None else [(w[:, i], f[:, i], view[:, i]) for i in range(2)]
    for x, weight, seen in own:
        best = jc.share.optimal(x, 6, importance=weight)
        least = (weight * np.square(x[..., None] - best).min(-1)).sum()
        plain = jc.share.cluster(6)
        other = np.asarray(plain.apply({"w": x}, plain.init({"w": x}))["w"])
        assert (weight * np.square(x - seen)).sum() < 1.05 * least
        assert (weight * np.square(x - other)).sum() > 1.2 * least


def test_importance_that_is_alike_changes_next_to_nothing(rng):
    params = {"w": rng.normal(size=400).astype(np.float32)}
    views = [
        share.apply(params, share.init(params))["w"]
        for share in (jc.share.cluster(5), jc.share.cluster(5, importance={"w": np.full(400, 3.0)}))
    ]
    np.testing.assert_allclose(views[0], views[1], atol=2e-3)


@pytest.mark.parametrize(
    ("importance", "match"),
    [
        ({"w": -np.ones(9)}, "below 0"),
        ({"w": np.full(9, np.nan)}, "NaN"),
        ({"v": np.ones(9)}, r"'w': needs importance of shape \(9,\), and has none; there are 'v'"),
        ({"w": np.ones(8)}, r"'w': needs importance of shape \(9,\), and has that of shape \(8,\)"),
    ],
)
def test_importance_that_does_not_fit_is_told(importance, match):
    with pytest.raises(ArgumentError, match=match):
        jc.share.cluster(3, importance=importance).init({"w": np.arange(9.0, dtype=np.float32)})
