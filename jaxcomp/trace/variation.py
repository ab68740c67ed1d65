"""Variation: along which axes a value may hold different numbers, and along which it repeats itself."""

from collections.abc import Callable, Iterable

from jaxcomp.trace.channels import cut_values
from jaxcomp.trace.channels.rules.reshape import blocks
from jaxcomp.trace.contraction import Contraction
from jaxcomp.trace.ir import Frame, Node, Value

Varies = tuple[bool, ...]
"""For each axis whether the value may differ along it."""


class Variation:
    """Along which axes values of some bodies vary.

    Parameters, inputs, constants of several numbers and what no rule is known for vary along every axis of more than
    one index; what is broadcast or tiled from one index does not vary along it, nor what is computed of such.
    """

    def __init__(self, frames: Iterable[Frame]):
        """Takes the bodies; what comes into one varies."""
        self._maker = {value: node for frame in frames for node in frame.nodes for value in node.outs}
        self._known: dict[Value, Varies] = {}

    def __getitem__(self, value: Value) -> Varies:
        if value not in self._known:
            waiting = [value]
            while waiting:  # no recursion: chains of operations are long
                node = self._maker.get(waiting[-1])
                operands = node.ins if node is not None and node.op in _RULES else []
                missing = [operand for operand in operands if operand not in self._known]
                if missing:
                    waiting += missing
                    continue
                top = waiting.pop()
                self._known[top] = self._of(top, node)
        return self._known[value]

    def _of(self, value: Value, node: Node | None) -> Varies:
        every = tuple(n != 1 for n in value.shape)
        if node is None or node.op not in _RULES or not any(every):
            return every
        found = _RULES[node.op](node, [self._known[operand] for operand in node.ins])
        return tuple(own and wide for own, wide in zip(found, every, strict=True))


def _elementwise(node: Node, ins: list[Varies]) -> Varies:
    several = [own for own in ins if own]
    return tuple(map(any, zip(*several, strict=True))) if several else (False,) * len(node.outs[0].shape)


def _broadcast(node: Node, ins: list[Varies]) -> Varies:
    out = [False] * len(node.outs[0].shape)
    for i, j in enumerate(node.params["broadcast_dimensions"]):
        out[j] = ins[0][i]
    return tuple(out)


def _reshape(node: Node, ins: list[Varies]) -> Varies:
    out = [False] * len(node.outs[0].shape)
    if 0 not in node.outs[0].shape:
        for before, after in blocks(node.ins[0].shape, node.outs[0].shape):
            for j in after:
                out[j] = any(ins[0][i] for i in before)
    return tuple(out)


def _dot(node: Node, ins: list[Varies]) -> Varies:
    lhs, rhs = Contraction(node).operands
    both = [ins[0][i] or ins[1][j] for i, j in zip(lhs.batch, rhs.batch, strict=True)]
    return (*both, *(ins[0][i] for i in lhs.free), *(ins[1][i] for i in rhs.free))


def _reduce(node: Node, ins: list[Varies]) -> Varies:
    return tuple(own for i, own in enumerate(ins[0]) if i not in node.params["axes"])


def _concatenate(node: Node, ins: list[Varies]) -> Varies:
    along = node.params["dimension"]
    return tuple(i == along or any(own) for i, own in enumerate(zip(*ins, strict=True)))


_RULES: dict[str, Callable[[Node, list[Varies]], Varies]] = {
    **dict.fromkeys(cut_values.ELEMENTWISE - {"optimization_barrier"}, _elementwise),
    **dict.fromkeys(("slice", "rev", "tile"), lambda node, ins: ins[0]),
    **{f"reduce_{name}": _reduce for name in ("sum", "max", "min", "prod", "and", "or", "xor")},
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "transpose": lambda node, ins: tuple(ins[0][i] for i in node.params["permutation"]),
    "squeeze": lambda node, ins: tuple(own for i, own in enumerate(ins[0]) if i not in node.params["dimensions"]),
    "iota": lambda node, ins: tuple(i == node.params["dimension"] for i in range(len(node.outs[0].shape))),
    "dot_general": _dot,
    "concatenate": _concatenate,
}
"""``(node, those of its operands) -> that of its result``."""
