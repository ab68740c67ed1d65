"""Sparsify: counts, zeros and masks are exact on any model; what is left makes up for the rest, or is named."""

import functools
import importlib
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import lax

import jaxcomp as jc
from jaxcomp.core import quadratic
from jaxcomp.core.errors import ArgumentError, RuleError
from jaxcomp.core.leaves import left_out
from jaxcomp.core.paths import named_leaves
from jaxcomp.observe.moments import second_moments
from jaxcomp.posttrain import sparsify
from jaxcomp.prune import reconstruct
from jaxcomp.prune.obc import obc
from jaxcomp.prune.sparsegpt import sparsegpt
from tests.rewrite import models
from tests.rewrite.channels.test_models import CASES, prepared
from tests.rewrite.parity import randomize

RNG = np.random.default_rng(0)
# One model for every way in which weights are read: each compiles some hundred small programs.
MODELS = ("mobile", "unet", "vit_fused", "optimized_lstm", "scanned_layers", "nnx_resnet_train")
METHODS = ("magnitude", "wanda", "woodfisher", "sparsegpt", "obc")


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


X = normal(40, 6) @ normal(6, 6)
MLP = {"up": normal(6, 8), "down": normal(8, 3)}


def mlp(p: Any, x: jax.Array) -> jax.Array:
    return jax.nn.relu(x @ p["up"]) @ p["down"]


def check(params: Any, sparse: Any) -> None:
    """Same structure; zeros where the masks say; the report says what is there; other leaves are the same objects."""
    assert jax.tree.structure(params) == jax.tree.structure(sparse.params)
    old, new = named_leaves(params), named_leaves(sparse.params)
    masks = {path: mask for path, mask in named_leaves(sparse.masks).items() if not left_out(mask)}
    rows = {row.path: row for row in sparse.report.rows}
    assert all(new[path] is leaf for path, leaf in old.items() if path not in masks)
    for path, mask in masks.items():
        assert (new[path].shape, new[path].dtype, mask.dtype) == (old[path].shape, old[path].dtype, bool)
        assert not np.asarray(new[path], np.float32)[~np.asarray(mask)].any()
        assert np.isfinite(np.asarray(new[path], np.float32)).all()
        assert rows[path].reached == pytest.approx(float(np.mean(~np.asarray(mask))))
        assert rows[path].reached == pytest.approx(rows[path].asked)
    assert all((row.path in masks) != bool(row.skipped) for row in sparse.report.rows)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", MODELS)
def test_every_model(name: str) -> None:
    apply_fn, params = prepared(CASES[name])
    sparse = sparsify(apply_fn, params, [CASES[name].example], 0.5, method="sparsegpt")
    check(params, sparse)
    assert sparse.report.sparsity == pytest.approx(0.5, abs=0.01)
    out = jax.tree.leaves(apply_fn(sparse.params, CASES[name].example))
    assert all(np.isfinite(leaf).all() for leaf in out)


@pytest.mark.exhaustive
@pytest.mark.parametrize("method", METHODS)
def test_every_method_and_distribution_of_depthwise_convolutions_and_matmuls(method: str) -> None:
    model, x = models.MobileBlock(), normal(4, 6, 6, 3)
    params = randomize(jax.eval_shape(model.init, jax.random.key(0), x))
    squares = jax.tree.map(jnp.square, randomize(params, 1))
    options: dict[str, Any] = {"method": method, "fisher": squares}
    own = sparsify(model.apply, params, [x], 0.7, distribution="global", **options)
    check(params, own)
    sizes = [row.size for row in own.report.rows]
    assert own.report.sparsity == pytest.approx(0.7, abs=len(sizes) / sum(sizes))
    assert len({round(row.reached, 2) for row in own.report.rows}) > 3
    assert max(row.reached for row in own.report.rows) <= 0.99


