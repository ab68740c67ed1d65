"""Schedules of sparsity that optax has no name for (the cubic one is ``optax.polynomial_schedule(0.0, 0.9, 3, n)``)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.types import Schedule, Step


def one_shot(sparsity: float, at: int) -> Schedule:
    """Prunes all at once: dense before a step, and at the sparsity from it on.

    Args:
      sparsity: the fraction of zeros, in [0, 1).
      at: the first step of it.

    Raises:
      ArgumentError: for a sparsity outside [0, 1).

    Example:
      >>> [float(one_shot(0.5, 2)(step)) for step in range(4)]
      [0.0, 0.0, 0.5, 0.5]
    """
    _check(sparsity)
    return lambda step: jnp.where(jnp.asarray(step) >= at, jnp.float32(sparsity), 0)


def alternating(sparsity: float, dense: int, sparse: int, *, begin: int = 0, end: int | None = None) -> Schedule:
    """Alternates compressed and decompressed phases (AC/DC). Masks do not nest: each compressed phase ranks anew.

    What comes back in a decompressed phase has the value that it had behind the view; it starts from 0, as in the
    paper, if the view is applied after the optimizer's step (``params = recipe.apply(params, state)``).

    Args:
      sparsity: of the compressed phases.
      dense, sparse: steps of a decompressed and of a compressed phase, which follows it.
      begin: the step at which the first decompressed phase begins; what is before it is dense, too.
      end: the step from which on the network stays compressed; None: never.

    Returns:
      A schedule for :func:`jaxcomp.prune.prune`, with ``nested=False``.

    Raises:
      ArgumentError: for a sparsity outside [0, 1), or phases without a step.

    Example:
      >>> [round(float(alternating(0.9, 2, 1, end=7)(step)), 1) for step in range(9)]
      [0.0, 0.0, 0.9, 0.0, 0.0, 0.9, 0.0, 0.9, 0.9]

    Reference: Peste et al., AC/DC: alternating compressed/decompressed training of deep neural networks, 2021.
    """
    _check(sparsity)
    if dense < 1 or sparse < 1:
        raise ArgumentError(f"phases need at least one step each, got dense={dense!r} and sparse={sparse!r}")

    def at(step: Step) -> Any:
        since = jnp.asarray(step) - begin
        is_sparse = (since >= 0) & (since % (dense + sparse) >= dense)
        over = is_sparse if end is None else is_sparse | (jnp.asarray(step) >= end)
        return jnp.where(over, jnp.float32(sparsity), 0)

    return at


def check_never_falls(schedule: Schedule) -> None:
    """Probes a schedule where it is likely to turn, and refuses one that falls.

    Raises:
      ArgumentError: naming the step.
    """
    probes = sorted({int(step) for base in 2 ** np.arange(21) for step in (base - 1, base, base * 1.5)})
    last, before = -np.inf, 0
    for step in probes:
        value = float(schedule(step))
        if value < last:
            _refuse(step, value, before, last)
        last, before = value, step


def check_rising(schedule: Schedule, step: Step, now: Any) -> None:
    """Refuses a schedule that is at ``step`` lower, ``now``, than a step before, where both are concrete.

    Raises:
      ArgumentError: naming the step.
    """
    if isinstance(step, jax.core.Tracer) or isinstance(now, jax.core.Tracer) or int(step) < 1:
        return
    before = schedule(int(step) - 1)
    if not isinstance(before, jax.core.Tracer) and float(now) < float(before):
        _refuse(int(step), float(now), int(step) - 1, float(before))


def _refuse(step: int, value: float, before: int, last: float) -> None:
    raise ArgumentError(
        f"the sparsity schedule falls to {value:g} at step {step}, from {last:g} at step {before}, but nested masks "
        "cannot give back what they pruned: let it rise, or prune with nested=False"
    )


def _check(sparsity: float) -> None:
    if not 0 <= sparsity < 1:
        raise ArgumentError(f"sparsity must be a fraction of zeros in [0, 1), got {sparsity}")
