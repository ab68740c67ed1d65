"""Gather, dynamic slices and updates: axes that are taken whole pass, those that are indexed stay whole."""

from typing import Any

from jaxcomp.trace import compat
from jaxcomp.trace.channels.analysis import Analysis, Rule
from jaxcomp.trace.channels.cut_values import join
from jaxcomp.trace.channels.emitter import Emitter
from jaxcomp.trace.channels.facts import Axis, Facts, whole
from jaxcomp.trace.ir import Node

INDEXED = "it is indexed by them"


def label_gather(analysis: Analysis, node: Node) -> list[Facts]:
    """Passes a table's columns on; keeps its rows whole."""
    (table, indices), (out,) = node.ins, node.outs
    facts, numbers = analysis[table], node.params["dimension_numbers"]
    analysis.freeze_all(node, indices, INDEXED)
    dropped = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    axes = list(whole(out, facts.fill).axes)
    windows = [i for i in range(len(table.shape)) if i not in dropped]
    for i, j in zip(windows, numbers.offset_dims, strict=True):
        if node.sized["slice_sizes"][i] == table.shape[i]:
            axes[j] = facts.axes[i]
        else:
            analysis.freeze(node, facts.axes[i], INDEXED)
    for i in dropped:
        analysis.freeze(node, facts.axes[i], INDEXED)
    return [Facts(tuple(axes), facts.fill)]


def label_dynamic_slice(analysis: Analysis, node: Node) -> list[Facts]:
    """Passes on axes that are taken whole."""
    facts, sizes = analysis[node.ins[0]], node.sized["slice_sizes"]
    axes = []
    for axis, part, size in zip(facts.axes, sizes, node.ins[0].shape, strict=True):
        if part != size:
            analysis.freeze(node, axis, INDEXED)
        axes.append(axis if part == size else Axis(None, facts.fill))
    return [Facts(tuple(axes), facts.fill)]


def emit_sizes(emitter: Emitter, node: Node, operands: list[Any]) -> list[Any]:
    """Applies the same slice to what is kept."""
    parts = zip(node.params["slice_sizes"], operands[0].shape, emitter.keeps(node.ins[0]), strict=True)
    sizes = tuple(part if keep is None else size for part, size, keep in parts)
    return compat.bind(node.equation, operands, slice_sizes=sizes)


def label_update(analysis: Analysis, node: Node) -> list[Facts]:
    """Ties axes that are written whole."""
    old, new = analysis[node.ins[0]], analysis[node.ins[1]]
    fill, axes = join(old.fill, new.fill), []
    for a, b, size, part in zip(old.axes, new.axes, node.ins[0].shape, node.ins[1].shape, strict=True):
        if part == size:
            axes.append(Axis(analysis.tie([a, b]), join(a.dead, b.dead)))
            continue
        analysis.freeze(node, a, INDEXED)
        analysis.freeze(node, b, INDEXED)
        axes.append(Axis(None, fill))
    return [Facts(tuple(axes), fill)]


def emit_update(emitter: Emitter, node: Node, operands: list[Any]) -> list[Any]:
    """Applies the same update to what is kept."""
    targets = emitter.keeps(node.outs[0])
    fitted = [emitter.fit(x, value, targets) for x, value in zip(operands[:2], node.ins[:2], strict=True)]
    return compat.bind(node.equation, [*fitted, *operands[2:]])


RULES = {
    "gather": Rule(label_gather, emit_sizes),
    "dynamic_slice": Rule(label_dynamic_slice, emit_sizes),
    "dynamic_update_slice": Rule(label_update, emit_update),
}
