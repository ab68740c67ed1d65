"""Layers in turn: each solved on what those before it now give, by one walk, and all judged together at the end."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import jax
import numpy as np

from jaxcomp.core.finite import check_finite
from jaxcomp.core.paths import replace_leaves
from jaxcomp.core.progress import Progress, told
from jaxcomp.core.types import Params
from jaxcomp.observe.evidence import Evidence, Seen
from jaxcomp.observe.held_out import ENOUGH, NO_BETTER, counts, examples_of, is_better, is_worse, judged_on
from jaxcomp.observe.moments import unseen
from jaxcomp.posttrain.find_biases import Biases, find_biases
from jaxcomp.posttrain.round_report import ALL_AT_ONCE, RoundReport, RoundRow
from jaxcomp.posttrain.walk import Walk
from jaxcomp.trace.account import left_out
from jaxcomp.trace.ir import Program
from jaxcomp.trace.uses import Use, Uses


class Solution(Protocol):
    """The solution of a weight.

    Attributes:
      leaf: of its own shape and dtype.
      back: the fraction of its outputs that are the plain method's, as nothing better was found.
    """

    @property
    def leaf(self) -> Any: ...

    @property
    def back(self) -> float: ...


Near = Callable[[str, bool], Any]
"""``(path, whether its inputs are known) -> a solution``: the plain method."""
Better = Callable[[str, Use, Evidence, Any], Any]
"""``(path, a site, what flows into it, the plain solution) -> a solution``."""


@dataclass
class InTurn:
    """Weights to solve in a program, and what becomes of them.

    Attributes:
      program, params, given: a traced function, its parameters and batches.
      own: the uses of each weight.
      near: the plain method.
      better: the method; None: the plain one.
      means: the biases that take up means of errors.
      places: as of :class:`jaxcomp.posttrain.walk.Walk`.
      altered: how layer inputs are quantized.
      apart: whether held-out examples are altered otherwise.
      judged: whether the plain method is kept where all results are no better.
      what: the method's name, in progress.
      progress: how far it is.
      found: of each weight.
      plain: likewise, of those that data reach.
      blind: why data say nothing of others.
      moved: biases.
    """

    program: Program
    params: Params
    given: Sequence[tuple[Any, ...]]
    own: Mapping[str, Uses]
    near: Near
    better: Better | None
    biases: bool = True
    places: int | None = None
    altered: Any = None
    apart: bool = False
    judged: bool = True
    what: str = ""
    progress: Progress = None
    found: dict[str, Any] = field(default_factory=dict)
    plain: dict[str, Any] = field(default_factory=dict)
    blind: dict[str, str] = field(default_factory=dict)
    moved: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.blind = {path: why for path, each in self.own.items() if (why := unseen(each, self.program, "inputs"))}
        self.found = {path: self.near(path, False) for path in self.blind}
        self.examples = examples_of(self.given)
        self.means = find_biases(self.program, self.own) if self.biases else Biases({}, {})
        self._programs: dict[Any, Any] = {}
        self._sites = {path: each.sites for path, each in self.own.items() if path not in self.blind}
        leaves = {path: each.leaf for path, each in self.found.items()}
        self._start = jax.tree.leaves(replace_leaves(self.params, leaves))
        self._solve()

    def _solve(self) -> None:
        set_ = [each for path in self.own for each in self.means.of.get(path, ())]
        both = self.judged and self.better is not None
        walk = self._walked(self._solved, True, set_, other=(lambda path: self.plain[path].leaf) if both else None)
        self.way, *others = walk.ways
        few = counts(self.examples)[1] < ENOUGH
        bare = self._walked(self._kept, False, [], walk).ways if set_ and few and self.judged else []
        # What is better layer by layer must be so at the end too: errors of layers may cancel, or add up.
        if both and not self._is_plain and any(is_worse(self.way.lost, each.lost) for each in (*others, *bare)):
            (self.way,) = others
            self.found |= self.plain
        if bare and self._is_plain and not is_better(self.way.lost, bare[0].lost):
            self.way = self._walked(self._kept, False, []).ways[0]
            self.way.unmoved |= dict.fromkeys([each.path for each in set_], NO_BETTER)
        self.moved = {each.path: self.way.new[each.path] for each in set_ if each.path in self.way.new}

    @property
    def _is_plain(self) -> bool:
        return all(self.found[path] is each for path, each in self.plain.items())

    def _kept(self, path: str, use: Use, seen: Seen) -> Any:
        return self.plain[path].leaf

    def _solved(self, path: str, use: Use, seen: Seen) -> Any:
        self.found[path] = self.plain[path] = self.near(path, True)
        check_finite({path: seen.sizes}, "on the data the input of ")
        if not seen.reached:
            self.blind[path] = "its inputs are 0 on the data"
            self.found[path] = self.plain[path] = self.near(path, False)
        elif self.better is not None:
            known = seen.evidence(self.examples, path in self.means.of)
            self.found[path] = self.better(path, use, known, self.plain[path])
        return self.found[path].leaf

    def _walked(self, solve: Any, gather: bool, biases: Any, beside: Walk | None = None, other: Any = None) -> Walk:
        tell, done = told(self.progress), itertools.count()
        what = self.what if gather else "nearest, to compare"

        def telling(path: str, *args: Any) -> Any:
            tell(next(done), len(self._sites), f"{path} ({what})")
            return solve(path, *args)

        options = self.places, self.altered, biases, gather, self.apart
        walk = Walk(self.program, self._sites, telling, *options, beside=beside, programs=self._programs, other=other)
        walk.run(jax.tree.leaves(self.params), [jax.tree.leaves(batch) for batch in self.given], self._start)
        tell(len(self._sites), len(self._sites), f"all layers ({what})")
        return walk

    @property
    def new_params(self) -> Params:
        """The parameters with what was found, and with biases as they were moved."""
        return replace_leaves(self.params, {path: each.leaf for path, each in self.found.items()} | self.moved)

    def report(
        self, named: Mapping[str, Any], methods: Mapping[str, tuple[str, str]], skipped: Mapping[str, str]
    ) -> RoundReport:
        """Reports what became of each weight.

        Args:
          named: all leaves, by path.
          methods: the format and the method of each that was solved.
          skipped: why others were not.
        """

        def row(path: str) -> RoundRow:
            if path not in self.found:
                return RoundRow(path, np.shape(named[path]), skipped=skipped[path])
            error, whole = self.way.errors.get(path, (0.0, 0.0))
            why = self.blind.get(path, "" if path in self.way.errors else ALL_AT_ONCE)
            shown = self.found[path].back, error / whole if whole else None
            return RoundRow(path, np.shape(named[path]), *methods[path], *shown, *self._bias(path), why)

        paths = [path for path in self.program.paths if path in self.found or path in skipped]
        others = left_out(self.program, {*paths} | self.moved.keys() - self.way.unmoved.keys())
        return RoundReport(tuple(map(row, paths)), others, judged_on(self.examples))

    def _bias(self, path: str) -> tuple[str, str]:
        """Which was moved, and why none was."""
        own = [each.path for each in self.means.of.get(path, ())]
        why = [self.way.unmoved[each] for each in own if each in self.way.unmoved]
        moved = "" if why else ", ".join(own)
        return moved, "" if moved else (why or [self.means.missing.get(path, "not asked for")])[0]
