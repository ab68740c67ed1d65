"""The interpreter of packed parameters: sites compute with their parts.

A packed leaf flows through casts, transposes and reshapes, into jit, remat, scan (over its first axis too), cond and
custom derivatives, to the matmul or convolution that reads it. Anything else is given its dense value: never wrong, at
worst not faster.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxcomp.trace import compat
from jaxcomp.trace.interpreter import EMIT, AxisMask, Interpreter
from jaxcomp.trace.ir import MATMULS, Node, Value
from jaxcomp.trace.packed import chain
from jaxcomp.trace.packed.leaf import Packed
from jaxcomp.trace.packed.marked import unmarked


class PackedInterpreter(Interpreter):
    """Runs programs some of whose parameters are packed: to the hooks of the plain one it adds two.

    ::

        node                       of an operand that is packed: enters bodies, passes it on or calls
         ├─ site                   a matmul or convolution by it, part by part
         └─ dense                  its value, wherever a whole array is needed
    """

    def node(self, node: Node, operands: list[Any]) -> list[Any]:
        held = [i for i, x in enumerate(operands) if isinstance(x, Packed)]
        if not held:
            return super().node(node, operands)
        if node.op in EMIT:
            return self.enter(node, operands)
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
        """Computes a matmul or convolution by a packed leaf, part by part.

        Args:
          node: the site.
          operands: one of them packed.
          side: which one, 0 or 1.

        Returns:
          The result; None to have the leaf dense.
        """
        return chain.apply(node, operands[1 - side], operands[side], side)

    def dense(self, x: Any, node: Node | None) -> Any:
        """Returns the value of a packed leaf ``x`` that ``node``, or for None the function's result, needs whole."""
        return x.dense() if isinstance(x, Packed) else x

    def fit(self, x: Any, value: Value, targets: Sequence[AxisMask]) -> Any:
        return self.dense(x, None)

    def sliced(self, x: Any, scan: Node) -> Any:
        if isinstance(x, Packed) and len(x.axes[0]) <= 1:
            return x.sliced(scan)
        return self.dense(x, None)

    def shared(self, x: Any, spec: Any, node: Node) -> tuple[Any, Any, Callable[[Any], Any]]:
        if isinstance(x, Packed):
            among = x.among(spec, compat.shards(node.params, spec, len(x.axes)), compat.devices(node.params), node)
            if among is not None:
                return among
        return super().shared(self.dense(x, node), spec, node)

    def tangent(self, x: Any, tangent: Any) -> Any:
        if isinstance(x, Packed):
            with unmarked():
                return jax.jvp(lambda packed: packed.dense(), (x,), (tangent,))[1]
        return super().tangent(x, tangent)


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
