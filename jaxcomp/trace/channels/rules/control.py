"""Control flow, remat and derivatives: the analysis of their bodies."""

from collections.abc import Sequence
from typing import Any

from jaxcomp.trace import compat
from jaxcomp.trace.channels.analysis import Analysis, Rule
from jaxcomp.trace.channels.cut_values import join, same
from jaxcomp.trace.channels.facts import Axis, Facts
from jaxcomp.trace.channels.rules.collective import repeated, share
from jaxcomp.trace.interpreter import EMIT
from jaxcomp.trace.ir import Frame, Node, Value
from jaxcomp.trace.origins import moving


def _merge(analysis: Analysis, several: Sequence[Facts]) -> Facts:
    """The facts of a value that is one of several."""
    together = zip(*(facts.axes for facts in several), strict=True)
    axes = tuple(Axis(analysis.tie(mine), join(*(axis.dead for axis in mine))) for mine in together)
    return Facts(axes, join(*(facts.fill for facts in several)))


def _loop(
    analysis: Analysis, body: Frame, consts: list[Facts], carry: Sequence[Facts], values: Sequence[Value], rest: Any
) -> tuple[list[Facts], list[Facts]]:
    """Runs a body until its carry brings nothing new; returns the facts of the carry, and of the other results."""
    carry = [_labeled(analysis, value, facts) for value, facts in zip(values, carry, strict=True)]
    while True:
        outs = analysis.body(body, [*consts, *carry, *rest])
        joined = [_merge(analysis, pair) for pair in zip(carry, outs, strict=False)]  # outs are carries, then the rest
        if all(map(_settled, carry, joined)):
            return carry, outs[len(carry) :]
        carry = joined


def _labeled(analysis: Analysis, value: Value, facts: Facts) -> Facts:
    """The start of a carry: what is whole gets labels, for the body may carry on with a cut value."""
    pairs = zip(value.shape, facts.axes, strict=True)
    return Facts(tuple(_labeled_axis(analysis, n, axis) for n, axis in pairs), facts.fill)


def _labeled_axis(analysis: Analysis, size: int, axis: Axis) -> Axis:
    if axis.labels is not None or size <= 1:
        return axis
    return Axis(analysis.labels.fresh(size), axis.dead)


def _settled(old: Facts, new: Facts) -> bool:
    pairs = [(a.dead, b.dead) for a, b in zip(old.axes, new.axes, strict=True)]
    return all(same(a, b) for a, b in [*pairs, (old.fill, new.fill)])


def label_scan(analysis: Analysis, node: Node) -> list[Facts]:
    """Carries run in step with themselves; the axis that is scanned over stays whole."""
    first, carried = compat.scan_counts(node.params)
    facts = [analysis[value] for value in node.ins]
    stacked = facts[first + carried :]
    for each in stacked:
        analysis.freeze(node, each.axes[0], "a scan runs over them")
    rest = [Facts(each.axes[1:], each.fill) for each in stacked]
    values = node.ins[first : first + carried]
    carry, ys = _loop(analysis, node.frames[0], facts[:first], facts[first : first + carried], values, rest)
    return [*carry, *(Facts((Axis(None, each.fill), *each.axes), each.fill) for each in ys)]


def label_while(analysis: Analysis, node: Node) -> list[Facts]:
    """Carries run in step with themselves."""
    heads, first = node.params["cond_nconsts"], node.params["body_nconsts"]
    facts = [analysis[value] for value in node.ins]
    start = heads + first
    carry, _ = _loop(analysis, node.frames[1], facts[heads:start], facts[start:], node.ins[start:], [])
    analysis.body(node.frames[0], [*facts[:heads], *carry])
    return carry


def label_cond(analysis: Analysis, node: Node) -> list[Facts]:
    """Ties the branches' results."""
    facts = [analysis[value] for value in node.ins[1:]]
    branches = [analysis.body(frame, facts) for frame in node.frames]
    return [_merge(analysis, several) for several in zip(*branches, strict=True)]


def label_remat(analysis: Analysis, node: Node) -> list[Facts]:
    """Labels the body."""
    return analysis.body(node.frames[0], [analysis[value] for value in node.ins])


def label_custom_jvp(analysis: Analysis, node: Node) -> list[Facts]:
    """Ties the function and its derivative; the tangent of what is cut is 0."""
    function, rule = node.frames
    facts = [analysis[value] for value in node.ins]
    outs = analysis.body(function, facts)
    tangents = [_tangent(facts[i]) for i in moving(node)]
    again = analysis.body(rule, [*facts, *tangents])
    count = len(outs)
    moved = iter(again[count:])
    for i, value in enumerate(function.outs):
        pair = [outs[i], again[i], *([next(moved)] if compat.is_inexact(value.dtype) else [])]
        merged = _merge(analysis, pair)
        axes = zip(merged.axes, outs[i].axes, strict=True)
        outs[i] = Facts(tuple(Axis(axis.labels, own.dead) for axis, own in axes), outs[i].fill)
    return outs


def _tangent(facts: Facts) -> Facts:
    return Facts(tuple(axis if axis.labels is None else Axis(axis.labels, 0.0) for axis in facts.axes))


def label_shard_map(analysis: Analysis, node: Node) -> list[Facts]:
    """Labels one device's part: ties what all devices have of an axis."""
    params, (body,) = node.params, node.frames
    facts = []
    for value, spec in zip(node.ins, params["in_specs"], strict=True):
        counts = compat.shards(params, spec, len(value.shape))
        axes = [share(analysis, axis, n) for axis, n in zip(analysis[value].axes, counts, strict=True)]
        facts.append(Facts(tuple(axes), analysis[value].fill))
    outs = []
    for own, value, spec in zip(analysis.body(body, facts), node.outs, params["out_specs"], strict=True):
        counts = compat.shards(params, spec, len(value.shape))
        axes = [repeated(axis, n) for axis, n in zip(own.axes, counts, strict=True)]
        outs.append(Facts(tuple(axes), own.fill))
    return outs


LABEL = {
    "scan": label_scan,
    "while": label_while,
    "cond": label_cond,
    "custom_jvp_call": label_custom_jvp,
    "shard_map": label_shard_map,
} | dict.fromkeys(compat.ENTERED, label_remat)

RULES = {op: Rule(label, EMIT[op]) for op, label in LABEL.items()}
