"""A budget of bytes: the rate at which a file takes just so many, found by the real coder."""

import math
import tempfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.types import Note, Params
from jaxcomp.pack.artifact import save

T = TypeVar("T")

TRIED = 12
NEAR = 0.98
"""Part of a budget that is to be used."""


class _Tried(NamedTuple):
    rate: float
    size: int


def file_size(params: Params, notes: Mapping[str, Note]) -> int:
    """Counts the bytes of the file that :func:`jaxcomp.pack.save` writes of ``params`` and their ``notes``."""
    with tempfile.TemporaryDirectory() as folder:
        return save(f"{folder}/tried.jcz", params, notes=notes)


def within(budget: int, first: float, solve: Callable[[float], T], size: Callable[[T], int]) -> T:
    """Searches for the lowest rate whose result takes no more than a budget, and not much less.

    Args:
      budget: bytes.
      first: the rate to try first.
      solve: from a rate to its result.
      size: from a result to its bytes.

    Raises:
      ArgumentError: if no rate gives so small a file; it says what the smallest takes.

    Example:
      >>> round(within(1000, 1.0, lambda rate: rate, lambda rate: int(3000 / rate)), 1)
      3.0
    """
    if isinstance(budget, bool) or not isinstance(budget, int) or budget < 1:
        raise ArgumentError(f"file_bytes must be a whole number of bytes above 0, got {budget!r}")
    rate, tried, best = first, list[_Tried](), None
    for _ in range(TRIED):
        found = solve(rate)
        tried.append(_Tried(rate, size(found)))
        if tried[-1].size <= budget and tried[-1].size == max(each.size for each in tried if each.size <= budget):
            best = found
            if tried[-1].size >= NEAR * budget:
                break
        following = _next(tried, budget)
        if following is None:
            break
        rate = following
    if best is None:
        least = min(each.size for each in tried)
        raise ArgumentError(
            f"file_bytes={budget:,} cannot be reached: the smallest file of {len(tried)} rates takes {least:,} bytes; "
            "biases and norms, which are not rounded, are stored whole"
        )
    return best


def _next(tried: list[_Tried], budget: int) -> float | None:
    """The rate at which sizes, between or beyond those that are known, come to a little less than a budget.

    On a line in logarithms; None where sizes do not depend on rates any more.
    """
    goal = math.log((1 + NEAR) / 2 * budget)
    above = [each for each in tried if each.size > budget]
    below = [each for each in tried if each.size <= budget]
    if above and below:
        low, high = max(above, key=lambda each: each.rate), min(below, key=lambda each: each.rate)
        share = (math.log(low.size) - goal) / math.log(low.size / high.size) if low.size > high.size else 0.5
        share = min(max(share, 0.1), 0.9)
        close = high.rate / low.rate < 1.001
        return None if close else low.rate * (high.rate / low.rate) ** share
    last = tried[-1]
    if len(tried) > 1 and last.size == tried[-2].size and (last.rate > 1 or below):
        return None
    slope = -0.35
    if len(tried) > 1 and last.rate != tried[-2].rate:
        found = math.log(last.size / tried[-2].size) / math.log(last.rate / tried[-2].rate)
        slope = min(max(found, -1.0), -0.1)
    step = min(max((goal - math.log(last.size)) / slope, -math.log(1000)), math.log(1000))
    return last.rate * math.exp(step)


def first_rate(budget: int, sizes: Mapping[str, Any]) -> float:
    r"""Guesses a rate to try first: the slope at R bits a weight of an error :math:`4^{-R}` of each layer.

    Args:
      budget: bytes.
      sizes: weights of each layer.
    """
    total = max(sum(sizes.values()), 1)
    bits = min(max(8 * budget / total, 0.05), 8.0)
    return 2 * math.log(2) * 4**-bits * max(len(sizes), 1) / total
