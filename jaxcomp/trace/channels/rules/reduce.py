"""Reductions, cumulations, windows and sorts: a sum needs zeros, the others need the whole axis."""

import math
from typing import Any

from jaxcomp.trace import compat
from jaxcomp.trace.channels import cut_values
from jaxcomp.trace.channels.analysis import Analysis, Rule
from jaxcomp.trace.channels.cut_values import UNKNOWN, Dead, zero_if
from jaxcomp.trace.channels.emitter import Emitter
from jaxcomp.trace.channels.facts import Axis, Facts
from jaxcomp.trace.ir import Node


def label_sum(analysis: Analysis, node: Node) -> list[Facts]:
    """Drops summed axes, at which a cut value must be 0; passes the others on."""
    facts, axes = analysis[node.ins[0]], node.params["axes"]
    count = math.prod(node.ins[0].dims[i] for i in axes)
    for i in axes:
        analysis.need_zero(node, facts.axes[i], facts.axes[i].dead, facts.axes[i])
    return [_rest(facts, axes, lambda value: cut_values.times(count, value))]


def label_whole(analysis: Analysis, node: Node) -> list[Facts]:
    """Keeps the reduced axes whole."""
    facts, axes = analysis[node.ins[0]], node.params["axes"]
    for i in axes:
        analysis.freeze(node, facts.axes[i], "it needs all of them")
    extreme = node.op in ("reduce_max", "reduce_min")
    return [_rest(facts, axes, (lambda value: value) if extreme else _unknown)]


def _rest(facts: Facts, axes: Any, change: Any) -> Facts:
    kept = [axis for i, axis in enumerate(facts.axes) if i not in axes]
    return Facts(tuple(Axis(axis.labels, change(axis.dead)) for axis in kept), change(facts.fill))


def _unknown(value: Dead) -> Dead:
    return UNKNOWN


def label_along(analysis: Analysis, node: Node) -> list[Facts]:
    """Keeps the axis of a cumulative operation whole."""
    facts, along = analysis[node.ins[0]], node.params["axis"]
    analysis.freeze(node, facts.axes[along], "each depends on those before it")
    change = {"cumsum": zero_if, "cummax": lambda value: value, "cummin": lambda value: value}.get(node.op, _unknown)
    return [Facts(tuple(Axis(axis.labels, change(axis.dead)) for axis in facts.axes), change(facts.fill))]


def label_window(analysis: Analysis, node: Node) -> list[Facts]:
    """Keeps the axes under a pooling window whole."""
    facts, params, out = analysis[node.ins[0]], node.sized, node.outs[0]
    settings = zip(
        params["window_dimensions"], params["window_strides"], params["padding"],
        params["base_dilation"], params["window_dilation"], strict=True,
    )  # fmt: skip
    moved = [(n, s, tuple(p), b, w) != (1, 1, (0, 0), 1, 1) for n, s, p, b, w in settings]
    change = zero_if if node.op == "reduce_window_sum" else lambda value: value
    fill = change(facts.fill) if not any(map(any, params["padding"])) else UNKNOWN
    axes = []
    for axis, slides, _ in zip(facts.axes, moved, out.shape, strict=True):
        if slides:
            analysis.freeze(node, axis, "a window slides over them", window=True)
        axes.append(Axis(None, fill) if slides or axis.labels is None else Axis(axis.labels, change(axis.dead)))
    return [Facts(tuple(axes), fill)]


def label_sort(analysis: Analysis, node: Node) -> list[Facts]:
    """Keeps the sorted axis whole; ties the operands along the others."""
    facts, along = [analysis[value] for value in node.ins], node.params["dimension"]
    for each in facts:
        analysis.freeze(node, each.axes[along], "it needs all of them")
    labels = [analysis.tie([each.axes[i] for each in facts]) for i in range(len(facts[0].axes))]
    labels[along] = None
    return [Facts(tuple(Axis(own) for own in labels)) for _ in facts]


def emit(emitter: Emitter, node: Node, operands: list[Any]) -> list[Any]:
    """Applies the same primitive."""
    return compat.bind(node.equation, operands)


def emit_sort(emitter: Emitter, node: Node, operands: list[Any]) -> list[Any]:
    """Sorts what is kept alike."""
    targets = emitter.keeps(node.outs[0])
    return compat.bind(
        node.equation, [emitter.fit(x, value, targets) for x, value in zip(operands, node.ins, strict=True)]
    )


_WHOLE = ("max", "min", "prod", "and", "or", "xor")
_ALONG = ("cumsum", "cummax", "cummin", "cumprod", "cumlogsumexp")
_WINDOW = ("reduce_window_sum", "reduce_window_max", "reduce_window_min")

RULES = (
    {"reduce_sum": Rule(label_sum, emit), "sort": Rule(label_sort, emit_sort)}
    | {f"reduce_{op}": Rule(label_whole, emit) for op in _WHOLE}
    | {op: Rule(label_whole, emit) for op in ("argmax", "argmin")}
    | {op: Rule(label_along, emit) for op in _ALONG}
    | {op: Rule(label_window, emit) for op in _WINDOW}
)
