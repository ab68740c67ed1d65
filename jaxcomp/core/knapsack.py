"""Budgets: which of several choices each site makes, so that all together cost no more than a budget."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.finite import check_finite


class Choices(NamedTuple):
    """The choices of one site.

    Attributes:
      cost: ``[n]``.
      gain: ``[n]``.
    """

    cost: np.ndarray
    gain: np.ndarray


def best_choices(sites: Sequence[Choices], budget: float) -> list[int] | None:
    """Chooses for each site so that the sum of gains is large and the sum of costs within a budget.

    Steps along the upper concave hulls of the sites' choices, the steepest gain per cost first, are optimal: nothing
    that costs as little gains as much. What is left of the budget is then spent on whichever single choice gains most.

    Args:
      sites: each site's choices.
      budget: the largest sum of costs.

    Returns:
      For each site the index of its choice; None if the cheapest choices cost more than the budget.

    Raises:
      ArgumentError: for costs, gains or a budget that are NaN, and costs or gains that are infinite.

    Example:
      >>> one = Choices(np.array([1.0, 2.0, 4.0]), np.array([0.5, 0.9, 1.0]))
      >>> best_choices([one, one], 5.0)
      [1, 1]
    """
    for i, site in enumerate(sites):
        check_finite({"cost": site.cost, "gain": site.gain}, f"of choice {i} the ", "by which nothing can be chosen")
    if np.isnan(budget):
        raise ArgumentError(f"the budget must be a number, got {budget!r}")
    fronts = [_front(site) for site in sites]
    chosen = [0] * len(sites)
    left = budget - sum(site.cost[front[0]] for site, front in zip(sites, fronts, strict=True))
    if left < 0:
        return None
    steps = [step for i in range(len(sites)) for step in _steps(i, sites[i], fronts[i])]
    for _, i, place, cost in sorted(steps, key=lambda step: -step[0]):
        if cost > left:
            break
        chosen[i], left = place, left - cost
    return [int(front[place]) for front, place in zip(fronts, _filled(sites, fronts, chosen, left), strict=True)]


def _front(site: Choices) -> np.ndarray:
    """The choices that no cheaper one equals, by increasing cost and gain."""
    order = np.lexsort((-site.gain, site.cost))
    gains = site.gain[order]
    best = np.maximum.accumulate(gains)
    return order[np.concatenate([[True], gains[1:] > best[:-1]])]


def _steps(i: int, site: Choices, front: np.ndarray) -> list[tuple[float, int, int, float]]:
    """``(gain per cost, site, place in the front, cost)`` of each step along the front's upper concave hull."""
    cost, gain = site.cost[front], site.gain[front]
    hull = [0]
    for place in range(1, len(front)):
        while len(hull) > 1 and _slope(cost, gain, hull[-2], hull[-1]) <= _slope(cost, gain, hull[-2], place):
            hull.pop()
        hull.append(place)
    pairs = itertools.pairwise(hull)
    return [(_slope(cost, gain, a, b), i, b, cost[b] - cost[a]) for a, b in pairs]


def _slope(cost: np.ndarray, gain: np.ndarray, a: int, b: int) -> float:
    return (gain[b] - gain[a]) / (cost[b] - cost[a])


def _filled(sites: Sequence[Choices], fronts: Sequence[np.ndarray], chosen: list[int], left: float) -> list[int]:
    """Spends what is left, one choice after the other, until no site can do better with it."""
    while True:
        best = (0.0, -1, -1, 0.0)
        for i, (site, front) in enumerate(zip(sites, fronts, strict=True)):
            cost, gain = site.cost[front], site.gain[front]
            place = int(np.searchsorted(cost, cost[chosen[i]] + left, side="right")) - 1
            more = float(gain[place] - gain[chosen[i]])
            if more > best[0]:
                best = (more, i, place, float(cost[place] - cost[chosen[i]]))
        if best[1] < 0:
            return chosen
        chosen[best[1]], left = best[2], left - best[3]
