"""One pass over a program, which labels every axis of every value; the rules read it and write to it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxcomp.core.channels import Reason
from jaxcomp.trace.channels.cut_values import Dead
from jaxcomp.trace.channels.facts import Axis, Facts, constant_facts
from jaxcomp.trace.channels.labels import Labels, LabelSet
from jaxcomp.trace.ir import Frame, Node, Value
from jaxcomp.trace.origins import Origins

Offer = tuple[Node, int]
"""A block of axes of a reshape that can follow one of several."""


class Cost(NamedTuple):
    """The cost of a site: multiply-accumulates = ``calls`` times what is kept of each of ``axes``.

    Attributes:
      calls: how often it runs.
      axes: the size of each axis that it runs over, and its labels; None if it never changes.
      made: the labels of the axes that the site's weight produces.
    """

    calls: int
    axes: tuple[tuple[int, Labels | None], ...]
    made: tuple[Labels, ...]


class Rule(NamedTuple):
    """How one primitive is analyzed and rebuilt.

    Attributes:
      label: ``(analysis, node) -> facts of its results``; ties and freezes labels on the way.
      emit: ``(emitter, node, operands) -> results`` at the sizes that were kept.
    """

    label: "Callable[[Analysis, Node], list[Facts]]"
    emit: Callable[[Any, Node, list[Any]], list[Any]]


class Analysis:
    """The state of one pass.

    Attributes:
      labels: all labels.
      lenient: whether a mask also zeroes what reads a channel (else only what produces it).
      origins: which values are made of parameters alone.
      choices: for a reshape that can follow one of several axes, which; 0 if not named.
      offers: for each such reshape, how many it could follow, and the labels of the one it did.
      reads, makes: labels of weights that were summed over against an activation, or that entered one otherwise.
      costs: the cost of every site.
    """

    def __init__(
        self,
        rules: Mapping[str, Rule],
        opaque: Rule,
        origins: Origins,
        choices: Mapping[Offer, int],
        lenient: bool,
    ):
        self._rules, self._opaque = rules, opaque
        self.origins, self.choices, self.lenient = origins, choices, lenient
        self.labels = LabelSet()
        self.offers: dict[Offer, tuple[int, Labels]] = {}
        self.reads: list[Labels] = []
        self.makes: list[Labels] = []
        self.costs: dict[Node, Cost] = {}
        self._facts: dict[Value, Facts] = {}

    def __getitem__(self, value: Value) -> Facts:
        known = self._facts.get(value)
        if known is None:
            known = self._facts[value] = constant_facts(value)
        return known

    def rule(self, node: Node) -> Rule:
        """Returns the rule of a node's primitive; that of the opaque ones if it has none."""
        return self._rules.get(node.op, self._opaque)

    def body(self, frame: Frame, ins: Sequence[Facts]) -> list[Facts]:
        """Labels a body ``frame``, given the facts ``ins`` of its operands; returns those of its results."""
        self._facts.update(zip(frame.ins, ins, strict=True))
        for node in frame.nodes:
            outs = self.rule(node).label(self, node)
            for value, facts in zip(node.outs, outs, strict=True):
                self._facts[value] = self._without_lone(node, value, facts)
            self._mark_makes(node)
        return [self[value] for value in frame.outs]

    def freeze(self, node: Node, axis: Axis, text: str, where: Any = True, window: bool = False) -> None:
        """Keeps an axis whole for a node's sake.

        Args:
          node: which needs it.
          axis: of its operand or result.
          text: the reason.
          where: ``[size]`` bool, the indices that are kept; True: all.
          window: whether the reason is a window over the axis.
        """
        if axis.labels is not None:
            kept = axis.labels[np.broadcast_to(where, axis.labels.shape)]
            self.labels.freeze(kept, Reason(node.op, node.place, text, window))

    def freeze_all(self, node: Node, value: Value, text: str) -> None:
        """Keeps all axes of a ``value`` whole for a ``node``'s sake; ``text`` says why."""
        for axis in self[value].axes:
            self.freeze(node, axis, text)

    def need_zero(self, node: Node, axis: Axis, dead: Dead, source: Axis) -> None:
        """Keeps the indices of an axis that is summed over at which the cut value is not 0.

        Args:
          node: which sums.
          axis: of its operand.
          dead: the cut value.
          source: the axis from which that is read.
        """
        off = ~np.equal(dead, 0)
        if axis.labels is not None and axis.labels.size and np.any(off):
            found = np.broadcast_to(dead, axis.labels.shape)[np.broadcast_to(off, axis.labels.shape)][0]
            text = f"it sums over them, and a masked one would be {found:.4g}, not 0"
            if np.isnan(found):
                text = "it sums over them, and a masked one may not be 0"
            if source.labels is None:
                text = "it sums over them, and no parameter makes their values"
            self.freeze(node, axis, text, off)

    def tie(self, axes: Sequence[Axis]) -> Labels | None:
        """Ties the labels of axes whose indices must be kept or cut together.

        Args:
          axes: of one size.

        Returns:
          The labels of the first axis that has any; None if all are whole.
        """
        labeled = [axis.labels for axis in axes if axis.labels is not None]
        for other in labeled[1:]:
            self.labels.tie(labeled[0], other)
        return labeled[0] if labeled else None

    def _without_lone(self, node: Node, value: Value, facts: Facts) -> Facts:
        # A single index taken out of an axis is no channel any more: squeezed or broadcast, it must be there.
        if not any(a.labels is not None and n == 1 for a, n in zip(facts.axes, value.shape, strict=True)):
            return facts
        axes = []
        for axis, size in zip(facts.axes, value.shape, strict=True):
            if size == 1:
                self.freeze(node, axis, "it takes a single one of them")
                axis = Axis(None, facts.fill)
            axes.append(axis)
        return Facts(tuple(axes), facts.fill)

    def _mark_makes(self, node: Node) -> None:
        if node.op in ("dot_general", "conv_general_dilated") or node.frames:
            return
        if all(self.origins[value].is_weight for value in node.outs):
            return
        for value in node.ins:
            if self.origins[value].is_weight:
                self.makes.extend(axis.labels for axis in self[value].axes if axis.labels is not None)
