"""Targets: how many channels to cut until a cost, or a measured time, is no more than what may be left."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.leaves import is_key
from jaxcomp.core.paths import leaves_of
from jaxcomp.core.types import Params
from jaxcomp.rewrite.channels.ranking import KeepMasks, Ranking
from jaxcomp.rewrite.channels.shrink import Plan, cut
from jaxcomp.trace.channels.emitter import Emitter
from jaxcomp.trace.channels.groups import Groups

_BUDGET = 0.3
"""Seconds for which a candidate is timed."""


def cheapest_cut(groups: Groups, ranking: Ranking, name: str, target: float) -> int:
    """Finds the fewest cuts after which a cost is no more than the target.

    Args:
      groups: that are cut.
      ranking: in which order.
      name: a field of :class:`jaxcomp.trace.Costs`.
      target: up to 1, the fraction of the whole's cost; above, the cost.

    Raises:
      ArgumentError: if cutting all that may be cut does not reach it.
    """
    whole = getattr(groups.costs(), name)
    limit = target * whole if target <= 1 else target

    def cost(cuts: int) -> int:
        return int(getattr(groups.costs(ranking.keep(cuts)), name))

    low, high = 0, ranking.length
    least = cost(high)
    if least > limit:
        raise ArgumentError(
            f"{name}={target} allows {limit:,.0f} of the {whole:,} {name}; with every channel cut that may be, "
            f"{least:,} ({least / max(whole, 1):.4g} of the whole) are left. Ask for no less, or allow more to be cut "
            f"(rules, minimum, maximum, multiple; {len(groups.frozen)} groups cannot be cut: print the groups)"
        )
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if cost(middle) <= limit else (middle + 1, high)
    return low


def fastest_cut(groups: Groups, params: Params, ranking: Ranking, name: str, target: float, trials: int) -> KeepMasks:
    """Finds, among a few timed candidates, the one with most channels that is fast enough.

    The multiply-accumulates that may be left are bisected, between the whole and all that may be cut. Each candidate is
    timed in turns with the whole function, so that a drift of the machine's speed meets both.

    Args:
      groups: that are cut.
      params: the parameters, or their shapes.
      ranking: in which order.
      name: ``"latency"``, a fraction of the whole's time, or ``"seconds"``.
      target: the part or the time that may be left.
      trials: how many candidates to compile at most, the smallest included.

    Raises:
      ArgumentError: if the smallest candidate is not fast enough.
    """
    whole = _runner(groups, params, {})

    def measured(keep: KeepMasks) -> tuple[float, float]:
        """Seconds, and the same or the fraction of the whole's: what the target limits."""
        own, all_of_it = _times(_runner(groups, params, keep), whole)
        return own, own if name == "seconds" else own / all_of_it

    best = ranking.keep(ranking.length)
    seconds, reached = measured(best)
    if not reached <= target:  # what is no number was not reached
        raise ArgumentError(
            f"{name}={target} was not reached: with every channel cut that may be, one run took {seconds:.3g} s, "
            f"{name} {reached:.3g}. Ask for no less, or allow more to be cut (rules, minimum, maximum, multiple)"
        )
    low, high = groups.costs(best).macs, groups.costs().macs
    for _ in range(trials - 1):
        middle = (low + high) // 2
        if not low < middle < high:
            break
        keep = ranking.keep(cheapest_cut(groups, ranking, "macs", middle))
        if measured(keep)[1] <= target:
            best, low = keep, middle
        else:
            high = middle
    return best


def _runner(groups: Groups, params: Params, keep: KeepMasks) -> Callable[[], Any]:
    """Runs the compiled function with some channels cut, once."""
    coupling = groups.coupling
    masks = groups.masks(keep)
    plan = Plan(coupling, Emitter(coupling.cut(masks)))
    small = leaves_of(jax.tree.map(_concrete, cut(params, masks)), coupling.program.paths)
    inputs = [_concrete(value) for value in coupling.program.frame.ins[len(small) :]]
    run = jax.jit(plan.run)
    jax.block_until_ready(run([*small, *inputs]))
    return lambda: jax.block_until_ready(run([*small, *inputs]))


def _concrete(leaf: Any) -> Any:
    if isinstance(leaf, jax.Array | np.ndarray):
        return leaf
    if is_key(leaf):
        count = int(np.prod(leaf.shape))
        return jax.random.split(jax.random.key(0), max(count, 1))[:count].reshape(leaf.shape)
    return jnp.zeros(leaf.shape, leaf.dtype)


def _times(*runs: Callable[[], Any]) -> list[float]:
    """The median time of each, taken in turns."""
    taken: list[list[float]] = [[] for _ in runs]
    end = time.perf_counter() + _BUDGET * len(runs)
    while len(taken[0]) < 3 or (time.perf_counter() < end and len(taken[0]) < 1000):
        for own, run in zip(taken, runs, strict=True):
            start = time.perf_counter()
            run()
            own.append(time.perf_counter() - start)
    return [statistics.median(own) for own in taken]
