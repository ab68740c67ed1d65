"""What was trained, step sizes and all, is what runs in integers; its gradients are the papers'."""

import functools
import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxcomp as jc
from jaxcomp.core.errors import ArgumentError
from jaxcomp.rewrite import Scheme, densify, qat, quantize
from jaxcomp.rewrite.quant import integers
from tests.rewrite import models
from tests.rewrite.channels.test_models import CASES
from tests.rewrite.lowrank.test_factors import normal
from tests.rewrite.parity import TOLERANCE, distance, quick, randomize
from tests.rewrite.quant.test_quantize import PARAMS, STACK, X, layers, model, scanned

LAYER = {"w": normal(6, 5, seed=3)}


def layer(p: Any, x: jax.Array) -> jax.Array:
    return x @ p["w"]


def weighted(function: Callable[..., Any], both: Any, x: jax.Array, weights: jax.Array) -> Any:
    """The gradients of a weighted sum of results, in the parameters and in x."""
    return quick(jax.grad(lambda both, x: (function(both, x) * weights).sum(), (0, 1)))(both, x)


# Gradients at a site, in float64 by the papers' formulas.


class Rounding:
    """``x`` rounded to integers of a grid, with what gradients make of it."""

    def __init__(self, x: Any, scale: Any, beta: float | None, low: int, high: int):
        x, self.scale = np.asarray(x, np.float64), np.asarray(scale, np.float64)
        zero = 0.0 if beta is None else float(np.round(-beta / self.scale))
        self.y = x / self.scale + zero
        self.within = (self.y >= low) & (self.y <= high)
        codes = np.clip(np.round(x / self.scale) + zero, low, high)
        self.value, self.codes, self.zero = (codes - zero) * self.scale, codes, zero
        self.end = np.where(self.y < low, low, high)

    def to_scale(self, pact: bool) -> Any:
        within = 0 if pact else self.codes - self.y
        ends = self.end - self.zero if pact else self.end
        return np.where(self.within, within, ends)


def test_codes_are_computed_once() -> None:
    """A convolution's gradients transpose its input: what rounds it is not run again for each."""
    numbers = ("NHWC", "HWIO", "NHWC")

    def net(p: Any, x: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(x * p["g"], p["w"], (1, 1), "SAME", dimension_numbers=numbers)

    params, x = {"g": jnp.ones(3), "w": normal(3, 3, 3, 8, seed=1)}, normal(2, 8, 8, 3, seed=2)
    frozen, both = qat(net, params, [x], weight_grids="fit", input_grids="average")
    grads = jax.jit(jax.grad(lambda both, x: jnp.square(frozen(both, x)).sum()))
    program = grads.lower(both, x).compile().as_text()
    codes_and_where_they_are_clipped = 2
    assert len(re.findall(r"= f32\[2,8,8,3\]\S* round-nearest-even", program)) == codes_and_where_they_are_clipped


@pytest.mark.parametrize(
    ("method", "kind"),
    [("lsq", "unsigned"), ("lsq", "symmetric"), ("lsq", "affine"), ("pact", "unsigned"), ("pact", "symmetric")],
)
def test_a_site_has_the_papers_gradients(method: Any, kind: str) -> None:
    x = jnp.abs(X) if kind == "unsigned" else X
    train, both = qat(
        layer,
        LAYER,
        [x],
        Scheme(3, input_bits=4, input_symmetric=kind == "symmetric"),
        weight_grids=method,
        input_grids=method,
    )
    steps = both["steps"]
    steps["weights"]["w"]["scale"] *= 0.8
    steps["inputs"]["w"]["scale"] *= 0.7  # much lies beyond
    weights = normal(4, 5, seed=9)
    grads, slopes = weighted(train, both, x, weights)
    scale = steps["inputs"]["w"]["scale"]
    beta = float(steps["inputs"]["w"]["offset"]) if kind == "affine" else None
    assert ("offset" in steps["inputs"]["w"]) == (kind == "affine")
    low, high = {"unsigned": (0, 15), "symmetric": (-7, 7), "affine": (-8, 7)}[kind]
    a, w = Rounding(x, scale, beta, low, high), Rounding(LAYER["w"], steps["weights"]["w"]["scale"], None, -3, 3)
    assert 0 < a.within.mean() < 1
    assert 0 < w.within.mean() < 1
    at_a, at_w = np.asarray(weights, np.float64) @ w.value.T, a.value.T @ np.asarray(weights, np.float64)
    close = functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=1e-5)
    close(slopes, at_a * a.within)
    close(grads["params"]["w"], at_w * w.within)
    found = grads["steps"]
    pact = method == "pact"
    close(found["weights"]["w"]["scale"], (at_w * w.to_scale(pact)).sum(0, keepdims=True) / np.sqrt(6 * 3))
    members = 6 * high  # an example's numbers, whatever the batch
    if kind != "affine":
        close(found["inputs"]["w"]["scale"], (at_a * a.to_scale(pact)).sum() / np.sqrt(members))
        return
    # LSQ+: beyond the ends beta moves the result; so does the scale, but for what rounding beta to a code leaves.
    ends = np.where(a.within, a.codes - a.y, a.end - a.zero - beta / a.scale)
    close(found["inputs"]["w"]["scale"], (at_a * ends).sum() / np.sqrt(members))
    close(found["inputs"]["w"]["offset"], (at_a * ~a.within).sum() / np.sqrt(members))


