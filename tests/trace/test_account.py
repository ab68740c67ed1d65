"""Nothing that a user passes is left out without a word."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import FrozenDict
from jax.experimental import pallas as pl

import jaxcomp as jc
from jaxcomp.rewrite import Scheme
from jaxcomp.trace.account import left_out
from jaxcomp.trace.ir import trace

X = jnp.linspace(-1, 1, 32).reshape(8, 4)
LEAVES = {
    "up": jnp.sin(jnp.arange(24.0)).reshape(4, 6),
    "bias": jnp.full(6, 0.1),
    "down": jnp.cos(jnp.arange(12.0)).reshape(6, 2),
    "gain": jnp.array(2.0),
    "table": jnp.ones((5, 2)),
    "count": jnp.arange(3),
    "spare": jnp.ones((3, 3)),
    "nothing": jnp.ones((0, 4)),
}
NAMES = tuple(LEAVES)


def network(get, x):
    hidden = jax.nn.relu(x @ get("up") + get("bias")) @ get("down")
    return hidden * get("gain") + get("table")[jnp.zeros(1, int)]


def as_dict():
    return dict(LEAVES), lambda params, x: network(lambda name: params[name], x)


def as_frozen_dict():
    return FrozenDict({"net": LEAVES}), lambda params, x: network(lambda name: params["net"][name], x)


def as_tuple():
    return tuple(LEAVES.values()), lambda params, x: network(lambda name: params[NAMES.index(name)], x)


def as_nested_lists():
    params = [[leaf] for leaf in LEAVES.values()]
    return params, lambda params, x: network(lambda name: params[NAMES.index(name)][0], x)


TELLERS = {
    "sites": lambda f, p: jc.trace.sites(f, p, X),
    "groups": lambda f, p: jc.trace.groups(f, p, X),
    "shrink": lambda f, p: jc.rewrite.shrink(f, p, X, keep=jc.rewrite.choose(0.5))[0].report,
    "remove_dead": lambda f, p: jc.rewrite.remove_dead(f, p, X)[0].report,
    "quantize": lambda f, p: jc.rewrite.quantize(f, p, X, scheme=Scheme(8, inputs=None))[0].report,
    "factorize": lambda f, p: jc.rewrite.factorize(f, p, X, rank=1)[0].report,
    "fold_batch_norm": lambda f, p: jc.rewrite.fold_batch_norm(f, p, X)[0].report,
    "fold_weights": lambda f, p: jc.rewrite.fold_weights(f, p, X)[0].report,
    "sparsify": lambda f, p: jc.posttrain.sparsify(f, p, [X], 0.5, method="magnitude").report,
    "equalize": lambda f, p: jc.posttrain.equalize(f, p, X, rounds=1, scheme=None).report,
    "smooth": lambda f, p: jc.posttrain.smooth(f, p, [X], scheme=None).report,
    "correct_biases": lambda f, p: jc.posttrain.correct_biases(f, p, [X], p, method="fast").report,
    "round_weights": lambda f, p: (
        jc.posttrain.round_weights(f, p, [X], Scheme(8, inputs=None), method="nearest").report
    ),
    "ptq": lambda f, p: jc.posttrain.ptq(f, p, [X], jc.rewrite.Scheme(inputs=None), method="nearest").report,
    "qat": lambda f, p: jc.rewrite.qat(f, p, [X], Scheme(8, inputs=None), weight_grids="fit")[0].report,
    "sensitivity": lambda f, p: jc.search.sensitivity(f, p, [X], {"8": Scheme(8, inputs=None)}, curvature=p),
}
ALWAYS = ("sites", "groups", "quantize", "factorize")


OTHERS = (as_frozen_dict, as_tuple, as_nested_lists)
# What names the leaves is one for all: a few reports show it in every container.
CASES = [*((name, as_dict) for name in TELLERS), *((name, container) for name in ALWAYS for container in OTHERS)]


@pytest.mark.parametrize(("teller", "container"), CASES)
def test_every_leaf_is_named(teller, container):
    params, function = container()
    told = str(TELLERS[teller](function, params))
    words = set(told.replace(",", " ").replace("(", " ").replace(":", " ").split())
    missing = [path for path in jc.core.paths.named_leaves(params) if path not in words]
    assert not missing, told


def test_what_reads_each():
    params, function = as_dict()
    found = left_out(trace(function, params, X), {"up", "down"})
    assert found == {
        "bias": "read by add: no matmul or convolution",
        "count": "of int32, not floating-point; nothing reads it",
        "gain": "a scalar; read by mul: no matmul or convolution",
        "nothing": "empty; nothing reads it",
        "spare": "nothing reads it",
        "table": "read by add: no matmul or convolution",
    }


def shared_out(params, x):
    mesh, whole = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,)), jax.P()

    def local(p, x):
        hidden = jax.nn.relu((x @ p["up"] - p["mean"]) * p["scale"] + p["bias"])
        return hidden @ p["down"]

    return jax.shard_map(local, mesh=mesh, in_specs=(whole, jax.P("x")), out_specs=jax.P("x"))(params, x)


SHARED = {**{name: LEAVES[name] for name in ("up", "down", "bias")}, "mean": jnp.ones(6), "scale": jnp.full(6, 2.0)}


@pytest.mark.parametrize("teller", TELLERS)
def test_what_is_not_acted_on_inside_shard_map_is_named_with_the_reason(teller):
    told = TELLERS[teller](shared_out, SHARED)
    words = set(str(told).replace(",", " ").replace("(", " ").replace(":", " ").split())
    assert SHARED.keys() <= words, told
    others = getattr(told, "left_out", {})
    assert all("inside shard_map" in why for why in others.values()), others
    if teller in ("fold_batch_norm", "equalize", "smooth", "correct_biases", "round_weights"):
        lines = [line for line in str(told).split("\n") if "shard_map" in line]
        assert all(any(path in re.findall(r"\w+", line) for line in lines) for path in ("up", "down")), told


def kernel(params, x):
    def multiply(x, w, out):
        out[...] = x[...] @ w[...]

    shape = jax.ShapeDtypeStruct((*x.shape[:-1], params["up"].shape[1]), x.dtype)
    return pl.pallas_call(multiply, out_shape=shape, interpret=True)(x, params["up"]) @ params["down"]


def callback(params, x):
    shape = jax.ShapeDtypeStruct((8, 6), jnp.float32)
    return jax.pure_callback(lambda x, w: np.asarray(x) @ np.asarray(w), shape, x, params["up"]) @ params["down"]


def solver(params, x):
    def read(w, b):
        return jax.lax.custom_linear_solve(lambda y: w @ y, b, lambda _, b: b, symmetric=True)

    return read(params["up"][:, :4], x[0])[None] @ params["down"][:4]


HIDDEN = [(kernel, "pallas_call"), (callback, "pure_callback"), (solver, "custom_linear_solve")]


@pytest.mark.parametrize(("function", "op"), HIDDEN)
def test_what_is_not_looked_into_is_named(function, op):
    params = {"up": LEAVES["up"], "down": LEAVES["down"]}
    for told in (
        jc.trace.sites(function, params, X),
        jc.trace.groups(function, params, X),
        jc.rewrite.quantize(function, params, X, scheme=Scheme(8, inputs=None))[0].report,
    ):
        lines = [line for line in str(told).split("\n") if "up" in line and op in line]
        assert lines, told
