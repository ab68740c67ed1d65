"""Control flow, remat and derivatives: bodies are analysed, and rebuilt by JAX's public functions."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax

from jaxcomp.trace import compat
from jaxcomp.trace.analysis import Analysis, Rule
from jaxcomp.trace.dead import join, same
from jaxcomp.trace.emitter import Emitter, Keep
from jaxcomp.trace.facts import Axis, Facts
from jaxcomp.trace.ir import Frame, Node, Value
from jaxcomp.trace.origins import moving


def _fit_all(emitter: Emitter, xs: Sequence[Any], values: Sequence[Value], targets: Sequence[list[Keep]]) -> list[Any]:
    return [emitter.fit(*each) for each in zip(xs, values, targets, strict=True)]


def _keeps(emitter: Emitter, values: Sequence[Value]) -> list[list[Keep]]:
    return [emitter.keeps(value) for value in values]


def _merge(analysis: Analysis, several: Sequence[Facts]) -> Facts:
    """The facts of a value that is one of several."""
    together = zip(*(facts.axes for facts in several), strict=True)
    axes = tuple(Axis(analysis.tie(mine), join(*(axis.dead for axis in mine))) for mine in together)
    return Facts(axes, join(*(facts.fill for facts in several)))


def _loop(
    analysis: Analysis, body: Frame, consts: list[Facts], carry: Sequence[Facts], values: Sequence[Value], rest: Any
) -> tuple[list[Facts], list[Facts]]:
    """Runs a body until its carry brings nothing new; returns the facts of the carry, and of the other results."""
    carry = [_labelled(analysis, value, facts) for value, facts in zip(values, carry, strict=True)]
    while True:
        outs = analysis.body(body, [*consts, *carry, *rest])
        joined = [_merge(analysis, pair) for pair in zip(carry, outs, strict=False)]  # outs are carries, then the rest
        if all(map(_settled, carry, joined)):
            return carry, outs[len(carry) :]
        carry = joined


def _labelled(analysis: Analysis, value: Value, facts: Facts) -> Facts:
    """The start of a carry: what is whole gets labels, for the body may carry on with a cut value."""
    pairs = zip(value.shape, facts.axes, strict=True)
    return Facts(tuple(_labelled_axis(analysis, n, axis) for n, axis in pairs), facts.fill)


def _labelled_axis(analysis: Analysis, size: Any, axis: Axis) -> Axis:
    # A parameter's axis has a number for its size: what it meets has, too.
    if axis.labels is not None or compat.is_symbolic(size) or size == 1:
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


def emit_scan(emitter: Emitter, node: Node, operands: list[Any]) -> list[Any]:
    """``lax.scan`` over the rebuilt body."""
    (first, carried), (body,) = compat.scan_counts(node.params), node.frames
    targets = _keeps(emitter, body.ins[first : first + carried])
    carry = slice(first, first + carried)

    def step(state: list[Any], xs: list[Any]) -> tuple[list[Any], list[Any]]:
        outs = emitter.body(body, [*operands[:first], *state, *xs])
        return _fit_all(emitter, outs[:carried], body.outs[:carried], targets), outs[carried:]

    start = _fit_all(emitter, operands[carry], node.ins[carry], targets)
    settings = {name: node.params[name] for name in ("length", "reverse", "unroll")}
    last, ys = lax.scan(step, start, operands[carry.stop :], **settings)
    return [*last, *ys]


def label_while(analysis: Analysis, node: Node) -> list[Facts]:
    """Carries run in step with themselves."""
    heads, first = node.params["cond_nconsts"], node.params["body_nconsts"]
    facts = [analysis[value] for value in node.ins]
    start = heads + first
    carry, _ = _loop(analysis, node.frames[1], facts[heads:start], facts[start:], node.ins[start:], [])
    analysis.body(node.frames[0], [*facts[:heads], *carry])
    return carry


def emit_while(emitter: Emitter, node: Node, operands: list[Any]) -> list[Any]:
    """``lax.while_loop`` over the rebuilt condition and body."""
    heads, first = node.params["cond_nconsts"], node.params["body_nconsts"]
    condition, body = node.frames
    start = heads + first
    targets = _keeps(emitter, body.ins[first:])

    def test(state: list[Any]) -> Any:
        return emitter.body(condition, [*operands[:heads], *state])[0]

    def step(state: list[Any]) -> list[Any]:
        return _fit_all(emitter, emitter.body(body, [*operands[heads:start], *state]), body.outs, targets)

    return lax.while_loop(test, step, _fit_all(emitter, operands[start:], node.ins[start:], targets))


def label_cond(analysis: Analysis, node: Node) -> list[Facts]:
    """The branches' results run in step."""
    facts = [analysis[value] for value in node.ins[1:]]
    branches = [analysis.body(frame, facts) for frame in node.frames]
    return [_merge(analysis, several) for several in zip(*branches, strict=True)]


def emit_cond(emitter: Emitter, node: Node, operands: list[Any]) -> list[Any]:
    """``lax.switch`` over the rebuilt branches."""
    targets = _keeps(emitter, node.outs)

    def branch(frame: Frame) -> Callable[..., list[Any]]:
        return lambda *xs: _fit_all(emitter, emitter.body(frame, xs), frame.outs, targets)

    return lax.switch(operands[0].astype(np.int32), [branch(frame) for frame in node.frames], *operands[1:])


def label_remat(analysis: Analysis, node: Node) -> list[Facts]:
    """What its body is."""
    return analysis.body(node.frames[0], [analysis[value] for value in node.ins])


def emit_remat(emitter: Emitter, node: Node, operands: list[Any]) -> list[Any]:
    """``jax.checkpoint`` of the rebuilt body, by the same policy."""
    return compat.checkpointed(lambda *xs: emitter.body(node.frames[0], xs), node.params)(*operands)


def label_custom_jvp(analysis: Analysis, node: Node) -> list[Facts]:
    """The function and its derivative run in step; the tangent of what is cut is 0."""
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


def emit_custom_jvp(emitter: Emitter, node: Node, operands: list[Any]) -> list[Any]:
    """A ``jax.custom_jvp`` of the rebuilt function, with the rebuilt derivative."""
    function, rule = node.frames
    targets, count = _keeps(emitter, node.outs), len(node.outs)
    inexact = [compat.is_inexact(value.dtype) for value in node.outs]

    @jax.custom_jvp
    def rebuilt(*xs: Any) -> tuple[Any, ...]:
        return tuple(_fit_all(emitter, emitter.body(function, xs), function.outs, targets))

    @rebuilt.defjvp
    def _(xs: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        outs = emitter.body(rule, [*xs, *(tangents[i] for i in moving(node))])
        ends = targets + [target for target, is_inexact in zip(targets, inexact, strict=True) if is_inexact]
        outs = _fit_all(emitter, outs, rule.outs, ends)
        moved = iter(outs[count:])
        pairs = zip(outs[:count], inexact, strict=True)
        return tuple(outs[:count]), tuple(next(moved) if i else np.zeros(x.shape, jax.dtypes.float0) for x, i in pairs)

    return list(rebuilt(*operands))


RULES = {
    "scan": Rule(label_scan, emit_scan),
    "while": Rule(label_while, emit_while),
    "cond": Rule(label_cond, emit_cond),
    "custom_jvp_call": Rule(label_custom_jvp, emit_custom_jvp),
} | {op: Rule(label_remat, emit_remat) for op in compat.REMAT}
