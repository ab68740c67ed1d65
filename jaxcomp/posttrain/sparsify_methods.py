"""Pruners: one layer's weights in, its mask and what the weights become out."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxcomp.core import quadratic
from jaxcomp.core.factored import Factored
from jaxcomp.prune import reconstruct
from jaxcomp.prune.obc import costs, eliminate, obc
from jaxcomp.prune.reconstruct import NofM
from jaxcomp.prune.sparsegpt import sparsegpt


class LayerMatrix(NamedTuple):
    r"""One parameter and its inputs, as a matrix, in units in which squares neither underflow nor overflow.

    Attributes:
      weight: ``[groups, reduction, out]``, float32, over ``unit``; on the host.
      inputs: the second moments of what it reads; None without data.
      norms: of its inputs, ``[groups, reduction, 1]``; None without data.
      fisher: the squares of its gradients, ``[groups, reduction, out]``, if they are known, over ``fisher_unit``.
      factor: by what it is multiplied before it is read: a number, or ``[groups, 1, 1]``. Of moments and norms it is a
        part already.
      unit, fisher_unit: powers of two.
    """

    weight: Any
    inputs: Factored | None = None
    norms: Any = None
    fisher: Any = None
    factor: Any = 1.0
    unit: float = 1.0
    fisher_unit: float = 1.0

    @property
    def moment(self) -> Any:
        """The second moment of its inputs, ``[groups, reduction, reduction]``, damped; they have to be known."""
        return self._known.moment

    @property
    def upper(self) -> Any:
        """U of its inverse :math:`U^\top U`."""
        return self._known.upper

    @property
    def _known(self) -> Factored:
        assert self.inputs is not None
        return self.inputs


class Costs(NamedTuple):
    """The cost of losing each weight, in an order in which the largest are kept.

    Attributes:
      costs: of any shape.
      unit: of the costs, by which layers can be compared.
    """

    costs: Array
    unit: float


class Pruner(NamedTuple):
    """A way to prune one layer.

    Attributes:
      prune: ``(layer, how many weights to keep, pattern or None) -> (mask, weights)``.
      costs: of a layer.
      needs: ``"moment"`` or ``"fisher"``, if it cannot do without.
      updates: whether the weights that are left change.
      other: what it does with a layer of a shape, ``[groups, reduction, out]``, if that is not what its name says.
      sweeps: whether one sweep finds the weights of such a layer; else they are the best of their mask.
    """

    prune: Callable[[LayerMatrix, int, NofM | None], tuple[Any, Any]]
    costs: Callable[[LayerMatrix], Costs]
    needs: str = ""
    updates: bool = False
    other: Callable[[Sequence[int]], str] = lambda shape: ""
    sweeps: Callable[[Sequence[int]], bool] = lambda shape: False


def _by_scores(scores: Callable[[LayerMatrix], Any], per_output: bool = False, needs: str = "") -> Pruner:
    def prune(layer: LayerMatrix, keep: int, pattern: NofM | None) -> tuple[Any, Any]:
        own = scores(layer)
        if pattern:
            mask = reconstruct.keep_pattern(jnp.asarray(own), pattern)
        else:
            mask = (reconstruct.keep_per_output if per_output else reconstruct.keep_of_layer)(own, keep)
        return mask, np.where(mask, layer.weight, 0)

    def own_costs(layer: LayerMatrix) -> Costs:
        own = scores(layer)
        if needs == "moment":
            return _felt(layer, jnp.square(own))
        return Costs(own, layer.unit**2 * layer.fisher_unit if needs == "fisher" else layer.unit)

    return Pruner(prune, own_costs, needs)


def _felt(layer: LayerMatrix, errors: Array) -> Costs:
    r"""Outputs' squared errors by what the loss feels of them: of each output, or of the layer.

    Of one output, the Fisher information of the weights is about the moment of the inputs times
    :math:`\gamma = \operatorname{tr} F / \operatorname{tr} H`. Without gradients errors are relative, to the outputs'
    squares.
    """
    if layer.fisher is None:
        whole = quadratic.output_error(layer.weight, jnp.zeros_like(layer.weight), layer.moment)
        return Costs(errors / jnp.where(whole > 0, whole, 1), 1.0)
    power = jnp.trace(layer.moment, axis1=1, axis2=2)[:, None, None]
    felt = jnp.sum(layer.fisher, axis=1, keepdims=True) / power
    return Costs(errors * felt, layer.unit**2 * layer.fisher_unit)


AUTO_SECONDS = 5.0
"""The most that OBC may take for a layer that is pruned by ``"auto"``."""


def obc_seconds(shape: Sequence[int]) -> float:
    """Estimates the seconds that OBC takes for a layer ``[groups, reduction, out]``, on two cores.

    Example:
      >>> round(obc_seconds((1, 576, 64)), 1), round(obc_seconds((1, 2304, 256)))
      (0.4, 94)
    """
    groups, reduction, out = shape
    return 3e-11 * groups * out * reduction**3


def _instead(shape: Sequence[int]) -> str:
    """The method by which ``"auto"`` prunes a layer that is too large for OBC."""
    return "sparsegpt" if obc_seconds(shape) > AUTO_SECONDS else ""


PRUNERS = {
    "magnitude": _by_scores(lambda layer: np.abs(layer.weight * np.asarray(layer.factor, np.float32))),
    "wanda": _by_scores(
        lambda layer: reconstruct.wanda_scores(layer.weight, layer.norms), per_output=True, needs="moment"
    ),
    "woodfisher": _by_scores(lambda layer: jnp.square(layer.weight) * layer.fisher, needs="fisher"),
    "sparsegpt": Pruner(
        lambda layer, keep, pattern: sparsegpt(layer.weight, layer.moment, keep, pattern=pattern, upper=layer.upper),
        lambda layer: _felt(layer, reconstruct.obs_scores(layer.weight, layer.moment)),
        "moment",
        updates=True,
        sweeps=lambda shape: True,
    ),
    "obc": Pruner(
        lambda layer, keep, pattern: obc(layer.weight, layer.moment, keep, pattern=pattern),
        lambda layer: _felt(layer, costs(eliminate(layer.weight, layer.moment))),
        "moment",
        updates=True,
    ),
}
"""By name."""
PRUNERS["auto"] = PRUNERS["obc"]._replace(
    prune=lambda layer, *goal: PRUNERS[_instead(layer.weight.shape) or "obc"].prune(layer, *goal),
    other=_instead,
    sweeps=lambda shape: bool(_instead(shape)),
)
