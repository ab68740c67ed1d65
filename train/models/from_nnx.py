"""An NNX network among those of Linen: its parameters and statistics are variables like any."""

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn
from flax import nnx

from train.models.layers import Mode


class FromNNX(nn.Module):
    """A Linen module that is an NNX one: ``params/network/...`` and ``batch_stats/network/...``.

    Attributes:
      make: ``(shape, rngs) -> module``, for images of a shape ``[height, width, channels]``; ``module(images, mode)``.
      axis_name: the pmap axis over which batch statistics are taken, if any.
    """

    make: Callable[..., nnx.Module]
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False, valid: jax.Array | None = None) -> Any:
        """``[batch, height, width, channels]`` -> what the module gives."""

        def fresh(key: jax.Array) -> nnx.Module:
            return self.make(images.shape[1:], rngs=nnx.Rngs(key))

        def stats() -> Any:
            return tree(nnx.state(fresh(jax.random.key(0)), nnx.BatchStat))

        params = self.param("network", lambda key: tree(nnx.state(fresh(key), nnx.Param)))
        graph, _, shapes = nnx.split(nnx.eval_shape(lambda: fresh(jax.random.key(0))), nnx.Param, nnx.BatchStat)
        moved = self.variable("batch_stats", "network", stats) if jax.tree.leaves(shapes) else None
        own = nnx.State({}) if moved is None else state(moved.value, nnx.BatchStat)
        module = nnx.merge(graph, state(params, nnx.Param), own)
        out = module(images, Mode(train, valid, self.axis_name))
        if moved is not None and train and not self.is_initializing():
            moved.value = tree(nnx.state(module, nnx.BatchStat))
        return out


def tree(state: nnx.State) -> Any:
    """Nested dicts of arrays; the places of a list are named by their numbers."""

    def named(own: Any) -> Any:
        return {str(key): named(inner) for key, inner in own.items()} if isinstance(own, dict) else own

    return named(nnx.to_pure_dict(state))


def state(variables: Any, kind: type[nnx.Variable]) -> nnx.State:
    """The state of such dicts."""
    return nnx.State(jax.tree.map(kind, nnx.restore_int_paths(variables)))
