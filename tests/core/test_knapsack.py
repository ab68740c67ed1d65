"""Budgets are kept, and spent as well as any allocation could, up to one step."""

import itertools

import numpy as np

from jaxcomp.core.knapsack import Choices, best_choices


def test_no_allocation_that_costs_as_little_keeps_more() -> None:
    """Against all allocations, at the budgets that the concave hull's steps reach exactly."""
    rng = np.random.default_rng(5)
    sites = [Choices(np.cumsum(rng.integers(1, 9, 4)).astype(float), np.sort(rng.random(4))) for _ in range(4)]
    every = list(itertools.product(range(4), repeat=4))
    costs = np.array([sum(site.cost[i] for site, i in zip(sites, each, strict=True)) for each in every])
    gains = np.array([sum(site.gain[i] for site, i in zip(sites, each, strict=True)) for each in every])
    least = costs.min()
    assert best_choices(sites, least - 1) is None
    close = 0
    for budget in np.arange(least, costs.max() + 1):
        got = best_choices(sites, budget)
        assert got is not None
        cost = sum(s.cost[i] for s, i in zip(sites, got, strict=True))
        gain = sum(s.gain[i] for s, i in zip(sites, got, strict=True))
        best = gains[costs <= budget].max()
        assert cost <= budget
        assert gain >= best - max(np.diff(s.gain).max() for s in sites)  # within one step of the optimum
        close += gain >= best - 1e-12
    assert close > 0.5 * (costs.max() + 1 - least)
