"""The interpreter of cut programs: runs a program again, at the sizes that are kept."""

import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcomp.trace import compat
from jaxcomp.trace.analysis import Analysis
from jaxcomp.trace.interpreter import Interpreter, Keep
from jaxcomp.trace.ir import Node, Value
from jaxcomp.trace.labels import Labels


class Emitter(Interpreter):
    """Runs a labelled program on operands that were cut.

    Nodes that see nothing but whole values are applied as they were traced; the others are rebuilt by their rule. A
    value that is whole where its consumer's axis was cut (a random mask, a constant) is computed in full, and the kept
    part of it is taken.
    """

    def __init__(self, parts: Sequence[tuple[Analysis, np.ndarray]]):
        """Takes the analysis of each reading and what is kept of its labels, as of :meth:`Coupling.cut`."""
        super().__init__()
        self.analysis = parts[0][0]
        self._parts = parts
        self._of_labels: dict[int, Keep] = {}
        self._of_values: dict[Value, list[Keep]] = {}

    def keeps(self, value: Value) -> list[Keep]:
        """What is kept of each axis of a value: what every reading keeps."""
        if value not in self._of_values:
            axes = [[self._keep(axis.labels, kept) for axis in analysis[value].axes] for analysis, kept in self._parts]
            self._of_values[value] = [functools.reduce(both, several) for several in zip(*axes, strict=True)]
        return list(self._of_values[value])

    def _keep(self, labels: Labels | None, kept: np.ndarray) -> Keep:
        if labels is None:
            return None
        if id(labels) not in self._of_labels:
            mask = kept[labels]
            self._of_labels[id(labels)] = None if mask.all() else mask
        return self._of_labels[id(labels)]

    def shape(self, value: Value) -> tuple[int, ...]:
        """The shape of a value once it was cut."""
        return tuple(
            n if keep is None else int(keep.sum()) for n, keep in zip(value.shape, self.keeps(value), strict=True)
        )

    def fit(self, x: Any, value: Value, targets: Sequence[Keep]) -> Any:
        """Takes of a value's axes what is kept of the axes that they meet; an axis that broadcasts stays."""
        for axis, (target, own) in enumerate(zip(targets, self.keeps(value), strict=True)):
            if target is not None and target is not own and len(target) == value.shape[axis]:
                x = pick(x, axis, np.flatnonzero(target if own is None else target[own]))
        return x

    def node(self, node: Node, operands: list[Any]) -> list[Any]:
        """Applies one primitive to what is kept of its operands."""
        cut = any(keep is not None for value in (*node.ins, *node.outs) for keep in self.keeps(value))
        if not cut:
            return compat.bind(node.equation, operands)
        return list(self.analysis.rule(node).emit(self, node, operands))


def both(a: Keep, b: Keep) -> Keep:
    """What two masks keep together."""
    if a is None or b is None or a is b:
        return b if a is None else a
    return a & b


def pick(x: Any, axis: int, index: np.ndarray) -> Any:
    """The entries of an axis at a fixed index: a slice where they stand side by side."""
    if index.size and index[-1] - index[0] + 1 == index.size and np.all(np.diff(index) == 1):
        if index.size == x.shape[axis]:
            return x
        return lax.slice_in_dim(jnp.asarray(x), int(index[0]), int(index[-1]) + 1, axis=axis)
    return jnp.take(jnp.asarray(x), index, axis=axis, mode="clip")
