"""The interpreter of cut programs: runs a program again, at the sizes that are kept."""

from collections.abc import Callable, Sequence
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

    def __init__(self, analysis: Analysis, kept: Callable[[Labels], np.ndarray]):
        """Takes the labels of an analysis and what is kept of them, ``labels -> bool mask``."""
        super().__init__()
        self.analysis = analysis
        self._kept = kept
        self._cache: dict[int, Keep] = {}

    def of_labels(self, labels: Labels | None) -> Keep:
        """What is kept of an axis with these labels."""
        if labels is None:
            return None
        if id(labels) not in self._cache:
            mask = self._kept(labels)
            self._cache[id(labels)] = None if mask.all() else mask
        return self._cache[id(labels)]

    def keeps(self, value: Value) -> list[Keep]:
        """What is kept of each axis of a value."""
        return [self.of_labels(axis.labels) for axis in self.analysis[value].axes]

    def shape(self, value: Value) -> tuple[int, ...]:
        """The shape of a value once it was cut."""
        return tuple(
            n if keep is None else int(keep.sum()) for n, keep in zip(value.shape, self.keeps(value), strict=True)
        )

    def fit(self, x: Any, value: Value, targets: Sequence[Keep]) -> Any:
        """Takes of a value's whole axes what is kept of the axes that they meet; an axis that broadcasts stays."""
        for axis, (target, own) in enumerate(zip(targets, self.keeps(value), strict=True)):
            if target is not None and own is None and len(target) == value.shape[axis]:
                x = pick(x, axis, np.flatnonzero(target))
        return x

    def node(self, node: Node, operands: list[Any]) -> list[Any]:
        """Applies one primitive to what is kept of its operands."""
        cut = any(keep is not None for value in (*node.ins, *node.outs) for keep in self.keeps(value))
        if not cut:
            return compat.bind(node.equation, operands)
        return list(self.analysis.rule(node).emit(self, node, operands))


def pick(x: Any, axis: int, index: np.ndarray) -> Any:
    """The entries of an axis at a fixed index: a slice where they stand side by side."""
    if index.size and index[-1] - index[0] + 1 == index.size and np.all(np.diff(index) == 1):
        if index.size == x.shape[axis]:
            return x
        return lax.slice_in_dim(jnp.asarray(x), int(index[0]), int(index[-1]) + 1, axis=axis)
    return jnp.take(jnp.asarray(x), index, axis=axis, mode="clip")
