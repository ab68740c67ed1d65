"""Choosing factors: which weights can be factorized, by which method and to which rank."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.finite import check_finite
from jaxcomp.core.knapsack import Choices, best_choices
from jaxcomp.core.rules import by_rule, rules_of
from jaxcomp.core.types import Skipped
from jaxcomp.observe.moments import Moments
from jaxcomp.rewrite.lowrank.methods import METHODS, Call, Factorization, Rank, factorization
from jaxcomp.rewrite.lowrank.report import FactorReport, FactorRow
from jaxcomp.trace.account import left_out
from jaxcomp.trace.ir import Program
from jaxcomp.trace.origins import Origins
from jaxcomp.trace.packed.leaf import Packed
from jaxcomp.trace.sites import macs, sites_of
from jaxcomp.trace.uses import Use, Uses, uses_of


class Criterion(NamedTuple):
    """How much is kept.

    Attributes:
      kind: ``"rank"``, ``"energy"``, ``"macs"`` or ``"bytes"``.
      value: a number, or ordered rules of numbers.
    """

    kind: str
    value: Any

    @classmethod
    def of(cls, rank: Any, energy: Any, macs: Any, bytes: Any) -> "Criterion":
        """Makes the one criterion that is given.

        Args:
          rank, energy, macs, bytes: as of :func:`jaxcomp.rewrite.factorize`; None: not given.

        Raises:
          ArgumentError: if none or several are, or a value is out of range.
        """
        given = {"rank": rank, "energy": energy, "macs": macs, "bytes": bytes}
        given = {kind: value for kind, value in given.items() if value is not None}
        if len(given) != 1:
            raise ArgumentError(
                f"factorize needs exactly one of rank=, energy=, macs= and bytes=; got {', '.join(given) or 'none'}"
            )
        ((kind, value),) = given.items()
        for _, each in rules_of(value):
            _check(kind, each)
        return cls(kind, value)

    def per_path(self, candidates: Sequence[str]) -> dict[str, Any]:
        """Returns the value for each path; without those that rules leave dense."""
        return {path: value for path, value in by_rule(self.value, candidates).items() if value is not None}


def _check(kind: str, value: Any) -> None:
    if value is None and kind in ("rank", "energy"):
        return
    for each in value if kind == "rank" and isinstance(value, tuple | list) else (value,):
        whole = isinstance(each, int | np.integer) and not isinstance(each, bool)
        if kind == "energy" or not whole:
            fine = isinstance(each, float | int | np.floating) and not isinstance(each, bool) and 0 < each <= 1
        else:
            fine = each >= 1
        if not fine:
            needed = {
                "rank": "a whole number of at least 1 or a fraction (a float) in (0, 1]",
                "energy": "a share in (0, 1]",
            }.get(kind, "a share (a float) in (0, 1] or a whole number of at least 1")
            raise ArgumentError(f"{kind} must be {needed}, got {value!r}")


class Factors(NamedTuple):
    """The packed leaf of each factorized parameter, and the report."""

    packed: Mapping[str, Packed]
    report: FactorReport


class _Weight(NamedTuple):
    """One weight on its way to a choice: its sites, its methods, and why it is left dense, if it is."""

    path: str
    calls: tuple[Call, ...]
    dense_macs: int
    dense_bytes: int
    methods: tuple[Factorization, ...] = ()
    skipped: str = ""


def choose_factors(
    program: Program,
    named: Mapping[str, Any],
    criterion: Criterion,
    methods: Any,
    moments: Moments | None,
    cheaper: bool,
) -> Factors:
    """Chooses the rank and the method of every weight; see :func:`jaxcomp.rewrite.factorize`.

    Args:
      program: a traced function.
      named: its parameters, by path.
      criterion: by which ranks are chosen.
      methods: one of ``METHODS``, rules, or by path.
      moments: of the sites' results; None: the error is the weight's.
      cheaper: whether a weight stays dense unless its factors cost less.
    """
    weights = _weights(program, named)
    candidates = [weight.path for weight in weights]
    wanted, chosen = criterion.per_path(candidates), by_rule(methods, candidates)
    weights = [_with_methods(w, named[w.path], criterion, wanted, chosen.get(w.path), moments) for w in weights]
    sites = sites_of(program)
    if criterion.kind in ("macs", "bytes"):
        picks = _by_budget(weights, criterion, getattr(sites, criterion.kind))
    else:
        picks = [_by_value(weight, criterion.kind, wanted.get(weight.path), cheaper) for weight in weights]
    packed = {
        weight.path: pick[0].pack(tuple(pick[0].ranks[pick[1]].tolist()))
        for weight, pick in zip(weights, picks, strict=True)
        if not isinstance(pick, Skipped)
    }
    rows = tuple(_row(weight, pick, moments) for weight, pick in zip(weights, picks, strict=True))
    others = left_out(program, {row.path for row in rows})
    return Factors(packed, FactorReport(rows, sites.macs, sites.bytes, others))


def _weights(program: Program, named: Mapping[str, Any]) -> list[_Weight]:
    """Every parameter of two or more axes that a site reads, itself or as part of what it reads."""
    uses, origins = uses_of(program), Origins(program)
    read = {path for site in sites_of(program).rows for path in site.paths}
    weights = []
    for path in program.paths:
        if path in uses and path in read:
            own, size = uses[path], named[path].nbytes
            calls = tuple(Call(use, origins.calls[use.node]) for use in own.sites if origins.calls[use.node])
            cost = sum(call.times * macs(call.use.node) for call in calls)
            weights.append(_Weight(path, calls, cost, size, skipped=_refusal(own, calls)))
    return weights


def _refusal(uses: Uses, calls: Sequence[Call]) -> str:
    """Why a parameter cannot be factorized at all; empty if it can."""
    if uses.other:
        return uses.elsewhere()
    first, *others = (call.use for call in calls)
    if any(not _alike(first, other) for other in others):
        return "its sites read it in different ways"
    for use in (first, *others):
        params = use.node.params
        if use.is_conv and (params["feature_group_count"] > 1 or params["batch_group_count"] > 1):
            return "a grouped convolution"
    if min(first.size(first.summed + tuple(n for axis in first.window for n in axis)), first.size(first.free)) < 2:
        return "a matrix of one row or column"
    return ""


def _alike(a: Use, b: Use) -> bool:
    if (a.is_conv, a.home, a.stack, a.window) != (b.is_conv, b.home, b.stack, b.window):
        return False
    ends = [(set(use.summed), set(use.free)) for use in (a, b)]
    return ends[0] == ends[1] or (not a.is_conv and ends[0] == ends[1][::-1])


def _with_methods(
    weight: _Weight, leaf: Any, criterion: Criterion, wanted: Mapping[str, Any], name: Any, moments: Moments | None
) -> _Weight:
    """The weight with the methods that it may be factorized by."""
    if weight.skipped:
        return weight
    if weight.path not in wanted or name == "dense":
        return weight._replace(skipped="asked for")
    if name is not None and name not in METHODS:
        raise ArgumentError(f"method must be one of {', '.join(METHODS)} or dense; got {name!r} for {weight.path!r}")
    windowed = any(weight.calls[0].use.window)
    names = [name] if name else ["svd"] if moments is not None or not windowed else list(METHODS)
    if criterion.kind == "rank" and name is None and len(names) > 1:
        names = ["tucker"]
    check_finite({weight.path: leaf}, why="of which there are no factors")
    moment = None if moments is None else moments.of.get(weight.path)
    found = [factorization(each, weight.path, leaf, weight.calls, moment) for each in names]
    usable = tuple(each for each in found if isinstance(each, Factorization))
    lost = [each.reason for each in found if isinstance(each, Skipped)]
    return weight._replace(methods=usable, skipped="" if usable else lost[0])


Pick = tuple[Factorization, int] | Skipped
"""A method and a place among its ranks."""


def _by_value(weight: _Weight, kind: str, value: Any, cheaper: bool) -> Pick:
    """The rank that is asked for, or the cheapest that keeps the energy that is asked for."""
    if weight.skipped:
        return Skipped(weight.skipped)
    if kind == "rank":
        (own,) = weight.methods
        pick = own, own.place(_rank(weight.path, value, own.full))
    else:
        pick = min((_cheapest(each, value) for each in weight.methods), key=lambda pick: pick[0].macs[pick[1]])
    if cheaper and pick[0].macs[pick[1]] >= weight.dense_macs:
        rank = "x".join(map(str, pick[0].ranks[pick[1]].tolist()))
        return Skipped(f"{pick[0].name} of rank {rank} would cost {int(pick[0].macs[pick[1]]):,} MACs")
    return pick


def _cheapest(own: Factorization, energy: float) -> tuple[Factorization, int]:
    enough = own.energy >= min(energy, 1 - 1e-12)
    enough[-1] = True
    return own, int(np.argmin(np.where(enough, own.macs, np.inf)))


def _rank(path: str, value: Any, full: Rank) -> Rank:
    each = value if isinstance(value, tuple | list) else (value,) * len(full)
    if len(each) != len(full):
        raise ArgumentError(f"the rank of {path!r} must be {len(full)} number{'s' * (len(full) > 1)}, got {value!r}")
    counts = (round(r * n) if isinstance(r, float | np.floating) else int(r) for r, n in zip(each, full, strict=True))
    return tuple(min(max(count, 1), n) for count, n in zip(counts, full, strict=True))


def _by_budget(weights: Sequence[_Weight], criterion: Criterion, total: int) -> list[Pick]:
    """The choices that keep most energy, summed over weights, within the budget."""
    kind = criterion.kind
    free = [weight for weight in weights if not weight.skipped]
    choices = []
    for weight in free:
        dense = getattr(weight, f"dense_{kind}")
        costs = [getattr(each, kind) for each in weight.methods]
        choices.append(
            Choices(
                np.concatenate([*costs, [dense]]).astype(float),
                np.concatenate([*(each.energy for each in weight.methods), [1.0 + 1e-9]]),
            )
        )
    fixed = total - sum(getattr(weight, f"dense_{kind}") for weight in free)
    budget = criterion.value if isinstance(criterion.value, int | np.integer) else criterion.value * total
    best = best_choices(choices, budget - fixed)
    if best is None:
        least = fixed + sum(int(each.cost.min()) for each in choices)
        name = {"macs": "MACs", "bytes": "bytes"}[kind]
        raise ArgumentError(
            f"{kind}={criterion.value!r} asks for {int(budget):,} of {total:,} {name}, and the least that factors of "
            f"rank 1 reach is {least:,} ({least / max(total, 1):.3f}): ask for more, or let more weights be factorized"
        )
    picks = iter(_pick(weight, place) for weight, place in zip(free, best, strict=True))
    return [Skipped(weight.skipped) if weight.skipped else next(picks) for weight in weights]


def _pick(weight: _Weight, place: int) -> Pick:
    for each in weight.methods:
        if place < len(each.energy):
            return each, place
        place -= len(each.energy)
    return Skipped("the budget has room for it")


def _row(weight: _Weight, pick: Pick, moments: Moments | None) -> FactorRow:
    if isinstance(pick, Skipped):
        dense = weight.dense_macs, weight.dense_bytes
        return FactorRow(weight.path, "", (), 1.0, *dense, *dense, skipped=pick.reason)
    own, i = pick
    rank = tuple(own.ranks[i].tolist())
    cost = int(own.macs[i]), int(own.bytes[i])
    plain = "" if moments is None else moments.why_not(weight.path)
    if moments is not None and own.name != "svd":
        plain = f"{own.name} is of the weight alone"
    dense = weight.dense_macs, weight.dense_bytes
    return FactorRow(weight.path, own.name, rank, float(own.energy[i]), *cost, *dense, plain=plain)
