"""The laws of JAX's modes: nothing is promoted in silence, float32 stays float32 beside float64, all runs un-jitted."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc

from .compressors import COMPRESSORS
from .containers import CONTAINERS
from .executions import close
from .rewrites import REWRITES, in_turn, networks, plain


@contextlib.contextmanager
def strictly() -> Iterator[None]:
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def with_float64() -> AbstractContextManager[Any]:
    return jax.enable_x64(True)


MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {"strict": strictly, "float64": with_float64}
QUICK = {"quant-ternary-blocks": "strict"}
"""The recipes that are not left to the exhaustive tests, each with its mode; so the rewrites below."""
QUICK_REWRITES = {"input_norms": "strict", "calibrate-entropy": "strict"}


def modes(quick: str) -> list[Any]:
    """All modes; but one is exhaustive."""
    return [pytest.param(mode, marks=[] if mode == quick else pytest.mark.exhaustive) for mode in MODES]


def pairs(names: Any, quick: Any, networks: Any) -> list[Any]:
    """Names on networks in modes, in turn; under ``exhaustive`` but for what is quick, on the first network."""
    at_once = [(name, networks[0], mode) for name, mode in quick.items()]
    others = [(name, network, list(MODES)[turn % len(MODES)]) for name, network, turn in in_turn(names, networks)]
    return [
        pytest.param(*each, marks=[] if each in at_once else pytest.mark.exhaustive, id="-".join(each))
        for each in dict.fromkeys([*at_once, *others])
    ]


def same(got: Any, wanted: Any) -> None:
    """Numbers up to rounding; float32 is float32."""
    for a, b in zip(*(jax.tree.leaves(tree) for tree in (got, wanted)), strict=True):
        if getattr(b, "dtype", None) == jax.dtypes.float0:
            continue
        assert getattr(b, "dtype", None) != jnp.float32 or a.dtype == jnp.float32
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(b).max(initial=1))


@pytest.mark.parametrize(("name", "container", "mode"), pairs(list(COMPRESSORS), QUICK, ["dict"]))
def test_recipes(name: str, container: str, mode: str) -> None:
    recipe, params = COMPRESSORS[name](), CONTAINERS[container](jnp.float32)
    first = recipe.init(params)
    state = recipe.update(params, first, jnp.int32(2))
    view = recipe.apply(params, state)
    with MODES[mode]():
        begun = recipe.init(params)
        moved = recipe.update(params, begun, jnp.int32(2))
        assert close((begun, moved, recipe.apply(params, moved)), (first, state, view))


UNJITTED = {
    "step sizes": lambda: jc.quant.lsq(4),
    "least squares": lambda: jc.quant.fake("fp4_e2m1", fit=jc.quant.mse(2)),
}
"""Of what is compiled by itself, and of what loops."""


@pytest.mark.parametrize("name", UNJITTED)
def test_recipes_where_nothing_is_compiled(name: str) -> None:
    recipe, params = UNJITTED[name](), {"w": networks()["dense"].params["up"]}
    state = recipe.init(params)
    view = recipe.apply(params, state)
    with jax.disable_jit():
        begun = recipe.init(params)
        assert close((begun, recipe.apply(params, begun)), (state, view))


def test_rewrites_where_nothing_is_compiled() -> None:
    function, params, x = networks()["dense"]
    with jax.disable_jit():
        new, small = jc.rewrite.fold_weights(function, params, x)
        same(new(small, x), function(params, x))
        codes = jc.rewrite.quantize(function, params, x, scheme=jc.rewrite.Scheme(inputs=None))[1]
    same(codes, jc.rewrite.quantize(function, params, x, scheme=jc.rewrite.Scheme(inputs=None))[1])


@pytest.mark.parametrize(("name", "network", "mode"), pairs(list(REWRITES), QUICK_REWRITES, list(networks())))
def test_rewrites(name: str, network: str, mode: str) -> None:
    wanted = plain(name, network)
    with MODES[mode]():
        same(REWRITES[name](*networks()[network]), wanted)


LOSSES = {
    "kl": lambda a, b, labels: jc.distill.kl(a, b, temperature=2.0),
    "cross_entropy": lambda a, b, labels: jc.distill.cross_entropy(a, labels),
    "soft_and_hard": lambda a, b, labels: jc.distill.soft_and_hard(a, b, labels),
}


@pytest.mark.parametrize("mode", modes("strict"))
@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=pytest.mark.exhaustive)])
def test_losses(mode: str, precision: str) -> None:
    a, b = (jnp.asarray(np.random.default_rng(i).normal(size=(4, 3)), precision) for i in range(2))
    for loss in LOSSES.values():
        for labels in (jnp.array([0, 2, -1, 1], jnp.int32), jnp.eye(4, 3, dtype=precision)):

            def both(a: Any, loss: Any = loss, labels: Any = labels) -> Any:
                return loss(a, b, labels), jax.grad(lambda a: loss(a, b, labels).sum())(a)

            wanted = both(a)
            with MODES[mode]():
                same(both(a), wanted)


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.exhaustive) for name in REWRITES
])  # fmt: skip
def test_rewrites_of_bfloat16_where_types_and_ranks_are_strict(name: str) -> None:
    function, params, x = networks()["dense"]
    params, x = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (params, x))
    wanted = REWRITES[name](function, params, x)
    with MODES["strict"]():
        got = REWRITES[name](function, params, x)
    for a, b in zip(*(jax.tree.leaves(tree) for tree in (got, wanted)), strict=True):
        assert getattr(a, "dtype", None) == getattr(b, "dtype", None)


def images(params: Any, x: Any) -> Any:
    return jax.nn.relu(x.astype(jnp.float32) / 255 @ params["up"]) @ params["head"]


@pytest.mark.parametrize("mode", modes("float64"))
def test_rewrites_of_functions_of_whole_numbers(mode: str) -> None:
    params = {"up": networks()["dense"].params["up"], "head": networks()["scanned"].params["head"]}
    x = jnp.asarray(np.random.default_rng(0).integers(0, 256, (8, 8)), jnp.uint8)
    wanted = REWRITES["quantize-w8-static"](images, params, x)
    with MODES[mode]():
        same(REWRITES["quantize-w8-static"](images, params, x), wanted)


def test_float64_parameters_where_float64_is_allowed() -> None:
    function, params, x = networks()["dense"]
    wanted = function(params, x)
    with MODES["float64"]():
        params, x = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (params, x))
        made, new = jc.rewrite.quantize(function, params, x, scheme=jc.rewrite.Scheme(8, inputs=None))
        out = jax.jit(made)(new, x)
    assert out.dtype == jnp.float64
    assert np.abs(np.asarray(out) - np.asarray(wanted)).max() < 0.02 * np.abs(np.asarray(wanted)).max()


def test_precision_is_that_of_the_call() -> None:
    net = lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"]  # noqa: E731
    params, x = {"a": jnp.ones((2, 4)), "b": jnp.ones((4, 2))}, jnp.ones((3, 2))
    weights_alone = jc.rewrite.Scheme(8, inputs=None)
    for new, own in (
        jc.rewrite.shrink(net, params, x, keep={"a": np.arange(4) < 2}),
        jc.rewrite.fold_weights(net, params, x),
        jc.rewrite.quantize(net, params, x, scheme=weights_alone),
    ):
        with jax.default_matmul_precision("highest"):
            assert str(jax.make_jaxpr(new)(own, x)).count("HIGHEST") == str(jax.make_jaxpr(net)(params, x)).count(
                "HIGHEST"
            )
        assert "HIGHEST" not in str(jax.make_jaxpr(new)(own, x))
