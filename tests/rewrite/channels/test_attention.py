"""Heads and head dimensions are groups, in every layout of queries, keys and values that people write."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxcomp.rewrite import choose, mask, shrink
from jaxcomp.trace import groups
from tests.rewrite.parity import TOLERANCE, distance, randomize

X = jnp.asarray(np.random.default_rng(0).standard_normal((2, 5, 7)), jnp.float32)
HEADS, DIM = 3, 4


def attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    weights = nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", query, key) / 2.0)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, value)


def thirds_first(qkv: jax.Array) -> Any:
    """ViT's: [3, heads, dim]."""
    parts = qkv.reshape(*qkv.shape[:2], 3, HEADS, DIM)
    return (parts[:, :, i] for i in range(3))


def thirds_split(qkv: jax.Array) -> Any:
    """nanoGPT's: split, then [heads, dim]."""
    return (part.reshape(*qkv.shape[:2], HEADS, DIM) for part in jnp.split(qkv, 3, axis=-1))


def thirds_moved(qkv: jax.Array) -> Any:
    """timm's: [3, heads, dim], the thirds moved to the front and unstacked."""
    return jnp.moveaxis(qkv.reshape(*qkv.shape[:2], 3, HEADS, DIM), 2, 0)


def thirds_last(qkv: jax.Array) -> Any:
    """Megatron's: [heads, 3 dim], split within each head."""
    return jnp.split(qkv.reshape(*qkv.shape[:2], HEADS, 3 * DIM), 3, axis=-1)


class Fused(nn.Module):
    """Attention by one matmul."""

    layout: Callable[[jax.Array], Any]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        out = attend(*self.layout(nn.Dense(3 * HEADS * DIM, name="qkv")(x)))
        return nn.Dense(6, name="out")(out.reshape(*x.shape[:2], -1)).sum()


class Grouped(nn.Module):
    """Grouped queries: three heads, each of two queries a key."""

    repeat: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        query = nn.Dense(2 * HEADS * DIM, name="query")(x).reshape(*x.shape[:2], 2 * HEADS, DIM)
        key, value = (
            nn.Dense(HEADS * DIM, name=name)(x).reshape(*x.shape[:2], HEADS, DIM) for name in ("key", "value")
        )
        if self.repeat:
            out = attend(query, jnp.repeat(key, 2, axis=2), jnp.repeat(value, 2, axis=2))
        else:
            query = query.reshape(*x.shape[:2], HEADS, 2, DIM)
            weights = nn.softmax(jnp.einsum("bqgrd,bkgd->bgrqk", query, key) / 2.0)
            out = jnp.einsum("bgrqk,bkgd->bqgrd", weights, value)
        return nn.Dense(6, name="out")(out.reshape(*x.shape[:2], -1)).sum()


class Separate(nn.Module):
    """Flax's own."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.MultiHeadDotProductAttention(HEADS, qkv_features=HEADS * DIM, name="attention")(x).sum()


class NnxAttention(nnx.Module):
    """Flax NNX's own."""

    def __init__(self, rngs: nnx.Rngs):
        self.attention = nnx.MultiHeadAttention(HEADS, 7, HEADS * DIM, decode=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.attention(x).sum()


def linen(model: nn.Module) -> tuple[Callable[..., Any], Any]:
    return model.apply, jax.eval_shape(model.init, jax.random.key(0), X)


def of_nnx() -> tuple[Callable[..., Any], Any]:
    graph, state = nnx.split(NnxAttention(nnx.Rngs(0)))
    return lambda state, x: nnx.merge(graph, state, copy=True)(x), state


SEPARATE = {"query/kernel:1": HEADS, "query/kernel:2": DIM, "value/kernel": DIM}
GROUPED = {"params/query/kernel": HEADS, "params/query/kernel#2": DIM, "params/value/kernel#2": DIM}
TOGETHER = {"params/qkv/kernel": HEADS, "params/qkv/kernel#2": DIM}
APART = TOGETHER | {"params/qkv/kernel#3": DIM}
CASES: dict[str, tuple[Callable[[], tuple[Callable[..., Any], Any]], dict[str, int]]] = {
    "linen": (lambda: linen(Separate()), {f"params/attention/{name}": size for name, size in SEPARATE.items()}),
    "queries_grouped": (lambda: linen(Grouped(repeat=False)), GROUPED),
    "keys_repeated": (lambda: linen(Grouped(repeat=True)), GROUPED),
    "nnx": (of_nnx, {f"attention/{name}": size for name, size in SEPARATE.items()}),
    # One array of queries, keys and values has as many dimensions of each.
    "thirds_first": (lambda: linen(Fused(thirds_first)), TOGETHER),
    "thirds_moved": (lambda: linen(Fused(thirds_moved)), TOGETHER),
    "thirds_split": (lambda: linen(Fused(thirds_split)), APART),
    "thirds_last": (lambda: linen(Fused(thirds_last)), APART),
}


@pytest.mark.parametrize("name", CASES)
def test_heads_are_found_named_and_cut(name: str) -> None:
    make, wanted = CASES[name]
    apply_fn, params = make()
    params = randomize(params)
    found = groups(apply_fn, params, X)
    assert {group.name: group.size for group in found if "out/" not in group.name} == wanted
    keep = choose(0.34)(found, params)
    assert {group: int(mask.sum()) for group, mask in keep.items() if group in wanted} == {
        group: {HEADS: 2, DIM: 3}[size] for group, size in wanted.items()
    }
    new, small = shrink(apply_fn, params, X, keep=keep)
    assert found.costs(keep).macs < found.costs().macs
    both = jax.jit(lambda full, small: (apply_fn(full, X), new(small, X)))
    assert distance(*both(mask(found, params, keep), small)) <= TOLERANCE
    assert found.costs(keep).parameters == sum(leaf.size for leaf in jax.tree.leaves(small))
    assert found.costs(keep).macs == groups(new, small, X).macs()


@pytest.mark.parametrize("layout", [thirds_first, thirds_split, thirds_last])
def test_heads_and_their_dimensions_are_cut_together_or_one_after_the_other(layout: Callable[[jax.Array], Any]) -> None:
    apply_fn, params = linen(Fused(layout))
    params, heads = randomize(params), {"params/qkv/kernel": np.array([True, False, True])}
    found = groups(apply_fn, params, X)
    inside = {group.name: np.arange(DIM) != 1 for group in found if "#" in group.name}
    once, small = shrink(apply_fn, params, X, keep=heads | inside)
    assert small["params"]["qkv"]["kernel"].shape == (7, 3 * 2 * 3)
    first, some = shrink(apply_fn, params, X, keep=heads)
    twice, rest = shrink(first, some, X, keep=inside)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, small, rest))
    assert distance(once(small, X), twice(rest, X)) == 0