def test_the_slope_of_a_sign_is_the_callers() -> None:
    train, both = qat(layer, LAYER, [X], Scheme(1, input_bits=1))
    weights = normal(4, 5, seed=9)
    for slope in (jc.quant.clipped, jc.quant.approximate_sign):
        grads, slopes = weighted(functools.partial(train, slope=slope), both, X, weights)
        own, scale = (np.asarray(both["steps"][of]["w"]["scale"], np.float64) for of in ("weights", "inputs"))
        signs = np.sign(np.asarray(X, np.float64)) * scale, np.sign(np.asarray(LAYER["w"], np.float64)) * own
        at_x, at_w = np.asarray(weights, np.float64) @ signs[1].T, signs[0].T @ np.asarray(weights, np.float64)
        np.testing.assert_allclose(slopes, at_x * np.asarray(slope(X / scale)), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(
            grads["params"]["w"], at_w * np.asarray(slope(LAYER["w"] / own)), rtol=1e-4, atol=1e-5
        )


# The trained function and the integer one.


class TrainedOn:
    """A model to train: the function that is evaluated, that which is trained (with aux), parameters and a batch."""

    def __init__(self, evaluated: Any, trained: Any, params: Any, x: Any):
        self.evaluated, self.trained, self.params, self.x = evaluated, trained, params, x


def subject(name: str) -> TrainedOn:
    if name == "live batch norm":
        case = CASES["resnet"]
        params = randomize(jax.eval_shape(case.model.init, jax.random.key(0), case.example))
        train = models.BasicResNet(train=True)
        return TrainedOn(
            case.model.apply, lambda v, x: train.apply(v, x, mutable=["batch_stats"])[0], params, case.example
        )
    if name == "scanned":
        return TrainedOn(scanned, scanned, {"head": normal(6, 5), "w": STACK}, X)
    function, params, x = model(name)
    return TrainedOn(function, function, params, x)


CHEAP = ("folded", "live batch norm", "scanned")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in CHEAP else pytest.mark.exhaustive) for n in (*CHEAP, "mobile", "vit", "nnx")],
)
@pytest.mark.parametrize("method", ["lsq", pytest.param("fit", marks=pytest.mark.exhaustive)])
def test_what_was_trained_runs_in_integers(name: str, method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = subject(name)
    options = (
        {"weight_grids": "lsq", "input_grids": "lsq"}
        if method == "lsq"
        else {"weight_grids": "fit", "input_grids": "average"}
    )
    evaluated, both = qat(own.evaluated, own.params, [own.x], Scheme(4, input_bits=4), **options)
    trained, tx = evaluated.on(own.trained), optax.sgd(1e-3)

    def loss(both: Any) -> Any:
        out, ranges = trained.observed(both, own.x)
        return jnp.square(out).mean(), ranges

    @quick
    def step(both: Any, opt_state: Any) -> Any:
        (_, ranges), grads = jax.value_and_grad(loss, has_aux=True)(both)
        updates, opt_state = tx.update(grads, opt_state)
        return optax.apply_updates(both, updates) | {"ranges": ranges}, opt_state

    start, opt_state = both, tx.init(both)
    for _ in range(3):
        both, opt_state = step(both, opt_state)
    moved = both["steps"] if method == "lsq" else both["ranges"]
    assert distance(start["steps"] if method == "lsq" else start["ranges"], moved) > 0
    new, packed = evaluated.quantized(both, own.x)
    sums: list[Any] = []
    total = integers.total
    monkeypatch.setattr(integers, "total", lambda *args: sums.append(total(*args)) or sums[-1])

    def observed(run: Callable[..., Any]) -> Callable[..., Any]:
        def with_sums(params: Any, x: Any) -> Any:
            sums.clear()
            return run(params, x), () if name == "scanned" else list(sums)

        return with_sums

    more = jnp.concatenate([own.x, own.x[::-1] * 0.7])
    out, sums_trained = quick(observed(evaluated))(both, more)
    out_integer, sums_integer = quick(observed(new))(packed, more)
    for one, other in zip(sums_trained, sums_integer, strict=True):
        np.testing.assert_array_equal(one, other)
    assert name == "scanned" or len(sums_integer) == len([row for row in new.report.rows if row.inputs])
    assert distance(out, out_integer) <= TOLERANCE
    assert new.report.rows == evaluated.report.rows


def test_one_tensor_has_one_step() -> None:
    def residual(p: Any, x: jax.Array) -> jax.Array:
        return jax.nn.relu(x @ p["a"]) @ p["c"] + x @ p["b"]

    params = {"a": normal(6, 6), "b": normal(6, 5), "c": normal(6, 5)}
    train, both = qat(residual, params, [X], Scheme(4))
    assert both["steps"]["inputs"].keys() == {"a", "c"}
    assert both["steps"]["weights"].keys() == {"a", "b", "c"}
    both["steps"]["inputs"]["a"]["scale"] *= 1.3
    new, packed = train.quantized(both, X)
    assert packed["a"].parts["input_scale"] == packed["b"].parts["input_scale"]
    np.testing.assert_array_equal(quick(train)(both, X), quick(new)(packed, X))
    _, apart = qat(residual, params, [X], [("a", Scheme(4)), (".*", Scheme(4, input_bits=4))])
    assert apart["steps"]["inputs"].keys() == {"a", "b", "c"}


# Ranges.


def test_moving_averages_are_numpys_and_touch_no_gradient() -> None:
    batches = [X * factor for factor in (1.0, 3.0, 0.2, -2.0)]
    train, both = qat(layers, PARAMS, batches[:1], Scheme(8), weight_grids="fit", input_grids="average", momentum=0.8)
    run = quick(lambda both, x: train.observed(both, x))
    low, high = (np.asarray(both["ranges"]["a"][end], np.float64) for end in ("low", "high"))
    for x in batches[1:]:
        out, ranges = run(both, x)
        np.testing.assert_array_equal(out, quick(train)(both, x))
        both = both | {"ranges": ranges}
        low, high = (
            0.8 * end + 0.2 * np.float64(new) for end, new in ((low, min(x.min(), 0)), (high, max(x.max(), 0)))
        )
    np.testing.assert_allclose([both["ranges"]["a"][end] for end in ("low", "high")], [low, high], rtol=1e-5)
    assert both["ranges"].keys() == {"a", "b"}
    assert both["ranges"]["b"]["low"] == 0  # of what relu left

    def loss(both: Any, observe: bool) -> Any:
        return train.observed(both, X)[0].sum() if observe else train(both, X).sum()

    with_it, without = (quick(jax.grad(functools.partial(loss, observe=o)))(both) for o in (True, False))
    jax.tree.map(np.testing.assert_array_equal, with_it, without)
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(with_it["ranges"]))


