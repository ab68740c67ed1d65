"""Where activations lie on grids: what LiteRT asks for beyond the grids of what sites read.

Such a runtime computes an operation in integers where all that it reads and what it returns are codes. Sites' inputs
have grids already. Here are the other values that are handed on: what a layer returns after its bias and activation,
sums of branches, means. What only moves numbers, or takes the greatest of some, keeps the grid of what it reads; so do
means over windows and concatenations, whose operands are all on it: the converter would put them there anyway.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxcomp.core.types import Grid
from jaxcomp.trace.ir import MATMULS, Node, Program, Value

KEEPS = frozenset(
    ("reshape", "transpose", "squeeze", "copy", "rev", "slice", "reduce_max", "reduce_window_max", "concatenate")
)
"""Primitives that return numbers they were given: their results are on the grid of their operands."""

MOVES = frozenset(("reshape", "transpose", "squeeze", "copy", "rev"))
"""The primitives that return all that they were given, and no other."""

CLIPS = frozenset(("max", "min", "clamp", "broadcast_in_dim", "convert_element_type"))
"""Primitives of activations that a runtime fuses with the operation before them."""


class Placement(NamedTuple):
    """The values that are put on grids, and which.

    Attributes:
      classes: values that share a grid; each value is in one class.
      known: for each class the grid that a site reads a value on which has the range of all; None: it has to be
        measured.
    """

    classes: list[list[Value]]
    known: list[Grid | None]

    def grids(self, measured: Iterable[Grid]) -> dict[Value, Grid]:
        """Returns the grid of every value, given those of the classes without one, in their order."""
        others = iter(measured)
        each = [next(others) if own is None else own for own in self.known]
        return {value: grid for values, grid in zip(self.classes, each, strict=True) for value in values}

    @property
    def missing(self) -> list[list[Value]]:
        """The classes whose grid has to be measured."""
        return [values for values, own in zip(self.classes, self.known, strict=True) if own is None]


def place(program: Program, read: Mapping[Node, Grid]) -> Placement:
    """Finds the values that a runtime of integers needs on grids.

    Args:
      program: a function, traced with marks; what is inside of loops and branches stays as it is.
      read: of each mark of what a site reads, the grid.
    """
    flow, own, rounded = _Flow(program), _Classes(), set[Value]()
    for value in program.frame.ins[len(program.paths) :]:
        if flow.is_float(value) and flow.reaches(value, read):
            own.add(value)
    for node in program.frame.nodes:
        operands = [value for value in node.ins if value in flow.data]
        on_grids = bool(operands) and all(value in own for value in operands)
        if node in read:
            rounded.update(node.outs)
            if on_grids:
                own.read(operands[0], read[node])
        elif node.op in MATMULS and len(operands) == 1 and operands[0] in rounded:
            own.add(flow.end(node.outs[0]))
        elif flow.keeps(node) and (on_grids or (node.op == "concatenate" and any(value in own for value in operands))):
            joins, alone = node.op == "concatenate", all(len(flow.readers[value]) == 1 for value in operands)
            # Where nothing else reads them, numbers may as well be clipped before the greatest are taken.
            wide = joins or alone or node.op in (*MOVES, "pad")
            own.join(node.outs[0], operands, holds=wide, is_held=not joins or len(node.ins) == 1)
        elif on_grids and (flow.is_sum(node, operands) or flow.is_gate(node, operands)):
            own.add(flow.end(node.outs[0]))
        elif (mean := flow.mean(node)) is not None and (on_grids or flow.reaches(mean, read)):
            own.add(mean)
            if node.op == "reduce_window_sum":
                own.join(mean, operands, holds=False, is_held=True)
    return own.placement()


class _Classes:
    """Values that share a grid, as they are found."""

    def __init__(self) -> None:
        self._next: dict[Value, Value] = {}
        self._reads: list[tuple[Value, Grid]] = []
        self._holds: dict[Value, list[Value]] = {}

    def __contains__(self, value: Value) -> bool:
        return value in self._next

    def add(self, value: Value) -> None:
        """Takes a value."""
        self._next.setdefault(value, value)

    def join(self, value: Value, others: Iterable[Value], *, holds: bool, is_held: bool) -> None:
        """Takes a value that shares the grid of some others; whether its range holds theirs, and theirs its."""
        self.add(value)
        for other in others:
            self.add(other)
            self._next[self._first(value)] = self._first(other)
            self._holds.setdefault(value, []).extend([other] if holds else [])
            self._holds.setdefault(other, []).extend([value] if is_held else [])

    def read(self, value: Value, grid: Grid) -> None:
        """Takes what a site reads a value on; of several grids that hold all of a class the first."""
        self._reads.append((value, grid))

    def placement(self) -> Placement:
        members: dict[Value, list[Value]] = {}
        for value in self._next:
            members.setdefault(self._first(value), []).append(value)
        known: dict[Value, Grid] = {}
        for value, grid in self._reads:
            first = self._first(value)
            if first not in known and self._held_by(value).issuperset(members[first]):
                known[first] = grid
        return Placement(list(members.values()), [known.get(first) for first in members])

    def _held_by(self, value: Value) -> set[Value]:
        """The values whose range is within that of one."""
        found, left = {value}, [value]
        while left:
            new = [each for each in self._holds.get(left.pop(), ()) if each not in found]
            found.update(new)
            left += new
        return found

    def _first(self, value: Value) -> Value:
        while self._next[value] is not value:
            value = self._next[value]
        return value


class _Flow:
    """The readers of a program's values, and the values that depend on the inputs."""

    def __init__(self, program: Program) -> None:
        self.data = set(program.frame.ins[len(program.paths) :])
        self.readers: dict[Value, list[Node | None]] = {}
        self._makers: dict[Value, Node] = {}
        for node in program.frame.nodes:
            if not self.data.isdisjoint(node.ins):
                self.data.update(node.outs)
            for value in node.ins:
                self.readers.setdefault(value, []).append(node)
            self._makers.update(dict.fromkeys(node.outs, node))
        for value in program.frame.outs:
            self.readers.setdefault(value, []).append(None)

    def keeps(self, node: Node) -> bool:
        """Whether a result is on the grid of its operands: every grid has a 0, with which they may be padded."""
        return node.op in KEEPS or (
            node.op == "pad" and node.ins[1].const is not None and not np.any(node.ins[1].const)
        )

    def is_float(self, value: Value) -> bool:
        return bool(jnp.issubdtype(value.dtype, jnp.floating))

    def reaches(self, value: Value, marks: Collection[Node]) -> bool:
        """Whether a site reads a value, be it moved about."""
        return any(
            node is not None and (node in marks or (self.keeps(node) and self.reaches(node.outs[0], marks)))
            for node in self.readers.get(value, [])
        )

    def end(self, value: Value) -> Value:
        """A layer's or a sum's result, after the bias and the activation that alone read it."""
        while (node := self._only_reader(value)) is not None and (self._is_bias(node, value) or _is_clip(node, self)):
            value = node.outs[0]
        return value

    def is_sum(self, node: Node, operands: list[Value]) -> bool:
        """Whether branches meet: a sum of values that both depend on the inputs."""
        return node.op in ("add", "add_any") and len(operands) == 2 and operands[0] is not operands[1]

    def is_gate(self, node: Node, operands: list[Value]) -> bool:
        """Whether channels are weighed by a gate: a product with a value that is spread over positions."""
        makers = [self._makers.get(value) for value in operands]
        return (
            node.op == "mul"
            and len(operands) == 2
            and any(maker is not None and maker.op == "broadcast_in_dim" for maker in makers)
        )

    def mean(self, node: Node) -> Value | None:
        """The mean that a sum becomes, unless something is then centered by it, as norms do."""
        if node.op not in ("reduce_sum", "reduce_window_sum"):
            return None
        scale = self._only_reader(node.outs[0])
        if scale is None or scale.op not in ("div", "mul") or len([v for v in scale.ins if v in self.data]) != 1:
            return None
        mean = scale.outs[0]
        return None if any(reader is not None and self._centers(reader) for reader in self.readers[mean]) else mean

    def _centers(self, node: Node) -> bool:
        if node.op in ("broadcast_in_dim", "reshape", "copy"):
            return any(reader is not None and self._centers(reader) for reader in self.readers.get(node.outs[0], []))
        return node.op == "sub"

    def _only_reader(self, value: Value) -> Node | None:
        readers = self.readers.get(value, [])
        return readers[0] if len(readers) == 1 else None

    def _is_bias(self, node: Node, value: Value) -> bool:
        """Whether a number for each feature, the last axis, is added."""
        if node.op not in ("add", "sub") or node.ins[0] is not value or len(node.ins) != 2:
            return False
        other = node.ins[1]
        if other in self.data:
            return False
        while other.const is None and other in self._makers and self._makers[other].op in _SPREADS:
            other = self._makers[other].ins[0]
        return sum(n > 1 for n in other.shape) <= 1


_SPREADS = ("broadcast_in_dim", "reshape", "convert_element_type", "copy")


def _is_clip(node: Node, flow: _Flow) -> bool:
    if node.op == "custom_jvp_call":
        return all(inner.op in CLIPS for inner in node.frames[0].nodes)
    return node.op in ("max", "min", "clamp") and sum(value in flow.data for value in node.ins) == 1
