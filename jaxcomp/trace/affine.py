"""Affine chains: what a site's input and result are scaled and shifted by, feature by feature, by parameters alone."""

import math
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from jaxcomp.core.types import Skipped
from jaxcomp.trace import compat
from jaxcomp.trace.channels.rules.reshape import blocks
from jaxcomp.trace.contraction import Contraction
from jaxcomp.trace.ir import Frame, Node, Program, Value
from jaxcomp.trace.origins import Origins
from jaxcomp.trace.variation import Variation

AFFINE = ("add", "sub", "mul", "div", "neg")
"""Primitives that scale or shift one operand by the other."""

MOVES = ("reshape", "transpose", "squeeze", "copy", "rev")
"""Primitives that move numbers and change none: a range holds before as after."""


class AffineStep(NamedTuple):
    """One scaling or shift.

    Attributes:
      node: where it is done.
      place: which of the node's operands is scaled or shifted.
      by: the other one, made of parameters and constants alone; None for a change of sign.
      axes: which axis of the value each feature axis is.
    """

    node: Node
    place: int
    by: Value | None
    axes: tuple[int, ...]

    @property
    def shifts(self) -> bool:
        """Whether it adds something."""
        return self.node.op in ("add", "sub")


class Chain(NamedTuple):
    """A site with what scales and shifts its input and its result.

    Attributes:
      node: the site.
      frame: the body that it is in.
      lengths: of the scans around it, the outermost first.
      before: the steps on its input, in the order in which they run.
      after: the steps on its result.
      end: why there are no more of those.
    """

    node: Node
    frame: Frame
    lengths: tuple[int, ...]
    before: tuple[AffineStep, ...]
    after: tuple[AffineStep, ...]
    end: str

    @property
    def operands(self) -> list[Value]:
        """The operands that the steps scale and shift by."""
        return [step.by for step in (*self.before, *self.after) if step.by is not None]


def chains(program: Program, origins: Origins, sides: dict[Node, int]) -> list[Chain]:
    """Finds the chain of each site of a program, outside of branches, while loops and custom derivatives.

    A step belongs to one chain: to that of the site before it. A chain ends with the last step that reads parameters:
    constants beyond it, such as the number of positions that a mean divides by, often depend on the inputs' shapes.

    Args:
      program: a traced function.
      origins: of the program.
      sides: ``{site: 0 or 1}``, which operand of each is the weight.
    """
    found: list[Chain] = []
    taken: set[Node] = set()
    for frame, lengths in frames(program.frame):
        look = _Frame(frame, origins)
        sites = [node for node in frame.nodes if node in sides]
        ends = {node: look.after(node, sides[node]) for node in sites}
        taken.update(step.node for after, _ in ends.values() for step in after)
        for node in sites:
            after, end = ends[node]
            before = look.before(node, sides[node], taken)
            weighty = [i for i, step in enumerate(after) if look.reads_parameters(step)]
            after = after[: weighty[-1] + 1] if weighty else ()
            weighty = [i for i, step in enumerate(before) if look.reads_parameters(step)]
            before = before[weighty[0] :] if weighty else ()
            found.append(Chain(node, frame, lengths, before, after, end))
    return found


def frames(frame: Frame, lengths: tuple[int, ...] = ()) -> Iterator[tuple[Frame, tuple[int, ...]]]:
    """Yields a body and those inside it that run whenever it does, each with the lengths of the scans around it.

    Args:
      frame: the body.
      lengths: of the scans around ``frame``, the outermost first.
    """
    yield frame, lengths
    for node in frame.nodes:
        if node.op == "scan":
            yield from frames(node.frames[0], (*lengths, node.params["length"]))
        elif node.op in compat.ENTERED:
            yield from frames(node.frames[0], lengths)


def images(program: Program) -> dict[Value, tuple[str, tuple[int, ...]]]:
    """Finds the parameters as they are, in every body: ``{value: (path, lengths of the scans that sliced it)}``."""
    known: dict[Value, tuple[str, tuple[int, ...]]] = {value: (p, ()) for p, value in program.parameters().items()}
    for frame, _ in frames(program.frame):
        for node in frame.nodes:
            first = sum(compat.scan_counts(node.params)) if node.op == "scan" else 0
            if node.op == "scan" or node.op in compat.ENTERED:
                for i, (outer, inner) in enumerate(zip(node.ins, node.frames[0].ins, strict=True)):
                    if outer in known and (node.op != "scan" or i >= first or i < compat.scan_counts(node.params)[0]):
                        sliced = (node.params["length"],) if node.op == "scan" and i >= first else ()
                        known[inner] = known[outer][0], known[outer][1] + sliced
    return known


