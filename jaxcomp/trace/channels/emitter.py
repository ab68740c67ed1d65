"""The interpreter of cut programs: runs a program again, at the sizes that are kept."""

import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.meshes import automatic, layout_of_part
from jaxcomp.trace import compat
from jaxcomp.trace.channels.analysis import Analysis
from jaxcomp.trace.channels.labels import Labels
from jaxcomp.trace.interpreter import AxisMask, Interpreter
from jaxcomp.trace.ir import Node, Value


class Emitter(Interpreter):
    """Runs a labeled program on operands that were cut.

    Nodes that see nothing but whole values are applied as they were traced; the others are rebuilt by their rule. A
    value that is whole where its consumer's axis was cut (a random mask, a constant) is computed in full, and the kept
    part of it is taken.
    """

    def __init__(self, parts: Sequence[tuple[Analysis, np.ndarray]]):
        """Takes the analysis of each reading and what is kept of its labels, as of :meth:`Coupling.cut`."""
        super().__init__()
        self.analysis = parts[0][0]
        self._parts = parts
        self._of_labels: dict[int, AxisMask] = {}
        self._of_values: dict[Value, list[AxisMask]] = {}

    def keeps(self, value: Value) -> list[AxisMask]:
        """Returns what is kept of each axis of a value: what every reading keeps."""
        if value not in self._of_values:
            axes = [[self._keep(axis.labels, kept) for axis in analysis[value].axes] for analysis, kept in self._parts]
            self._of_values[value] = [functools.reduce(both, several) for several in zip(*axes, strict=True)]
        return list(self._of_values[value])

    def _keep(self, labels: Labels | None, kept: np.ndarray) -> AxisMask:
        if labels is None:
            return None
        if id(labels) not in self._of_labels:
            mask = kept[labels]
            self._of_labels[id(labels)] = None if mask.all() else mask
        return self._of_labels[id(labels)]

    def fit(self, x: Any, value: Value, targets: Sequence[AxisMask]) -> Any:
        """Takes of an array what is kept of the axes that it meets; an axis that broadcasts stays.

        Args:
          x: the array.
          value: the program's, of which ``x`` is the number.
          targets: the kept indices of each axis.
        """
        for axis, (target, own) in enumerate(zip(targets, self.keeps(value), strict=True)):
            if target is not None and target is not own and len(target) == value.shape[axis]:
                left = target if own is None else target[own]
                named = compat.is_symbolic(x.shape[axis])
                x = pick_alike(x, axis, left) if named else pick(x, axis, np.flatnonzero(left))
        return x

    def node(self, node: Node, operands: list[Any]) -> list[Any]:
        """Applies one primitive to what is kept of its operands."""
        cut = any(keep is not None for value in (*node.ins, *node.outs) for keep in self.keeps(value))
        if not cut:
            return super().node(node, operands)
        return list(self.analysis.rule(node).emit(self, node, operands))


def both(a: AxisMask, b: AxisMask) -> AxisMask:
    """Intersects the masks ``a`` and ``b`` of an axis."""
    if a is None or b is None or a is b:
        return b if a is None else a
    return a & b


def pick(x: Any, axis: int, index: np.ndarray) -> Any:
    """Takes the entries of an axis at a fixed index: a slice where they are contiguous.

    Args:
      x: ``[...]``.
      axis: the axis.
      index: ``[kept]`` integers.

    Example:
      >>> pick(jnp.arange(6).reshape(2, 3), 1, np.array([0, 2])).tolist()
      [[0, 2], [3, 5]]
    """
    return automatic(lambda x: _picked(x, axis, index), x, out=layout_of_part(x, axis, index.size))


def _picked(x: Any, axis: int, index: np.ndarray) -> Any:
    if index.size and index[-1] - index[0] + 1 == index.size and np.all(np.diff(index) == 1):
        if index.size == x.shape[axis]:
            return x
        return lax.slice_in_dim(jnp.asarray(x), int(index[0]), int(index[-1]) + 1, axis=axis)
    return jnp.take(jnp.asarray(x), index, axis=axis, mode="clip")


def pick_alike(x: Any, axis: int, keep: np.ndarray) -> Any:
    """Takes the kept entries of an axis of symbolic size: heads merged with a batch, of each example the same.

    Args:
      x: an array.
      axis: its axis, of a multiple of some number of entries, the same of which are kept of each run.
      keep: ``bool``, what is kept of such an axis of another size.

    Raises:
      ArgumentError: if what is kept follows no such rule.
    """
    size = x.shape[axis]
    for run in range(1, len(keep)):
        if len(keep) % run or size % run != 0:
            continue
        for inner, base in ((True, keep[:run]), (False, keep[:: len(keep) // run])):
            times = len(keep) // run
            if np.array_equal(keep, np.tile(base, times) if inner else np.repeat(base, times)):
                split = (size // run, run) if inner else (run, size // run)
                parts = x.reshape(*x.shape[:axis], *split, *x.shape[axis + 1 :])
                parts = pick(parts, axis + inner, np.flatnonzero(base))
                kept = int(base.sum()) * (size // run)
                return parts.reshape(*x.shape[:axis], kept, *x.shape[axis + 1 :])
    raise ArgumentError(
        f"an axis of symbolic size {size} must keep the same entries of each run, and does not: call the "
        "shrunk function, or export it, for a size that is a number"
    )
