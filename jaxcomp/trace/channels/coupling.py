"""The coupling of a program: which indices of which parameters must be cut together."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxcomp.core.channels import Reason
from jaxcomp.core.errors import ArgumentError
from jaxcomp.trace import compat
from jaxcomp.trace.channels.analysis import Analysis, Offer
from jaxcomp.trace.channels.cut_values import UNKNOWN, Dead, tidy
from jaxcomp.trace.channels.facts import Axis, Facts, whole
from jaxcomp.trace.channels.labels import Labels
from jaxcomp.trace.channels.rules import OPAQUE, RULES
from jaxcomp.trace.contraction import Contraction
from jaxcomp.trace.ir import MATMULS, Node, Program, Value
from jaxcomp.trace.origins import Origins
from jaxcomp.trace.sites import check_reads

AxisKey = tuple[str, int]
"""A parameter's path, and one of its axes."""


class Reading(NamedTuple):
    """One way to follow the axes that reshapes split: channels of attention go head by head, or position by position.

    Attributes:
      analysis: the last pass over the program.
      labels: the labels of each parameter's axes.
      roots: ``[labels]``: labels with one root are cut together.
      frozen: the roots that must be kept, and why.
    """

    analysis: Analysis
    labels: Mapping[AxisKey, Labels]
    roots: np.ndarray
    frozen: Mapping[int, Reason]

    def kept(self, masks: Mapping[AxisKey, np.ndarray]) -> np.ndarray:
        """Returns what is kept of all labels: of those of one root all, if one is kept or must be."""
        kept = np.ones(self.analysis.labels.count, bool)
        for key in masks:
            kept[self.roots[self.labels[key]]] = False
        for key, labels in self.labels.items():
            kept[self.roots[labels[masks[key]] if key in masks else labels]] = True
        kept[list(self.frozen)] = True
        return kept[self.roots]


class Coupling(NamedTuple):
    """The axes that one program ties together.

    Attributes:
      program: the program.
      readings: of its reshapes. An index is kept if all of them keep it: each is right whatever the parameters are,
        those that another masks included.
      readers: the axes of weights that do no more than read a channel; a strict mask leaves them.
      states: for each result, the parameter whose new state it is, if any.
    """

    program: Program
    readings: tuple[Reading, ...]
    readers: frozenset[AxisKey]
    states: tuple[str | None, ...]

    @property
    def analysis(self) -> Analysis:
        """The first reading's; what does not depend on reshapes is read off it."""
        return self.readings[0].analysis

    def cut(self, masks: Mapping[AxisKey, np.ndarray]) -> list[tuple[Analysis, np.ndarray]]:
        """Returns for each reading its analysis and what is kept of its labels, given what is kept of parameters' axes.

        Args:
          masks: ``{(path, axis): bool [size]}``.

        Raises:
          ArgumentError: if the masks cut what must be kept, or cut tied indices apart.
        """
        parts = [(reading.analysis, reading.kept(masks)) for reading in self.readings]
        for key in self.readings[0].labels:
            axes = [kept[reading.labels[key]] for reading, (_, kept) in zip(self.readings, parts, strict=True)]
            mask = masks.get(key, np.True_)
            if np.array_equal(np.all(axes, axis=0), np.broadcast_to(mask, axes[0].shape)):
                continue
            roots, frozen = self.readings[0].roots, self.readings[0].frozen
            for root in roots[self.readings[0].labels[key][~mask]].tolist():
                if root in frozen:
                    raise ArgumentError(
                        "for arguments of these shapes some of the channels that were cut must be kept: "
                        f"{frozen[root]}. Shrink with an example of these shapes"
                    )
            raise ArgumentError(
                f"for arguments of these shapes the channels of {key[0]!r}, axis {key[1]}, go together with others "
                "than for the example that they were chosen on: shrink with an example of these shapes"
            )
        return parts

    def where(self, zeros: Mapping[AxisKey, np.ndarray]) -> list[Reading]:
        """Returns the readings, frozen by the parameters' zeros rather than by what a mask would make of them.

        Args:
          zeros: ``{(path, axis): bool [size]}``, at which indices a parameter is 0 throughout; elsewhere, and of the
            axes left out, nothing is known of it.

        Returns:
          For each reading one with the same labels and roots. What it does not freeze neither reaches a result nor
          adds anything to a sum: all of it can be cut at once.
        """

        def dead(key: AxisKey) -> Dead:
            return tidy(np.where(zeros[key], 0.0, UNKNOWN)) if key in zeros else UNKNOWN

        return [
            _read(self.program, Analysis(RULES, OPAQUE, own.origins, own.choices, True), dead, self.states)
            for own in (reading.analysis for reading in self.readings)
        ]


