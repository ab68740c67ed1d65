"""The interpreter: runs a program again, with some parameters in packed form.

A packed leaf flows through casts, transposes and reshapes, into jit, remat, scan (over its first axis too), cond and
custom derivatives, to the matmul or convolution that reads it. Anything else is given its dense value: never wrong, at
worst not faster.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.trace import bodies, compat
from jaxcomp.trace.ir import MATMULS, Frame, Node, Value
from jaxcomp.trace.packed import chain
from jaxcomp.trace.packed.leaf import Packed

Keep = np.ndarray | None
"""Which indices of an axis are kept, ``bool [size]``; None if all are."""


class Interpreter:
    """Runs programs; subclasses say what becomes of a node.

    Attributes:
      seen: what the nodes of the body that now runs have noted, by name.
      join: the ``jnp.ufunc`` by which what several runs of a body noted becomes one, leaf by
        leaf; 0 leaves the other as it is.
    """

    def __init__(self, join: Any = jnp.add) -> None:
        """Starts with nothing noted."""
        self.seen: dict[Any, Any] = {}
        self.join = join

    def body(self, frame: Frame, operands: Sequence[Any]) -> list[Any]:
        """Runs a body."""
        env: dict[Value, Any] = dict(zip(frame.ins, operands, strict=True))

        def read(value: Value) -> Any:
            return value.const if value.const is not None else env[value]

        last = self._last_uses(frame)
        for node in frame.nodes:
            with compat.written_at(node.equations):
                env.update(zip(node.outs, self.node(node, [read(value) for value in self.reads(node)]), strict=True))
            for value in last.get(node, ()):
                env.pop(value, None)
        self.end(frame, read)
        return [read(value) for value in frame.outs]

    def _last_uses(self, frame: Frame) -> dict[Node, list[Value]]:
        """The values that no later node of a frame reads, by the node after which they can go."""
        needed = {*frame.outs, *self.held(frame)}
        last: dict[Node, list[Value]] = {}
        for node in reversed(frame.nodes):
            dying = [value for value in {*self.reads(node), *node.outs} if value not in needed]
            needed.update(dying)
            last[node] = dying
        return last

    def reads(self, node: Node) -> list[Value]:
        """What a node is given."""
        return node.ins

    def held(self, frame: Frame) -> Iterable[Value]:
        """The values that :meth:`end` reads."""
        return ()

    def end(self, frame: Frame, read: Callable[[Value], Any]) -> None:
        """Called when a body has run."""

    def node(self, node: Node, operands: list[Any]) -> list[Any]:
        """Applies one primitive."""
        held = [i for i, x in enumerate(operands) if isinstance(x, Packed)]
        if not held:
            return compat.bind(node.equation, operands)
        if node.op in bodies.EMIT:
            return bodies.EMIT[node.op](self, node, operands)
        result = None
        if len(held) == 1 and node.op in MATMULS:
            result = self.site(node, operands, held[0])
        elif len(held) == 1 and node.op in _PASS:
            others = [x for i, x in enumerate(operands) if i not in held]
            result = _PASS[node.op](operands[held[0]], node, held[0], others)
        if result is not None:
            return [result]
        return compat.bind(node.equation, [self.dense(x, node) for x in operands])

    def site(self, node: Node, operands: list[Any], side: int) -> Any:
        """A matmul or convolution by a packed leaf, part by part; None to have it dense."""
        return chain.apply(node, operands[1 - side], operands[side], side)

    def dense(self, x: Any, node: Node | None) -> Any:
        """The value of a packed leaf that a node, or the function's result, needs whole."""
        return x.dense() if isinstance(x, Packed) else x

    def watched(self, frame: Frame, operands: Sequence[Any]) -> tuple[list[Any], dict[Any, Any]]:
        """Runs a body; returns what its nodes noted beside its results, for the caller to lead out of a trace."""
        outer, self.seen = self.seen, {}
        try:
            return self.body(frame, operands), self.seen
        finally:
            self.seen = outer

    def note(self, seen: dict[Any, Any], scan: Node | None = None) -> None:
        """Takes what a body noted; of a scan, stacked along a new first axis."""
        self.seen.update(seen)

    def unseen(self, frame: Frame, operands: Sequence[Any]) -> dict[Any, Any]:
        """Zeros for what a body notes that may run once, often, or never; what is noted there is joined with them.

        By default nothing: what such a body notes is lost.
        """
        return {}

    def keeps(self, value: Value) -> list[Keep]:
        """What is kept of each axis of a value: all."""
        return [None] * len(value.shape)

    def fit(self, x: Any, value: Value, targets: Sequence[Keep]) -> Any:
        """Makes of a value what a loop's carry, or a branch's result, must be: an array."""
        return self.dense(x, None)

    def sliced(self, x: Any, scan: Node) -> Any:
        """What a scan is given to run over."""
        if isinstance(x, Packed) and len(x.axes[0]) <= 1:
            return x.sliced(scan)
        return self.dense(x, None)

    def shared(self, x: Any, spec: Any, node: Node) -> tuple[Any, Any, Callable[[Any], Any]]:
        """What a shard_map is given, how that is shared out among devices, and what one of them makes of its part."""
        if isinstance(x, Packed):
            among = x.among(spec, compat.shards(node.params, spec, len(x.axes)), compat.devices(node.params), node)
            if among is not None:
                return among
        return self.dense(x, node), spec, lambda part: part

    def tangent(self, x: Any, tangent: Any) -> Any:
        """The tangent of a value, given those of its parts."""
        if isinstance(x, Packed):
            return jax.jvp(lambda packed: packed.dense(), (x,), (tangent,))[1]
        return tangent


def _scale(packed: Packed, node: Node, place: int, others: list[Any]) -> Packed | None:
    (factor,) = others
    if np.ndim(factor) or (node.op == "div" and place == 1):
        return None
    return packed.scaled(1 / factor if node.op == "div" else factor)


def _cast(packed: Packed, node: Node, place: int, others: list[Any]) -> Packed | None:
    dtype = node.params["new_dtype"]
    return packed.cast(dtype) if jax.dtypes.issubdtype(dtype, np.floating) else None


_PASS: dict[str, Callable[[Packed, Node, int, list[Any]], Packed | None]] = {
    "transpose": lambda packed, node, *_: packed.transposed(node.params["permutation"]),
    "reshape": lambda packed, node, *_: packed.reshaped(node.outs[0].dims),
    "squeeze": lambda packed, node, *_: packed.squeezed(node.params["dimensions"]),
    "broadcast_in_dim": lambda packed, node, *_: packed.expanded(
        node.outs[0].dims, node.params["broadcast_dimensions"]
    ),
    "convert_element_type": _cast,
    "copy": lambda packed, *_: packed,
    "reshard": lambda packed, node, *_: packed if compat.is_whole(node.equation) else None,
    "pvary": lambda packed, node, *_: packed.mapped(lambda part: compat.bind(node.equation, [part])[0]),
    "pcast": lambda packed, node, *_: packed.mapped(lambda part: compat.bind(node.equation, [part])[0]),
    "neg": lambda packed, *_: packed.scaled(-1),
    "mul": _scale,
    "div": _scale,
}
"""``(packed, node, its place among the operands, the others) -> packed``; None where it must be dense."""
