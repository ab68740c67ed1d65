"""Sums of a walk over its batches, on the host: moments of layer inputs, and the squares of errors."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jaxcomp.core.leaves import wide
from jaxcomp.core.meshes import replicated
from jaxcomp.core.units import host_unit
from jaxcomp.observe.evidence import Seen
from jaxcomp.observe.held_out import Examples, Split
from jaxcomp.observe.matrices import input_rows
from jaxcomp.observe.row_moments import moments_of
from jaxcomp.trace.scaled import by_factor
from jaxcomp.trace.uses import Use

TOGETHER = 2**24
"""Numbers that a site reads of several batches at most, if their moments are summed up as one."""


def seen_by(
    use: Use,
    places: int | None,
    examples: Sequence[Examples],
    inputs: Iterable[tuple[Any, Any]],
    weights: Sequence[np.ndarray],
) -> list[Seen]:
    """Sums what flows into a site, or into several that read the same, the examples to fit to and those held out apart.

    Args:
      use: the site, or one of them.
      places: positions of each result of a convolution that count at most; None: all.
      examples: the examples of each batch.
      inputs: of the site, for each batch, as they are now and as they were.
      weights: of each of their layers, ``[groups, n, out]``, float64.

    Returns:
      For each of the weights.
    """
    units = [host_unit(np.max(np.abs(weight), initial=0)) for weight in weights]
    whole = np.concatenate([weight / unit for weight, unit in zip(weights, units, strict=True)], 2)
    found: Seen | None = None
    some: list[tuple[np.ndarray, np.ndarray, Split]] = []
    for i, (own, (now, old)) in enumerate(zip(examples, inputs, strict=True)):
        rows, changes = _rows_of(use, now, old, places)
        some.append((rows, changes, own.split_rows(use, rows.shape[1])))
        if i + 1 == len(examples) or (len(some) + 1) * rows.size > TOGETHER:
            del rows, changes
            seen = _seen(some, whole)
            found = seen if found is None else found.added(seen)
    assert found is not None
    return found.apart([weight.shape[2] for weight in weights], units)


def _seen(some: list[tuple[np.ndarray, np.ndarray, Split]], weight: np.ndarray) -> Seen:
    """Sums up some batches, which are let go of."""
    rows, changes, splits = (list(each) for each in zip(*some, strict=True))
    some.clear()
    return Seen(*moments_of(rows, changes, weight, list(zip(*splits, strict=True))))


def _rows_of(use: Use, now: Any, old: Any, places: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Copies a site's rows as they are now, and their old values less those, on the host, which compiles nothing."""
    rows, before = (input_rows(use, np.asarray(replicated(x)), places) for x in (now, old))
    with np.errstate(all="ignore"):  # what is no number is refused by its weight's name
        return tuple(np.asarray(by_factor(use, each)) for each in (rows, before - rows))  # type: ignore[return-value]


def squares_of(examples: Examples, new: Sequence[Any], old: Any, leaks: Sequence[Any]) -> np.ndarray:
    """Sums the squares of a value's changes and of the old value over each held-out example, float64.

    Args:
      examples: of the batch.
      new: the values, one a way.
      old: the value before.
      leaks: what is added to each new one, as it broadcasts; None: nothing.

    Returns:
      ``[ways + 1, examples]``, of the old value last.
    """
    old = np.asarray(old)
    real = wide(*(x.dtype for x in (old, *new)))
    before = examples.held_of(old).astype(real, copy=False)
    found = []
    for own, leak in zip(new, leaks, strict=True):
        change = examples.held_of(np.asarray(own)).astype(real, copy=False) - before
        if leak is not None:
            change += examples.held_of(np.broadcast_to(leak, old.shape))
        found.append(change)
    return np.stack([np.sum(np.square(x, dtype=np.float64), 1) for x in (*found, before)])
