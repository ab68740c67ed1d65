"""Factors: by what a parameter is multiplied before its site reads it (equalized learning rates, gains, signs)."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.trace import compat
from jaxcomp.trace.ir import Node, Program, Value, all_nodes
from jaxcomp.trace.origins import Origins
from jaxcomp.trace.packed.leaf import Packed, pack
from jaxcomp.trace.packed.run import PackedInterpreter
from jaxcomp.trace.uses import Use, Uses, is_weight

FACTOR = "factor"


def with_factors(program: Program, uses: Mapping[str, Uses], params: Sequence[Any]) -> dict[str, Uses]:
    """Uses that know by what their parameter is multiplied before its site reads it.

    Args:
      program: a traced function.
      uses: of :func:`uses_of`.
      params: the leaves of its parameters: numbers may be computed of others.

    Returns:
      The same, with the ``factor`` of each use. Of numbers that depend on the inputs nothing is known: they count as 1.

    Example:
      >>> from jaxcomp.trace.ir import trace
      >>> from jaxcomp.trace.uses import uses_of
      >>> program = trace(lambda p, x: x @ (p["w"] * 0.5), {"w": jnp.ones((2, 2))}, jnp.ones((1, 2)))
      >>> with_factors(program, uses_of(program), [jnp.ones((2, 2))])["w"].sites[0].factor
      0.5
    """
    if not any(own.scaled for own in uses.values()):
        return dict(uses)
    numbers = {node: i for i, node in enumerate(all_nodes(program.frame))}
    origins = Origins(program)

    def run(leaves: Sequence[Any]) -> dict[int, Any]:
        named = dict(zip(program.paths, leaves, strict=True))
        packed = [_with_factor(p, x) if is_weight(v) else x for (p, x), v in _paired(named, program)]
        rest = [_anything(value) for value in program.frame.ins[len(packed) :]]
        return _Factors(origins, numbers).watched(program.frame, [*packed, *rest])[1]

    # What the factors do not depend on is not computed.
    found = jax.device_get(jax.jit(run)(list(params)))

    def known(use: Use) -> Use:
        factor = found.get(numbers[use.node])
        return use if factor is None else use._replace(factor=_of_layers(use, np.asarray(factor, np.float64)))

    return {p: Uses([known(use) for use in own.sites], own.other, own.scaled) for p, own in uses.items()}


def by_factor(use: Use, x: Any, power: int = 1) -> Any:
    """Multiplies a site's inputs by the scalar factor of its weight.

    Args:
      use: the site.
      x: ``[stack x ..., ...]``, from the layer's inputs.
      power: of the factor.

    Returns:
      The array as if the inputs, and not the weight, were multiplied.
    """
    if np.ndim(use.factor) == 0:
        return x if use.factor == 1 else x * float(use.factor) ** power
    each = np.repeat(use.factor, len(x) // len(use.factor)) ** power
    return x * np.asarray(each.reshape(-1, *[1] * (x.ndim - 1)), x.dtype)


def _paired(named: Mapping[str, Any], program: Program) -> list[tuple[tuple[str, Any], Value]]:
    return list(zip(named.items(), program.frame.ins, strict=False))


def _with_factor(path: str, leaf: Any) -> Packed:
    whole = pack(path, jnp.asarray(leaf))
    parts = {FACTOR: jnp.ones((), whole.dtype), **whole.parts}
    return Packed(path, parts, [(), *whole.names], whole.axes)


def _anything(value: Value) -> Any:
    if compat.is_number(value.dtype):
        return jnp.zeros(value.shape, value.dtype)
    count = int(np.prod(value.shape))
    return jax.random.split(jax.random.key(0), max(count, 1))[:count].reshape(value.shape)


def _of_layers(use: Use, factor: np.ndarray) -> Any:
    """One number, or one for each of the stacked layers that scans run over."""
    factor = np.where(np.isfinite(factor), factor, 1.0)
    if not factor.size or np.all(factor == factor.flat[0]):
        return float(factor.flat[0]) if factor.size else 1.0
    if factor.size == use.size(use.stack[: len(use.scans)]):
        return factor.reshape(-1)
    return float(np.sqrt(np.mean(factor**2)))


class _Factors(PackedInterpreter):
    """Runs a program whose weights hold a factor as a part of their own, and notes it at the sites."""

    def __init__(self, origins: Origins, numbers: Mapping[Node, int]) -> None:
        super().__init__()
        self._origins, self._numbers = origins, numbers

    def node(self, node: Node, operands: list[Any]) -> list[Any]:
        held = [x for x in operands if isinstance(x, Packed)]
        if not held:
            return super().node(node, operands)
        if node.op in ("mul", "div") and len(held) == 1 and any(self._origins[value].live for value in node.ins):
            others = [x for x in operands if not isinstance(x, Packed)]
            return [held[0].scaled(jnp.nan)] if np.ndim(others[0]) == 0 else super().node(node, operands)
        if node.op == "cond":  # either branch: nothing is computed but factors
            outs, *_ = [self.body(frame, operands[1:]) for frame in node.frames]
            return outs
        if node.op == "while":
            return self.body(node.frames[1], operands[node.params["cond_nconsts"] :])
        if node.op == "custom_jvp_call" or node.op in compat.ENTERED:
            return self.body(node.frames[0], operands)
        return super().node(node, operands)

    def site(self, node: Node, operands: list[Any], side: int) -> Any:
        self.seen[self._numbers[node]] = operands[side].parts[FACTOR]
        return None
