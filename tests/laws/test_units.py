"""The law of units: what is found on data is the same, bit for bit, in whatever power of two inputs and weights are."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.rewrite import Scheme

from .compressors import COMPRESSORS, KERNEL
from .rewrites import numbers

PARAMS = {"up": numbers(8, 12) / 3, "b": numbers(12) / 4, "down": numbers(12, 6) / 4, "c": numbers(6) / 4}
PARAMS |= {"head": numbers(6, 3) / 3}
X = numbers(160, 8) @ numbers(8, 8) / 3 + 0.5
UNITS = ((66, -80, 60, -80), (-80, 66, -70, 66))
"""Powers of two of the inputs and of the three weights; hidden features go from 2**-84 to 2**46."""
Units = dict[str, float]


def network(p: Any, x: jax.Array) -> jax.Array:
    """Positively homogeneous in the inputs, with its biases, and in every weight."""
    hidden = jax.nn.relu(x @ p["up"] + p["b"])
    return jax.nn.relu(hidden @ p["down"] + p["c"]) @ p["head"]


def units_of(powers: tuple[int, ...]) -> Units:
    x, up, down, head = (2.0**power for power in powers)
    return {"x": x, "up": up, "b": x * up, "down": down, "c": x * up * down, "head": head, "out": x * up * down * head}


def apart(params: Any, units: Units) -> dict[str, np.ndarray]:
    """Parameters without their units."""
    return {path: np.asarray(leaf, np.float64) / units[path] for path, leaf in params.items()}


def rounded(bits: int = 4, **options: Any) -> Callable[..., Any]:
    scheme = Scheme(bits, inputs=None)
    return lambda p, x, u: apart(jc.posttrain.round_weights(network, p, [x], scheme, **options).params, u)


def static(p: Any, x: Any, u: Units) -> Any:
    ranges = jc.rewrite.calibrate(network, p, [x], Scheme(4))
    return apart(jc.posttrain.round_weights(network, p, [x], Scheme(4), ranges=ranges).params, u)


def post_trained(bits: int, inputs: Any = "static") -> Callable[..., Any]:
    def both(p: Any, x: Any, u: Units) -> Any:
        new = jc.posttrain.ptq(network, p, [x], Scheme(bits, inputs=inputs))
        codes = [np.asarray(leaf) for leaf in jax.tree.leaves(new.params) if leaf.dtype == jnp.int8]
        return codes, np.asarray(new.apply_fn(new.params, x)) / u["out"]

    return both


def pruned(method: Any, sparsity: Any = 0.5, **options: Any) -> Callable[..., Any]:
    def both(p: Any, x: Any, u: Units) -> Any:
        fisher = {path: jnp.square(leaf / u[path]) for path, leaf in p.items()} if method == "woodfisher" else None
        new = jc.posttrain.sparsify(network, p, [x], sparsity, method=method, fisher=fisher, **options)
        return apart(new.params, u), {path: own for path, own in new.masks.items() if path in ("up", "down", "head")}

    return both


def refitted(p: Any, x: Any, u: Units) -> Any:
    groups = jc.trace.groups(network, p, x)
    (name,) = (group.name for group in groups if group.size == 12)
    return apart(jc.posttrain.refit(network, p, [x], groups, {name: np.arange(12) % 4 > 0}), u)


def corrected(method: Any) -> Callable[..., Any]:
    def both(p: Any, x: Any, u: Units) -> Any:
        coarse = {k: jnp.round(v / u[k] * 4) / 4 * u[k] if v.ndim == 2 else v for k, v in p.items()}
        return apart(jc.posttrain.correct_biases(network, p, [x], coarse, method=method).params, u)

    return both


def equalized(p: Any, x: Any, u: Units) -> Any:
    return np.asarray(network(jc.posttrain.equalize(network, p, x, scheme=None).params, x)) / u["out"]


def smoothed(p: Any, x: Any, u: Units) -> Any:
    return np.asarray(network(jc.posttrain.smooth(network, p, [x], scheme=None).params, x)) / u["out"]


def factorized(p: Any, x: Any, u: Units) -> Any:
    new, params = jc.rewrite.factorize(network, p, x, energy=0.9, batches=[x])
    return [row.rank for row in new.report.rows], np.asarray(new(params, x)) / u["out"]


def recalibrated(p: Any, x: Any, u: Units) -> Any:
    move = lambda stats, x: {"mean": 0.75 * stats["mean"] + 0.25 * network(p, x).mean(0)}  # noqa: E731
    return jc.posttrain.recalibrate(move, {"mean": jnp.zeros(3)}, [x, x])["mean"] / u["out"]


def norms(p: Any, x: Any, u: Units) -> Any:
    before = {"up": u["x"], "down": u["b"], "head": u["c"]}
    return {path: own / before[path] for path, own in jc.observe.input_norms(network, p, [x]).items()}


METHODS: dict[str, Callable[[Any, Any, Units], Any]] = {
    "gptq": rounded(),
    "sparsegpt": pruned("sparsegpt"),
    "global": pruned("obc", distribution="global"),
    "woodfisher": pruned("woodfisher"),
    "refit": refitted,
    "fast biases": corrected("fast"),
    "recalibrate": recalibrated,
    "norms": norms,
}
MORE: dict[str, Callable[[Any, Any, Units], Any]] = {
    "gptq, 8 bits": rounded(8),
    "gptq, rounded inputs": rounded(reference="rounded"),
    "gptq, static inputs": static,
    "adaround": rounded(method="adaround", steps=60),
    "nearest": rounded(method="nearest"),
    "ptq": post_trained(8),
    "ptq, dynamic": post_trained(4, inputs="dynamic"),
    "magnitude": pruned("magnitude"),
    "wanda": pruned("wanda"),
    "wanda, refitted": pruned("wanda", refit=True, reference="pruned"),
    "wanda, global": pruned("wanda", distribution="global"),
    "sparsegpt, dense inputs": pruned("sparsegpt", reference="dense"),
    "obc, 2:4": pruned("obc", None, pattern=(2, 4)),
    "exact biases": corrected("exact"),
    "equalize": equalized,
    "smooth": smoothed,
    "factorize": factorized,
}
CLOSE = ("equalize", "smooth", "factorize", "recalibrate")
"""Which take roots, or solve for eigenvalues or a momentum: their results are the same up to float32."""


@pytest.mark.parametrize("name", [*METHODS, *(pytest.param(name, marks=pytest.mark.exhaustive) for name in MORE)])
def test_post_training_does_not_depend_on_units(name: str) -> None:
    found = []
    for powers in ((0, 0, 0, 0), *UNITS):
        units = units_of(powers)
        params = {path: leaf * jnp.float32(units[path]) for path, leaf in PARAMS.items()}
        found.append({**METHODS, **MORE}[name](params, X * jnp.float32(units["x"]), units))
    whole = max(float(np.max(np.abs(leaf))) for leaf in jax.tree.leaves(found[0]))
    near = 1e-6 * whole if name in CLOSE else 0
    assert np.isfinite(whole)
    for other in found[1:]:
        jax.tree.map(lambda one, two: np.testing.assert_allclose(two, one, rtol=0, atol=near), found[0], other)


SCORES = {
    "magnitude": "magnitude",
    "squares": jc.prune.magnitude_score(2),
    "taylor": jc.prune.taylor(2),
    "averaged": jc.prune.taylor(2, 0.5),
    "snip": "snip",
    "movement": "movement",
    "fisher": "fisher",
    "fourth root": jc.prune.fisher(4),
    "wanda": "wanda",
}
PRUNERS: dict[str, dict[str, Any]] = {name: {"score": score} for name, score in SCORES.items()}
PRUNERS |= {"regrown": {"regrow": "rigl"}}


def pruner(pattern: bool = True, **options: Any) -> jc.Compressor:
    options |= {"pattern": jc.prune.nm(2, 4)} if pattern else {}
    return jc.partition([(KERNEL, jc.prune.prune(0.5, distribution="global", **options))])


APART = ("learned", "quant-dorefa", "prune-movement", "prune-blocks", "prune-taylor", "prune-fisher")
"""Learned thresholds are in the weights' own units, DoReFa's tanh makes them such; the others have odd gradients."""
VIEWS: dict[str, Callable[[], jc.Compressor]] = {
    name: lambda name=name: pruner(name != "regrown", **PRUNERS[name]) for name in PRUNERS
}
VIEWS |= {name: COMPRESSORS[name] for name in COMPRESSORS if not name.startswith(APART)}
MATRIX = {"kernel": numbers(6, 8) ** 3, "layer": {"kernel": numbers(8, 16), "bias": numbers(16)}}
GRADS = {"kernel": numbers(8, 6).T, "layer": {"kernel": numbers(16, 8).T, "bias": numbers(8, 2).ravel()}}
STATISTICS = {"kernel": jnp.arange(1.0, 7.0), "layer/kernel": jnp.arange(1.0, 9.0)}
FEW = ("squares", "fisher", "lowrank-energy", "channels-global-cubic")


def shown(view: jc.Compressor, power: int) -> Any:
    """The view of weights in a unit, of which gradients have the inverse, without it."""
    params = jax.tree.map(lambda leaf: leaf * 2.0**power, MATRIX)
    state = view.init(params)
    for step in range(3):
        grads = jax.tree.map(lambda leaf: leaf * (2.0**-power * (1 + step)), GRADS)  # noqa: B023
        state = view.update(params, state, step, grads=grads, statistics=STATISTICS)
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64) / 2.0**power, view.apply(params, state))


@pytest.mark.parametrize(
    "name", [name if name in FEW else pytest.param(name, marks=pytest.mark.exhaustive) for name in VIEWS]
)
def test_views_do_not_depend_on_the_unit(name: str) -> None:
    found = [shown(VIEWS[name](), power) for power in (0, -80, 66)]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found[0]))
    for other in found[1:]:
        jax.tree.map(np.testing.assert_array_equal, found[0], other)


@pytest.mark.parametrize("score", ["l2", "lamp", pytest.param("fpgm", marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("normalize", [None, "gaussian"])
def test_channels_are_ranked_whatever_the_unit_of_their_group(score: str, normalize: Any) -> None:
    params = {name: numbers(6, n) ** 3 for name, n in (("a", 8), ("b", 10))}

    def branches(p: Any, x: jax.Array) -> Any:
        return [jnp.tanh(x @ p[name]) @ jnp.ones((p[name].shape[1], 2)) for name in "ab"]

    groups = jc.trace.groups(branches, params, numbers(2, 6))
    view = jc.prune.channels(groups, 0.5, score=score, normalize=normalize, scope="global")
    plain, other = (view.init({"a": params["a"] * one, "b": params["b"] / one}) for one in (1, 2.0**80))
    jax.tree.map(np.testing.assert_array_equal, plain, other)
    assert 0 < sum(int(mask.sum()) for mask in plain.values()) < 18
