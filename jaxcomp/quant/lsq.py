"""Learned step sizes: the optimizer that trains the weights trains their scales, and zero points, too."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from jaxcomp.core.axes import Axes
from jaxcomp.core.called import printed
from jaxcomp.core.stacked import Axes as Stacked
from jaxcomp.core.stacked import stacked as layer_by_layer
from jaxcomp.core.tensorwise import tensorwise
from jaxcomp.core.types import Block, Compressor, Grid, Learned, Note
from jaxcomp.quant.fake import default_fit, fit_grid, note_of
from jaxcomp.quant.formats import Format, as_format
from jaxcomp.quant.gradients import members, rounded_levels, settled
from jaxcomp.quant.granularity import all_zero, check_block
from jaxcomp.quant.ranges import Fit, check_fit, mean_size, min_max


@partial(jax.tree_util.register_dataclass, data_fields=("scale", "offset"), meta_fields=("block",))
class Steps(NamedTuple):
    """The state of a tensor with a learned grid.

    Attributes:
      scale: learned, of the tensor's rank; its size counts, not its sign. 0 where weights were all 0: there is nothing
        yet to begin with. No gradient moves it; the view goes by a grid fitted to the weights, until ``update`` meets
        some that are not 0, and the scale begins there.
      offset: of affine formats the learned number that code 0 stands for; else an empty node.
      block: as of a grid.
    """

    scale: Learned
    offset: Any
    block: Block | None = None


def learned_quantize(x: Array, grid: Grid, bits: int | str | Format, *, gradient_scale: float = 1.0) -> Array:
    r"""Rounds to a grid, with gradients to the grid as well.

    :math:`\hat x = (\mathrm{round}(\mathrm{clip}(x/s + z, n, p)) - z) s`, :math:`z = \mathrm{round}(-\beta/s)`. With
    rounding straight through, :math:`\partial \hat x/\partial s = \mathrm{round}(y) - y` for :math:`n \le y \le p`
    (y is what is rounded), n below and p above; :math:`\partial \hat x/\partial \beta = 0` within and 1 beyond;
    :math:`\partial \hat x/\partial x = 1` within and 0 beyond.

    Args:
      x: ``[...]`` floating point: weights or activations.
      grid: scale s, positive; ``zero_point``: beta, floating point in x's units, or integers, which are not learned.
      bits: a format, its name, or bits of integers, affine if beta is floating point.
      gradient_scale: by which gradients to the grid are multiplied.

    Returns:
      ``[...]`` of x's dtype, exactly on the grid.

    Example:
      >>> learned_quantize(jnp.array([0.3, 9.0]), Grid(jnp.array(0.5), jnp.array(0)), bits=3).tolist()
      [0.5, 1.5]

    Reference: Esser et al., Learned step size quantization, 2020; Bhalgat et al., LSQ+, 2020.
    """
    affine = jnp.issubdtype(grid.zero_point.dtype, jnp.floating)
    format = as_format(bits, symmetric=not affine)
    levels, own = rounded_levels(x, grid, format, gradient_scale=gradient_scale)
    return ((levels - own.zero_point) * own.scale).astype(x.dtype)


@printed
def lsq(
    bits: int | str | Format = 4,
    *,
    axis: Axes = None,
    block: int | None = None,
    symmetric: bool = True,
    start: Fit | None = None,
    stacked: Stacked | None = None,
) -> Compressor:
    r"""Quantizes weights with trained step sizes (LSQ and LSQ+): :func:`learned_quantize`.

    Gradients to the scale are multiplied by :math:`1/\sqrt{N p}`, N weights that share it and p the largest level. How
    to train it: :func:`jaxcomp.learned`. ``update`` leaves the grids alone, but for those of weights that began as 0
    (:class:`Steps`).

    Args:
      bits: bits of integers, 1 to 8, or any format.
      axis: where each index has a scale of its own.
      block: weights of a block: see :func:`fake`.
      symmetric: False: LSQ+ with a learned offset.
      start: where ranges begin; None: at :math:`2 \,\mathrm{mean}|w| \sqrt p`, affine ones at :func:`min_max`. That
        of LSQ+ for symmetric weights is :func:`deviations`.
      stacked: the axis that counts layers, each a tensor of its own: see :func:`jaxcomp.stacked`.

    Returns:
      A compressor whose state is :class:`Steps` per tensor.

    Example:
      >>> quant = lsq(2)
      >>> w = jnp.array([0.1, -2.0, 1.9, 0.0])
      >>> quant.apply(w, quant.init(w)).tolist()
      [0.0, -2.6666667461395264, 2.6666667461395264, 0.0]

    Reference: Esser et al., Learned step size quantization, 2020; Bhalgat et al., LSQ+, 2020.
    """
    format = as_format(bits, symmetric)
    begin = start or (min_max() if format.affine else mean_size(2 * math.sqrt(format.levels[-1])))
    return layer_by_layer(stacked, learned_grids(format, axis, block, begin, learned_quantize))


def learned_grids(format: Format, axis: Axes, block: int | None, start: Fit, view: Callable[..., Array]) -> Compressor:
    """Makes a compressor with learned grids.

    Args:
      format: of the codes.
      axis: the axis or axes with scales of their own.
      block: weights of a block; None: no blocks.
      start: where ranges begin.
      view: ``(w, grid, format, gradient_scale=...)`` to the tensor on its grid.
    """
    check_block(block)
    check_fit(start, "start")

    def fitted(w: Array, fit: Fit) -> Steps:
        grid = fit_grid(w, format, axis, block=block, fit=fit)
        offset = -grid.zero_point.astype(grid.scale.dtype) * grid.scale
        return Steps(Learned(grid.scale), Learned(offset) if format.affine else optax.MaskedNode(), grid.block)

    def fit(w: Array) -> Steps:
        steps, idle = fitted(w, start), all_zero(w, axis, block)
        return jax.tree.map(lambda number: jnp.where(idle, 0, number), steps)

    def cheaply(w: Array) -> Steps:
        return fitted(w, default_fit(format))

    def begun(w: Array, steps: Steps) -> Steps:
        waits = jnp.any(steps.scale.value == 0)
        if isinstance(waits, jax.core.Tracer):
            return _in_place_of_zeros(steps, lax.cond(waits, fit, cheaply, w))
        return _in_place_of_zeros(steps, fit(w)) if waits else steps

    def settled(w: Array, steps: Steps) -> Steps:
        return _in_place_of_zeros(steps, cheaply(w))

    def constant(w: Array, steps: Steps) -> Grid:
        return grid_of(settled(w, steps), format)

    def show(w: Array, steps: Steps) -> Array:
        grid = learning_grid(settled(w, steps))
        return view(w, grid, format, gradient_scale=1 / math.sqrt(members(w, grid) * format.levels[-1]))

    def note(grid: Grid) -> Note:
        return note_of(grid, format)._replace(remark="scale learned")

    return tensorwise(fit, show, note, begun, constant)


def _in_place_of_zeros(steps: Steps, fitted: Steps) -> Steps:
    """Steps, those that have not begun replaced."""
    waits = steps.scale.value == 0
    return jax.tree.map(lambda old, new: jnp.where(waits, new, old), steps, lax.stop_gradient(fitted))


def learning_grid(steps: Steps) -> Grid:
    """Returns the grid that gradients reach; its zero point, if it learns, is in the tensor's units."""
    size = jnp.abs(steps.scale.value)
    scale = jnp.maximum(size, jnp.finfo(size.dtype).tiny)
    learned = isinstance(steps.offset, Learned)
    return Grid(scale, steps.offset.value if learned else jnp.zeros(scale.shape, jnp.int32), steps.block)


def grid_of(steps: Steps, bits: int | str | Format) -> Grid:
    """Returns the grid that learned steps have come to, for :func:`jaxcomp.rewrite.quantize`.

    Args:
      steps: the state of a tensor.
      bits: its format, or the bits of its integers.

    Example:
      >>> steps = lsq(4).init(jnp.array([0.5, -0.5]))
      >>> grid_of(steps, 4).scale.round(3).tolist()
      [0.37800002098083496]
    """
    grid = learning_grid(steps)
    affine = jnp.issubdtype(grid.zero_point.dtype, jnp.floating)
    return settled(grid, as_format(bits, symmetric=not affine))
