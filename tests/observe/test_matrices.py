"""What flows into a site, times its parameter as a matrix, is what the site computes; and its moments are NumPy's."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcomp.observe.matrices import feature_groups, input_rows, matrix, output_rows, unmatrix
from jaxcomp.observe.moments import second_moments
from jaxcomp.trace.ir import trace
from jaxcomp.trace.uses import Use, uses_of

RNG = np.random.default_rng(0)


class Case(NamedTuple):
    """A function ``(weight, x)`` of one site, and the shapes of both."""

    function: Callable[[jax.Array, jax.Array], jax.Array]
    weight: tuple[int, ...]
    x: tuple[int, ...]


def conv(numbers: tuple[str, str, str] = ("NHWC", "HWIO", "NHWC"), **settings: Any) -> Callable[..., jax.Array]:
    settings = {"window_strides": (1, 1), "padding": "SAME", **settings}
    return lambda w, x: lax.conv_general_dilated(x, w, dimension_numbers=numbers, **settings)


CONVS = {
    "same": Case(conv(), (3, 3, 4, 5), (2, 6, 5, 4)),
    "strided": Case(conv(window_strides=(2, 3), padding=((1, 0), (0, 2))), (3, 2, 4, 5), (2, 7, 6, 4)),
    "dilated": Case(conv(rhs_dilation=(2, 1)), (3, 3, 2, 5), (2, 7, 6, 2)),
    "transposed": Case(conv(lhs_dilation=(2, 2), padding=((2, 1), (1, 1))), (3, 3, 2, 5), (2, 4, 3, 2)),
    "cropped": Case(conv(padding=((-1, 0), (0, -1))), (2, 2, 2, 3), (2, 6, 5, 2)),
    "grouped": Case(conv(feature_group_count=2), (3, 3, 2, 6), (2, 5, 5, 4)),
    "depthwise": Case(conv(feature_group_count=4, window_strides=(2, 2)), (3, 3, 1, 8), (2, 6, 6, 4)),
    "channels first": Case(conv(("NCHW", "OIHW", "NCHW"), feature_group_count=2), (6, 2, 3, 3), (2, 4, 5, 5)),
    "pointwise": Case(conv(), (1, 1, 4, 5), (2, 3, 3, 4)),
    "one dimension": Case(
        lambda w, x: lax.conv_general_dilated(x, w, (2,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")),
        (3, 4, 5),
        (2, 7, 4),
    ),
}
DOTS = {
    "plain": Case(lambda w, x: x @ w, (4, 5), (2, 3, 4)),
    "left": Case(lambda w, x: jnp.einsum("oi,bi->ob", w, x), (5, 4), (3, 4)),
    "two axes": Case(lambda w, x: jnp.einsum("bhd,hdo->bo", x, w), (3, 4, 5), (2, 3, 4)),
    "heads out": Case(lambda w, x: jnp.einsum("bti,ihd->bthd", x, w), (4, 3, 2), (2, 5, 4)),
    "batched": Case(lambda w, x: lax.dot_general(x, w, (((2,), (1,)), ((1,), (0,)))), (3, 4, 5), (6, 3, 4)),
    "batched left": Case(lambda w, x: lax.dot_general(w, x, (((1,), (2,)), ((0,), (1,)))), (3, 4, 5), (6, 3, 4)),
    "scaled transpose": Case(lambda w, x: x @ (w.T / 2), (5, 4), (3, 4)),
}


def prepared(case: Case) -> tuple[Any, Any, Any]:
    w, x = (jnp.asarray(RNG.standard_normal(shape), jnp.float32) for shape in (case.weight, case.x))
    return {"w": w}, x, lambda p, x: case.function(p["w"], x)


def use_of(function: Any, params: Any, x: Any) -> Use:
    (use,) = uses_of(trace(function, params, x))["w"].sites
    return use


@pytest.mark.parametrize("name", [*CONVS, *DOTS])
def test_rows_times_matrix_is_the_result(name: str) -> None:
    params, x, function = prepared((CONVS | DOTS)[name])
    use = use_of(function, params, x)
    rows, weight = np.asarray(input_rows(use, x), np.float64), matrix(use, params["w"])
    expected = np.asarray(output_rows(use, function(params, x)), np.float64)
    product = rows @ weight
    groups = feature_groups(use)
    joined = (
        product.reshape(-1, groups, *product.shape[1:]).swapaxes(1, 2).reshape(-1, product.shape[1], use.size(use.free))
    )
    factor = 2 if name == "scaled transpose" else 1
    np.testing.assert_allclose(joined, factor * expected, atol=1e-4)
    np.testing.assert_array_equal(unmatrix(use, weight, params["w"].shape), np.asarray(params["w"], np.float64))
    np.testing.assert_array_equal(rows, input_rows(use, np.asarray(x)))  # on the host too


def im2col(case: Case, x: np.ndarray, strides: Any, low: Any, dilation: Any, out: Any) -> np.ndarray:
    """The patches of a channels-last convolution, place by place, entry by entry."""
    height, width = case.weight[:2]
    rows = []
    for b, i, j in itertools.product(range(len(x)), *map(range, out)):
        row = np.zeros((height, width, x.shape[-1]))
        for di, dj in itertools.product(range(height), range(width)):
            at = i * strides[0] + di * dilation[0] - low[0], j * strides[1] + dj * dilation[1] - low[1]
            if all(0 <= n < size for n, size in zip(at, x.shape[1:3], strict=True)):
                row[di, dj] = x[b, at[0], at[1]]
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize(
    ("name", "strides", "low", "dilation"),
    [
        ("same", (1, 1), (1, 1), (1, 1)),
        ("strided", (2, 3), (1, 0), (1, 1)),
        ("dilated", (1, 1), (2, 1), (2, 1)),
        ("grouped", (1, 1), (1, 1), (1, 1)),
        ("depthwise", (2, 2), (0, 0), (1, 1)),
    ],
)
def test_moments_are_those_of_loops_in_float64(name: str, strides: Any, low: Any, dilation: Any) -> None:
    case = CONVS[name]
    params, x, function = prepared(case)
    use = use_of(function, params, x)
    out = function(params, x).shape[1:3]
    patches = np.concatenate([im2col(case, np.asarray(y, np.float64), strides, low, dilation, out) for y in (x, 2 * x)])
    groups = feature_groups(use)
    rows = patches.reshape(len(patches), -1, groups, case.weight[2])
    rows = np.moveaxis(rows, 2, 0).reshape(groups, len(patches), -1)
    found = second_moments(function, params, [x, 2 * x], "inputs").of["w"]
    np.testing.assert_allclose(found, rows.swapaxes(1, 2) @ rows, rtol=1e-5, atol=1e-4)


def test_fewer_places_are_evenly_spread() -> None:
    params, x, function = prepared(Case(conv(), (3, 3, 2, 3), (1, 9, 7, 2)))
    use = use_of(function, params, x)
    every = np.asarray(input_rows(use, x)).reshape(9, 7, -1)
    for given in (x, np.asarray(x)):
        np.testing.assert_array_equal(input_rows(use, given, places=9)[0], every[::3, ::3].reshape(9, -1))
        np.testing.assert_array_equal(input_rows(use, given, places=63)[0], every.reshape(63, -1))