class _Frame:
    """One body: who makes and who reads each of its values."""

    def __init__(self, frame: Frame, origins: Origins):
        self._origins, self._variation = origins, Variation([frame])
        self._maker = {value: node for node in frame.nodes for value in node.outs}
        self._readers: dict[Value, list[Node]] = {}
        for node in frame.nodes:
            for value in node.ins:
                self._readers.setdefault(value, []).append(node)
        self._results = Counter(frame.outs)

    def after(self, site: Node, side: int) -> tuple[tuple[AffineStep, ...], str]:
        """The steps on a site's result, and why there are no more."""
        value, axes, steps = site.outs[0], Contraction(site).places[side], list[AffineStep]()
        while True:
            readers = self._readers.get(value, [])
            if len(readers) + self._results[value] != 1:
                names = ", ".join(dict.fromkeys(node.op for node in readers))
                return tuple(steps), f"its result is read {len(readers) + self._results[value]} times (by {names})"
            if not readers:
                return tuple(steps), "its result leaves the body that computes it"
            (node,) = readers
            moved = _moved(node, axes)
            if moved is not None:
                value, axes = node.outs[0], moved
                continue
            step = self._step(node, value, axes)
            if isinstance(step, Skipped):
                return tuple(steps), step.reason
            steps.append(step)
            value = node.outs[0]

    def before(self, site: Node, side: int, taken: set[Node]) -> tuple[AffineStep, ...]:
        """The steps on a site's input that its weight can take."""
        if site.params.get("feature_group_count", 1) > 1 or site.params.get("batch_group_count", 1) > 1:
            return ()
        value, steps = site.ins[1 - side], list[AffineStep]()
        while (node := self._maker.get(value)) is not None and node not in taken:
            if len(self._readers.get(value, [])) + self._results[value] != 1:
                break
            if node.op == "convert_element_type" and _is_float(node.ins[0]):
                value = node.ins[0]
                continue
            live = [operand for operand in node.ins if self._origins[operand].live]
            if len(live) != 1:
                break
            step = self._step(node, live[0], Contraction(site).operands[1 - side].met)
            if isinstance(step, Skipped) or (step.shifts and not _takes_shifts(site)):
                break
            steps.append(step)
            value = live[0]
        return tuple(reversed(steps))

    def reads_parameters(self, step: AffineStep) -> bool:
        """Whether a step scales or shifts by parameters, rather than by constants."""
        return step.by is not None and self._origins[step.by].is_weight

    def _step(self, node: Node, value: Value, axes: tuple[int, ...]) -> AffineStep | Skipped:
        """A node as a step of a chain."""
        if node.op not in AFFINE:
            return Skipped(f"{node.op} reads its result")
        place = node.ins.index(value)
        if node.op == "neg":
            return AffineStep(node, place, None, axes)
        by = node.ins[1 - place]
        if self._origins[by].live or by is value:
            return Skipped(f"what {node.op} takes with it is computed from the inputs")
        if node.op == "div" and place == 1:
            return Skipped("it is divided by")
        if node.outs[0].shape != value.shape:
            return Skipped(f"{node.op} broadcasts it")
        varies = self._variation[by]
        if by.shape and any(varies[i] for i in range(len(by.shape)) if i not in axes):
            return Skipped(f"what {node.op} takes with it varies along other axes than its features")
        return AffineStep(node, place, by, axes)


def _moved(node: Node, axes: tuple[int, ...]) -> tuple[int, ...] | None:
    """Where the feature axes are after a cast, transpose or reshape; None for any other node, or if they are lost."""
    if node.op == "convert_element_type" and _is_float(node.outs[0]) and _is_float(node.ins[0]):
        return axes
    if node.op == "transpose":
        return tuple(node.params["permutation"].index(i) for i in axes)
    if node.op == "reshape" and 0 not in node.outs[0].shape:
        pairs = blocks(node.ins[0].shape, node.outs[0].shape)
        alone = {ins[0]: outs[0] for ins, outs in pairs if len(ins) == len(outs) == 1}
        return tuple(alone[i] for i in axes) if set(axes) <= alone.keys() else None
    return None


def _is_float(value: Value) -> bool:
    return bool(jax.dtypes.issubdtype(value.dtype, np.floating))


def _takes_shifts(site: Node) -> bool:
    """Whether a shift of the input is one of the result: not where padding or dilation mix in zeros."""
    if site.op != "conv_general_dilated":
        return True
    padded = any(pair != (0, 0) for pair in map(tuple, site.params["padding"]))
    return not padded and math.prod(site.params["lhs_dilation"]) == 1
