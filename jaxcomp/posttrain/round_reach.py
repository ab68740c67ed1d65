"""Reach: the part of a grid's range that serves a layer best, of many that are tried."""

from collections.abc import Sequence

import numpy as np

from jaxcomp.core.factored import Factored
from jaxcomp.quant.formats import Format
from jaxcomp.quant.gptq import errors_in_order, fixed_in_order
from jaxcomp.quant.padded import on_grid

TRIED = 2**23
"""Weights that are tried together, over parts of the range."""
GUESSED = 128
"""Inputs by whose squares it is guessed which parts of the range will serve best, at least, where there are so many."""


def searched(
    old: np.ndarray,
    aim: np.ndarray,
    numbers: Sequence[np.ndarray],
    inputs: Factored,
    ratios: np.ndarray,
    format: Format,
    sweeps: bool,
    apart: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Rounds a layer on parts of its grid's range, and finds which is best, for each output where it has its own.

    What is likely best is tried first; of the others most need not be tried to the end.

    Args:
      old: its weights, ``[groups, n, out]``.
      aim: the weights whose outputs are aimed at.
      numbers: scale, zero point and what is kept, of each weight.
      inputs: what flows into it.
      ratios: parts of the range, the largest first.
      format: of the codes.
      sweeps: whether weights make up for each other, as :func:`jaxcomp.quant.gptq.gptq` has it, if that is better than
        the nearest.
      apart: whether each output has scales of its own.

    Returns:
      The best values, and by which part of the range, ``[groups, 1, out]``.
    """
    old, aim, scale, zero_point, kept = map(inputs.in_order, (old, aim, *numbers))
    groups, size, outs = old.shape
    best, values = np.full((groups, 1, outs), np.inf), old.copy()
    ratio = np.ones(best.shape, np.float32)

    def plain(some: np.ndarray, rows: slice = slice(None)) -> list[np.ndarray]:
        """The nearest on parts of the range, side by side; what is aimed at; and their numbers."""
        by = np.concatenate([*some], 2)
        was, goal, step, *others = (np.tile(x[:, rows], len(some)) for x in (old, aim, scale, zero_point, kept))
        step *= by
        return [np.where(others[1], on_grid(was, step, others[0], format), 0), goal, step, *others]

    def total(errors: np.ndarray) -> np.ndarray:
        """The squared error of each output; of all where they share a scale."""
        return errors if apart else np.broadcast_to(errors.sum((0, 1, 2), keepdims=True), errors.shape)

    def guess(some: np.ndarray) -> np.ndarray:
        rows = slice(None, None, max(size // GUESSED, 1))
        near, goal, *_ = plain(some, rows)
        squares = inputs.in_order(np.diagonal(inputs.moment, axis1=1, axis2=2)[..., None])[:, rows]
        found = np.sum(squares * np.square(near - goal), 1, keepdims=True)
        return np.stack([total(x) for x in np.split(found, len(some), 2)])

    every = np.broadcast_to(ratios[:, None, None, None], (len(ratios), *best.shape)).astype(np.float32)
    if len(ratios) > 1:
        turns = np.argsort(np.concatenate([guess(some) for some in _chunks(every, size)]), 0, kind="stable")
        every = np.take_along_axis(every, turns, 0)
    for some in [every[:1], *_chunks(every[1:], size)]:
        near, *given = plain(some)
        most = np.tile(best, len(some)) if apart else None
        found = [(near, errors_in_order(near - given[0], inputs.upper, most=most))]
        if sweeps:
            most = None if most is None else np.minimum(most, found[0][1])
            found.append(fixed_in_order(given[0], inputs.upper, given[1:], format, most=most))
        for i, part in enumerate(some):
            for each, errors in found:
                own = slice(i * outs, (i + 1) * outs)
                now = total(errors[..., own])
                wins = (now < best) | ((now == best) & (part > ratio))
                best, ratio = np.where(wins, now, best), np.where(wins, part, ratio)
                values = np.where(wins, each[..., own], values)
    return inputs.as_before(values), ratio


def _chunks(every: np.ndarray, size: int) -> list[np.ndarray]:
    """Some parts of the range at once, ``[some, groups, 1, out]``."""
    together = max(1, TRIED // max(size * every[:1].size, 1))
    return [every[first : first + together] for first in range(0, len(every), together)]
