"""Laws of what a rewrite returns: an ordinary function, which computes what the rewrite promises, wherever it runs."""

import copy
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import jaxcomp as jc
from jaxcomp.core.errors import ArgumentError

from .rewrites import networks
from .test_rewrites import LAW, REWRITES, calibrated, half_of, options

NETWORKS = networks()
OF_THE_BATCH = ("quantize-dynamic",)
"""Rewrites whose ranges are those of the whole batch: a part of it has others."""


def masked(f: Any, p: Any, x: Any, new: Any, small: Any) -> tuple[Any, Any]:
    return f, jc.rewrite.mask(jc.trace.groups(f, p, x), p, new.keep)


def multiplied_out(f: Any, p: Any, x: Any, new: Any, small: Any) -> tuple[Any, Any]:
    return f, jc.rewrite.densify(small)


def untouched(f: Any, p: Any, x: Any, new: Any, small: Any) -> tuple[Any, Any]:
    return f, p


def in_integers(f: Any, p: Any, x: Any, new: Any, small: Any) -> tuple[Any, Any]:
    return new.quantized(small, x)


def rounded(f: Any, p: Any, x: Any, new: Any, small: Any) -> tuple[Any, Any]:
    return calibrated(jc.rewrite.fake_quantize, options())(f, p, x)


PROMISES: dict[str, Callable[..., tuple[Any, Any]]] = {
    "shrink": masked,
    "shrink-lenient": lambda f, p, *_: (f, jax.tree.map(half_of, p)),
    "factorize": multiplied_out,
    "fold_batch_norm": untouched,
    "fold_weights": untouched,
    "quantize": rounded,
    "quantize-blocks": multiplied_out,
    "quantize-nf4": multiplied_out,
    "quantize-dynamic": lambda f, p, x, *_: jc.rewrite.fake_quantize(
        f, p, x, scheme=options(inputs="dynamic", axis=None)
    ),
    "fake_quantize": lambda f, p, x, *_: calibrated(
        jc.rewrite.quantize, options(fit=jc.quant.percentile(0.99))
    )(f, p, x),
    "qat": in_integers,
    "qat-averages": in_integers,
}  # fmt: skip


def near(got: Any, wanted: Any) -> None:
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5 * np.abs(b).max())


def made(name: str, network: str) -> tuple[Any, Any, Any]:
    own = NETWORKS[network]
    return *REWRITES[name](*own), own.inputs


@LAW
def test_it_computes_what_it_promises_alone_and_mapped(name: str, network: str) -> None:
    f, params, x = NETWORKS[network]
    new, small, _ = made(name, network)
    assert copy.deepcopy({"apply_fn": new})["apply_fn"] is copy.copy(new) is new  # as any function is
    other, view = PROMISES[name](f, params, x, new, small)
    twice = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), small)

    @jax.jit
    def all_of(small: Any, twice: Any, view: Any, x: Any) -> Any:
        inputs, others = jax.vmap(new, (None, 0))(small, jnp.stack([x, x / 2])), jax.vmap(new, (0, None))(twice, x)
        return new(small, x), inputs[0], others[1], other(view, x)

    alone, inputs, others, promised = all_of(small, twice, view, x)
    for each in (inputs, others, promised):
        near(each, alone)
    shapes = jax.eval_shape(new, jax.eval_shape(lambda: small), jax.ShapeDtypeStruct(x.shape, x.dtype))
    assert (shapes.shape, shapes.dtype) == (alone.shape, alone.dtype)
    if jax.tree.map(jnp.shape, small) != jax.tree.map(jnp.shape, params):
        with pytest.raises(ArgumentError, match=rf"that {name.split('-')[0]}\w* returned"):
            new(params, x)


def cast(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16) if leaf.dtype == jnp.float32 else leaf, tree)


@LAW
def test_it_computes_and_trains_in_bfloat16(name: str, network: str) -> None:
    new, small, x = made(name, network)
    wanted = np.asarray(new(small, x))

    def loss(small: Any) -> Any:
        out = new(cast(small), cast(x))
        return (out.astype(jnp.float32) ** 2).mean(), out

    step = jax.jit(jax.value_and_grad(loss, has_aux=True, allow_int=True))
    if name == "fold_batch_norm" and network == "convolutional":  # 1e-5 is another number there
        with pytest.raises(ArgumentError, match=r"types other .*: call fold_batch_norm with parameters and an example"):
            step(small)
        return
    (_, out), slopes = step(small)
    assert out.dtype == jnp.bfloat16
    assert np.abs(np.asarray(out, np.float32) - wanted).mean() <= 0.05 * np.abs(wanted).max()
    for slope, leaf in zip(jax.tree.leaves(slopes), jax.tree.leaves(small), strict=True):
        assert leaf.dtype != jnp.float32 or (slope.dtype == jnp.float32 and np.isfinite(slope).all())
    np.testing.assert_array_equal(new(small, x), wanted)


@LAW
def test_batches_may_be_in_parts_and_larger(name: str, network: str, mesh: jax.sharding.Mesh) -> None:
    """Results and gradients of a batch over devices, of rows over devices, of a batch that was never seen."""
    new, small, x = made(name, network)
    both = jnp.concatenate([x, x[::-1]])
    run = jax.jit(lambda small, x: (new(small, x), jax.grad(lambda x: (new(small, x) ** 2).mean())(x)))
    wanted = run(small, both)
    assert all(np.isfinite(leaf).all() for leaf in wanted)
    parts = run(small, jax.device_put(both, jax.NamedSharding(mesh, jax.P("x"))))
    near(parts, wanted)
    assert parts[0].sharding.spec[0] == "x"
    if name not in OF_THE_BATCH:
        rows = jax.pmap(new, in_axes=(None, 0), devices=jax.devices()[:2])(small, both.reshape(2, *x.shape))
        near(rows.reshape(wanted[0].shape), wanted[0])


@LAW
def test_exported_for_any_batch_it_comes_back_as_bytes(name: str, network: str) -> None:
    new, small, x = made(name, network)
    (rows,) = export.symbolic_args_specs((x,), "n, ...")
    program = export.deserialize(export.export(jax.jit(new))(small_shapes(small), rows).serialize())
    near(program.call(small, x[:3]), new(small, x[:3]))


def small_shapes(small: Any) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), small)


@pytest.mark.parametrize("name", ["shrink-lenient", "fold_batch_norm", "fold_weights"])
def test_what_is_done_is_not_done_again(name: str) -> None:
    f, params, x = NETWORKS["convolutional"]
    new, small = REWRITES[name](f, params, x)
    again = jc.rewrite.remove_dead if name == "shrink-lenient" else REWRITES[name]
    _, same = again(new, small, x)
    assert jax.tree.structure(same) == jax.tree.structure(small)
    jax.tree.map(np.testing.assert_array_equal, same, small)