def test_layers_are_solved_on_what_the_pruned_layers_before_them_compute() -> None:
    sparse = sparsify(mlp, MLP, [X[:20], X[20:]], 0.5)
    up, down = (jnp.asarray(MLP[name])[None] for name in ("up", "down"))

    def solved(weight: Any, moment: Any, target: Any) -> Any:
        return np.asarray(obc(target, quadratic.damped(moment), weight.size // 2)[1])

    first = solved(up, (X.T @ X)[None], up)
    np.testing.assert_allclose(np.asarray(sparse.params["up"]), first[0], atol=1e-4)
    now, before = jax.nn.relu(X @ sparse.params["up"]), jax.nn.relu(X @ MLP["up"])
    moment, pull = (now.T @ now)[None], (now.T @ (before - now) @ down[0])[None]
    second = solved(down, moment, down + jnp.linalg.solve(quadratic.damped(moment), pull))
    np.testing.assert_allclose(np.asarray(sparse.params["down"]), second[0], atol=1e-3)
    off, whole = now[3::4] @ sparse.params["down"] - before[3::4] @ MLP["down"], before[3::4] @ MLP["down"]
    error = float(jnp.sum(off**2) / jnp.sum(whole**2))  # of the examples that were held out, before they counted too
    assert error < {row.path: row.error for row in sparse.report.rows}["down"] < 2 * error  # type: ignore[operator]
    assert "10 of 40 examples" in str(sparse.report)


def test_corrected_inputs_beat_pruned_ones_and_those_the_dense_network_s() -> None:
    params = {"layers": [normal(12, 12) / 3 for _ in range(4)]}
    x = normal(200, 12)

    def deep(p: Any, x: jax.Array) -> jax.Array:
        for w in p["layers"]:
            x = jax.nn.relu(x @ w)
        return x

    def error(reference: Any) -> float:
        new = sparsify(deep, params, [x], 0.5, reference=reference).params
        return float(jnp.sum((deep(new, x) - deep(params, x)) ** 2))

    errors = [error(inputs) for inputs in ("corrected", "pruned", "dense")]
    assert errors[0] < min(errors[1:])


def test_stacked_layers_in_a_scan_and_sites_in_branches_and_remat() -> None:
    def function(p: Any, x: jax.Array) -> jax.Array:
        def layer(h: jax.Array, w: jax.Array) -> Any:
            return lax.cond(True, lambda h: jnp.tanh(h @ w @ p["shared"]), lambda h: h, h), None

        h = lax.scan(layer, x, p["stack"])[0]
        return jax.checkpoint(lambda h: jnp.tanh(h @ p["remat"]))(h)

    params = {"stack": normal(3, 6, 6) / 3, "shared": normal(6, 6) / 3, "remat": normal(6, 2)}
    sparse = sparsify(function, params, [X], 0.5, method="sparsegpt")
    check(params, sparse)
    assert not any(row.skipped for row in sparse.report.rows)
    moments = second_moments(function, params, [X], "inputs").of
    h, seen, inner = X, [], 0
    for w in params["stack"]:
        seen.append(h.T @ h)
        inner = inner + (h @ w).T @ (h @ w)
        h = jnp.tanh(h @ w @ params["shared"])
    np.testing.assert_allclose(moments["stack"], seen, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(moments["shared"][0], inner, rtol=1e-4, atol=1e-3)


def test_a_weight_that_two_sites_read_is_solved_for_both_and_others_are_named() -> None:
    def function(p: Any, x: jax.Array) -> jax.Array:
        h = jnp.tanh(x @ p["twice"]) @ p["twice"]
        return (h @ p["tied"]) @ p["tied"].T + h * p["scale"][0] @ p["scale"]

    params = {name: normal(6, 6) / 4 for name in ("twice", "tied", "scale")}
    sparse = sparsify(function, params, [X], 0.5)
    check(params, sparse)
    left = {row.path: row.skipped for row in sparse.report.rows if row.skipped}
    assert left["tied"] == "its sites sum over different features"
    assert left["scale"].startswith("read by ")
    assert set(left) == {"tied", "scale"}
    both = lambda p, x: jnp.concatenate([x @ p["twice"], jnp.tanh(x) @ p["twice"]])  # noqa: E731
    own = sparsify(both, {"twice": params["twice"]}, [X], 0.5, reference="dense")
    held = quadratic.damped((X.T @ X + jnp.tanh(X).T @ jnp.tanh(X))[None])
    mask = jnp.asarray(own.masks["twice"])[None]
    np.testing.assert_allclose(
        own.params["twice"], reconstruct.least_squares(params["twice"][None], held, mask)[0], atol=1e-3
    )


def test_sparsegpt_is_judged_by_a_sweep_over_what_was_not_held_out() -> None:
    x, w, held = normal(400, 8) @ normal(8, 24) + 0.1 * normal(400, 24), normal(24, 16), np.arange(400) % 4 == 3
    sparse = sparsify(lambda p, x: x @ p["w"], {"w": w}, [x], 0.6, method="sparsegpt")
    damped = quadratic.damped((x[~held].T @ x[~held])[None])
    _, new = sparsegpt(w[None], damped, mask=sparse.masks["w"][None])
    off, whole = x[held] @ (new[0] - w), x[held] @ w
    assert not sparse.report.rows[0].back
    assert sparse.report.rows[0].error == pytest.approx(float(jnp.sum(off**2) / jnp.sum(whole**2)), rel=1e-3)


def test_masks_go_on_in_training_and_global_magnitude_is_that_of_the_view() -> None:
    sparse = sparsify(mlp, MLP, [X], 0.6, method="magnitude", distribution="global")
    view = jc.prune.magnitude(0.6, scope="global")
    state = view.init(MLP)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, sparse.masks, state))
    assert jax.tree.structure(sparse.masks) == jax.tree.structure(state)
    moved = jax.tree.map(lambda leaf: leaf + 1, sparse.params)
    again = view.apply(moved, sparsify(mlp, MLP, [X], [("up", 0.6)], method="wanda").masks)
    assert float(jnp.mean(again["up"] == 0)) == pytest.approx(29 / 48)
    assert again["down"] is moved["down"]


def test_the_update_can_be_asked_for_and_left_out() -> None:
    plain = sparsify(mlp, MLP, [X], 0.5, method="magnitude")
    fitted = sparsify(mlp, MLP, [X], 0.5, method="magnitude", refit=True, reference="dense")
    masked = sparsify(mlp, MLP, [X], 0.5, refit=False)
    check(MLP, masked)
    for name, mask in plain.masks.items():
        np.testing.assert_array_equal(mask, fitted.masks[name])
        np.testing.assert_array_equal(plain.params[name], jnp.where(mask, MLP[name], 0))
        np.testing.assert_array_equal(masked.params[name], jnp.where(masked.masks[name], MLP[name], 0))
    assert plain.report.rows[0].error is None
    wanda = sparsify(mlp, MLP, [X], 0.5, method="wanda", reference="dense")
    refitted = sparsify(mlp, MLP, [X], 0.5, method="wanda", reference="dense", refit=True)
    assert refitted.report.rows[1].error < wanda.report.rows[1].error  # type: ignore[operator]


def test_woodfisher_is_the_square_times_the_information() -> None:
    squares = {name: jnp.square(normal(*leaf.shape)) for name, leaf in MLP.items()}
    sparse = sparsify(mlp, MLP, [X], 0.5, method="woodfisher", distribution="global", fisher=squares)
    scores = np.concatenate([np.ravel(MLP[name] ** 2 * squares[name]) for name in ("down", "up")])
    mask = np.concatenate([np.ravel(sparse.masks[name]) for name in ("down", "up")])
    np.testing.assert_array_equal(mask, scores >= np.sort(scores)[-36])


@pytest.mark.exhaustive
def test_patterns_run_along_the_reduction_of_any_layout() -> None:
    def function(p: Any, x: jax.Array) -> jax.Array:
        h = lax.conv_general_dilated(x, p["hwio"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        h = lax.conv_general_dilated(h, p["oihw"], (1, 1), "SAME", dimension_numbers=("NHWC", "OIHW", "NHWC"))
        return h.mean((1, 2)) @ p["head"]

    params = {"hwio": normal(3, 3, 4, 8), "oihw": normal(5, 8, 3, 3), "head": normal(5, 3)}
    for method, pattern in (("sparsegpt", jc.prune.nm(2, 4)), ("obc", (2, 4))):
        rules = [("head", None), (".*", pattern)]
        sparse = sparsify(function, params, [normal(3, 5, 5, 4)], pattern=rules, method=method)  # type: ignore[arg-type]
        check(params, sparse)
        assert (np.asarray(sparse.masks["hwio"]).sum(2) == 2).all()
        rows = np.asarray(sparse.masks["oihw"]).transpose(0, 2, 3, 1).reshape(-1, 4)
        assert (rows.sum(1) == 2).all()
        assert {row.path: row.skipped for row in sparse.report.rows}["head"] == "not asked for"


def test_half_precision_and_odd_shapes_and_nnx() -> None:
    model = nnx.Linear(7, 5, rngs=nnx.Rngs(0), param_dtype=jnp.bfloat16)
    graph, state = nnx.split(model)
    x = normal(30, 7).astype(jnp.bfloat16)
    sparse = sparsify(lambda s, x: nnx.merge(graph, s)(x), state, [x], 0.6)
    check(state, sparse)
    assert isinstance(sparse.params, nnx.State)
    again = sparsify(lambda s, x: nnx.merge(graph, s)(x), state, [x], 0.6)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, sparse.params, again.params))


@pytest.mark.exhaustive
def test_training_mode_gives_new_statistics_to_the_layers_behind() -> None:
    model, x = models.BasicResNet(train=True), normal(4, 6, 6, 3)
    params = randomize(jax.eval_shape(model.init, jax.random.key(0), x))
    sparse = sparsify(functools.partial(model.apply, mutable=["batch_stats"]), params, [x], 0.5, method="sparsegpt")
    check(params, sparse)
    assert all(left_out(mask) for path, mask in named_leaves(sparse.masks).items() if "batch_stats" in path)


def test_layers_that_see_nothing_stay_dense_and_are_named() -> None:
    def function(p: Any, x: jax.Array) -> jax.Array:
        return (0 * x) @ p["blind"] + x @ p["seen"] + jnp.ones((1, 6)) @ p["constant"]

    params = {name: normal(6, 6) for name in ("blind", "seen", "constant")}
    for reference in ("corrected", "dense"):
        sparse = sparsify(function, params, [X], 0.5, reference=reference)  # type: ignore[arg-type]
        left = {row.path: row.skipped for row in sparse.report.rows}
        assert left["blind"] == "its inputs are 0 on the data"
        assert (left["seen"], "blind" in str(sparse.report)) == ("", True)
        check(params, sparse)


def test_erk_and_rules_and_tables_decide_where_zeros_are() -> None:
    erk = sparsify(mlp, MLP, [X], 0.5, method="magnitude", distribution="erk")
    assert {row.path: row.reached for row in erk.report.rows} == {
        "down": pytest.approx(1 - round(36 * 11 / 25) / 24),
        "up": pytest.approx(1 - round(36 * 14 / 25) / 48),
    }
    table = sparsify(mlp, MLP, [X], {"up": 0.25}, method="magnitude")
    assert {row.path: row.reached for row in table.report.rows} == {"down": 0, "up": 0.25}
    check(MLP, table)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": 1.0}, r"in \[0, 1\), got 1.0 for 'down'"),
        ({}, "exactly one of sparsity= and pattern="),
        ({"sparsity": 0.5, "pattern": (2, 4)}, "exactly one of"),
        ({"pattern": (5, 4)}, r"1 <= n <= m; got \(5, 4\) for 'down'"),
        ({"pattern": jc.prune.filters()}, r"must be jaxcomp.prune.nm\(n, m\) .* got the pattern filters"),
        ({"pattern": (2, 4), "distribution": "global"}, "a pattern has one sparsity"),
        ({"sparsity": 0.5, "method": "sgpt"}, "method must be one of magnitude, wanda"),
        ({"sparsity": 0.5, "distribution": "even"}, "distribution must be one of"),
        ({"sparsity": 0.5, "reference": "old"}, "reference must be one of"),
        ({"sparsity": 0.5, "method": "woodfisher"}, "needs fisher="),
        ({"sparsity": 0.5, "method": "woodfisher", "fisher": {"up": MLP["up"]}}, "has nothing for 'down'"),
        ({"sparsity": 0.5, "fisher": {**MLP, "up": X}}, r"has an array of shape \(40, 6\) for 'up' of shape \(6, 8\)"),
        ({"sparsity": 0.5, "damping": -1}, "damping must be at least 0"),
    ],
)
def test_arguments_out_of_range_are_refused(options: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        sparsify(mlp, MLP, [X], **options)


def test_batches_and_rules_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ArgumentError, match="batches= gave no batch"):
        sparsify(mlp, MLP, [], 0.5)
    with pytest.raises(ArgumentError, match="of one structure, shapes"):
        sparsify(mlp, MLP, [X, X[:3]], 0.5)
    with pytest.raises(RuleError, match="exact paths, and 'middle' is none"):
        sparsify(mlp, MLP, [X], {"middle": 0.5})
    with pytest.raises(RuleError, match="matches no parameter"):
        sparsify(mlp, MLP, [X], [("middle", 0.5)])


