"""Curvature: the diagonal of the loss's Hessian, estimated."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.leaves import is_real, map_real
from jaxcomp.core.types import Params


def hutchinson(loss: Callable[[Params], Any], params: Params, key: jax.Array, samples: int = 16) -> Params:
    r"""The Hessian's diagonal by Hutchinson's estimator: :math:`\mathrm{E}[v \odot H v]`, v of random signs.

    Unbiased; exact where the Hessian is diagonal; else an entry's variance is the sum of its row's other squares, over
    ``samples``. Each sample costs about two gradients.

    Args:
      loss: ``params -> scalar``, twice differentiable.
      params: where; any tree.
      key: a random key.
      samples: how many v.

    Returns:
      A tree like ``params``; ``optax.MaskedNode`` in place of leaves that are not real.

    Raises:
      ArgumentError: for less than one sample.

    Example:
      >>> estimate = hutchinson(lambda p: 3 * p["w"][0] ** 2 + p["w"][1] ** 4, {"w": jnp.ones(2)}, jax.random.key(0))
      >>> estimate["w"].tolist()
      [6.0, 12.0]

    Reference: Hutchinson, A stochastic estimator of the trace, 1990; Bekas et al., An estimator for the diagonal of a
    matrix, 2007; Yao et al., AdaHessian, 2021.
    """
    if samples < 1:
        raise ArgumentError(f"samples must be at least 1, got {samples!r}")
    leaves, tree = jax.tree.flatten(params)
    places = [i for i, leaf in enumerate(leaves) if is_real(leaf)]
    real = [jnp.asarray(leaves[i]) for i in places]

    def of_real(some: list[Any]) -> Any:
        full = list(leaves)
        for i, leaf in zip(places, some, strict=True):
            full[i] = leaf
        return loss(jax.tree.unflatten(tree, full))

    def add(total: list[Any], key: jax.Array) -> tuple[list[Any], None]:
        keys = jax.random.split(key, max(len(real), 1))[: len(real)]
        signs = [jax.random.rademacher(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, real, strict=True)]
        bent = jax.jvp(jax.grad(of_real), (real,), (signs,))[1]
        return [t + v * b for t, v, b in zip(total, signs, bent, strict=True)], None

    total, _ = lax.scan(add, [jnp.zeros_like(leaf) for leaf in real], jax.random.split(key, samples))
    found = iter([leaf / samples for leaf in total])
    return map_real(lambda path, leaf: next(found), params)


def fisher(grads: Iterable[Params]) -> Params:
    """The empirical Fisher information's diagonal: the sum of the squares of gradients, one tree a batch.

    Args:
      grads: gradients of the loss of one batch (at best of one example) each.

    Returns:
      A tree like each of them.

    Raises:
      ArgumentError: if there are none.

    Example:
      >>> fisher([{"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([3.0, 0.0])}])["w"].tolist()
      [10.0, 4.0]

    Reference: Theis et al., Faster gaze prediction with dense networks and Fisher pruning, 2018.
    """
    total = None
    for each in grads:
        squares = jax.tree.map(lambda g: g * g, each)
        total = squares if total is None else jax.tree.map(jnp.add, total, squares)
    if total is None:
        raise ArgumentError("fisher needs at least one tree of gradients, and was given none")
    return total