def couple(program: Program, lenient: bool = False, readers: frozenset[AxisKey] = frozenset()) -> Coupling:
    """Labels a program until nothing more is learned.

    The first pass takes every masked parameter for 0, but for axes that plainly do no more than read (a strict mask
    leaves them as they are); later ones know all that do, and let each reshape that led to a frozen group follow
    another of its axes. Where a reshape could have followed several, each further one makes a reading of its own.

    Args:
      program: a traced function.
      lenient: whether masks also zero what reads a channel.
      readers: axes that are known to do no more than read.

    Returns:
      The coupling.

    Raises:
      ArgumentError: if the function reads none of its parameters.
    """
    check_reads(program)
    origins, choices, spent = Origins(program), dict[Offer, int](), set[Offer]()
    states = tuple(map(functools.partial(_state_of, program.parameters()), program.out_paths, program.frame.outs))

    def read(choices: Mapping[Offer, int]) -> Reading:
        analysis = Analysis(RULES, OPAQUE, origins, choices, lenient)
        return _read(program, analysis, lambda key: UNKNOWN if key in readers else 0.0, states)

    readers |= frozenset() if lenient else _plain_readers(program, origins)
    while True:
        reading = read(choices)
        found = readers if lenient else readers | only_read(reading.analysis, reading.labels)
        if found == readers and not _try_others(reading, choices, spent):
            return Coupling(program, (reading, *_further(read, reading, choices, spent)), readers, states)
        readers = found


def _read(
    program: Program, analysis: Analysis, dead: Callable[[AxisKey], Dead], states: Sequence[str | None]
) -> Reading:
    """A pass over the program, given what is left at the indices of each parameter's axis that are cut."""
    labels: dict[AxisKey, Labels] = {}

    def facts(path: str, value: Value) -> Facts:
        axes = []
        for i, size in enumerate(value.shape):
            if size <= 1 or not compat.is_number(value.dtype):
                axes.append(Axis())
                continue
            labels[path, i] = analysis.labels.fresh(size)
            axes.append(Axis(labels[path, i], dead((path, i))))
        return Facts(tuple(axes))

    params = program.parameters()
    ins = [facts(path, value) for path, value in params.items()]
    ins += [whole(value) for value in program.frame.ins[len(params) :]]
    outs = analysis.body(program.frame, ins)
    for path, owner, out in zip(program.out_paths, states, outs, strict=True):
        _output(analysis, labels, path, owner, out)
    return Reading(analysis, labels, *analysis.labels.resolve())


def _output(analysis: Analysis, labels: Mapping[AxisKey, Labels], path: str, owner: str | None, out: Facts) -> None:
    """Ties a new state to its parameter; keeps any other result whole."""
    for i, axis in enumerate(out.axes):
        if axis.labels is None:
            continue
        if owner is not None and (owner, i) in labels:
            analysis.labels.tie(labels[owner, i], axis.labels)
        else:
            name = f" {path!r}" if path else ""
            analysis.labels.freeze(axis.labels, Reason("output", "", f"they are the function's result{name}"))


