"""Allocation: the choice for each layer that harms least within a budget."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.knapsack import Choices, best_choices
from jaxcomp.rewrite.quant.scheme import Scheme
from jaxcomp.search.sensitivity import Sensitivity, SensitivityRow


def allocate(
    found: Sensitivity,
    *,
    memory_bytes: float | None = None,
    bit_operations: float | None = None,
    file_bytes: float | None = None,
) -> dict[str, Scheme | None]:
    """Chooses for every weight so that all together cost no more than a budget and harm least.

    Harms are taken to add up, and what harms without limit is not chosen. Steps along the convex hulls of the layers'
    choices, what saves most harm per cost first (the Lagrangian's optimum), then what is left of the budget, one choice
    after the other.

    Args:
      found: of :func:`sensitivity`.
      memory_bytes: of all weights together, in memory; a float below 1: that share of what the most expensive choices
        take.
      bit_operations: instead, multiply-accumulates times bits times bits of all sites for the example batch, likewise.
      file_bytes: instead, of the file that :func:`jaxcomp.rewrite.save` or :func:`jaxcomp.pack.save` writes, likewise:
        all parameters and the header included. What is chosen is packed, with numbers that do not compress, and less is
        asked for until it fits; so it does however the weights are rounded.

    Returns:
      ``{path: Scheme or None}`` of every weight: the ``scheme`` of :func:`jaxcomp.rewrite.quantize`. For
      :func:`jaxcomp.posttrain.ptq` drop a fit that they were measured with (``scheme._replace(fit=None)``): there the
      reach of grids is found on data, by the error of layers' outputs.

    Raises:
      ArgumentError: for none or several budgets, or one that the cheapest choices exceed; for a harm that is NaN, and a
        weight all of whose choices harm without limit (the weight is named).

    Example:
      >>> from jaxcomp.rewrite import Scheme
      >>> from jaxcomp.search import SensitivityRow
      >>> harms = {"a": (0.0, 0.5), "b": (0.0, 0.1)}
      >>> rows = [SensitivityRow(path, (8, 8), str(bits), Scheme(bits), harm, 8 * bits, 64 * bits, 8 * bits)
      ...         for path, own in harms.items() for bits, harm in zip((8, 4), own)]
      >>> {path: scheme.bits for path, scheme in allocate(Sensitivity(tuple(rows)), memory_bytes=100).items()}
      {'a': 8, 'b': 4}

    Reference: Shoham and Gersho, Efficient bit allocation for an arbitrary set of quantizers, 1988; Dong et al.,
    HAWQ-V2, 2020.
    """
    if not isinstance(found, Sensitivity):
        raise ArgumentError(f"found must be what jc.search.sensitivity(...) returns, got {found!r:.80}")
    budgets = {"memory_bytes": memory_bytes, "bit_operations": bit_operations, "file_bytes": file_bytes}
    given = {name: budget for name, budget in budgets.items() if budget is not None}
    if len(given) != 1:
        raise ArgumentError(
            f"allocate needs one budget, either memory_bytes or bit_operations or file_bytes; got {len(given)}"
        )
    ((name, budget),) = given.items()
    if not budget >= 0:
        raise ArgumentError(f"{name} must be at least 0, got {budget!r}")
    by_path = _usable(found)
    costs = [np.array([float(getattr(row, name)) for row in rows]) for rows in by_path.values()]
    gains = [np.array([-row.harm for row in rows]) for rows in by_path.values()]
    choices = [Choices(*pair) for pair in zip(costs, gains, strict=True)]

    def spent(rows: Iterable[SensitivityRow]) -> float:
        return sum(float(getattr(row, name)) for row in rows)

    def whole(rows: Iterable[SensitivityRow]) -> float:
        """The unit of the budget: what the weights cost, or the file."""
        in_file = name == "file_bytes" and found.size_of is not None
        return found.size_of({row.path: row.scheme for row in rows}) if in_file else spent(rows)  # type: ignore[misc]

    limit = budget * whole(_dearest(found, name)) if isinstance(budget, float) and budget < 1 else float(budget)
    chosen = [min(rows, key=lambda row: getattr(row, name)) for rows in by_path.values()]
    least = whole(chosen)
    if least > limit:
        raise ArgumentError(
            f"{name}={budget!r} asks for {limit:,.0f}, and the cheapest choices take {least:,.0f}: "
            "ask for more, or give options of fewer bits" + _unusable(found)
        )
    room = limit - (least - spent(chosen))  # beside what is no choice's, which is about the same for all
    while (places := best_choices(choices, room)) is not None:
        better = [rows[place] for rows, place in zip(by_path.values(), places, strict=True)]
        over = whole(better) - limit
        if over <= 0:
            chosen = better
            break
        room = min(room, spent(better)) - over
    return {row.path: row.scheme for row in chosen}


def _dearest(found: Sensitivity, name: str) -> list[SensitivityRow]:
    """The most expensive choice for each weight."""
    dearest: dict[str, SensitivityRow] = {}
    for row in found.rows:
        if row.path not in dearest or getattr(row, name) > getattr(dearest[row.path], name):
            dearest[row.path] = row
    return list(dearest.values())


def _usable(found: Sensitivity) -> dict[str, list[Any]]:
    """The choices for each weight that do not harm without limit."""
    by_path: dict[str, list[Any]] = {}
    for row in found.rows:
        if math.isnan(row.harm):
            raise ArgumentError(
                f"the harm of {row.option!r} to {row.path!r} is NaN: nothing can be chosen by it; measure it anew "
                "(jaxcomp.search.sensitivity), or leave that choice out"
            )
        by_path.setdefault(row.path, []).append(row)
    for path, rows in by_path.items():
        by_path[path] = [row for row in rows if math.isfinite(row.harm)]
        if not by_path[path]:
            raise ArgumentError(
                f"each choice for {path!r} ({', '.join(row.option for row in rows)}) does infinite harm: give it an "
                "option of more bits, or None, which leaves it as it is"
            )
    return by_path


def _unusable(found: Sensitivity) -> str:
    lost = [f"{row.option!r} for {row.path!r}" for row in found.rows if not math.isfinite(row.harm)]
    return f" (left out, as their harm is infinite: {', '.join(lost)})" if lost else ""
