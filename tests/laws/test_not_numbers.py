"""Nothing is chosen, cut, kept or fitted by what is not a number: whatever reads one refuses it, by path and count."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.core.errors import ArgumentError, JaxcompError
from jaxcomp.rewrite import Scheme
from jaxcomp.rewrite.channels import budgets

RNG = np.random.default_rng(3)
X = jnp.asarray(RNG.standard_normal((16, 6)), jnp.float32)
PARAMS = {
    "in": jnp.asarray(RNG.standard_normal((6, 8)), jnp.float32),
    "bias": jnp.asarray(RNG.standard_normal(8), jnp.float32),
    "out": jnp.asarray(RNG.standard_normal((8, 3)), jnp.float32),
}
ONES = jax.tree.map(jnp.ones_like, PARAMS)
WEIGHTS_ALONE = Scheme(8, inputs=None)


def net(p: Any, x: jax.Array) -> jax.Array:
    return jax.nn.relu(x @ p["in"] + p["bias"]) @ p["out"]


GROUPS = jc.trace.groups(net, PARAMS, X)
CHANGED = {"out": PARAMS["out"].round()}


def scored(score: str) -> Callable[..., Any]:
    return lambda p, x, e: jc.rewrite.importance(GROUPS, p, score, grads=e, curvature=e, batches=[x])


def sparsified(**how: Any) -> Callable[..., Any]:
    return lambda p, x, e: jc.posttrain.sparsify(net, p, [x], **({"sparsity": 0.5} | how))


def fisher(p: Any, x: Any, e: Any) -> Any:
    return jc.posttrain.sparsify(net, p, [x], 0.5, method="woodfisher", fisher=e)


def biases(method: Any) -> Callable[..., Any]:
    return lambda p, x, e: jc.posttrain.correct_biases(net, p, [x], p | CHANGED, method=method)


def averaged(p: Any, x: Any, e: Any) -> Any:
    return jc.posttrain.recalibrate(lambda s, x: {"m": 0.9 * s["m"] + 0.1 * x.mean(0)}, {"m": jnp.zeros(6)}, [x])


class Call(NamedTuple):
    """What chooses, and by which of weights, data and evidence (gradients, curvature, Fisher information)."""

    run: Callable[[Any, Any, Any], Any]
    reads: tuple[str, ...]


CALLS = {
    **{score: Call(scored(score), ("weights",)) for score in ("l1", "l2", "lamp", "fpgm", "norm_scale")},
    **{score: Call(scored(score), ("weights", "evidence")) for score in ("taylor", "taylor_abs", "hessian")},
    **{score: Call(scored(score), ("data",)) for score in ("activation", "apoz")},
    "choose": Call(lambda p, x, e: jc.rewrite.choose(0.5)(GROUPS, p), ("weights",)),
    "shrink": Call(lambda p, x, e: jc.rewrite.shrink(net, p, x, keep=jc.rewrite.choose(macs=0.5)), ("weights",)),
    "remove dead": Call(lambda p, x, e: jc.rewrite.remove_dead(net, p, x), ("weights",)),
    "refit": Call(
        lambda p, x, e: jc.posttrain.refit(net, p, [x], GROUPS, {"in": np.arange(8) < 5}), ("weights", "data")
    ),
    "magnitude": Call(sparsified(method="magnitude"), ("weights",)),
    "obc": Call(sparsified(), ("weights", "data")),
    "n of m": Call(sparsified(sparsity=None, pattern=(2, 4), method="wanda"), ("weights", "data")),
    "global": Call(sparsified(distribution="global", reference="dense"), ("weights", "data")),
    "woodfisher": Call(fisher, ("weights", "evidence")),
    "energy": Call(lambda p, x, e: jc.rewrite.factorize(net, p, x, energy=0.9), ("weights",)),
    "rank": Call(lambda p, x, e: jc.rewrite.factorize(net, p, x, rank=2), ("weights",)),
    "budget": Call(lambda p, x, e: jc.rewrite.factorize(net, p, x, bytes=0.9, batches=[x]), ("weights", "data")),
    "equalize": Call(lambda p, x, e: jc.posttrain.equalize(net, p, x), ("weights",)),
    "smooth": Call(lambda p, x, e: jc.posttrain.smooth(net, p, [x]), ("weights", "data")),
    "biases": Call(biases("exact"), ("weights", "data")),
    "fast biases": Call(biases("fast"), ("weights", "data")),
    "recalibrate": Call(averaged, ("data",)),
    "calibrate": Call(lambda p, x, e: jc.rewrite.calibrate(net, p, [x]), ("weights", "data")),
    "round": Call(lambda p, x, e: jc.posttrain.round_weights(net, p, [x], WEIGHTS_ALONE), ("weights", "data")),
    "post-training": Call(lambda p, x, e: jc.posttrain.ptq(net, p, [x]), ("weights", "data")),
    "norms": Call(lambda p, x, e: jc.observe.input_norms(net, p, [x]), ("data",)),
    "sensitivity": Call(lambda p, x, e: jc.search.sensitivity(net, p, [x], {"8": WEIGHTS_ALONE}), ("weights", "data")),
    "curvature": Call(
        lambda p, x, e: jc.search.sensitivity(net, p, [x], {"8": WEIGHTS_ALONE}, curvature=e), ("weights", "evidence")
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_is_not_a_number_is_refused_by_whatever_reads_it(name: str) -> None:
    run, reads = CALLS[name]
    for bad in (np.nan, np.inf, -np.inf):
        spoilt = {
            "weights": (PARAMS | {"out": PARAMS["out"].at[1, 2].set(bad)}, X, ONES),
            "data": (PARAMS, X.at[1, 2].set(bad), ONES),
            "evidence": (PARAMS, X, ONES | {"out": ONES["out"].at[1, 2].set(bad)}),
        }
        for what in reads:
            with pytest.raises(JaxcompError, match=r"NaN|not finite"):
                run(*spoilt[what])


@pytest.mark.parametrize("name", CALLS)
def test_inside_of_jit_whatever_works_on_values_says_so(name: str) -> None:
    run, reads = CALLS[name]
    traced = {
        "weights": lambda: jax.eval_shape(lambda p: (run(p, X, ONES), p)[1], PARAMS),
        "data": lambda: jax.eval_shape(lambda x: (run(PARAMS, x, ONES), x)[1], X),
    }
    for what in traced.keys() & set(reads):
        with pytest.raises(JaxcompError, match="outside of"):
            traced[what]()


@pytest.mark.parametrize("name", ["l2", "taylor", "hessian", "magnitude", "woodfisher", "energy", "equalize", "round"])
def test_the_error_says_where_and_how_many(name: str) -> None:
    run, reads = CALLS[name]
    spoil = lambda tree: tree | {"out": tree["out"].at[:2, 0].set(np.nan)}  # noqa: E731
    with pytest.raises(ArgumentError, match=r"'out' holds NaN or infinity, .*: 2 of 24 numbers"):
        run(spoil(PARAMS), X, ONES)
    if "evidence" in reads:
        with pytest.raises(ArgumentError, match=r"of 'out' holds NaN or infinity, .*: 2 of 24 numbers"):
            run(PARAMS, X, spoil(ONES))


def test_a_time_that_is_not_a_number_is_not_fast_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "_times", lambda *runs: [np.nan] * len(runs))
    for asked in ({"latency": 0.9}, {"seconds": 1e9}):
        with pytest.raises(ArgumentError, match="was not reached"):
            jc.rewrite.choose(**asked)(GROUPS, PARAMS)


@pytest.mark.parametrize("what", ["damping", "strength", "momentum", "energy", "rank", "macs"])
def test_arguments_that_are_not_numbers_are_refused(what: str) -> None:
    calls = {
        "damping": lambda: sparsified(damping=np.nan)(PARAMS, X, ONES),
        "strength": lambda: jc.posttrain.smooth(net, PARAMS, [X], strength=np.nan),
        "momentum": lambda: jc.rewrite.calibrate(net, PARAMS, [X], momentum=np.nan),
        "energy": lambda: jc.rewrite.factorize(net, PARAMS, X, energy=np.nan),
        "rank": lambda: jc.rewrite.factorize(net, PARAMS, X, rank=np.nan),
        "macs": lambda: jc.rewrite.choose(macs=np.nan),
    }
    with pytest.raises(ArgumentError, match=f"{what} must .* got nan"):
        calls[what]()


VIEWS = {
    "global": jc.prune.magnitude(0.5, scope="global"),
    "erk": jc.prune.prune(0.5, distribution="erk"),
    "lamp": jc.prune.prune(0.5, distribution="lamp"),
    "per output": jc.prune.prune(0.5, distribution="per_output"),
    "n of m": jc.prune.prune(0.5, pattern=jc.prune.nm(2, 4)),
    "fake": jc.quant.fake(4, axis=-1),
    "mse": jc.quant.fake(4, fit=jc.quant.mse()),
    "low rank": jc.lowrank.project(2),
}


@pytest.mark.parametrize("name", VIEWS)
def test_inside_of_jit_a_view_shows_what_is_not_a_number(name: str) -> None:
    view = VIEWS[name]

    @jax.jit
    def shown(params: Any) -> Any:
        return view.apply(params, view.init(params))

    for bad in (np.nan, np.inf):
        assert not np.isfinite(shown({"a": PARAMS["in"].at[0, 0].set(bad), "b": PARAMS["out"]})["a"][0, 0])
