"""Optimal brain compression: of each output the weights go one by one, always the cheapest, exactly."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxcomp.core.quadratic import inverse
from jaxcomp.prune.reconstruct import NofM, keep_of_layer, least_squares


class Elimination(NamedTuple):
    """In what order each output loses its weights, and what each loss costs.

    Attributes:
      rank: int32 ``[groups, reduction, out]``, the step at which a weight goes; ``steps`` for one that stays.
      loss: ``[groups, steps, out]``, the squared output error that each step adds.
    """

    rank: Array
    loss: Array


_State = tuple[Array, Array, Array]


def eliminate(weight: Array, moment: Array, pattern: NofM | None = None) -> Elimination:
    r"""Takes each output's weights away one by one, always the cheapest, with all others making up for it.

    The one that goes is :math:`\arg\min_p w_p^2 / [H^{-1}]_{pp}`, then
    :math:`w \mathrel{-}= w_p [H^{-1}]_{:p} / [H^{-1}]_{pp}`, and p leaves :math:`H^{-1}` by one step of Gauss's
    elimination. Costs out x reduction^3: for layers of up to a thousand inputs.

    Args:
      weight: ``[groups, reduction, out]``.
      moment: ``[groups, reduction, reduction]``, positive definite (:func:`damped`).
      pattern: ``(n, m)`` ends where that is reached.

    Reference: Hassibi and Stork, Second order derivatives for network pruning: optimal brain surgeon, 1992; Frantar and
    Alistarh, Optimal brain compression, 2022.
    """
    return _eliminate(weight, moment, pattern)


@functools.partial(jax.jit, static_argnames="pattern")
def _eliminate(weight: Array, moment: Array, pattern: NofM | None) -> Elimination:
    size = weight.shape[1]
    n, m = pattern or (0, 1)
    zeros = np.maximum(np.bincount(np.arange(size) // m) - n, 0)
    steps = int(zeros.sum())

    def column(inverse: Array, weight: Array) -> tuple[Array, Array]:
        places, done = jnp.arange(size), 0
        state: _State = jnp.full(size, steps, jnp.int32), jnp.zeros(steps, weight.dtype), jnp.asarray(zeros, jnp.int32)
        while done < steps:
            some = min(steps - done, max(32, len(places) // 3))
            weight, rows, state = _eliminate_some(weight, inverse, places, state, (done, done + some), m)
            # Those that are gone are left behind, so that the rest is a smaller problem.
            here = jnp.argsort(state[0][places] < steps, stable=True)[: len(places) - some]
            rows = rows[:, here]
            inverse = inverse[here][:, here] - jnp.matmul(rows.T, rows, precision="highest")
            weight, places, done = weight[here], places[here], done + some
        return state[:2]

    def group(each: tuple[Array, Array]) -> tuple[Array, Array]:
        start = inverse(each[0])
        return lax.map(lambda own: column(start, own), each[1].T)

    rank, loss = lax.map(group, (moment, weight))
    return Elimination(rank.swapaxes(1, 2).astype(jnp.int32), loss.swapaxes(1, 2))


def _eliminate_some(
    weight: Array, inverse: Array, places: Array, state: _State, steps: tuple[int, int], m: int
) -> tuple[Array, Array, _State]:
    """Some steps for one output.

    They are Cholesky's on the inverse, with the cheapest weight as the pivot: only rows of its factor are written.

    Args:
      weight: ``[n]``, of those that were left.
      inverse: of the moment, ``[n, n]``.
      places: which of all weights they are.
      state: of all weights the steps at which they went, of all steps their losses, of each m weights in a row how many
        may still go.
      steps: from the first to before the second.
      m: see ``state``.

    Returns:
      The weights, the factor's rows ``[steps, n]``, the state.
    """
    first, end = steps
    tiny, last = jnp.finfo(weight.dtype).tiny, len(state[1])

    def step(i: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        weight, diagonal, rows, rank, loss, left = carry
        free = (rank[places] == last) & (left[places // m] > 0)
        scores = jnp.where(free, weight * weight / jnp.maximum(diagonal, tiny), jnp.inf)
        p = jnp.argmin(scores)
        row = inverse[p] - jnp.matmul(rows[:, p], rows, precision="highest")
        row = row * lax.rsqrt(jnp.maximum(row[p], tiny))
        weight = (weight - row * (weight[p] / row[p])).at[p].set(0)
        at = places[p]
        rank, loss, left = rank.at[at].set(i.astype(jnp.int32)), loss.at[i].set(scores[p]), left.at[at // m].add(-1)
        return weight, diagonal - row * row, rows.at[i - first].set(row), rank, loss, left

    start = (weight, jnp.diagonal(inverse), jnp.zeros((end - first, len(weight)), weight.dtype), *state)
    weight, _, rows, rank, loss, left = lax.fori_loop(first, end, step, start)
    return weight, rows, (rank, loss, left)


def costs(found: Elimination) -> Array:
    """Returns the cost of eliminating as far as each step, latest first; made to rise, to compare outputs.

    Returns:
      ``[groups, steps, out]``.
    """
    return lax.cummax(found.loss, axis=1)[:, ::-1]


def _keep_after(found: Elimination, kept: Array) -> Array:
    """Makes a mask of the weights that are left after an elimination, given which of :func:`costs` are not paid.

    Args:
      found: the elimination.
      kept: ``[groups, steps, out]`` bool, True for steps that are not taken.

    Returns:
      ``[groups, reduction, out]`` bool.
    """
    return found.rank >= jnp.sum(~kept, axis=1, keepdims=True, dtype=jnp.int32)


def obc(weight: Any, moment: Any, keep: int = 0, *, pattern: NofM | None = None) -> tuple[Any, Any]:
    """Prunes a layer by :func:`eliminate`, the outputs' steps ranked together; refits what is left.

    Args:
      weight: ``[groups, reduction, out]``.
      moment: ``[groups, reduction, reduction]``, positive definite (:func:`jaxcomp.core.quadratic.damped`).
      keep: how many weights are kept in all.
      pattern: ``(n, m)``: that, instead of ``keep``.

    Returns:
      The mask, True = kept, and the weights, zeros outside of it.

    Example:
      >>> moment = jnp.array([[[2.0, 1.0], [1.0, 2.0]]])
      >>> mask, new = obc(jnp.array([[[1.0], [3.0]]]), moment, 1)
      >>> mask.ravel().tolist(), new.round(4).ravel().tolist()
      ([False, True], [0.0, 3.5])
    """
    found = eliminate(weight, moment, pattern)
    mask = found.rank == found.loss.shape[1] if pattern else _keep_after(found, keep_of_layer(costs(found), keep))
    return mask, least_squares(weight, moment, mask)
