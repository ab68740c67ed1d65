"""Sums of a walk over its batches, on the host: moments of layer inputs, and the squares of errors."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jaxcomp.core.leaves import wide
from jaxcomp.core.meshes import replicated
from jaxcomp.observe.evidence import Seen, joined
from jaxcomp.observe.held_out import Examples, Split
from jaxcomp.observe.matrices import input_rows
from jaxcomp.observe.row_moments import moments_of
from jaxcomp.trace.scaled import by_factor
from jaxcomp.trace.uses import Use

TOGETHER = 2**24
"""Numbers that a site reads of several batches at most, if their moments are summed up as one."""


def seen_by(
    use: Use, places: int | None, examples: Sequence[Examples], inputs: Iterable[tuple[Any, Any]], weight: np.ndarray
) -> Seen:
    """Sums what flows into a site, the examples to fit to and those held out apart.

    Args:
      use: the site.
      places: positions of each result of a convolution that count at most; None: all.
      examples: the examples of each batch.
      inputs: of the site, for each batch, as they are now and as they were.
      weight: of the layer, ``[groups, n, out]``, float64.
    """
    found = []
    some: list[tuple[np.ndarray, np.ndarray, Split]] = []
    for own, (now, old) in zip(examples, inputs, strict=True):
        rows, changes = _rows_of(use, now, old, places)
        if some and (len(some) + 1) * rows.size > TOGETHER:
            found.append(_seen(some, weight))
            some = []
        some.append((rows, changes, own.split_rows(use, rows.shape[1])))
    return joined([*found, _seen(some, weight)])


def _seen(some: Sequence[tuple[np.ndarray, np.ndarray, Split]], weight: np.ndarray) -> Seen:
    rows, changes, splits = zip(*some, strict=True)
    return Seen(*moments_of(rows, changes, weight, list(zip(*splits, strict=True))))


def _rows_of(use: Use, now: Any, old: Any, places: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Copies a site's rows as they are now, and their old values less those, on the host, which compiles nothing."""
    rows, before = (input_rows(use, np.asarray(replicated(x)), places) for x in (now, old))
    with np.errstate(all="ignore"):  # what is no number is refused by its weight's name
        return tuple(np.asarray(by_factor(use, each)) for each in (rows, before - rows))  # type: ignore[return-value]


def squares_of(examples: Examples, new: Any, old: Any, leak: Any) -> np.ndarray:
    """Sums the squares of a value's change and of the old value over each held-out example: ``[2, examples]``, float64.

    Args:
      examples: of the batch.
      new, old: the value.
      leak: what is added to the new one, as it broadcasts; None: nothing.
    """
    new, old = np.asarray(new), np.asarray(old)
    real = wide(new.dtype, old.dtype)
    before = examples.held_of(old).astype(real, copy=False)
    change = examples.held_of(new).astype(real, copy=False) - before
    if leak is not None:
        change += examples.held_of(np.broadcast_to(leak, new.shape))
    return np.stack([np.sum(np.square(x, dtype=np.float64), 1) for x in (change, before)])
