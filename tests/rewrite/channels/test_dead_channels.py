"""Dead channels: what goes changes nothing, what changes something stays, and all that is dead is found."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.paths import named_leaves, replace_leaves
from jaxcomp.rewrite import mask, remove_dead, shrink
from jaxcomp.trace import groups
from tests.rewrite.channels.test_models import CASES, DISTINCT, prepared
from tests.rewrite.parity import TOLERANCE, distance, quick, randomize

X = jnp.asarray(np.random.default_rng(0).standard_normal((4, 3)), jnp.float32)
PARAMS = randomize({"a": jnp.ones((3, 5)), "bias": jnp.ones(5), "b": jnp.ones((5, 4)), "c": jnp.ones((4, 2))})


def mlp(p: Any, x: jax.Array) -> jax.Array:
    return jax.nn.relu(jax.nn.relu(x @ p["a"] + p["bias"]) @ p["b"]) @ p["c"]


def soft(p: Any, x: jax.Array) -> jax.Array:
    """What a unit without weights makes is 0.69, not 0."""
    return jax.nn.softplus(x @ p["a"] + p["bias"]) @ p["b"]


def normed(p: Any, x: jax.Array) -> jax.Array:
    """A norm over units: each has a part in the others' mean."""
    h = x @ p["a"] + p["bias"]
    return (h - h.mean(-1, keepdims=True)) @ p["b"]


def scaled(p: Any, x: jax.Array) -> jax.Array:
    """Batch norm at rest, of mean 1."""
    return jax.nn.relu((x @ p["a"] - 1) * p["scale"] + p["bias"]) @ p["b"]


def zeroed(**indices: Any) -> dict[str, jax.Array]:
    """PARAMS and a scale, 0 at ``{path: indices}``."""
    params = PARAMS | {"scale": jnp.ones(5)}
    return params | {path: params[path].at[index].set(0) for path, index in indices.items()}


every = np.s_[:]


@pytest.mark.parametrize(
    ("function", "params", "left"),
    [
        (mlp, zeroed(), {"a": 5, "b": 4}),
        (mlp, zeroed(b=1), {"a": 4, "b": 4}),  # nothing reads unit 1
        (mlp, zeroed(a=(every, 1), bias=1), {"a": 4, "b": 4}),  # unit 1 is 0
        (mlp, zeroed(a=(every, 1)), {"a": 5, "b": 4}),  # it is a constant
        (mlp, zeroed(b=(slice(3), slice(1, 4)), c=0), {"a": 2, "b": 3}),  # units that only a dead one reads
        (mlp, zeroed(a=(every, slice(3)), bias=slice(3), b=(slice(3, 5), 0)), {"a": 2, "b": 3}),  # made of dead ones
        (mlp, zeroed(b=every), {"a": 1, "b": 1}),  # one of each stays
        (soft, zeroed(a=(every, 1), bias=1), {"a": 5}),
        (soft, zeroed(b=1), {"a": 4}),
        (normed, zeroed(b=1), {"a": 5}),
        (scaled, zeroed(scale=1, bias=1), {"a": 4}),
        (scaled, zeroed(scale=1), {"a": 5}),
    ],
)
def test_what_stays(function: Any, params: Any, left: dict[str, int]) -> None:
    read = {path: params[path] for path in "abc" if path in left or path == "b"} | {
        path: params[path] for path in ("bias", "scale", "c")
    }
    new, small = remove_dead(function, read, X)
    assert {path: small[path].shape[1] for path in left} == left
    np.testing.assert_allclose(function(read, X), new(small, X), atol=TOLERANCE)
    again, _ = shrink(function, read, X, keep=new.keep, lenient=True)
    np.testing.assert_array_equal(again(small, X), new(small, X))


def test_values_are_needed() -> None:
    with pytest.raises(ArgumentError, match="'a' is a shape: call remove_dead outside of jit"):
        remove_dead(mlp, jax.eval_shape(lambda: PARAMS), X)
    with pytest.raises(ArgumentError, match="outside of jit"):
        jax.jit(lambda p: remove_dead(mlp, p, X)[1])(PARAMS)


def test_numbers_beside_arrays_are_no_channels() -> None:
    params = {"a": PARAMS["a"], "b": PARAMS["b"].at[1].set(0), "by": 2.0, "steps": 3}
    new, small = remove_dead(lambda p, x: jnp.tanh(x @ p["a"] * p["by"]) @ p["b"], params, X)
    assert (small["a"].shape, small["by"], small["steps"]) == ((3, 4), 2.0, 3)
    assert new(small, X).shape == (4, 4)


def test_after_unstructured_pruning() -> None:
    """Global magnitude leaves few of many units; what is removed can be cut as if it had been chosen."""
    params = randomize({"a": jnp.ones((3, 50)), "bias": jnp.zeros(50), "b": jnp.ones((50, 40)), "c": jnp.ones((40, 2))})
    prune = jc.partition([("[abc]", jc.prune.magnitude(0.95, scope="global"))])
    pruned = jax.jit(prune.apply)(params, jax.jit(prune.update)(params, prune.init(params), 0))
    new, small = remove_dead(mlp, pruned, X)
    unread = np.asarray(pruned["b"] == 0).all(1)
    assert small["a"].shape[1] <= 50 - unread.sum() < 50
    assert distance(mlp(pruned, X), new(small, X)) <= TOLERANCE


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", DISTINCT)
def test_every_model(name: str) -> None:
    """A third of the channels are made 0, a third are read by nobody, all among weights half of which are 0."""
    apply_fn, params = prepared(CASES[name])
    example, rng = CASES[name].example, np.random.default_rng(0)
    found = groups(apply_fn, params, example)
    kind = {group.name: rng.permutation(np.arange(group.size) % 3) for group in found}
    halved = _halved(params, found.weights, rng)
    unmade = mask(found, halved, {name: own != 0 for name, own in kind.items()})
    pruned = _unread(found, unmade, {name: own == 1 for name, own in kind.items()})
    new, small = remove_dead(apply_fn, pruned, example)
    for group_name, own in kind.items():
        assert not new.keep[group_name][own == 0][1:].any()
    whole, left = _first(quick(apply_fn)(pruned, example)), _first(quick(new)(small, example))
    assert distance(whole, left) <= TOLERANCE


def _halved(params: Any, weights: Any, rng: np.random.Generator) -> Any:
    named = named_leaves(params)
    return replace_leaves(params, {path: named[path] * rng.integers(2, size=named[path].shape) for path in weights})


def _unread(found: Any, params: Any, chosen: dict[str, np.ndarray]) -> Any:
    """Parameters whose readers of the chosen channels are 0."""
    named = {path: np.array(leaf) for path, leaf in named_leaves(params).items()}
    for name, own in chosen.items():
        for member in found[name].members:
            if not found.produces(member):
                np.moveaxis(named[member.path], member.axis, 0)[member.indices[own].ravel()] = 0
    return replace_leaves(params, {path: jnp.asarray(leaf) for path, leaf in named.items()})


def _first(out: Any) -> Callable[..., Any]:
    return out[0] if isinstance(out, tuple) else out
