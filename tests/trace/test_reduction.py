"""Reduction axes: one output reads the weights along them, all of these and no others."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxcomp as jc
from jaxcomp.core.errors import ArgumentError
from jaxcomp.trace import reduction_axes

RNG = np.random.default_rng(0)


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


def conv(numbers: tuple[str, str, str] = ("NHWC", "HWIO", "NHWC"), **options: Any) -> Callable[..., Any]:
    return lambda w, x: lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=numbers, **options)


CASES: dict[str, tuple[Callable[..., Any], Any, Any, tuple[int, ...]]] = {
    "dense": (lambda w, x: x @ w, normal(6, 5), normal(2, 6), (0,)),
    "dense, transposed": (lambda w, x: x @ w.T * 2, normal(5, 6), normal(2, 6), (1,)),
    "heads": (lambda w, x: jnp.einsum("bd,dhk->bhk", x, w), normal(6, 2, 3), normal(2, 6), (0,)),
    "heads, out": (lambda w, x: jnp.einsum("bhk,hkd->bd", x, w), normal(2, 3, 6), normal(2, 2, 3), (0, 1)),
    "one matrix a head": (lambda w, x: jnp.einsum("bhk,hkd->bhd", x, w), normal(2, 3, 6), normal(2, 2, 3), (1,)),
    "HWIO": (conv(), normal(2, 3, 4, 5), normal(1, 4, 4, 4), (0, 1, 2)),
    "OIHW": (conv(("NCHW", "OIHW", "NCHW")), normal(5, 4, 2, 3), normal(1, 4, 4, 4), (2, 3, 1)),
    "grouped": (conv(feature_group_count=2), normal(2, 3, 2, 6), normal(1, 4, 4, 4), (0, 1, 2)),
    "depthwise": (conv(feature_group_count=4), normal(2, 3, 1, 4), normal(1, 4, 4, 4), (0, 1)),
    "patches": (lambda w, x: x.reshape(2, -1) @ w.reshape(12, 5), normal(4, 3, 5), normal(2, 4, 3), (0, 1)),
}


@pytest.mark.parametrize("name", CASES)
def test_one_output_reads_the_weights_along_them_and_no_others(name: str) -> None:
    function, w, x, axes = CASES[name]
    assert reduction_axes(lambda p, x: function(p["w"], x), {"w": w}, x) == {"w": axes}
    read = np.asarray(jax.jacobian(function)(w, x) != 0).reshape(-1, *w.shape)
    for one in read:
        others = tuple(i for i in range(w.ndim) if i not in axes)
        assert one.any(axes).sum() == 1  # one place along the other axes,
        assert one.any(others).all()  # and there all along these


def test_of_stacked_layers_the_layer_is_no_reduction_axis() -> None:
    step = lambda h, w: (jnp.tanh(h @ w), None)  # noqa: E731
    assert reduction_axes(lambda p, x: lax.scan(step, x, p["w"])[0], {"w": normal(3, 6, 6)}, normal(2, 6)) == {
        "w": (1,)
    }


def test_weights_that_have_none_are_left_out() -> None:
    params = {"tied": normal(6, 6), "parts": normal(4, 3), "added": normal(2, 6)}

    def function(p: Any, x: jax.Array) -> Any:
        half = jnp.einsum("bxi,xio->bxo", x.reshape(2, 3, 2), p["parts"].reshape(2, 2, 3).transpose(2, 0, 1))
        return x @ p["tied"] @ p["tied"].T + p["added"], half

    assert reduction_axes(function, params, normal(2, 6)) == {}


def attention(p: Any, x: jax.Array) -> jax.Array:
    q = jnp.einsum("bd,dhk->bhk", x, p["query"])
    return jnp.einsum("bhk,hkd->bd", q, p["out"]) + p["bias"]


PARAMS = {"query": normal(8, 2, 3), "out": normal(2, 3, 8), "bias": normal(8)}


@pytest.mark.parametrize("regrow", [None, "rigl"])
def test_n_of_m_along_them(regrow: Any) -> None:
    """As of the matrices that are multiplied, whatever shape the parameters have."""
    axes = reduction_axes(attention, PARAMS, normal(2, 8))
    prune = lambda axes: jc.prune.prune(0.5, pattern=jc.prune.nm(2, 4, axes=axes), regrow=regrow, dense="bias")  # noqa: E731
    matrices = {"query": PARAMS["query"].reshape(8, 6), "out": PARAMS["out"].reshape(6, 8), "bias": PARAMS["bias"]}
    slopes = jax.tree.map(jnp.cos, PARAMS)
    turned = {path: slopes[path].reshape(leaf.shape) for path, leaf in matrices.items()}
    own, flat = prune(axes), prune(None)
    state, expected = own.init(PARAMS), flat.init(matrices)
    for step in (1, 2):
        state = own.update(PARAMS, state, step, grads=slopes)
        expected = flat.update(matrices, expected, step, grads=turned)
    for path, leaf in matrices.items():
        np.testing.assert_array_equal(np.asarray(state[path]).reshape(leaf.shape), expected[path])
    in_fours = np.asarray(state["query"]).reshape(2, 4, 6).sum(1)
    assert (in_fours == 2).all()


def test_every_output_alike() -> None:
    axes = reduction_axes(attention, PARAMS, normal(2, 8))
    state = jc.prune.prune(0.5, distribution=jc.prune.per_output(axes=axes), dense="bias").init(PARAMS)
    assert (np.asarray(state["query"]).sum(0) == 4).all()
    assert (np.asarray(state["out"]).sum((0, 1)) == 3).all()


def test_a_tensor_without_axes_is_named() -> None:
    axes = reduction_axes(attention, PARAMS, normal(2, 8))
    with pytest.raises(ArgumentError, match=re.escape("2:4 does not fit 'bias' of shape (8,): axes= has none for it")):
        jc.prune.prune(0.5, pattern=jc.prune.nm(2, 4, axes=axes)).init(PARAMS)
