"""What is inside of shard_map, pmap and calls with rules of their own is rewritten as the plain function is."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import jaxcomp as jc
from jaxcomp.rewrite import Scheme

MESH = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
KEYS = jax.random.split(jax.random.key(0), 3)
PARAMS = {
    "up": jax.random.normal(KEYS[0], (6, 8)),
    "bias": jnp.linspace(-0.2, 0.2, 8),
    "down": jax.random.normal(KEYS[1], (8, 4)),
}
X = jax.random.normal(KEYS[2], (8, 6))
SPLIT = {"up": P(None, "d"), "bias": P("d"), "down": P("d")}
KEEP = {"up": np.array([1, 0, 1, 1] * 2, bool)}


def plain(p, x):
    return jax.nn.relu(x @ p["up"] + p["bias"]) @ p["down"]


def of_layers(p, x):
    return jnp.concatenate([plain({path: leaf[i] for path, leaf in p.items()}, x[4 * i : 4 * i + 4]) for i in (0, 1)])


def pmapped(p, x):
    return jax.pmap(plain, in_axes=(None, 0), devices=jax.devices()[:2])(p, x.reshape(2, 4, 6)).reshape(8, 4)


def pmapped_layers(p, x):
    return jax.pmap(plain, devices=jax.devices()[:2])(p, x.reshape(2, 4, 6)).reshape(8, 4)


@jax.custom_batching.custom_vmap
def batched(p, x):
    return plain(p, x)


@batched.def_vmap
def _(size, is_batched, p, x):
    del size
    return jax.vmap(plain, in_axes=(jax.tree.map(lambda each: 0 if each else None, is_batched[0]), 0))(p, x), True


STACKED = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.5 * leaf]), PARAMS)
WRAPPED = {
    "data": (jax.shard_map(plain, mesh=MESH, in_specs=(P(), P("d")), out_specs=P("d")), PARAMS, plain),
    "unchecked": (
        jax.shard_map(plain, mesh=MESH, in_specs=(P(), P("d")), out_specs=P("d"), check_vma=False),
        PARAMS,
        plain,
    ),
    "tensor": (
        jax.shard_map(lambda p, x: lax.psum(plain(p, x), "d"), mesh=MESH, in_specs=(SPLIT, P()), out_specs=P()),
        PARAMS,
        plain,
    ),
    "pmap": (pmapped, PARAMS, plain),
    "pmap_layers": (pmapped_layers, STACKED, of_layers),
    "custom_vmap": (batched, PARAMS, plain),
    "composite": (lax.composite(plain, name="tests.mlp"), PARAMS, plain),
}
WEIGHTS = {"scheme": Scheme(8, inputs=None)}


@pytest.mark.parametrize("name", WRAPPED)
def test_every_weight_is_found(name):
    function, params, unwrapped = WRAPPED[name]
    found, expected = (jc.trace.sites(each, params, X) for each in (function, unwrapped))
    assert {row.name for row in found} == {"up", "down"}
    assert found.macs == expected.macs
    assert {path: re.sub(r" inside \w+", "", why) for path, why in found.left_out.items()} == expected.left_out
    assert {group.name for group in jc.trace.groups(function, params, X)} == {"up"}


@pytest.mark.parametrize("name", WRAPPED)
def test_quantized(name):
    function, params, unwrapped = WRAPPED[name]
    mine, packed = jc.rewrite.quantize(function, params, X, **WEIGHTS)
    theirs, expected = jc.rewrite.quantize(unwrapped, params, X, **WEIGHTS)
    assert [row.format for row in mine.report.rows] == ["8", "8"]
    out = jax.jit(mine)(packed, X)
    if name == "pmap_layers":  # where layers are slices, scales are theirs together
        np.testing.assert_allclose(out, function(params, X), atol=0.2)
    else:
        np.testing.assert_allclose(out, jax.jit(theirs)(expected, X), atol=1e-5)


@pytest.mark.parametrize("name", WRAPPED)
def test_shrunk(name):
    function, params, _ = WRAPPED[name]
    found = jc.trace.groups(function, params, X)
    keep = {"up": KEEP["up"][: found["up"].size]}
    small_fn, small = jc.rewrite.shrink(function, params, X, keep=keep)
    assert small["up"].size < params["up"].size
    np.testing.assert_allclose(small_fn(small, X), function(jc.rewrite.mask(found, params, keep), X), atol=1e-5)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", WRAPPED)
def test_in_integers_with_calibrated_inputs(name):
    function, params, _ = WRAPPED[name]
    ranges = jc.rewrite.calibrate(function, params, [X])
    new, packed = jc.rewrite.quantize(function, params, X, ranges=ranges)
    assert [row.inputs for row in new.report.rows] == ["static 8"] * 2
    np.testing.assert_allclose(jax.jit(new)(packed, X), function(params, X), atol=0.2)


def test_inputs_without_a_range_are_named():
    report = jc.rewrite.quantize(WRAPPED["data"][0], PARAMS, X)[0].report
    assert [(row.format, row.inputs) for row in report.rows] == [("8", "")] * 2
    assert all("no range" in row.skipped for row in report.rows)


@pytest.mark.parametrize("name", ["data", pytest.param("tensor", marks=pytest.mark.exhaustive)])
def test_norms_of_inputs_are_joined_over_devices(name):
    function, params, _ = WRAPPED[name]
    mine, theirs = (jc.observe.input_norms(each, params, [X]) for each in (function, plain))
    np.testing.assert_allclose(mine["down"], theirs["down"], rtol=1e-5)


@pytest.mark.exhaustive
def test_loops_and_branches_inside():
    def body(p, x):
        hidden = lax.cond(x.sum() > 1e6, lambda x: x, lambda x: x @ p["square"], x)
        return lax.fori_loop(0, 2, lambda _, h: jnp.tanh(h @ p["square"]), hidden)

    function = jax.shard_map(body, mesh=MESH, in_specs=(P(), P("d")), out_specs=P("d"))
    params = {"square": jax.random.normal(KEYS[0], (6, 6))}
    mine, theirs = (jc.observe.input_norms(each, params, [X]) for each in (function, body))
    np.testing.assert_allclose(mine["square"], theirs["square"], rtol=1e-5)


def test_what_folds_leave_inside_is_named():
    function, params, _ = WRAPPED["tensor"]
    for fold in (jc.rewrite.fold_batch_norm, jc.rewrite.fold_weights):
        new, folded = fold(function, params, X)
        assert all(path in str(new.report) for path in params)
        np.testing.assert_allclose(new(folded, X), function(params, X), atol=1e-5)


def test_under_explicit_axes():
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Explicit,), devices=jax.devices()[:2])
    with jax.set_mesh(mesh):
        function = jax.shard_map(plain, in_specs=(P(), P("d")), out_specs=P("d"))
        x = jax.device_put(X, jax.NamedSharding(mesh, P("d")))
        small_fn, small = jc.rewrite.shrink(function, PARAMS, x, keep=KEEP)
        new, packed = jc.rewrite.quantize(small_fn, small, x, **WEIGHTS)
        assert [row.format for row in new.report.rows] == ["8", "8"]
        np.testing.assert_allclose(new(packed, x), small_fn(small, x), atol=0.1)


def test_experts():
    def experts(p, x):
        hidden = jax.nn.relu(lax.ragged_dot(x, p["up"], jnp.array([3, 5])))
        return lax.ragged_dot(hidden, p["down"], jnp.array([3, 5]))

    params = {"up": jnp.ones((2, 6, 8)), "down": jnp.ones((2, 8, 4))}
    found = jc.trace.sites(experts, params, X)
    assert {row.name: row.macs for row in found} == {"up": 8 * 6 * 8, "down": 8 * 8 * 4}
    for told in (jc.trace.groups(experts, params, X), jc.rewrite.quantize(experts, params, X, **WEIGHTS)[0].report):
        assert all(path in str(told) for path in params)
    assert "ragged_dot_general" in str(told)
