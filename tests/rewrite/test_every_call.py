"""Every network of ``train.models`` x every call: what each needs, keeps and refuses.

One parametrized test; a pair of each call by default, the rest exhaustive. Each network meets 8 or 4 bits, in turn.
"""

import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.core.paths import named_leaves
from tests.rewrite.parity import TOLERANCE, distance, quick, worst
from tests.train.models.tiny import IMAGES, TINY, made
from train.bench.networks import filled


class Network(NamedTuple):
    """A tiny network with random variables, and the images that it reads."""

    name: str
    module: Any
    variables: Any
    images: jax.Array

    def infer(self, variables: Any, images: jax.Array) -> Any:
        """Its outputs."""
        return self.module.apply(variables, images)

    def learn(self, variables: Any, images: jax.Array) -> Any:
        """Its outputs in training, and its new statistics."""
        return self.module.apply(variables, images, train=True, mutable=["batch_stats"])


@functools.cache
def network(name: str) -> Network:
    module = made(name)
    images = jnp.asarray(np.random.default_rng(1).standard_normal(IMAGES.shape), jnp.float32)
    return Network(name, module, filled(module, IMAGES), images)


def products(jaxpr: Any, times: int = 1) -> Iterator[tuple[Any, int]]:
    """Every matmul and convolution of a jaxpr, and how often it runs: a loop that knows nothing of ours."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in ("dot_general", "conv_general_dilated"):
            yield eqn, times
        own = times * eqn.params.get("length", 1)
        for value in eqn.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from products(inner, own)


def terms(eqn: Any) -> int:
    """Of each sum of a product."""
    left, right = (atom.aval.shape for atom in eqn.invars)
    if eqn.primitive.name == "dot_general":
        return int(np.prod([left[axis] for axis in eqn.params["dimension_numbers"][0][0]]))
    return int(np.prod(right)) // right[eqn.params["dimension_numbers"].rhs_spec[0]]


def sites(own: Network) -> None:
    found = jc.trace.sites(own.infer, own.variables, own.images)
    counted = [
        (times * int(np.prod(eqn.outvars[0].aval.shape)) * terms(eqn))
        for eqn, times in products(jax.make_jaxpr(own.infer)(own.variables, own.images).jaxpr)
    ]
    constant = PRODUCTS_WITHOUT_PARAMETERS.get(own.name, 0)
    assert len(found) == len(counted) - constant
    assert found.macs == sum(counted) if not constant else found.macs < sum(counted)
    paths = {path for row in found for path in row.paths} | set(found.left_out)
    assert paths == set(named_leaves(own.variables))


PRODUCTS_WITHOUT_PARAMETERS = {"vit": 2, "deit": 2, "deeplab": 4}
"""Of attention, and of enlarging."""

FROZEN = {
    "vit": {"params/positions": "reduce_max"},  # tokens, which softmax compares
    "deit": {"params/positions": "reduce_max"},
    "mixer": {
        "params/network/patches/kernel:3": "reduce_sum",  # biases over tokens fill channels that were cut
        "params/network/blocks/0/over_tokens/up/kernel:0": "dot_general",  # tokens
        "params/network/blocks/0/over_tokens/down/kernel": "reduce_sum",  # tokens, of which the mean is taken
    },
}
"""Channels that cannot be cut, and what forbids it; besides those of images and of results."""


def groups(own: Network) -> None:
    found = jc.trace.groups(own.infer, own.variables, own.images)
    reasons = {group.name: group.frozen for group in found.frozen}
    inner = {name: why.primitive for name, why in reasons.items() if not _outermost(own, name, why)}
    assert inner == FROZEN.get(own.name, {})
    outputs = [why for why in reasons.values() if why.primitive == "output"]
    results = jax.eval_shape(own.infer, own.variables, own.images)
    computed = (
        {name: own for name, own in results.items() if name != "anchors"} if isinstance(results, dict) else results
    )
    assert len(outputs) == len(jax.tree.leaves(computed))  # anchors are numbers that no input changes
    assert len(reasons) == len(inner) + len(outputs) + 1  # and the images' own channels


def _outermost(own: Network, name: str, why: Any) -> bool:
    """Whether it is of images or of results."""
    path, _, axis = name.partition(":")
    leaf = named_leaves(own.variables)[path]
    of_images = axis != "" and leaf.shape[int(axis)] in (own.images.shape[-1], own.images[0].size)
    rows = own.images.shape[-2] * own.images.shape[-1]
    return why.primitive == "output" or of_images or ("OptimizedLSTMCell" in path and rows in leaf.shape)


def shrink(own: Network) -> None:
    assert worst(own.infer, own.variables, own.images, fraction=0.5, gradients=False) <= TOLERANCE


def both(own: Network, new: Callable[..., Any], params: Any) -> float:
    """How far a function of other parameters is from the network."""
    before, after = quick(lambda a, b, x: (own.infer(a, x), new(b, x)))(own.variables, params, own.images)
    return distance(before, after)


BEFORE_CONVOLUTIONS = {"densenet": 6, "wide_resnet": 4}
"""Batch norms that no convolution comes before."""


def fold(own: Network) -> None:
    new, folded = jc.rewrite.fold_batch_norm(own.infer, own.variables, own.images)
    norms = sum(path.endswith("/var") for path in named_leaves(own.variables))
    assert sum(not row.skipped for row in new.report.rows) >= norms - BEFORE_CONVOLUTIONS.get(own.name, 0)
    assert both(own, new, folded) <= TOLERANCE


def factorize(own: Network) -> None:
    new, factors = jc.rewrite.factorize(own.infer, own.variables, own.images, rank=1.0, cheaper=False)
    assert any(not row.skipped for row in new.report.rows)
    assert both(own, new, factors) <= TOLERANCE


ERROR = {8: 0.05, 4: 0.6}
"""The largest error of an output that a network of few random weights may have, of the largest output."""


def ptq(bits: int, own: Network) -> None:
    scheme = jc.rewrite.Scheme(bits, input_bits=8)
    new = jc.posttrain.ptq(own.infer, own.variables, [own.images], scheme, progress=False)
    rows = new.report.quantized.rows
    assert not any(row.skipped for row in rows)
    assert len(rows) == len({row.name for row in jc.trace.sites(own.infer, own.variables, own.images)})
    assert 0 < both(own, new.apply_fn, new.params) <= ERROR[bits]


def qat(own: Network) -> None:
    learn, both = jc.rewrite.qat(own.learn, own.variables, [own.images], progress=False)

    def loss(both: Any) -> jax.Array:
        return sum((jnp.mean(leaf**2) for leaf in jax.tree.leaves(learn(both, own.images)[0])), jnp.zeros(()))

    value, grads = quick(jax.value_and_grad(loss))(both)
    found = named_leaves(grads)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in found.values())
    assert all(np.any(leaf) for path, leaf in found.items() if path.endswith("kernel") or "steps/weights" in path)


def export(own: Network, folder: Path) -> None:
    path = folder / "network.jcz"
    jc.export.save(path, own.infer, own.variables, own.images, shapes="batch, ...")
    program, loaded = jc.export.load(path)
    assert jax.tree.all(jax.tree.map(np.array_equal, loaded, own.variables))
    assert distance(jax.jit(own.infer)(own.variables, own.images), program(loaded, own.images)) == 0


def text(function: Callable[..., Any], *arguments: Any) -> str:
    """A function as JAX traces it."""
    return re.sub(r"0x[0-9a-f]+", "", str(jax.make_jaxpr(function)(*arguments)))


def pack(own: Network, folder: Path) -> None:
    path, shapes = folder / "network.jcz", jax.eval_shape(lambda: own.variables)
    made = jc.rewrite.shrink(own.infer, own.variables, own.images, keep=jc.rewrite.choose(0.5))
    made = jc.rewrite.quantize(*made, own.images, scheme=jc.rewrite.Scheme(4, inputs=None))
    jc.rewrite.save(path, *made)
    fn, params = jc.rewrite.load(path, own.infer, shapes, own.images)[:2]
    assert jax.tree.all(jax.tree.map(np.array_equal, params, made[1]))
    assert text(fn, params, own.images) == text(*made, own.images)
    assert path.stat().st_size < jc.pack.save(folder / "whole.jcz", own.variables)


def taps(own: Network) -> None:
    """What Linen's own capture gives; of NNX, whose modules leave no trace, what the last layer gives."""
    known = {row.name for row in jc.trace.values(own.infer, own.variables, own.images)}
    wanted = {name: leaf for name, leaf in captured(own).items() if name in known}
    if not wanted:  # within FromNNX, or within a loop
        wanted = {"network/head": own.infer(own.variables, own.images)}
    given, values = jc.trace.tap(own.infer, own.variables, own.images, at=list(wanted))(own.variables, own.images)
    assert distance(own.infer(own.variables, own.images), given) <= TOLERANCE
    assert len(wanted) >= LEAST_TAPS.get(own.name, 3)
    assert max(distance(wanted[name], values[name]) for name in wanted) <= TOLERANCE


