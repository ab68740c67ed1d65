"""Magnitude pruning: the smallest weights are zero."""

from typing import Any, Literal

from jax import Array

from jaxcomp.core.called import printed
from jaxcomp.core.counts import kept_count
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.largest import keep_largest
from jaxcomp.core.stacked import Axes
from jaxcomp.core.types import Compressor, Schedule
from jaxcomp.prune.pruner import prune


def magnitude_masks(weights: list[Array], sparsity: Any, scope: Literal["layer", "global"] = "layer") -> list[Array]:
    """Makes masks that keep the weights of largest magnitude; True = kept.

    Args:
      weights: floating-point arrays of any shapes, real or complex.
      sparsity: the fraction of zeros, in [0, 1); a float, or a scalar array that may be traced.
      scope: ``"layer"`` ranks every array by itself, ``"global"`` all of them together.

    Returns:
      Boolean arrays of the same shapes, with exactly ``round(sparsity * size)`` zeros per array or over all.

    Example:
      >>> import jax.numpy as jnp
      >>> magnitude_masks([jnp.array([3.0, -1.0, 2.0, 0.5])], 0.5)[0].tolist()
      [True, False, True, False]
    """
    if scope == "global":
        total = sum(weight.size for weight in weights)
        return keep_largest(weights, [kept_count(sparsity, total)], [0] * len(weights))
    keep = [kept_count(sparsity, weight.size) for weight in weights]
    return keep_largest(weights, keep, range(len(weights)))


@printed
def magnitude(
    sparsity: float | Schedule, *, scope: Literal["layer", "global"] = "layer", stacked: Axes | None = None
) -> Compressor:
    r"""Prunes the weights of smallest magnitude: :math:`w \mapsto w \cdot [|w| \ge t]`.

    The threshold t is exact: each update zeroes exactly ``round(sparsity * size)`` weights, of each tensor or of
    all tensors together; among equal magnitudes the first are kept. Every floating-point tensor that it is given
    is pruned, biases too, complex ones by their modulus: choose with :func:`jaxcomp.partition`. Inside the loss, pruned
    weights receive no gradient; wrap it in :func:`jaxcomp.straight_through` to let them recover.

    Args:
      sparsity: the fraction of zeros, in [0, 1), or an optax schedule of it (step -> fraction).
      scope: ``"layer"``: every tensor reaches the sparsity; ``"global"``: all together do, ranked as one.
      stacked: the axis that counts layers, each a tensor of its own: see :func:`jaxcomp.stacked`.

    Returns:
      A compressor whose state is a boolean mask per tensor, True = kept.

    Raises:
      ArgumentError: for a sparsity outside [0, 1) or another scope. A schedule's value is checked where it is
        concrete and clipped where it is traced.

    Example:
      >>> import jax.numpy as jnp
      >>> prune = magnitude(0.5)
      >>> params = {"kernel": jnp.array([[1.0, -4.0], [3.0, 2.0]])}
      >>> prune.apply(params, prune.init(params))["kernel"].tolist()
      [[0.0, -4.0], [3.0, 0.0]]

    Reference: Han et al., Learning both weights and connections, 2015; Zhu and Gupta, To prune, or not to prune,
    2017 (the cubic schedule: ``optax.polynomial_schedule(0.0, sparsity, 3, steps)``).
    """
    if scope not in ("layer", "global"):
        raise ArgumentError(f"scope must be 'layer' or 'global', got {scope!r}")
    return prune(sparsity, distribution="global" if scope == "global" else "uniform", stacked=stacked)
