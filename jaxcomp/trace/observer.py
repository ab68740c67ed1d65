"""Observation: what values inside a program are, without editing the function that it was traced from."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.meshes import automatic
from jaxcomp.trace import compat
from jaxcomp.trace.interpreter import Interpreter
from jaxcomp.trace.ir import Frame, Node, Program, Value

Probes = Mapping[Value, Callable[[jax.Array], Any]]
"""For each value to observe, a function of it that returns a tree; those of all its runs are joined (added)."""


class Observer(Interpreter):
    """Runs a program forward and returns, beside its results, sums over values inside it, or other joint quantities.

    Loops, branches and remat are entered; a function with a derivative of its own is run by its body (nothing here is
    to be differentiated).
    """

    def __init__(
        self,
        program: Program,
        probes: Probes,
        apart: Mapping[Value, Collection[Node]] | None = None,
        join: Any = jnp.add,
    ):
        """Takes what to observe.

        Args:
          program: a traced function.
          probes: what is observed.
          apart: for a value, the scans around it whose iterations are not joined but kept, along new first axes.
          join: the ``jnp.ufunc`` that joins what two runs gave; 0 leaves the other as it is (of
            ``jnp.maximum``, if nothing is negative).

        Raises:
          ArgumentError: for a value that no body of the program holds.
        """
        super().__init__(join)
        self._program = program
        self._probes = list(probes.values())
        self._number = {value: i for i, value in enumerate(probes)}
        self._apart = {self._number[value]: scans for value, scans in (apart or {}).items()}
        self._probed: dict[Frame, bool] = {}
        if not self._number.keys() <= observable(program.frame):
            raise ArgumentError("a value to observe is not one of the program's, or in a while loop's condition")

    def __call__(self, leaves: Sequence[Any]) -> tuple[Any, list[Any]]:
        """The results for the leaves of all arguments, and the sums of each probe in order."""
        outs, seen = self.watched(self._program.frame, leaves)
        return jax.tree.unflatten(self._program.out_tree, outs), [seen[i] for i in range(len(self._probes))]

    def _is_probed(self, frame: Frame) -> bool:
        """Whether a body, or one inside it, holds a value to observe."""
        if frame not in self._probed:
            self._probed[frame] = not self._number.keys().isdisjoint(observable(frame))
        return self._probed[frame]

    def node(self, node: Node, operands: list[Any]) -> list[Any]:
        """Applies one primitive; enters what holds a value to observe."""
        entered = _bodies(node)
        if not any(map(self._is_probed, entered)):
            return compat.bind(node.equation, operands)
        if node.op in ("scan", "while", "cond", "shard_map"):
            return self.enter(node, operands)
        return self.body(entered[0], operands)

    def held(self, frame: Frame) -> Iterable[Value]:
        own = _own(frame)
        return [value for value in self._number if value in own]

    def end(self, frame: Frame, read: Callable[[Value], Any]) -> None:
        for value in self.held(frame):
            self.seen[self._number[value]] = automatic(self._probes[self._number[value]], read(value))

    def note(self, seen: dict[Any, Any], scan: Node | None = None) -> None:
        for i, sums in seen.items():
            done = scan is None or scan in self._apart.get(i, ())
            self.seen[i] = sums if done else jax.tree.map(lambda each: self.join.reduce(each, axis=0), sums)

    def unseen(self, frame: Frame, operands: Sequence[Any]) -> dict[Any, Any]:
        shapes = jax.eval_shape(lambda *xs: self.watched(frame, xs)[1], *operands)
        return jax.tree.map(compat.zeros, shapes)


def observable(frame: Frame) -> set[Value]:
    """Finds the values of a body and of those inside it that an :class:`Observer` can reach."""
    return _own(frame).union(*(observable(body) for node in frame.nodes for body in _bodies(node)))


def _own(frame: Frame) -> set[Value]:
    return {*frame.ins, *(value for node in frame.nodes for value in node.outs)}


def _bodies(node: Node) -> list[Frame]:
    """The bodies of a node that its forward run enters, and whose values can be added up."""
    if node.op in ("scan", "cond") or node.op in compat.ENTERED:
        return node.frames
    return node.frames[1:] if node.op == "while" else node.frames[:1]
