"""The trees under law: every container, with biases, batch norm, scalars, empty subtrees, odd channel counts.

The plain ones hold the same arrays in the same order, so that compiled searches are shared between them.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.core import FrozenDict

from jaxcomp.core.leaves import is_real


def weights(shape: tuple[int, ...], dtype: Any, seed: int = 0) -> jax.Array:
    """Normal numbers; half of them are rounded to sixteenths, so that there are ties and zeros of both signs."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=shape)
    return jnp.asarray(np.where(rng.random(shape) < 0.5, np.round(values * 16) / 16, values), dtype)


def plain(dtype: Any) -> tuple[jax.Array, jax.Array]:
    """A bias of odd length, a kernel of odd output channels whose input channels can be sharded."""
    return weights((5,), dtype, 1), weights((3, 3, 8, 5), dtype, 2)


def as_dict(dtype: Any) -> Any:
    bias, kernel = plain(dtype)
    return {"bias": bias, "kernel": kernel}


def as_frozen_dict(dtype: Any) -> Any:
    bias, kernel = plain(dtype)
    return FrozenDict({"conv": {"bias": bias, "kernel": kernel}})


def as_tuple(dtype: Any) -> Any:
    bias, kernel = plain(dtype)
    return bias, (weights((), dtype, 3), kernel)


def as_list(dtype: Any) -> Any:
    bias, kernel = plain(dtype)
    return [bias, [jnp.array(3, jnp.int32), kernel]]


def with_gaps(dtype: Any) -> Any:
    """Empty subtrees of every kind; a counter, a flag and a random key among the weights."""
    bias, kernel = plain(dtype)
    return {
        "conv": {"bias": bias, "kernel": kernel, "stride": jnp.array([2, 2], jnp.int32)},
        "dropout": {"key": jax.random.key(7)},
        "empty": {},
        "none": None,
        "rest": [(), {"flag": jnp.array(True)}],
    }


def without_elements(dtype: Any) -> Any:
    return {"bias": jnp.zeros((0,), dtype), "kernel": weights((8, 3), dtype, 4), "padding": jnp.zeros((0, 8), dtype)}


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        images = nn.Conv(8, (2, 2), use_bias=False)(images)
        return nn.BatchNorm(use_running_average=not train)(images)


class NnxNet(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.conv = nnx.Conv(1, 8, (2, 2), use_bias=False, rngs=rngs)
        self.batch_norm = nnx.BatchNorm(8, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)


def linen_variables(dtype: Any) -> Any:
    return _filled(LinenNet().init(jax.random.key(0), jnp.zeros((1, 4, 4, 1))), dtype)


def nnx_state(dtype: Any) -> Any:
    return _filled(nnx.state(NnxNet(nnx.Rngs(0))), dtype)


def _filled(tree: Any, dtype: Any) -> Any:
    return jax.tree.map(lambda leaf: weights(leaf.shape, dtype, leaf.size) if is_real(leaf) else leaf, tree)


CONTAINERS: dict[str, Callable[[Any], Any]] = {
    "dict": as_dict,
    "frozen-dict": as_frozen_dict,
    "tuple": as_tuple,
    "list": as_list,
    "linen": linen_variables,
    "gaps": with_gaps,
    "nnx": nnx_state,
    "no-elements": without_elements,
}
PLAIN = ("dict", "frozen-dict", "list", "gaps")
