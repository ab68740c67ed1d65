"""The interpreter of taps: a program as it was traced, and some of its values beside its results."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jaxcomp.trace import compat
from jaxcomp.trace.interpreter import Interpreter
from jaxcomp.trace.ir import Frame, Node, Program, Value, holders

MARK = "jaxcomp.trace.tap "
"""The prefix of values' names that a rewritten function marks."""


class TapRun(Interpreter):
    """Runs a program, and notes values of it in ``seen``; those of scans come stacked, an entry a step.

    Results and their derivatives are those of the program: what has a derivative, or a way to be batched, of its own
    runs as it is, and values inside of it are computed beside it by what it was written as. In one compiled program
    that is nothing twice: equal computations are merged.
    """

    def __init__(self, program: Program, taps: Mapping[str, Value]) -> None:
        """Takes what is run, and the values, by key."""
        super().__init__()
        self._held: dict[Frame, dict[str, Value]] = {}
        self._taps = taps
        self._inside = holders(program.frame, set(taps.values()))

    def node(self, node: Node, operands: list[Any]) -> list[Any]:
        if is_mark(node):
            return operands
        if node not in self._inside:
            return compat.bind(node.equation, operands)
        if node.op == "scan" or node.op in compat.REMAT:
            return self.enter(node, operands)
        self.note(self.watched(node.frames[0], operands)[1])
        return compat.bind(node.equation, operands)

    def held(self, frame: Frame) -> Iterable[Value]:
        return self._own(frame).values()

    def end(self, frame: Frame, read: Callable[[Value], Any]) -> None:
        self.seen |= {key: read(value) for key, value in self._own(frame).items()}

    def _own(self, frame: Frame) -> dict[str, Value]:
        if frame not in self._held:
            here = {*frame.ins, *(value for node in frame.nodes for value in node.outs)}
            self._held[frame] = {key: value for key, value in self._taps.items() if value in here}
        return self._held[frame]


def is_mark(node: Node) -> bool:
    """Returns whether a node does nothing but mark a value."""
    return node.op == "name" and str(node.params["name"]).startswith(MARK)
