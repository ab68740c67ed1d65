"""Whatever has no rule: its operands stay whole, its results are whole, and it is applied as it is."""

from typing import Any

from jaxcomp.trace import compat
from jaxcomp.trace.channels.analysis import Analysis, Rule
from jaxcomp.trace.channels.emitter import Emitter
from jaxcomp.trace.channels.facts import Facts, whole
from jaxcomp.trace.ir import Node


def label(analysis: Analysis, node: Node) -> list[Facts]:
    """Keeps the operands whole. Without operands that could be cut (random bits, iota) nothing is lost by it."""
    for value in node.ins:
        analysis.freeze_all(node, value, "no rule says how to cut its operands")
    return [whole(value) for value in node.outs]


def emit(emitter: Emitter, node: Node, operands: list[Any]) -> list[Any]:
    """Applies the same primitive."""
    return compat.bind(node.equation, operands)


RULE = Rule(label, emit)
