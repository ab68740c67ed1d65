"""Reshape: blocks of axes that hold the same elements before and after.

An axis that is merged with others lends each of its labels to many indices. An axis that is split can follow one of
its parts: channels split into heads go head by head, or position by position within all heads. Where several axes of a
block could be followed, one is, and the analysis tries the next one if that leads nowhere.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxcomp.trace import compat
from jaxcomp.trace.channels.analysis import Analysis, Rule
from jaxcomp.trace.channels.cut_values import UNKNOWN, Dead, tidy
from jaxcomp.trace.channels.emitter import Emitter
from jaxcomp.trace.channels.facts import Axis, Facts
from jaxcomp.trace.ir import Node

AxisRuns = tuple[list[int], list[int]]


def blocks(before: tuple[int, ...], after: tuple[int, ...]) -> Iterator[AxisRuns]:
    """Yields the smallest runs of axes, before and after, that hold the same elements; axes of size 1 are left out.

    Args:
      before: the shape that is reshaped.
      after: the shape of the result.

    Example:
      >>> list(blocks((2, 4, 4, 8), (2, 128))), list(blocks((6, 12), (6, 3, 4)))
      ([([0], [0]), ([1, 2, 3], [1])], [([0], [0]), ([1], [1, 2])])
    """
    left = [i for i, n in enumerate(before) if n != 1]
    right = [i for i, n in enumerate(after) if n != 1]
    while left and right:
        ins, outs = [left.pop(0)], [right.pop(0)]
        while (a := math.prod(before[i] for i in ins)) != (b := math.prod(after[i] for i in outs)):
            (ins if a < b else outs).append((left if a < b else right).pop(0))
        yield ins, outs


def label(analysis: Analysis, node: Node) -> list[Facts]:
    """Labels each block."""
    facts, out = analysis[node.ins[0]], node.outs[0]
    axes = [Axis(None, facts.fill)] * len(out.shape)
    if facts.is_whole or 0 in out.shape:
        return [Facts(tuple(axes), facts.fill)]
    for ins, outs in blocks(node.ins[0].shape, out.shape):
        if len(ins) == len(outs) == 1:
            axes[outs[0]] = facts.axes[ins[0]]
        elif any(facts.axes[i].labels is not None for i in ins):
            followed, axis = _follow(analysis, node, ins, outs)
            axes[followed] = axis
    return [Facts(tuple(axes), facts.fill)]


def _follow(analysis: Analysis, node: Node, ins: list[int], outs: list[int]) -> tuple[int, Axis]:
    facts, before, after = analysis[node.ins[0]], node.ins[0].shape, node.outs[0].shape
    ways = [(i, j) for i in ins if facts.axes[i].labels is not None for j in outs]
    key = node, ins[0]
    # What earlier reshapes follow decides how many ways there are: a choice made when there were more starts afresh.
    source, target = ways[analysis.choices.get(key, 0) % len(ways)]
    for i in ins:
        if i != source:
            analysis.freeze(node, facts.axes[i], "it merges them with another axis that can be cut")
    place, axis = ins.index(source), facts.axes[source]
    sizes, parts = [before[i] for i in ins], [after[j] for j in outs]
    flat = _spread(axis.labels, sizes, place)
    rows = np.moveaxis(flat.reshape(parts), outs.index(target), 0).reshape(after[target], -1)
    labels = rows[:, 0]
    if np.any(rows != labels[:, None]):
        analysis.labels.tie(rows, labels[:, None])
    analysis.offers[key] = len(ways), labels
    return target, Axis(labels, _dead(axis.dead, sizes, place, parts, outs.index(target)))


def _spread(values: Any, sizes: list[int], place: int) -> np.ndarray:
    column = np.asarray(values).reshape([-1 if i == place else 1 for i in range(len(sizes))])
    return np.broadcast_to(column, sizes)


def _dead(dead: Dead, sizes: list[int], place: int, parts: list[int], target: int) -> Dead:
    if np.ndim(dead) == 0:
        return dead
    rows = np.moveaxis(_spread(dead, sizes, place).reshape(parts), target, 0).reshape(parts[target], -1)
    return tidy(np.where(np.all(rows == rows[:, :1], axis=1), rows[:, 0], UNKNOWN))


def emit(emitter: Emitter, node: Node, operands: list[Any]) -> list[Any]:
    """Reshapes to the sizes that are kept."""
    value, out, (x,) = node.ins[0], node.outs[0], operands
    keeps = emitter.keeps(out)
    sizes = [n if keep is None else int(keep.sum()) for n, keep in zip(out.dims, keeps, strict=True)]
    for ins, outs in blocks(value.shape, out.shape) if 0 not in out.shape else ():
        for j in outs:
            if keeps[j] is not None and compat.is_symbolic(out.dims[j]):
                rest = [sizes[k] for k in outs if k != j]
                sizes[j] = math.prod(x.shape[i] for i in ins) // math.prod(rest)
    return compat.bind(node.equation, operands, new_sizes=tuple(sizes))


RULES = {"reshape": Rule(label, emit)}
