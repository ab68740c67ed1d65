"""Trained ternary quantization: -n, 0, p with both levels learned."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.core import Tracer

from jaxcomp.core.called import printed
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.leaves import wide
from jaxcomp.core.straight_through import with_slope
from jaxcomp.core.tensorwise import tensorwise
from jaxcomp.core.types import Compressor, Learned, Note
from jaxcomp.quant.granularity import groups
from jaxcomp.quant.ranges import mean_of


class Levels(NamedTuple):
    """The state of a tensor with two learned levels.

    Attributes:
      positive, negative: their sizes, scalars. 0: of no weight yet. No gradient moves it; the view shows the largest
        size on that side, until ``update`` meets some, and the level begins at their mean.
      threshold: above which a weight is not 0.
    """

    positive: Learned
    negative: Learned
    threshold: Array


@printed
def ttq(threshold: float = 0.05) -> Compressor:
    r"""Shows weights as p where :math:`w > \Delta`, -n where :math:`w < -\Delta`, else 0; p and n are trained (TTQ).

    :math:`\Delta = t \max|w|`, at each update. Gradients reach w times p, 1 or n, and p and n by the weights that show
    them. A level is never below 1.01 :math:`\Delta`, so that a view's view is itself. How to train them:
    :func:`jaxcomp.learned`.

    Args:
      threshold: t in (0, 1).

    Returns:
      A compressor whose state is :class:`Levels` per tensor.

    Raises:
      ArgumentError: for a threshold outside (0, 1).

    Example:
      >>> quant = ttq(0.5)
      >>> w = jnp.array([0.1, -2.0, 1.5, 2.5])
      >>> quant.apply(w, quant.init(w)).tolist()
      [0.0, -2.0, 2.0, 2.0]

    Reference: Zhu et al., Trained ternary quantization, 2017.
    """
    if not 0 < threshold < 1:
        raise ArgumentError(f"threshold is a part of the largest size, in (0, 1), got {threshold!r}")

    def limit(w: Array) -> Array:
        return threshold * jnp.max(jnp.abs(w.astype(wide(w.dtype))), initial=0)

    def fit(w: Array) -> Levels:
        level, laid = limit(w), groups(w.astype(wide(w.dtype)))
        if not isinstance(level, Tracer) and not bool(jnp.isfinite(level)):
            raise ArgumentError("the weights hold NaN or infinity: mend them first")
        means = (mean_of(sign * laid.values, laid, sign * laid.values > level).reshape(()) for sign in (1, -1))
        high, low = map(jnp.abs, means)  # of none: 0, whose sign depends on the program
        return Levels(Learned(high), Learned(low), level)

    def begun(w: Array, state: Levels) -> Levels:
        new = lax.stop_gradient(fit(w))
        sides = zip(state[:2], new[:2], strict=True)
        high, low = (jnp.where(old.value == 0, mean.value, old.value) for old, mean in sides)
        return Levels(Learned(high), Learned(low), new.threshold)

    def view(w: Array, state: Levels) -> Array:
        level, real = state.threshold, w.astype(state.threshold.dtype)
        largest = (jnp.max(side, initial=0) for side in (lax.stop_gradient(real), -lax.stop_gradient(real)))
        sides = zip(state[:2], largest, strict=True)
        sizes = (jnp.where(side.value == 0, most, jnp.abs(side.value)) for side, most in sides)
        high, low = (jnp.maximum(size, 1.01 * level) for size in sizes)
        above, below = real > level, real < -level
        values = jnp.where(above, high, jnp.where(below, -low, jnp.where(jnp.isnan(real), lax.stop_gradient(real), 0)))
        slope = lax.stop_gradient(jnp.where(above, high, jnp.where(below, low, 1)))
        return with_slope(values, real, slope).astype(w.dtype)

    def note(state: Levels) -> Note:
        high, low = (abs(float(side.value)) for side in (state.positive, state.negative))
        return Note(bits=2, remark=f"levels learned, now {-low:.4g}, 0, {high:.4g}")

    return tensorwise(fit, view, note, begun)
