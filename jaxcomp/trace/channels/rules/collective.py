"""Collectives: over named axes each device's channels run in step; over axes that vmap has numbered they reduce those.

Under ``vmap`` a collective over the mapped axis is one over a number, an axis of its operand: ``psum[axes=(0,)]``.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxcomp.trace import compat
from jaxcomp.trace.channels import cut_values
from jaxcomp.trace.channels.analysis import Analysis, Rule
from jaxcomp.trace.channels.cut_values import Dead
from jaxcomp.trace.channels.emitter import Emitter
from jaxcomp.trace.channels.facts import Axis, Facts
from jaxcomp.trace.ir import Node


def label_reduce(analysis: Analysis, node: Node) -> list[Facts]:
    """Drops numbered axes: a sum needs zeros there, an extreme all of them; passes the others on."""
    numbered = [int(axis) for axis in node.params["axes"] if isinstance(axis, int | np.integer)]
    sums = node.op.startswith("psum")
    found = []
    for value in node.ins:
        facts = analysis[value]
        count = math.prod(value.shape[i] for i in numbered)
        for i in numbered:
            if sums:
                analysis.need_zero(node, facts.axes[i], facts.axes[i].dead, facts.axes[i])
            else:
                analysis.freeze(node, facts.axes[i], "it needs all of them")
        found.append(_rest(facts, numbered, _change(node, count)))
    return found


def _change(node: Node, count: Any) -> Callable[[Dead], Dead]:
    """Returns the change of a value that is the same along all that is reduced."""
    if not node.op.startswith("psum"):
        return lambda value: value
    named = any(not isinstance(axis, int | np.integer) for axis in node.params["axes"])
    return cut_values.zero_if if named else lambda value: cut_values.times(count, value)


def _rest(facts: Facts, gone: list[int], change: Callable[[Dead], Dead]) -> Facts:
    kept = [axis for i, axis in enumerate(facts.axes) if i not in gone]
    return Facts(tuple(Axis(axis.labels, change(axis.dead)) for axis in kept), change(facts.fill))


def emit(emitter: Emitter, node: Node, operands: list[Any]) -> list[Any]:
    """Applies the same primitive, whose parameters name no sizes."""
    return compat.bind(node.equation, operands)


def label_permute(analysis: Analysis, node: Node) -> list[Facts]:
    """Passes on other devices' values, or zeros where none sends any."""
    facts = analysis[node.ins[0]]
    axes = tuple(Axis(axis.labels, cut_values.zero_if(axis.dead)) for axis in facts.axes)
    return [Facts(axes, cut_values.zero_if(facts.fill))]


def label_gather(analysis: Analysis, node: Node) -> list[Facts]:
    """Repeats an axis's labels if all devices' values are tiled along it; else adds a whole axis."""
    along, found = node.params["all_gather_dimension"], []
    for value in node.ins:
        facts = analysis[value]
        axes = list(facts.axes)
        if node.params["tiled"]:
            axes[along] = repeated(axes[along], node.params["axis_size"])
        else:
            axes.insert(along, Axis(None, facts.fill))
        found.append(Facts(tuple(axes), facts.fill))
    return found


def label_scatter(analysis: Analysis, node: Node) -> list[Facts]:
    """Sums over devices, each of which keeps its part of one axis: ties the parts, or drops the axis."""
    along, found = node.params["scatter_dimension"], []
    for value in node.ins:
        facts = _rest(analysis[value], [], cut_values.zero_if)
        axes = list(facts.axes)
        if node.params["tiled"]:
            axes[along] = share(analysis, axes[along], node.params["axis_size"])
        else:
            analysis.freeze(node, axes.pop(along), "each device takes a single one of them")
        found.append(Facts(tuple(axes), facts.fill))
    return found


def label_all_to_all(analysis: Analysis, node: Node) -> list[Facts]:
    """Ties the parts of one axis, and lays them beside each other along another."""
    (value,), split, along = node.ins, node.params["split_axis"], node.params["concat_axis"]
    facts = analysis[value]
    axes = list(facts.axes)
    if split == along:
        analysis.freeze(node, axes[split], "its parts go to other devices")
        axes[split] = Axis(None, facts.fill)
    else:
        count = value.shape[split] // max(node.outs[0].shape[split], 1)
        axes[split], axes[along] = share(analysis, axes[split], count), repeated(axes[along], count)
    return [Facts(tuple(axes), facts.fill)]


def share(analysis: Analysis, axis: Axis, count: int) -> Axis:
    """Ties the ``count`` equal parts of an ``axis`` by the ``analysis``; returns the part that each device has."""
    if count == 1:
        return axis
    common = axis.dead
    if np.ndim(common):
        common = cut_values.tidy(functools.reduce(cut_values.join, np.reshape(common, (count, -1))))
    if axis.labels is None:
        return Axis(None, common)
    parts = axis.labels.reshape(count, -1)
    analysis.labels.tie(parts, parts[:1])
    return Axis(parts[0], common)


def repeated(axis: Axis, count: int) -> Axis:
    """Repeats an ``axis`` ``count`` times."""
    if count == 1 or (axis.labels is None and not np.ndim(axis.dead)):
        return axis
    size = np.size(axis.dead) if axis.labels is None else len(axis.labels)
    return axis.take(np.tile(np.arange(size), count))


RULES = (
    {op: Rule(label_reduce, emit) for op in ("psum", "psum2", "psum_invariant", "pmax", "pmin")}
    | {op: Rule(label_permute, emit) for op in ("ppermute", "pbroadcast", "pcollectivebroadcast")}
    | {op: Rule(label_gather, emit) for op in ("all_gather", "all_gather_invariant")}
    | {"reduce_scatter": Rule(label_scatter, emit), "all_to_all": Rule(label_all_to_all, emit)}
)
