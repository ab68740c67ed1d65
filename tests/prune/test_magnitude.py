"""Magnitude pruning zeroes exactly as many weights as asked, the smallest ones, and says what was asked."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcomp as jc
from jaxcomp.core.errors import ArgumentError, JaxcompError
from jaxcomp.prune.magnitude import magnitude_masks


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.875, 0.9999])
def test_each_tensor_has_exactly_the_zeros_asked_for(rng, sparsity):
    weights = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in [(40, 25), (7,), (3, 3, 2, 5)]]
    for weight, mask in zip(weights, magnitude_masks(weights, sparsity), strict=True):
        kept = max(weight.size - round(sparsity * weight.size), 1)
        assert int(mask.sum()) == kept
        smallest_kept = np.abs(np.asarray(weight))[np.asarray(mask)].min()
        assert (np.abs(np.asarray(weight))[~np.asarray(mask)] <= smallest_kept).all()


def test_global_scope_ranks_all_tensors_as_one(rng):
    weights = [jnp.asarray(rng.uniform(low, low + 1, size), jnp.float32) for low, size in [(0, 40), (1, 60)]]
    first, second = magnitude_masks(weights, 0.4, "global")
    assert not first.any()
    assert second.all()


def test_ties_are_broken_by_position():
    assert magnitude_masks([jnp.ones((2, 4))], 0.5)[0].tolist() == [[True] * 4, [False] * 4]


def test_the_cubic_schedule_is_zhu_and_guptas(rng):
    """s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (n dt))**3."""
    initial, final, begin, steps, size = 0.1, 0.8, 2, 8, 1000
    schedule = optax.polynomial_schedule(initial, final, 3, steps, transition_begin=begin)
    params = {"w": jnp.asarray(rng.normal(size=size), jnp.float32)}
    prune = jc.prune.magnitude(schedule)
    state, update = prune.init(params), jax.jit(prune.update)
    for t in range(13):
        sparsity = final + (initial - final) * (1 - min(max(t - begin, 0), steps) / steps) ** 3
        zeros = size - int(update(params, state, t)["w"].sum())
        assert abs(zeros - sparsity * size) < 0.5 + 1e-3
        assert prune.describe(params, state, t)["w"].sparsity == pytest.approx(sparsity, abs=1e-6)


def test_a_mask_follows_the_weights():
    prune = jc.prune.magnitude(0.5)
    params = {"w": jnp.array([1.0, 2.0, 3.0, 4.0])}
    state = prune.update({"w": params["w"][::-1]}, prune.init(params), 1)
    assert state["w"].tolist() == [True, True, False, False]
    assert prune.apply(params, state)["w"].tolist() == [1.0, 2.0, 0.0, 0.0]


def test_gradients_are_masked():
    prune = jc.prune.magnitude(0.5)
    w = jnp.array([1.0, -4.0, 3.0, 2.0])
    gradient = jax.grad(lambda w: jnp.sum(jnp.arange(1.0, 5.0) * prune.apply(w, prune.init(w))))(w)
    assert gradient.tolist() == [0.0, 2.0, 3.0, 0.0]


def test_what_is_not_finite_is_kept_where_it_shows():
    w = jnp.array([jnp.nan, 5.0, -jnp.inf, 0.1])
    view = jc.prune.magnitude(0.5).apply(w, jc.prune.magnitude(0.5).init(w))
    np.testing.assert_array_equal(view, [np.nan, 0.0, -np.inf, 0.0])
    assert jc.prune.magnitude(0.5).apply(jnp.array([1.0, jnp.nan]), jnp.array([True, False])).tolist() == [1.0, 0.0]


def test_describe_says_why_a_leaf_is_left_out():
    prune = jc.prune.magnitude(0.25)
    params = {"w": jnp.ones(4), "count": jnp.array(3)}
    notes = prune.describe(params, prune.init(params), 0)
    assert notes == {"w": jc.Note(sparsity=0.25), "count": jc.Note(skipped="not a floating-point tensor")}


@pytest.mark.parametrize("sparsity", [1.0, -0.1, float("nan"), 1, 2.5, float("inf")])
def test_a_sparsity_that_is_no_fraction_is_refused(sparsity):
    with pytest.raises(ArgumentError, match=r"sparsity must be a fraction of zeros in \[0, 1\), got"):
        jc.prune.magnitude(sparsity)
    assert issubclass(ArgumentError, (JaxcompError, ValueError))


def test_another_scope_is_refused():
    with pytest.raises(ArgumentError, match="scope must be 'layer' or 'global', got 'model'"):
        jc.prune.magnitude(0.5, scope="model")


def test_a_schedules_value_is_checked_where_it_is_concrete_and_clipped_where_not():
    prune = jc.prune.magnitude(lambda step: step * 0.5)
    params = {"w": jnp.arange(1.0, 5.0)}
    state = prune.init(params)
    with pytest.raises(ArgumentError, match="the sparsity schedule's value at step 2 must be"):
        prune.update(params, state, 2)
    assert jax.jit(prune.update)(params, state, 2)["w"].tolist() == [False, False, False, True]


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_complex_weights_are_ranked_by_their_modulus(rng, scope):
    """Beside real ones: as float64 NumPy has it, whatever their phases."""
    values = rng.normal(size=(2, 6, 8)) + 1j * rng.normal(size=(2, 6, 8))
    params = {"a": values[0].astype(np.complex64), "b": values[1].real.astype(np.float32)}
    prune = jc.chain(jc.prune.magnitude(0.5, scope=scope), jc.quant.fake(8))
    state = jax.jit(prune.init)(params)
    view = prune.apply(params, state)
    sizes = {name: np.abs(leaf.astype(np.complex128)) for name, leaf in params.items()}
    for name, size in sizes.items():
        among = np.concatenate([own.ravel() for own in (sizes.values() if scope == "global" else [size])])
        np.testing.assert_array_equal(np.asarray(view[name]) != 0, size > np.median(among))
    np.testing.assert_array_equal(view["a"], np.where(view["a"] != 0, params["a"], 0))
    assert view["a"].dtype == jnp.complex64
    assert jc.prune.kept(prune, params, state)["a"].sum() == (np.asarray(view["a"]) != 0).sum()
    assert prune.describe(params, state, 0)["a"].sparsity == 0.5
    slopes = jax.grad(lambda p: sum(jnp.sum(jnp.abs(leaf) ** 2) for leaf in jax.tree.leaves(prune.apply(p, state))))
    assert not np.asarray(slopes(params)["a"])[np.asarray(view["a"]) == 0].any()


def test_scores_of_gradients_leave_complex_weights_with_a_note():
    params = {"a": jnp.arange(4) * 1j, "b": jnp.arange(4.0)}
    prune = jc.prune.prune(0.5, "taylor")
    state = prune.update(params, prune.init(params), 1, grads=params)
    assert jnp.array_equal(prune.apply(params, state)["a"], params["a"])
    assert "complex" in prune.describe(params, state, 1)["a"].skipped


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float8_e4m3fn", "complex64"])
def test_the_hosts_view_is_that_of_jit_and_compiles_nothing(rng, monkeypatch, dtype):
    w = jnp.asarray(np.where(rng.random((9, 7)) < 0.2, [[np.nan], [-0.0], [1.0]] * 3, rng.normal(size=(9, 7))), dtype)
    params, prune = {"w": w, "count": jnp.array(3)}, jc.prune.magnitude(0.5)
    state = prune.init(params)
    compiled = jax.jit(prune.apply)(params, state)
    monkeypatch.setattr("jaxcomp.core.leaves.together", lambda *args, **named: pytest.fail("it was compiled"))
    view = prune.apply(params, state)
    assert view["w"].dtype == w.dtype
    assert [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(view)] == [
        np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(compiled)
    ]
