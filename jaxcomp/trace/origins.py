"""Where values come from: the parameters that each is computed of, and whether the inputs have a part in it."""

from collections.abc import Sequence
from typing import NamedTuple

from jaxcomp.trace import compat
from jaxcomp.trace.ir import Frame, Node, Program, Value
from jaxcomp.trace.liveness import has_effects


class Origin(NamedTuple):
    """The parameters and inputs that a value is computed of.

    Attributes:
      paths: the parameters that it is computed of; none once the inputs have a part in it.
      live: whether the other arguments have a part in it.
    """

    paths: frozenset[str] = frozenset()
    live: bool = False

    @property
    def is_weight(self) -> bool:
        """Whether it is computed of parameters alone."""
        return bool(self.paths)


LIVE = Origin(live=True)


class Origins:
    """The origin of every value of a program; loops run until nothing new is carried.

    Sets, not single parents: a kernel concatenated of four comes from all four.

    Attributes:
      calls: how often one application runs each node (a while loop's body counts once, a derivative not at all).
    """

    def __init__(self, program: Program):
        """Walks a program."""
        self.calls: dict[Node, int] = {}
        self._of: dict[Value, Origin] = {}
        known = [Origin(frozenset([path])) for path in program.paths]
        self._body(program.frame, known + [LIVE] * (len(program.frame.ins) - len(known)), 1)

    def __getitem__(self, value: Value) -> Origin:
        return self._of.get(value, Origin())

    def _body(self, frame: Frame, ins: Sequence[Origin], calls: int) -> list[Origin]:
        self._of.update(zip(frame.ins, ins, strict=True))
        for node in frame.nodes:
            self.calls[node] = calls
            self._of.update(zip(node.outs, self._node(node, calls), strict=True))
        return [self[value] for value in frame.outs]

    def _node(self, node: Node, calls: int) -> list[Origin]:
        ins = [self[value] for value in node.ins]
        match node.op:
            case "scan":
                first, carried = compat.scan_counts(node.params)
                return self._loop(node.frames[0], ins, first, carried, calls * node.numbers(node.params["length"]))
            case "while":
                heads, first = node.params["cond_nconsts"], node.params["body_nconsts"]
                outs = self._loop(node.frames[1], ins[heads:], first, len(ins) - heads - first, calls)
                self._body(node.frames[0], ins[:heads] + outs, calls)
                return outs
            case "cond":
                branches = [self._body(frame, ins[1:], calls) for frame in node.frames]
                return [_all([ins[0], *each]) for each in zip(*branches, strict=True)]
            case "shard_map":
                return self._body(node.frames[0], ins, calls * compat.devices(node.params))
            case "custom_jvp_call":
                outs = self._body(node.frames[0], ins, calls)
                self._body(node.frames[1], ins + [LIVE] * len(moving(node)), 0)
                return outs
        if node.frames:
            return self._body(node.frames[0], ins, calls)
        # What a node with effects gives is of whatever went before: a mutable array holds what was written to it.
        return [LIVE if has_effects(node) else _all(ins)] * len(node.outs)

    def _loop(self, frame: Frame, ins: Sequence[Origin], first: int, carried: int, calls: int) -> list[Origin]:
        consts, carry, rest = list(ins[:first]), list(ins[first : first + carried]), list(ins[first + carried :])
        while True:
            outs = self._body(frame, consts + carry + rest, calls)
            joined = [_all(pair) for pair in zip(carry, outs, strict=False)]
            if joined == carry:
                return carry + outs[carried:]
            carry = joined


def moving(node: Node) -> list[int]:
    """Returns the positions of a node's operands that have tangents."""
    return [i for i, value in enumerate(node.ins) if compat.is_inexact(value.dtype)]


def _all(origins: Sequence[Origin]) -> Origin:
    if any(origin.live for origin in origins):
        return LIVE
    return Origin(frozenset().union(*(origin.paths for origin in origins)))