def test_layers_of_a_stack_and_runs_of_a_loop_have_ranges() -> None:
    params = {"head": normal(6, 5), "w": STACK}
    train, both = qat(scanned, params, [X], Scheme(8), input_grids="average", momentum=0.0)
    _, ranges = quick(train.observed)(both, 2 * X)
    assert ranges["w"]["high"].shape == (3,)
    np.testing.assert_allclose(ranges["w"]["high"][0], 2 * X.max(), rtol=1e-6)

    def looped(p: Any, x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, 2, lambda i, h: (i + 1.0) * h @ p["w"], x)

    train, both = qat(looped, {"w": jnp.eye(6)}, [X], Scheme(8), input_grids="average", momentum=0.0)
    _, ranges = quick(train.observed)(both, X)
    np.testing.assert_allclose(ranges["w"]["high"], X.max() * 2, rtol=0.02)


# The new function is an ordinary one.


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any]:
    return qat(layers, PARAMS, [X], Scheme(4, input_bits=4))


def test_the_same_everywhere(pair: tuple[Any, Any], mesh: Mesh) -> None:
    train, both = pair
    x = normal(8, 6, seed=7)

    def loss(both: Any, x: jax.Array) -> Any:
        return jnp.square(train(both, x)).mean()

    expected = quick(jax.value_and_grad(loss))(both, x)
    each = quick(jax.vmap(jax.value_and_grad(loss), (None, 0)))(both, x[:, None])
    assert distance(expected, jax.tree.map(lambda leaf: leaf.mean(0), each)) <= TOLERANCE
    sharded = jax.device_put(x, NamedSharding(mesh, PartitionSpec("x")))
    assert distance(expected, quick(jax.value_and_grad(loss))(both, sharded)) <= TOLERANCE
    mapped = jax.pmap(
        lambda both, x: jax.lax.pmean(jax.value_and_grad(loss)(both, x), "x"), axis_name="x", in_axes=(None, 0)
    )
    assert distance(expected, jax.tree.map(lambda leaf: leaf[0], mapped(both, x[:, None]))) <= TOLERANCE