def test_optax_masked_nodes_stand_for_what_is_not_pruned() -> None:
    tree = {"net": MLP, "count": jnp.array(3), "norm": jnp.ones(3)}
    sparse = sparsify(lambda p, x: mlp(p["net"], x) * p["norm"], tree, [X], 0.5, method="magnitude")
    assert sparse.masks["count"] == sparse.masks["norm"] == optax.MaskedNode()


def _almost_alike() -> tuple[Any, Any, jax.Array]:
    """A layer of which wanda and magnitude cut different weights, the first with 0.8 % less error on any example."""
    signs = jnp.sign(jax.random.normal(jax.random.key(0), (32, 2)))
    return lambda p, x: x @ p["w"], {"w": jnp.array([[1.0], [0.999]])}, signs * jnp.array([1.0, 1.005])


def test_masks_are_judged_alike_layer_by_layer_and_at_the_end() -> None:
    function, params, x = _almost_alike()
    found = sparsify(function, params, [x], pattern=(1, 2), method="wanda")
    assert found.masks["w"].ravel().tolist() == [False, True]
    assert not found.report.rows[0].back
    assert not found.report.decided


def test_the_report_says_what_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    function, params, x = _almost_alike()
    monkeypatch.setattr("jaxcomp.posttrain.walk.Walk.lost_with", _ten_times_worse())
    found = sparsify(function, params, [x], pattern=(1, 2), method="wanda")
    assert found.masks["w"].ravel().tolist() == [True, False]
    assert found.report.rows[0].back == "magnitude"
    assert "all layers have the plain method's weights: with them the results" in str(found.report)
    by_layer = sparsify(function, params, [x * jnp.array([1.0, 0.99])], pattern=(1, 2), method="sparsegpt").report
    assert (by_layer.rows[0].back, by_layer.decided) == ("magnitude", "")
    assert "magnitude" in str(by_layer)
    refit = sparsify(function, params, [x[:, ::-1]], pattern=(1, 2), method="magnitude", refit=True).report
    assert refit.rows[0].back == "no refit"