def _state_of(params: Mapping[str, Value], path: str, value: Value) -> str | None:
    """The parameter whose new state a result is: one of its shape, at whose path the result's path ends.

    A path of bare indices says nothing: the second result is not the state of the second parameter.
    """
    keys = path.split("/")
    ends = ["/".join(keys[i:]) for i in range(len(keys)) if not all(map(str.isdigit, keys[i:])) and path]
    for end in ends:
        if end in params and params[end].shape == value.shape:
            return end
    # A collection may be returned by itself: BatchNorm_0/mean for batch_stats/BatchNorm_0/mean.
    longer = [end for end in ends if "/" in end]
    owners = {p for p in params for end in longer if p.endswith("/" + end) and params[p].shape == value.shape}
    return owners.pop() if len(owners) == 1 else None


def only_read(analysis: Analysis, labels: Mapping[AxisKey, Labels]) -> frozenset[AxisKey]:
    """Finds the axes of weights that are summed over against an activation and do nothing else.

    Args:
      analysis: of the program.
      labels: of parameters' axes.
    """
    read, made = (np.zeros(analysis.labels.count, bool) for _ in range(2))
    for marked, marks in ((read, analysis.reads), (made, analysis.makes)):
        for each in marks:
            marked[each] = True
    return frozenset(key for key, own in labels.items() if read[own].all() and not made[own].any())


def _plain_readers(program: Program, origins: Origins) -> frozenset[AxisKey]:
    """The summed axes of parameters that one matmul or plain convolution reads and nothing else: a pass is saved."""
    paths = {value: path for path, value in program.parameters().items()}
    uses: dict[str, list[tuple[int, ...]]] = {}
    for node in program.frame.nodes:
        for side, value in enumerate(node.ins):
            if value in paths:
                other = node.ins[1 - side] if node.op in MATMULS else None
                is_read = other is not None and not origins[other].is_weight
                uses.setdefault(paths[value], []).append(_summed(node, side) if is_read else ())
    results = set(program.frame.outs)
    return frozenset(
        (path, axis)
        for value, path in paths.items()
        if len(uses.get(path, ())) == 1 and value not in results and compat.is_inexact(value.dtype)
        for axis in uses[path][0]
        if value.shape[axis] != 1
    )


def _summed(node: Node, side: int) -> tuple[int, ...]:
    """The axes of an operand that a matmul, or a convolution's kernel of one group of channels, sums over."""
    axes = Contraction(node)
    return axes.operands[side].contracted if node.op == "dot_general" or (side and axes.groups == 1) else ()


def _stuck(reading: Reading) -> set[Offer]:
    """The reshapes whose group is frozen."""
    offers = reading.analysis.offers.items()
    return {
        key for key, (_, labels) in offers if any(root in reading.frozen for root in reading.roots[labels].tolist())
    }


def _try_others(reading: Reading, choices: dict[Offer, int], spent: set[Offer]) -> bool:
    """Moves each reshape whose group is frozen on to its next axis, or back to the first after the last."""
    moved = False
    for key in _stuck(reading) - spent:
        count, _ = reading.analysis.offers[key]
        following = choices.get(key, 0) + 1
        moved = moved or count > 1
        choices[key] = following % count
        if following >= count:
            spent.add(key)
    return moved


def _further(
    read: Callable[[Mapping[Offer, int]], Reading], first: Reading, choices: Mapping[Offer, int], spent: set[Offer]
) -> list[Reading]:
    """Readings in which reshapes follow axes that they have not yet; all move on together, for they may be tied."""
    offers = first.analysis.offers.items()
    left = {key: [*range(choices.get(key, 0) + 1, count)] for key, (count, _) in offers if key not in spent}
    readings = []
    while stuck := {key for key, ways in left.items() if ways}:
        trial, active, reading = dict(choices), set(stuck), first
        while stuck:
            for key in stuck:
                trial[key] = left[key].pop(0) if left[key] else choices.get(key, 0)
                active -= {key} if trial[key] == choices.get(key, 0) else set()
            reading = read(trial)
            stuck = active & _stuck(reading)
        if active:
            readings.append(reading)
    return readings