def test_pruned_weights_stay_zero(pair: tuple[Any, Any]) -> None:
    train, both = pair
    pruner = jc.partition([("[ab]", jc.prune.magnitude(0.5))])
    masks = pruner.init(PARAMS)

    def loss(both: Any) -> Any:
        return jnp.square(train(both | {"params": pruner.apply(both["params"], masks)}, X)).sum()

    grads = quick(jax.grad(loss))(both)
    both = jax.tree.map(lambda leaf, slope: leaf - 0.01 * slope, both, grads)
    view = pruner.apply(both["params"], masks)
    _, packed = train.quantized(both | {"params": view}, X)
    for path in "ab":
        assert (np.asarray(densify(packed)[path])[np.asarray(view[path]) == 0] == 0).all()
        assert (np.asarray(view[path]) == 0).mean() >= 0.45


def test_weights_that_a_view_has_put_on_a_grid_stay_on_it() -> None:
    view = jc.quant.lsq(4, axis=-1)
    state = view.init({path: PARAMS[path] for path in "ab"})

    def shown(params: Any) -> Any:
        return {**params, **view.apply({path: params[path] for path in "ab"}, state)}

    grids = {path: jc.quant.grid_of(state[path], 4) for path in "ab"}
    inputs, other = qat(layers, PARAMS, [X], Scheme(4, input_bits=4), weight_grids="fit")
    out = quick(lambda both, grids: inputs(both | {"params": shown(PARAMS)}, X, grids=grids))(other, grids)
    alone, apart = qat(layers, PARAMS, [X], Scheme(4, input_bits=4))
    for path in "ab":
        apart["steps"]["weights"][path]["scale"] = grids[path].scale
    np.testing.assert_allclose(out, quick(alone)(apart, X), rtol=1e-6)
    ranges = quick(inputs.input_grids)(other)
    new, packed = quantize(layers, shown(PARAMS), X, scheme=Scheme(4, input_bits=4), ranges=ranges, grids=grids)
    np.testing.assert_allclose(out, quick(new)(packed, X), rtol=1e-6)


class Half(nn.Module):
    """A layer in half precision."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(5, dtype=jnp.bfloat16)(x)


def test_dynamic_inputs_other_formats_and_half_precision() -> None:
    params = randomize(Half().init(jax.random.key(0), X))
    scheme = [(".*kernel", Scheme("apot4", inputs="dynamic", input_bits=4))]
    train, both = qat(Half().apply, params, [X], scheme)
    assert both["steps"]["inputs"] == both["ranges"] == {}
    grads = quick(jax.grad(lambda both: train(both, X).astype(jnp.float32).sum()))(both)
    assert np.asarray(grads["steps"]["weights"]["params/Dense_0/kernel"]["scale"]).any()
    new, packed = train.quantized(both, X)
    np.testing.assert_array_equal(
        np.asarray(quick(train)(both, X), np.float32), np.asarray(quick(new)(packed, X), np.float32)
    )


# Errors.


def test_what_cannot_be_asked_for(pair: tuple[Any, Any]) -> None:
    with pytest.raises(ArgumentError, match="weight_grids must be 'lsq', 'pact' or 'fit', got 'dorefa'"):
        qat(layers, PARAMS, [X], weight_grids="dorefa")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="input_grids must be 'lsq', 'pact' or 'average', got 'dynamic'"):
        qat(layers, PARAMS, [X], input_grids="dynamic")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"momentum must be in \[0, 1\), got 1.0"):
        qat(layers, PARAMS, [X], momentum=1.0)
    train, both = pair
    with pytest.raises(ArgumentError, match=r"needs the .* that qat returned with it, got \['a', 'b', 'bias'\]"):
        train(PARAMS, X)
    with pytest.raises(ArgumentError, match=r"at 'b' it needs shape \(7, 3\) and got none"):
        train(both | {"params": {"a": PARAMS["a"], "bias": PARAMS["bias"]}}, X)
