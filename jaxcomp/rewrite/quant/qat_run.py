"""The interpreter of quantization-aware training: as integers run, and what the sites' inputs reach beside it."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxcomp.quant.gradients import Slope
from jaxcomp.rewrite.quant.integers import QuantizedRun, sites_in
from jaxcomp.rewrite.quant.scheme import Schemes
from jaxcomp.rewrite.quant.targets import find_targets
from jaxcomp.trace import compat
from jaxcomp.trace.ir import Frame, Node, Program
from jaxcomp.trace.packed.codes import Codes

Apart = Mapping[str, Collection[Node]]
"""By owner, the scans whose iterations have ranges of their own."""


def scans_apart(program: Program, scheme: Schemes, owners: Mapping[str, str]) -> tuple[frozenset[Node], Apart]:
    """Finds a program's sites, and its scans over stacked layers.

    Args:
      program: a traced function.
      scheme: as of :func:`jaxcomp.rewrite.quantize`.
      owners: of weights' input steps, by path.
    """
    shared = find_targets(program, scheme).shared
    return sites_in(program), {owners[path]: group.scans for group in shared for path in group.paths if path in owners}


class TrainingRun(QuantizedRun):
    """Runs a program whose weights are codes to be trained, and notes what is to move ranges.

    ``seen`` holds, by owner, how far below and above 0 the inputs of its weights' sites reach.
    """

    def __init__(
        self, sites: Collection[Node], slope: Slope | None, owners: Mapping[str, str], apart: Mapping[str, Any]
    ):
        """Takes the sites; the owner of each weight whose inputs are to be noted; whose iterations are kept apart."""
        super().__init__(sites, slope, jnp.maximum)
        self._owners, self._apart = owners, apart

    def site(self, node: Node, operands: list[Any], side: int) -> Any:
        weight = operands[side]
        out = super().site(node, operands, side)
        if out is not None and isinstance(weight, Codes) and weight.path in self._owners:
            self._join(self._owners[weight.path], _reach(operands[1 - side]))
        return out

    def note(self, seen: dict[Any, Any], scan: Node | None = None) -> None:
        for owner, reach in seen.items():
            done = scan is None or scan in self._apart.get(owner, ())
            self._join(owner, reach if done else jax.tree.map(lambda each: jnp.max(each, 0), reach))

    def unseen(self, frame: Frame, operands: Sequence[Any]) -> dict[Any, Any]:
        shapes = jax.eval_shape(lambda *xs: self.watched(frame, xs)[1], *operands)
        return jax.tree.map(compat.zeros, shapes)

    def _join(self, owner: str, reach: Any) -> None:
        known = self.seen.get(owner)
        self.seen[owner] = reach if known is None else jax.tree.map(jnp.maximum, known, reach)


def _reach(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    x = lax.stop_gradient(x).astype(jnp.float32)
    return jnp.max(-x, initial=0), jnp.max(x, initial=0)
