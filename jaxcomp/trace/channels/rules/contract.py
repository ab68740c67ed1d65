"""Matmuls and convolutions: what is summed over must be 0 where it is cut."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxcomp.trace import compat
from jaxcomp.trace.channels.analysis import Analysis, Cost, Rule
from jaxcomp.trace.channels.cut_values import UNKNOWN, zero_if
from jaxcomp.trace.channels.emitter import Emitter, both
from jaxcomp.trace.channels.facts import Axis, Facts
from jaxcomp.trace.channels.labels import Labels
from jaxcomp.trace.contraction import Contraction
from jaxcomp.trace.ir import Node


def _sum(analysis: Analysis, node: Node, lhs: Axis, rhs: Axis) -> Labels | None:
    """Ties two axes that are summed over, and keeps what the mask's law does not make 0.

    A strict mask zeroes what produces a channel, so the activation must be 0 where it is cut; a lenient one zeroes
    the weights that read it as well.
    """
    labels = analysis.tie([lhs, rhs])
    left, right = (analysis.origins[value].is_weight for value in node.ins)
    source = rhs if left and not right else lhs
    masked = left == right or (analysis.lenient and source.labels is not None)
    dead = zero_if(lhs.dead, rhs.dead) if masked else source.dead
    analysis.need_zero(node, Axis(labels), dead, Axis(labels) if left == right else source)
    return labels


def _mark(analysis: Analysis, node: Node, read: Sequence[int], made: Sequence[int], side: int) -> None:
    """Notes which axes of a weight are summed over, and which it lends to the result."""
    if not analysis.origins[node.ins[side]].is_weight:
        return
    axes = analysis[node.ins[side]].axes
    other_is_weight = analysis.origins[node.ins[1 - side]].is_weight
    (analysis.makes if other_is_weight else analysis.reads).extend(_labels(axes[i] for i in read))
    analysis.makes.extend(_labels(axes[i] for i in made))


def _labels(axes: Any) -> tuple[Labels, ...]:
    return tuple(axis.labels for axis in axes if axis.labels is not None)


def _cost(analysis: Analysis, node: Node, axes: list[tuple[int, Labels | None]], made: Sequence[Axis]) -> None:
    calls = analysis.origins.calls[node]
    if calls and any(analysis.origins[value].is_weight for value in node.ins):
        analysis.costs[node] = Cost(calls, tuple(axes), _labels(made))


def label_dot(analysis: Analysis, node: Node) -> list[Facts]:
    """Ties summed axes and batch axes; passes the free ones on."""
    left, right = Contraction(node).operands
    lhs, rhs = (analysis[value] for value in node.ins)
    sizes, axes = [], []
    for i, j in zip(left.contracted, right.contracted, strict=True):
        sizes.append((node.ins[0].shape[i], _sum(analysis, node, lhs.axes[i], rhs.axes[j])))
    for i, j in zip(left.batch, right.batch, strict=True):
        both = lhs.axes[i], rhs.axes[j]
        axes.append(Axis(analysis.tie(both), zero_if(both[0].dead, both[1].dead)))
    free = [lhs.axes[i] for i in left.free] + [rhs.axes[j] for j in right.free]
    axes += [Axis(axis.labels, zero_if(axis.dead)) for axis in free]
    _mark(analysis, node, left.contracted, left.passed, 0)
    _mark(analysis, node, right.contracted, right.passed, 1)
    sizes += [(n, axis.labels) for n, axis in zip(node.outs[0].shape, axes, strict=True)]
    weights = analysis.origins[node.ins[1]].is_weight
    made = [rhs.axes[j] for j in right.free] if weights else [lhs.axes[i] for i in left.free]
    _cost(analysis, node, sizes, made)
    return [Facts(tuple(axes), zero_if(lhs.fill, rhs.fill))]


def emit_dot(emitter: Emitter, node: Node, operands: list[Any]) -> list[Any]:
    """Applies the same matmul to what is kept."""
    left, right = Contraction(node).operands
    targets = [emitter.keeps(value) for value in node.ins]
    for i, j in zip(left.met, right.met, strict=True):
        targets[0][i] = targets[1][j] = both(targets[0][i], targets[1][j])
    return compat.bind(node.equation, [emitter.fit(*each) for each in zip(operands, node.ins, targets, strict=True)])


def label_conv(analysis: Analysis, node: Node) -> list[Facts]:
    """Ties input channels with the kernel's; keeps windows whole; cuts a group of channels as one."""
    numbers, groups = node.params["dimension_numbers"], node.params["feature_group_count"]
    lhs, rhs = (analysis[value] for value in node.ins)
    (batch, channel, *space), (out, reads, *window) = numbers.lhs_spec, numbers.rhs_spec
    for side, places in ((lhs, space), (rhs, window)):
        for i in places:
            analysis.freeze(node, side.axes[i], "a window slides over them", window=True)
    if node.params["batch_group_count"] > 1:
        for value in node.ins:
            analysis.freeze_all(node, value, "it groups the batch")
    produced = rhs.axes[out]
    if groups == 1:
        summed = _sum(analysis, node, lhs.axes[channel], rhs.axes[reads])
        _mark(analysis, node, [reads], [out], 1)
    else:
        produced = _tie_groups(analysis, node, lhs.axes[channel], rhs.axes[reads], produced, groups)
        summed = None
        _mark(analysis, node, [], [out, reads], 1)
    spec = numbers.out_spec
    facts = [Axis(None, zero_if(lhs.fill, rhs.fill))] * len(spec)
    if node.params["batch_group_count"] == 1:
        facts[spec[0]] = Axis(lhs.axes[batch].labels, zero_if(lhs.axes[batch].dead))
        facts[spec[1]] = produced
    shape = node.outs[0].shape
    kernel = [(n, None) for i, n in enumerate(node.ins[1].shape) if i not in (out, reads)]
    terms = [*kernel, (node.ins[1].shape[reads], summed)]
    _cost(analysis, node, [*terms, *((n, axis.labels) for n, axis in zip(shape, facts, strict=True))], [produced])
    return [Facts(tuple(facts), zero_if(lhs.fill, rhs.fill))]


