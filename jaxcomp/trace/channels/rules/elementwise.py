"""Elementwise primitives: axes of one size run in step."""

from typing import Any

from jaxcomp.trace import compat
from jaxcomp.trace.channels import cut_values
from jaxcomp.trace.channels.analysis import Analysis, Rule
from jaxcomp.trace.channels.emitter import Emitter
from jaxcomp.trace.channels.facts import Axis, Facts, whole
from jaxcomp.trace.ir import Node


def label(analysis: Analysis, node: Node) -> list[Facts]:
    """Ties the operands axis by axis; a scalar operand is a fill."""
    facts, (out,) = [analysis[value] for value in node.ins], node.outs
    fill = cut_values.elementwise(node.op, node.params, [each.fill for each in facts])
    if all(each.is_whole for each in facts):
        return [whole(out, fill)]
    axes = []
    for i in range(len(out.shape)):
        mine = [each.axes[i] if each.axes else Axis(None, each.fill) for each in facts]
        labels = analysis.tie(mine)
        if labels is None:
            axes.append(Axis(None, fill))
            continue
        deads = [axis.dead for axis in mine]
        axis = Axis(labels, cut_values.elementwise(node.op, node.params, deads))
        lost = cut_values.undefined(node.op, deads, axis.dead)
        if lost is not False:
            analysis.freeze(node, axis, "a masked one would be infinite or no number", lost)
        axes.append(axis)
    return [Facts(tuple(axes), fill)]


def emit(emitter: Emitter, node: Node, operands: list[Any]) -> list[Any]:
    """Applies the same primitive to what is kept."""
    targets = emitter.keeps(node.outs[0])
    pairs = zip(operands, node.ins, strict=True)
    return compat.bind(node.equation, [emitter.fit(x, v, targets) if v.shape else x for x, v in pairs])


def label_each(analysis: Analysis, node: Node) -> list[Facts]:
    """Passes the labels of several operands on."""
    return [analysis[value] for value in node.ins]


def emit_each(emitter: Emitter, node: Node, operands: list[Any]) -> list[Any]:
    """Applies the same primitive."""
    return compat.bind(node.equation, operands)


RULES = {op: Rule(label, emit) for op in cut_values.ELEMENTWISE} | {"optimization_barrier": Rule(label_each, emit_each)}
