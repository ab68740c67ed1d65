"""Primitives that move indices about: what happens to an axis happens to its labels."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxcomp.trace import compat
from jaxcomp.trace.channels.analysis import Analysis, Rule
from jaxcomp.trace.channels.cut_values import Dead, join, tidy
from jaxcomp.trace.channels.emitter import Emitter, pick
from jaxcomp.trace.channels.facts import Axis, Facts
from jaxcomp.trace.interpreter import AxisMask
from jaxcomp.trace.ir import Node


def emit_same(emitter: Emitter, node: Node, operands: list[Any]) -> list[Any]:
    """Applies the same primitive, whose parameters name no sizes."""
    return compat.bind(node.equation, operands)


def label_broadcast(analysis: Analysis, node: Node) -> list[Facts]:
    """Passes on axes of the same size; new ones are whole."""
    facts, value, out = analysis[node.ins[0]], node.ins[0], node.outs[0]
    axes = [Axis(None, facts.fill)] * len(out.shape)
    for i, j in enumerate(node.params["broadcast_dimensions"]):
        if value.shape[i] == out.shape[j]:
            axes[j] = facts.axes[i]
    return [Facts(tuple(axes), facts.fill)]


def emit_broadcast(emitter: Emitter, node: Node, operands: list[Any]) -> list[Any]:
    """Broadcasts to the sizes that are kept."""
    shape = list(node.outs[0].dims)
    for i, j in enumerate(node.params["broadcast_dimensions"]):
        if emitter.keeps(node.outs[0])[j] is not None:
            shape[j] = operands[0].shape[i]
    return compat.bind(node.equation, operands, shape=tuple(shape))


def label_transpose(analysis: Analysis, node: Node) -> list[Facts]:
    """Reorders the axes."""
    facts = analysis[node.ins[0]]
    return [Facts(tuple(facts.axes[i] for i in node.params["permutation"]), facts.fill)]


def label_squeeze(analysis: Analysis, node: Node) -> list[Facts]:
    """Drops axes of size 1, which are never cut."""
    facts, gone = analysis[node.ins[0]], node.params["dimensions"]
    return [Facts(tuple(axis for i, axis in enumerate(facts.axes) if i not in gone), facts.fill)]


def label_rev(analysis: Analysis, node: Node) -> list[Facts]:
    """Reverses the labels of reversed axes."""
    facts, turned = analysis[node.ins[0]], node.params["dimensions"]
    back = slice(None, None, -1)
    return [Facts(tuple(a.take(back) if i in turned else a for i, a in enumerate(facts.axes)), facts.fill)]


def label_tile(analysis: Analysis, node: Node) -> list[Facts]:
    """Repeats the labels of repeated axes."""
    facts = analysis[node.ins[0]]
    sizes = [np.tile(np.arange(n), times) for n, times in zip(node.ins[0].shape, node.sized["reps"], strict=True)]
    return [Facts(tuple(axis.take(index) for axis, index in zip(facts.axes, sizes, strict=True)), facts.fill)]


def label_slice(analysis: Analysis, node: Node) -> list[Facts]:
    """Slices the labels as the axes."""
    facts = analysis[node.ins[0]]
    return [Facts(tuple(a.take(part) for a, part in zip(facts.axes, _parts(node), strict=True)), facts.fill)]


def emit_slice(emitter: Emitter, node: Node, operands: list[Any]) -> list[Any]:
    """Slices whole axes alike; of a cut one it takes the places at which the kept part of the slice now stands."""
    (x,), params = operands, node.params
    starts, limits = list(params["start_indices"]), list(params["limit_indices"])
    strides = list(params["strides"] or [1] * len(starts))
    for i, (part, keep) in enumerate(zip(_parts(node), emitter.keeps(node.ins[0]), strict=True)):
        if keep is not None:
            x = pick(x, i, _places(keep, part))
            starts[i], limits[i], strides[i] = 0, x.shape[i], 1
    changes = {"start_indices": tuple(starts), "limit_indices": tuple(limits), "strides": tuple(strides)}
    return compat.bind(node.equation, [x], **changes)


def _parts(node: Node) -> list[slice]:
    params = node.sized
    strides = params["strides"] or [1] * len(params["start_indices"])
    return [slice(*each) for each in zip(params["start_indices"], params["limit_indices"], strides, strict=True)]


def _places(keep: np.ndarray, part: slice) -> np.ndarray:
    """Where the kept entries of a part of an axis stand once the axis is cut."""
    return (np.cumsum(keep) - 1)[part][keep[part]]


def _run_in_step(analysis: Analysis, facts: Sequence[Facts], axis: int) -> Axis:
    mine = [each.axes[axis] for each in facts]
    return Axis(analysis.tie(mine), join(*(each.dead for each in mine)))


def label_concatenate(analysis: Analysis, node: Node) -> list[Facts]:
    """Concatenates the labels; ties the other axes."""
    along, facts = node.params["dimension"], [analysis[value] for value in node.ins]
    fill = join(*(each.fill for each in facts))
    axes = [Axis(None, fill) if i == along else _run_in_step(analysis, facts, i) for i in range(len(facts[0].axes))]
    pieces = [each.axes[along] for each in facts]
    sizes = [value.shape[along] for value in node.ins]
    axes[along] = _join_pieces(analysis, pieces, sizes)
    if all(piece.labels is None for piece in pieces):
        axes[along] = Axis(None, axes[along].dead)
    return [Facts(tuple(axes), fill)]


def _join_pieces(analysis: Analysis, pieces: Sequence[Axis], sizes: Sequence[int]) -> Axis:
    """One axis of several; those that are whole get labels of their own, for a reader may cut them."""
    labels = [analysis.labels.fresh(n) if p.labels is None else p.labels for p, n in zip(pieces, sizes, strict=True)]
    deads: list[Dead] = [np.broadcast_to(p.dead, (n,)) for p, n in zip(pieces, sizes, strict=True)]
    return Axis(np.concatenate(labels), tidy(np.concatenate(deads)))


def emit_concatenate(emitter: Emitter, node: Node, operands: list[Any]) -> list[Any]:
    """Concatenates what is kept of each operand."""
    along, targets, start = node.params["dimension"], emitter.keeps(node.outs[0]), 0
    whole, fitted = targets[along], []
    for x, value in zip(operands, node.ins, strict=True):
        end = start + value.shape[along]
        piece = None if whole is None or whole[start:end].all() else whole[start:end]
        fitted.append(emitter.fit(x, value, [*targets[:along], piece, *targets[along + 1 :]]))
        start = end
    return compat.bind(node.equation, fitted)


def label_split(analysis: Analysis, node: Node) -> list[Facts]:
    """Splits the labels as the axis."""
    facts, along, start, outs = analysis[node.ins[0]], node.params["axis"], 0, []
    for size in node.sized["sizes"]:
        part = facts.axes[along].take(slice(start, start + size))
        outs.append(Facts((*facts.axes[:along], part, *facts.axes[along + 1 :]), facts.fill))
        start += size
    return outs


def emit_split(emitter: Emitter, node: Node, operands: list[Any]) -> list[Any]:
    """Splits at the sizes that are kept."""
    along = node.params["axis"]
    kept = [emitter.keeps(value)[along] for value in node.outs]
    sizes = (size if keep is None else int(keep.sum()) for size, keep in zip(node.params["sizes"], kept, strict=True))
    return compat.bind(node.equation, operands, sizes=tuple(sizes))


def label_pad(analysis: Analysis, node: Node) -> list[Facts]:
    """Gives padding labels of its own; an edge that is cut off takes its labels with it."""
    facts, padding = (analysis[value] for value in node.ins)
    config = node.sized["padding_config"]
    padded = any(config_i != (0, 0, 0) for config_i in map(tuple, config))
    fill = join(facts.fill, padding.fill) if padded else facts.fill
    axes = []
    for i, (low, high, between) in enumerate(config):
        axis = facts.axes[i]
        if between:
            analysis.freeze(node, axis, "it pads between them")
        if axis.labels is None or between:
            axes.append(Axis(None, fill))
            continue
        if padded:
            axis = Axis(axis.labels, join(axis.dead, padding.fill))
        axes.append(_pad_axis(analysis, axis, low, high, padding.fill))
    return [Facts(tuple(axes), fill)]


def _pad_axis(analysis: Analysis, axis: Axis, low: int, high: int, fill: Dead) -> Axis:
    size = len(axis.labels) if axis.labels is not None else 0
    middle = axis.take(slice(max(-low, 0), size - max(-high, 0)))
    if low <= 0 and high <= 0:
        return middle
    sizes = [max(low, 0), size - max(-low, 0) - max(-high, 0), max(high, 0)]
    return _join_pieces(analysis, [Axis(None, fill), middle, Axis(None, fill)], sizes)


def emit_pad(emitter: Emitter, node: Node, operands: list[Any]) -> list[Any]:
    """Pads alike, as much of it as is kept."""
    (x, padding), (value, _), (out,) = operands, node.ins, node.outs
    config, sized = list(map(tuple, node.params["padding_config"])), node.sized["padding_config"]
    kept = zip(emitter.keeps(value), emitter.keeps(out), strict=True)
    for i, (inner, outer) in enumerate(kept):
        if inner is None and outer is None:
            continue
        low, high, _ = sized[i]
        if inner is not None:
            x = pick(x, i, _places(inner, slice(max(-low, 0), value.shape[i] - max(-high, 0))))
            low, high = max(low, 0), max(high, 0)
        if outer is not None:
            ends = outer[: max(low, 0)].sum(), outer[len(outer) - max(high, 0) :].sum()
            low, high = (int(end) if edge > 0 else edge for end, edge in zip(ends, (low, high), strict=True))
        config[i] = (low, high, config[i][2])
    return compat.bind(node.equation, [x, padding], padding_config=tuple(config))


def label_stack(analysis: Analysis, node: Node) -> list[Facts]:
    """Adds an axis, which is whole; ties the others."""
    facts, along = [analysis[value] for value in node.ins], node.params["axis"]
    fill = join(*(each.fill for each in facts))
    axes = [_run_in_step(analysis, facts, i) for i in range(len(facts[0].axes))]
    axes.insert(along, Axis(None, fill))
    return [Facts(tuple(axes), fill)]


def emit_stack(emitter: Emitter, node: Node, operands: list[Any]) -> list[Any]:
    """Stacks what is kept."""
    along = node.params["axis"]
    targets: list[AxisMask] = [keep for i, keep in enumerate(emitter.keeps(node.outs[0])) if i != along]
    pairs = zip(operands, node.ins, strict=True)
    return compat.bind(node.equation, [emitter.fit(x, value, targets) for x, value in pairs])


def label_unstack(analysis: Analysis, node: Node) -> list[Facts]:
    """Keeps the axis that is taken apart whole; passes the others on."""
    facts, along = analysis[node.ins[0]], node.params["axis"]
    analysis.freeze(node, facts.axes[along], "it takes a single one of them")
    rest = tuple(axis for i, axis in enumerate(facts.axes) if i != along)
    return [Facts(rest, facts.fill)] * len(node.outs)


RULES = {
    "broadcast_in_dim": Rule(label_broadcast, emit_broadcast),
    "transpose": Rule(label_transpose, emit_same),
    "squeeze": Rule(label_squeeze, emit_same),
    "rev": Rule(label_rev, emit_same),
    "tile": Rule(label_tile, emit_same),
    "slice": Rule(label_slice, emit_slice),
    "concatenate": Rule(label_concatenate, emit_concatenate),
    "split": Rule(label_split, emit_split),
    "pad": Rule(label_pad, emit_pad),
    "stack": Rule(label_stack, emit_stack),
    "unstack": Rule(label_unstack, emit_same),
}
