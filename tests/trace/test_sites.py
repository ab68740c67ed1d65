"""Sites: found wherever a parameter goes, and costed as published."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export, lax

from jaxcomp.core.errors import ArgumentError
from jaxcomp.trace import sites


def test_macs_are_those_of_the_batch() -> None:
    """Published ones, of networks of real size: tests/train/models/test_sizes.py."""
    one, four = (sites(lambda w, x: x @ w, np.ones((3, 2)), np.ones((n, 3))).to_dict()["macs"] for n in (1, 4))
    assert (one, four) == (6, 24)


W = jnp.ones((4, 4))


def _remat(w, x):
    return jax.checkpoint(lambda y: jnp.sin(y @ w["a"]))(x)


def _custom_jvp(w, x):
    @jax.custom_jvp
    def f(a, y):
        return y @ a

    f.defjvp(lambda p, t: (f(*p), t[1] @ p[0]))
    return f(w["a"], x)


def _custom_vjp(w, x):
    f = jax.custom_vjp(lambda a, y: y @ a)
    f.defvjp(lambda a, y: (y @ a, (a, y)), lambda r, g: (g, g))
    return f(w["a"], x)


def _scan(w, x):
    return lax.scan(lambda c, a: (c @ a, None), x, jnp.stack([w["a"], w["a"], w["a"]]))[0]


@pytest.mark.parametrize(
    ("function", "calls"),
    [
        (lambda w, x: x @ w["a"], 1),
        (lambda w, x: x @ w["a"].astype(jnp.bfloat16).T, 1),
        (lambda w, x: x @ w["a"].reshape(2, 8)[:, :4].reshape(4, 2), 1),
        (lambda w, x: x @ jnp.broadcast_to(w["a"][0], (4, 4)), 1),
        (lambda w, x: jax.jit(lambda a: x @ a)(w["a"]), 1),
        (_remat, 1),
        (_custom_jvp, 1),
        (_custom_vjp, 1),
        (_scan, 3),
        (lambda w, x: lax.cond(x.sum() > 0, lambda a: x @ a, lambda a: x, w["a"]), 1),
        (lambda w, x: lax.while_loop(lambda c: c.sum() < 9, lambda c: c @ w["a"], x), 1),
    ],
)
def test_a_parameter_is_followed(function, calls: int) -> None:
    (row,) = sites(function, {"a": W, "unused": W}, jnp.ones((2, 4)))
    assert (row.name, row.paths, row.calls) == ("a", ("a",), calls)


def test_concatenated_and_scaled_parameters_are_all_named() -> None:
    params = {"a": W, "b": W, "scale": jnp.ones(())}
    (row,) = sites(lambda p, x: x @ jnp.concatenate([p["a"], p["b"] * p["scale"]], 1), params, jnp.ones((2, 4)))
    assert row.paths == ("a", "b", "scale")
    assert (row.weight, row.macs, row.bytes) == ((4, 8), 64, 132)


def test_products_of_activations_are_no_sites() -> None:
    assert [row.name for row in sites(lambda w, x: (x @ w) @ (x @ w).T, W, jnp.ones((2, 4)))] == ["", ""]


def test_scope_is_linens_own_or_the_parameters() -> None:
    model = nn.Sequential([nn.Dense(2)])
    (row,) = sites(model.apply, jax.eval_shape(model.init, jax.random.key(0), np.ones((1, 3))), np.ones((1, 3)))
    assert (row.name, row.scope) == ("params/layers_0/kernel", "Sequential/layers_0")
    graph, state = nnx.split(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
    (row,) = sites(lambda s, x: nnx.merge(graph, s["fc"])(x), {"fc": state}, np.ones((1, 3)))
    assert (row.name, row.scope) == ("fc/kernel", "fc")


def test_grouped_convolution_costs_its_group() -> None:
    def f(w, x):
        return lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=8
        )

    assert sites(f, jnp.ones((3, 3, 1, 8)), jnp.ones((1, 4, 4, 8))).macs == 4 * 4 * 8 * 9


def test_closing_over_the_parameters_is_refused() -> None:
    with pytest.raises(ArgumentError, match="pass them instead"):
        sites(lambda p, x: x @ W, {"a": W}, jnp.ones((2, 4)))


def test_sizes_with_names_are_counted_by_them() -> None:
    rows = jax.ShapeDtypeStruct(export.symbolic_shape("n, 3"), jnp.float32)
    found = sites(lambda p, x: x @ p["w"], {"w": jnp.ones((3, 2))}, rows)
    assert str(found.macs) == "6*n"
    assert "6*n" in str(found)
