"""Selections made of exact counts: beside what is protected, and by exchange. Array kernels."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxcomp.core.threshold import itself, keep_largest

Arrays = Sequence[Array]


def all_finite(arrays: Iterable[Array]) -> Array:
    """Returns whether no number of several arrays is infinite or NaN."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(array)) for array in arrays]))


def scores_of(values: Arrays, of: Callable[[Array], Array]) -> list[Array]:
    """Scores arrays, NaN as infinity, in a dtype that holds infinity.

    Args:
      values: arrays.
      of: from an array to its scores.
    """
    found = [of(value) for value in values]
    found = [own.astype(jnp.bfloat16) if own.dtype.itemsize == 1 else own for own in found]
    return [jnp.where(jnp.isnan(own), jnp.inf, own) for own in found]


def keep_beside(
    safe: Arrays, floors: Sequence[int], scores: Arrays, keep: Sequence[Any], group: Sequence[int]
) -> list[Array]:
    """Keeps what is safe, and of the others those of highest score.

    Args:
      safe: masks of what is kept in any case.
      floors: how many units each of them keeps.
      scores: of all units.
      keep: how many units each group keeps, those that are safe included; not less than these.
      group: of each array.

    Returns:
      Masks with exactly ``keep`` units in each group.
    """
    rest: list[Any] = []
    for g, count in enumerate(keep):
        floor = sum(own for own, at in zip(floors, group, strict=True) if at == g)
        rest.append(count - floor if isinstance(count, int) else jnp.maximum(count, jnp.uint32(floor)) - floor)
    if all(isinstance(count, int) and count == 0 for count in rest):
        return list(safe)
    # Whatever the others score, they come before what is kept already.
    others = [_below(mask, jnp.maximum(own, jnp.finfo(own.dtype).min)) for mask, own in zip(safe, scores, strict=True)]
    more = keep_largest(others, rest, group, score=itself)
    return [a | b for a, b in zip(safe, more, strict=True)]


def exchange(
    alive: Arrays,
    scores: Arrays,
    growth: Arrays,
    first: Arrays,
    keep: Sequence[Any],
    group: Sequence[int],
    drop: Any,
    fresh: Any,
    choose: Callable[[Arrays], list[Array]],
) -> list[Array]:
    """Drops a fraction of what is alive, that of lowest score, and grows others up to the same number.

    What stays is a score above all others, so that a pattern or a minimum holds for what stays and grows together.

    Args:
      alive: masks.
      scores: of units; what is alive and scores highest stays.
      growth: of units; what does not stay and scores highest here grows.
      first: of units; ranks all of them where a mask is made afresh.
      keep: how many units each group has afterwards.
      group: of each array.
      drop: the fraction of ``keep`` that goes.
      fresh: whether to make the masks afresh; may be traced.
      choose: ``scores -> masks`` of the ``keep`` highest of each group, beside what is protected.

    Returns:
      Masks with exactly ``keep`` units in each group.
    """
    count = jnp.stack([jnp.asarray(own, jnp.uint32) for own in keep])
    living = [jnp.zeros((), jnp.uint32) for _ in keep]
    for mask, g in zip(alive, group, strict=True):
        living[g] = living[g] + jnp.sum(mask, dtype=jnp.uint32)
    lost = jnp.round(count.astype(jnp.float32) * drop).astype(jnp.uint32)
    stay = jnp.minimum(count - jnp.minimum(lost, count), jnp.stack(living))
    kept = keep_largest([_below(~m, own) for m, own in zip(alive, scores, strict=True)], stay, group, score=itself)
    ranked = [
        jnp.where(fresh, begin.astype(own.dtype), jnp.where(mask, jnp.inf, jnp.minimum(own, jnp.finfo(own.dtype).max)))
        for begin, mask, own in zip(first, kept, growth, strict=True)
    ]
    return choose(ranked)


def _below(mask: Array, scores: Array) -> Array:
    return jnp.where(mask, -jnp.inf, scores)
