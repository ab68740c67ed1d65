"""Exact selection of the k largest scores outside of jit: on the host, where a search would be compiled anew a tree."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxcomp.core import threshold
from jaxcomp.core.host import are_here, put_like
from jaxcomp.core.leaves import wide

ON_HOST: dict[Any, Callable[[np.ndarray], np.ndarray]] = {jnp.abs: np.abs, threshold.itself: lambda scores: scores}
"""Functions of scores that NumPy has, of the same bits."""


def keep_largest(
    values: Sequence[Array],
    keep: Sequence[Any],
    group: Sequence[int],
    *,
    score: Callable[[Array], Array] = jnp.abs,
) -> list[Array]:
    """Selects the largest scores as :func:`jaxcomp.core.threshold.keep_largest` does; by NumPy where a CPU holds them.

    Only subnormal scores may be told apart here, and be ties there, where a compiler takes them for 0.

    Args:
      values, group, score: as there.
      keep: a count a group.

    Example:
      >>> keep_largest([jnp.array([0.1, -0.5, 0.5, 0.2])], [1], [0])[0].tolist()
      [False, True, False, False]
    """
    if score not in ON_HOST or any(map(jnp.iscomplexobj, values)) or not are_here([*values, *keep]):
        counts: Any = keep
        if not all(isinstance(count, int) for count in keep):
            counts = jnp.stack([jnp.asarray(count, jnp.uint32) for count in keep])
        return threshold.keep_largest(values, counts, group, score=score)
    scores = [ON_HOST[score](np.asarray(value)) for value in values]
    masks: dict[int, np.ndarray] = {}
    for g, count in enumerate(keep):
        own = [i for i, each in enumerate(group) if each == g]
        kept = mask_of([scores[i] for i in own], int(count))
        masks |= zip(own, kept, strict=True)
    return [put_like(masks[i], value) for i, value in enumerate(values)]


def mask_of(scores: Sequence[np.ndarray], keep: int) -> list[np.ndarray]:
    """Selects the ``keep`` largest of several arrays together, NaN the largest of all, of equals the first.

    Args:
      scores: the arrays.
      keep: how many are selected.

    Example:
      >>> mask_of([np.array([1.0, 3.0]), np.array([3.0, np.nan])], 2)[0].tolist()
      [False, True]
    """
    parts = [np.asarray(own, wide(own.dtype)).ravel() for own in scores]
    flat = np.concatenate(parts) if parts else np.zeros(0)
    if np.isnan(flat).any():
        flat = np.where(np.isnan(flat), np.inf, flat)
    if not 0 < keep < flat.size:
        mask = np.full(flat.size, keep > 0)
    else:
        level = np.partition(flat, flat.size - keep)[flat.size - keep]
        mask = flat > level
        mask[np.flatnonzero(flat == level)[: keep - np.count_nonzero(mask)]] = True
    cut = np.split(mask, np.cumsum([own.size for own in parts])[:-1]) if parts else []
    return [own.reshape(like.shape) for own, like in zip(cut, scores, strict=True)]