def _ten_times_worse() -> Any:
    """The errors of a function's results: ten times as large with what was found as with the plain method."""
    sizes = itertools.cycle([10.0, 1.0])
    return lambda *_: np.full(8, next(sizes))


def test_auto_takes_sparsegpt_for_what_obc_is_slow_at_and_obc_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    auto, exact = (sparsify(mlp, MLP, [X], 0.5, method=method) for method in ("auto", "obc"))  # type: ignore[arg-type]
    jax.tree.map(np.testing.assert_array_equal, auto.params, exact.params)
    assert auto.report == exact.report
    monkeypatch.setattr("jaxcomp.posttrain.sparsify_methods.AUTO_SECONDS", 0.0)
    for options in ({}, {"distribution": "global"}):
        slow, wanted = (sparsify(mlp, MLP, [X], 0.5, method=m, **options) for m in ("auto", "sparsegpt"))  # type: ignore[arg-type]
        jax.tree.map(np.testing.assert_array_equal, slow.params, wanted.params)
        backs = [row.back or "sparsegpt" for row in wanted.report.rows]
        assert [row.back for row in slow.report.rows] == backs
    module = importlib.import_module("jaxcomp.posttrain.sparsify")
    monkeypatch.setattr(module, "obc_seconds", lambda shape: {(1, 6, 8): 600.0, (1, 8, 3): 1020.0}[tuple(shape)])
    with pytest.warns(UserWarning, match="about 27 minutes on two cores for these 2 weights; 'auto'"):
        sparsify(mlp, MLP, [X], 0.5, method="obc")