def _tie_groups(analysis: Analysis, node: Node, channel: Axis, reads: Axis, out: Axis, groups: int) -> Axis:
    analysis.freeze(node, reads, "each group of channels must read as many as the others")
    dead = zero_if(out.dead)
    for axis in (channel, out):
        if axis.labels is not None:
            members = axis.labels.reshape(groups, -1)
            analysis.labels.tie(members, members[:, :1])
    if channel.labels is None:
        return Axis(out.labels, dead)
    multiple = node.outs[0].shape[node.params["dimension_numbers"].out_spec[1]] // groups
    if out.labels is None:  # a constant kernel, of which any part can be taken: it blurs, or takes a mean
        labels = channel.labels.reshape(groups, -1)[:, 0].repeat(multiple)
    else:
        labels = out.labels
        analysis.labels.tie(channel.labels.reshape(groups, -1)[:, 0], labels.reshape(groups, -1)[:, 0])
    read = np.broadcast_to(channel.dead, channel.labels.shape).reshape(groups, -1)
    per_group = np.where(np.all(read == 0, axis=1), 0.0, UNKNOWN)
    return Axis(labels, zero_if(out.dead, per_group.repeat(multiple)))


def emit_conv(emitter: Emitter, node: Node, operands: list[Any]) -> list[Any]:
    """Applies the same convolution to what is kept, with as many groups as are left."""
    numbers, groups = node.params["dimension_numbers"], node.params["feature_group_count"]
    (_, channel, *_), (out, reads, *_) = numbers.lhs_spec, numbers.rhs_spec
    targets = [emitter.keeps(value) for value in node.ins]
    if groups == 1:
        targets[0][channel] = targets[1][reads] = both(targets[0][channel], targets[1][reads])
    elif (kept := emitter.keeps(node.outs[0])[numbers.out_spec[1]]) is not None:
        left = kept.reshape(groups, -1)[:, 0]
        targets[0][channel] = left.repeat(node.ins[0].shape[channel] // groups)
        targets[1][out] = left.repeat(node.ins[1].shape[out] // groups)
        groups = int(left.sum())
    fitted = [emitter.fit(*each) for each in zip(operands, node.ins, targets, strict=True)]
    return compat.bind(node.equation, fitted, feature_group_count=groups)


RULES = {"dot_general": Rule(label_dot, emit_dot), "conv_general_dilated": Rule(label_conv, emit_conv)}
