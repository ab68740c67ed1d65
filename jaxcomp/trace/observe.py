"""Observation: what values inside a program are, without editing the function that it was traced from."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxcomp.core.errors import ArgumentError
from jaxcomp.trace import compat
from jaxcomp.trace.ir import Frame, Node, Program, Value

Probes = Mapping[Value, Callable[[jax.Array], Any]]
"""For each value to observe, a function of it that returns a tree of sums: those of all its runs are added up."""
_Sums = dict[int, Any]


class Observer:
    """Runs a program forward and returns, beside its results, sums over values inside it.

    Loops, branches and remat are entered; a function with a derivative of its own is run by its body (nothing here is
    to be differentiated).
    """

    def __init__(self, program: Program, probes: Probes):
        """Takes what to observe.

        Raises:
          ArgumentError: for a value that no body of the program holds.
        """
        self._program = program
        self._probes = dict(probes)
        self._number = {value: i for i, value in enumerate(probes)}
        self._holds: dict[Frame, bool] = {}
        if not self._number.keys() <= observable(program.frame):
            raise ArgumentError("a value to observe is not one of the program's, or in a while loop's condition")

    def __call__(self, leaves: Sequence[Any]) -> tuple[Any, list[Any]]:
        """The results for the leaves of all arguments, and the sums of each probe in order."""
        outs, sums = self._body(self._program.frame, leaves)
        return jax.tree.unflatten(self._program.out_tree, outs), [sums[i] for i in range(len(self._probes))]

    def _is_probed(self, frame: Frame) -> bool:
        """Whether a body, or one inside it, holds a value to observe."""
        if frame not in self._holds:
            self._holds[frame] = not self._number.keys().isdisjoint(observable(frame))
        return self._holds[frame]

    def _body(self, frame: Frame, operands: Sequence[Any]) -> tuple[list[Any], _Sums]:
        env: dict[Value, Any] = dict(zip(frame.ins, operands, strict=True))
        sums: _Sums = {}

        def read(value: Value) -> Any:
            return value.const if value.const is not None else env[value]

        for node in frame.nodes:
            outs, inner = self._node(node, [read(value) for value in node.ins])
            env.update(zip(node.outs, outs, strict=True))
            sums = _add(sums, inner)
        own = {value for value in self._probes if value in env}
        return [read(value) for value in frame.outs], _add(
            sums, {self._number[v]: self._probes[v](env[v]) for v in own}
        )

    def _node(self, node: Node, operands: list[Any]) -> tuple[list[Any], _Sums]:
        bodies = _bodies(node)
        if not any(map(self._is_probed, bodies)):
            return compat.bind(node.equation, operands), {}
        if node.op == "scan":
            return self._scan(node, operands)
        if node.op == "while":
            return self._while(node, operands)
        if node.op == "cond":
            return self._cond(node, operands)
        return self._body(bodies[0], operands)

    def _scan(self, node: Node, operands: list[Any]) -> tuple[list[Any], _Sums]:
        first, carried = compat.scan_counts(node.params)
        carry = slice(first, first + carried)

        def step(state: list[Any], xs: list[Any]) -> tuple[list[Any], Any]:
            outs, sums = self._body(node.frames[0], [*operands[:first], *state, *xs])
            return outs[:carried], (outs[carried:], sums)

        settings = {name: node.params[name] for name in ("length", "reverse", "unroll")}
        last, (ys, sums) = lax.scan(step, operands[carry], operands[carry.stop :], **settings)
        return [*last, *ys], jax.tree.map(lambda each: each.sum(0), sums)

    def _while(self, node: Node, operands: list[Any]) -> tuple[list[Any], _Sums]:
        heads, first = node.params["cond_nconsts"], node.params["body_nconsts"]
        condition, body = node.frames
        start = heads + first

        def step(state: tuple[list[Any], _Sums]) -> tuple[list[Any], _Sums]:
            outs, sums = self._body(body, [*operands[heads:start], *state[0]])
            return outs, _add(state[1], sums)

        def test(state: tuple[list[Any], _Sums]) -> Any:
            return self._body(condition, [*operands[:heads], *state[0]])[0][0]

        shapes = jax.eval_shape(lambda *xs: self._body(body, xs)[1], *operands[heads:])
        return lax.while_loop(test, step, (operands[start:], _zeros(shapes)))

    def _cond(self, node: Node, operands: list[Any]) -> tuple[list[Any], _Sums]:
        shapes: _Sums = {}
        for frame in node.frames:
            shapes |= jax.eval_shape(lambda *xs, frame=frame: self._body(frame, xs)[1], *operands[1:])

        def branch(frame: Frame) -> Callable[..., tuple[list[Any], _Sums]]:
            def run(*xs: Any) -> tuple[list[Any], _Sums]:
                outs, sums = self._body(frame, xs)
                return outs, {**_zeros(shapes), **sums}

            return run

        return lax.switch(operands[0].astype(jnp.int32), [branch(frame) for frame in node.frames], *operands[1:])


def observable(frame: Frame) -> set[Value]:
    """The values of a body and of those inside it that an :class:`Observer` can reach."""
    inner = (observable(body) for node in frame.nodes for body in _bodies(node))
    return {*frame.ins, *(value for node in frame.nodes for value in node.outs)}.union(*inner)


def _bodies(node: Node) -> list[Frame]:
    """The bodies of a node that its forward run enters, and whose values can be added up."""
    if node.op in ("scan", "cond") or node.op in compat.REMAT:
        return node.frames
    return node.frames[1:] if node.op == "while" else node.frames[:1]


def _add(a: _Sums, b: _Sums) -> _Sums:
    both = {i: jax.tree.map(jnp.add, a[i], b[i]) for i in a.keys() & b.keys()}
    return {**a, **b, **both}


def _zeros(shapes: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