LEAST_TAPS = {"convnext": 1, "mixer": 1, "mobilenet_v1": 1, "row_lstm": 2}


def captured(own: Network) -> dict[str, jax.Array]:
    """What modules of Linen give, by scope."""
    _, kept = own.module.apply(own.variables, own.images, capture_intermediates=True, mutable=["intermediates"])
    leaves, end = named_leaves(kept["intermediates"]), "/__call__/0"
    return {path.removesuffix(end): leaf for path, leaf in leaves.items() if path.endswith(end)}


CALLS: dict[str, Callable[..., None]] = {
    "sites": sites, "groups": groups, "shrink": shrink, "fold": fold, "factorize": factorize,
    "ptq8": functools.partial(ptq, 8), "ptq4": functools.partial(ptq, 4), "qat": qat, "export": export,
    "pack": pack, "taps": taps,
}  # fmt: skip


DEFAULT = {
    "sites": "ssd", "groups": "mixer", "shrink": "shufflenet_v2", "fold": "centernet", "factorize": "row_lstm",
    "ptq8": "vgg", "ptq4": "mobilenet_v2", "qat": "mobilenet_v1", "export": "deit", "pack": "ghostnet", "taps": "unet",
}  # fmt: skip


def pairs() -> Iterator[Any]:
    """A network and a call each."""
    for turn, name in enumerate(TINY):
        other = ("ptq8", "ptq4")[turn % 2]
        for call in CALLS:
            if DEFAULT[call] == name:
                yield name, call
            elif call != other:
                yield pytest.param(name, call, marks=pytest.mark.exhaustive)


@pytest.mark.parametrize(("name", "call"), pairs())
def test_every_call(name: str, call: str, tmp_path: Path) -> None:
    given = (tmp_path,) if call in ("export", "pack") else ()
    CALLS[call](network(name), *given)
