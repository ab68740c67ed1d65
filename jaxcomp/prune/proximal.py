"""Proximal steps: L1 and group lasso as optax transforms, after which what is small is exactly zero."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxcomp.core import leaves
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.paths import path_string
from jaxcomp.core.scalars import is_number
from jaxcomp.core.types import Params, Schedule
from jaxcomp.core.units import unit
from jaxcomp.prune.patterns import Pattern, filters, fitted


class ProximalState(NamedTuple):
    """State of a proximal step.

    Attributes:
      step: int32, updates made, for the schedule of the learning rate.
    """

    step: Array


def proximal_l1(strength: float, learning_rate: float | Schedule) -> optax.GradientTransformation:
    r"""Shrinks weights after the optimizer's step: :math:`w \mapsto \mathrm{sign}(w) \max(|w| - \eta \lambda, 0)`.

    The exact step for a penalty :math:`\lambda \sum |w|`, where a gradient step would only circle around zero. Last in
    the chain: ``optax.chain(optax.sgd(0.1), proximal_l1(1e-4, 0.1))``; for kernels alone,
    ``optax.masked(proximal_l1(...), {path: bool})``.

    Args:
      strength: lambda, at least 0.
      learning_rate: eta, that of the optimizer before it, or its schedule.

    Returns:
      An optax transformation that needs ``params``.

    Raises:
      ArgumentError: for a negative strength; from its update, when called without ``params``.

    Example:
      >>> tx = optax.chain(optax.sgd(1.0), proximal_l1(0.5, 1.0))
      >>> params = jnp.array([1.0, -1.0, 0.25])
      >>> updates, _ = tx.update(jnp.array([0.25, 1.0, 0.0]), tx.init(params), params)
      >>> optax.apply_updates(params, updates).tolist()
      [0.25, -1.5, 0.0]

    Reference: Daubechies et al., An iterative thresholding algorithm for linear inverse problems, 2004; Beck and
    Teboulle, A fast iterative shrinkage-thresholding algorithm, 2009.
    """

    def shrunk(path: str, values: Array, level: Any) -> Array:
        del path
        return jnp.sign(values) * jnp.maximum(jnp.abs(values) - level, 0)

    return _proximal(strength, learning_rate, shrunk)


def proximal_group_lasso(
    strength: float, learning_rate: float | Schedule, pattern: Pattern | None = None
) -> optax.GradientTransformation:
    r"""Shrinks whole units: :math:`w_u \mapsto w_u \max(1 - \eta \lambda \sqrt{n_u} / \lVert w_u \rVert, 0)`.

    The exact step for a penalty :math:`\lambda \sum_u \sqrt{n_u} \lVert w_u \rVert_2`, n the weights of a unit.

    Args:
      strength: lambda, at least 0.
      learning_rate: of the optimizer before it, or its schedule.
      pattern: the units: ``filters()`` unless given, ``kernels()``, ``blocks(...)``.

    Returns:
      An optax transformation that needs ``params``.

    Raises:
      ArgumentError: for a negative strength, or a pattern without units of several weights; from its update, without
        ``params``, or for a tensor that the pattern does not fit.

    Example:
      >>> tx = proximal_group_lasso(1.0, 1.0)
      >>> params = jnp.array([[0.5, 3.0], [0.5, 3.0]])
      >>> updates, _ = tx.update(jnp.zeros((2, 2)), tx.init(params), params)
      >>> optax.apply_updates(params, updates).round(4).tolist()
      [[0.0, 2.0], [0.0, 2.0]]

    Reference: Yuan and Lin, Model selection and estimation in regression with grouped variables, 2006.
    """
    of = pattern or filters()
    if of.pool is None:
        raise ArgumentError(
            f"the pattern {of.name} has no units of several weights: use proximal_l1, or another pattern"
        )

    def shrunk(path: str, values: Array, level: Any) -> Array:
        fitted(of, path, values.shape)
        norm = _root_mean_square(of, values)  # the norm over the root of the number
        factor = jnp.where(norm > level, 1 - level / jnp.where(norm > 0, norm, 1), 0)
        # Where nothing is asked for, not even a norm too small for its type is cut.
        return values * of.spread(jnp.where(level > 0, factor, 1), values.shape)

    return _proximal(strength, learning_rate, shrunk)


def _root_mean_square(pattern: Pattern, values: Array) -> Array:
    """Norms of units, whatever the weights' own unit: a square of 1e-20 is 0 in float32, one of 1e20 infinite."""
    assert pattern.pool is not None
    common = unit(jnp.max(jnp.abs(values), initial=0))
    scaled = values / common
    mean = unit(pattern.pool(jnp.abs(scaled)))
    squares = pattern.pool(jnp.square(scaled / pattern.spread(mean, values.shape)))
    return jnp.sqrt(squares) * mean * common


def _proximal(
    strength: float, learning_rate: float | Schedule, shrunk: Callable[[str, Array, Any], Array]
) -> optax.GradientTransformation:
    if not (is_number(strength) and strength >= 0):
        raise ArgumentError(f"strength must be at least 0, got {strength!r}")

    def update(updates: Params, state: ProximalState, params: Params | None = None) -> tuple[Params, ProximalState]:
        if params is None:
            raise ArgumentError("a proximal step needs the parameters: call tx.update(grads, opt_state, params)")
        rate = learning_rate(state.step) if callable(learning_rate) else learning_rate

        def change(path: Any, weight: Any, move: Any) -> Any:
            if not leaves.is_real(weight):
                return move
            wide = leaves.wide(weight.dtype)
            arrived = weight.astype(wide) + move.astype(wide)
            level = jnp.asarray(rate * strength, wide)
            return shrunk(path_string(path), arrived, level).astype(weight.dtype) - weight

        return jax.tree_util.tree_map_with_path(change, params, updates), ProximalState(state.step + 1)

    return optax.GradientTransformation(lambda params: ProximalState(jnp.zeros((), jnp.int32)), update)
