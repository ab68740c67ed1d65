"""GPTQ: weights rounded input after input, those that follow making up for each; and codes changed one at a time."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxcomp.core.cholesky import product
from jaxcomp.core.quadratic import inverse_factor
from jaxcomp.core.types import Grid
from jaxcomp.quant.formats import Format
from jaxcomp.quant.ranges import quantized


class Order(NamedTuple):
    """In what order a layer's inputs are rounded, and how those that follow make up for each.

    Attributes:
      rows: which input comes when, ``[groups, reduction, 1]``.
      upper: of their second moment in that order, :func:`jaxcomp.core.quadratic.inverse_factor`.
    """

    rows: Array
    upper: Array


def order_of(moment: Array, act_order: bool = True) -> Order:
    """The order of :func:`gptq`, of which the factorization, reduction^3, is made once for any number of grids."""
    if not act_order:
        return Order(
            jnp.broadcast_to(jnp.arange(moment.shape[1])[:, None], (*moment.shape[:2], 1)), inverse_factor(moment)
        )
    rows = jnp.argsort(-jnp.diagonal(moment, axis1=1, axis2=2), axis=1, stable=True)[..., None]
    moment = jnp.take_along_axis(jnp.take_along_axis(moment, rows, 1), rows.swapaxes(1, 2), 2)
    return Order(rows, inverse_factor(moment))


class Choices(NamedTuple):
    """The numbers that weights can become, and what each costs beside the error that it makes.

    Attributes:
      levels: ``[k]``, in units of a weight's scale.
      bits: ``[tables, k]``, what each costs.
      which: ``[groups, rows, out]``, the table of each weight.
      price: ``[groups, 1, out]``, of a bit, in squared errors of an output.
    """

    levels: Any
    bits: Any
    which: Any
    price: Any

    def cheapest(self, wanted: Array, scale: Array, which: Array, share: Array) -> Array:
        r"""What weights become: :math:`\arg\min_l (w - l)^2 + s\, p\, b(l)`, errors of outputs being those over s."""
        values = self.levels[None, None] * scale[..., None]
        costs = jnp.square(wanted[..., None] - values) + (self.price[:, 0] * share)[..., None] * self.bits[which]
        return jnp.take_along_axis(values, jnp.argmin(costs, -1)[..., None], -1)[..., 0]


@functools.partial(jax.jit, static_argnames=("format", "act_order", "block"))
def gptq(
    weight: Array,
    moment: Array | Order,
    grid: Grid,
    format: Format,
    kept: Array | bool = True,
    *,
    act_order: bool = True,
    block: int = 64,
) -> Array:
    r"""Rounds a layer so that its outputs stay near what they were: :math:`\operatorname{tr} (W - W')^\top H (W - W')`.

    Row after row is rounded to the nearest, and its error taken from the rows that follow
    (``swept``). Costs reduction^3 + reduction^2 x out.

    Args:
      weight: W ``[groups, reduction, out]``.
      moment: H ``[groups, reduction, reduction]``, positive definite (``jaxcomp.core.quadratic.damped``); or what
        ``order_of`` makes of it.
      grid: whose numbers broadcast against the weight.
      format: of the codes.
      kept: where it is False, weights become 0; broadcasts against the weight.
      act_order: whether the inputs of the largest squares come first; else they come in order.
      block: rows after which errors are taken from all that follow; does not change the result.

    Returns:
      ``[groups, reduction, out]``, on the grid.

    Example:
      >>> unit = Grid(jnp.ones((1, 1, 1)), jnp.zeros((1, 1, 1), int))
      >>> alike = jnp.array([[[1.0, 0.9], [0.9, 1.0]]])
      >>> from jaxcomp.quant.formats import integer
      >>> gptq(jnp.array([[[0.4], [0.4]]]), alike, unit, integer(4)).ravel().tolist()
      [0.0, 1.0]

    Reference: Frantar et al., GPTQ, 2023; Frantar and Alistarh, Optimal brain compression, 2022.
    """
    rows, upper = moment if isinstance(moment, Order) else order_of(moment, act_order)
    numbers = [jnp.broadcast_to(x, weight.shape) for x in (grid.scale, grid.zero_point, kept)]
    weight, *numbers = (jnp.take_along_axis(x, rows, 1) for x in (weight, *numbers))
    new = _swept(weight, None, upper, numbers, 1, format, block, fixes=True)
    return jnp.take_along_axis(new, jnp.argsort(rows, axis=1), 1)


@functools.partial(jax.jit, static_argnames=("format", "sweeps", "block"))
def descend(
    weight: Array,
    start: Array,
    moment: Array,
    grid: Grid,
    format: Format,
    kept: Array | bool = True,
    *,
    sweeps: int = 4,
    block: int = 64,
) -> Array:
    r"""Changes one input's weights at a time to the codes that are best beside all others; the error never rises.

    :math:`w'_i \leftarrow \mathrm{round}(w'_i - [H (W' - W)]_i / H_{ii})`. A sweep costs reduction^2 x out.

    Args:
      weight: W ``[groups, reduction, out]``: what is aimed at.
      start: of its shape, on the grid.
      moment, grid, format, kept: as of :func:`gptq`.
      sweeps: over all inputs.
      block: rows after which what they change in all others is added up; does not change the result.

    Returns:
      ``[groups, reduction, out]``, on the grid.

    Example:
      >>> unit = Grid(jnp.ones((1, 1, 1)), jnp.zeros((1, 1, 1), int))
      >>> alike = jnp.array([[[1.0, 0.9], [0.9, 1.0]]])
      >>> from jaxcomp.quant.formats import integer
      >>> descend(jnp.full((1, 2, 1), 0.4), jnp.zeros((1, 2, 1)), alike, unit, integer(4)).ravel().tolist()
      [1.0, 0.0]

    Reference: Behdin et al., QuantEase, 2023.
    """
    numbers = [jnp.broadcast_to(x, weight.shape) for x in (grid.scale, grid.zero_point, kept)]
    return _swept(start, product(moment, start - weight), moment, numbers, sweeps, format, block, fixes=False)


def _swept(
    start: Array,
    slope: Array | None,
    lines: Array,
    numbers: Any,
    sweeps: int,
    format: Format,
    block: int,
    fixes: bool,
) -> Array:
    """As ``swept``, of any size, under jit."""
    size = start.shape[1]
    block = min(block, size)
    blocks = -(-size // block)
    beyond = (0, blocks * block - size)

    def padded(x: Array, value: int = 0) -> Array:
        return jnp.pad(x, ((0, 0), beyond, (0, 0)), constant_values=value)

    scale, zero_point, kept = numbers
    over = padded(jnp.diagonal(lines, axis1=1, axis2=2)[..., None], 1)
    slope = jnp.zeros_like(start) if slope is None else slope
    given = *map(padded, (start, slope)), jnp.pad(lines, ((0, 0), beyond, beyond)), over
    return swept(*given, (padded(scale, 1), padded(zero_point), padded(kept)), blocks, sweeps, fixes, format, block)[
        :, :size
    ]


@functools.partial(jax.jit, static_argnames=("format", "block"))
def swept(
    start: Array,
    slope: Array,
    lines: Array,
    over: Array,
    numbers: tuple[Array, Array, Array],
    blocks: int | Array,
    sweeps: int | Array,
    fixes: bool | Array,
    format: Format | None,
    block: int,
    choices: Choices | None = None,
) -> Array:
    """Rounds row after row; what that changes is taken from those that follow, of other blocks once theirs is done.

    Args:
      start: ``[groups, rows, out]``, a multiple of ``block`` rows.
      slope: of its shape: what each row is off by, times ``over``; of weights to fix 0.
      lines: ``[groups, rows, rows]``: by how much a row changes the slopes of all others.
      over: their diagonal, ``[groups, rows, 1]``, 1 beyond the last row.
      numbers: scale, zero point, and what is kept, of the shape of ``start``.
      blocks: how many are swept; rows beyond them stay.
      sweeps: over all of them.
      fixes: whether ``lines`` are of :func:`gptq`, which fixes rows, or of :func:`descend`, which changes codes.
      format: of the codes; None with ``choices``.
      block: rows after which what they change in all others is added up.
      choices: what weights can become, if that is not the nearest on their grids.
    """

    def some(k: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        first = k % blocks * block

        def cut(x: Array, axis: int = 1) -> Array:
            return lax.dynamic_slice_in_dim(x, first, block, axis)

        now, slope = carry
        rows, slopes, scales, zeros, keeps, overs, own = map(cut, (now, slope, *numbers, over, lines))
        inner = cut(own, 2)
        tables: Any = None if choices is None else cut(choices.which)

        def row(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            rows, changes = carry
            steep = slopes[:, i] + product(inner[:, None, :, i], changes)[:, 0]
            wanted = rows[:, i] - jnp.where(fixes, steep, steep / overs[:, i])
            if choices is None:
                assert format is not None
                moved = quantized(wanted, Grid(scales[:, i], zeros[:, i]), format)
            else:
                share = jnp.where(fixes, jnp.square(overs[:, i]), 1 / overs[:, i])
                moved = choices.cheapest(wanted, scales[:, i], tables[:, i], share)
            best = jnp.where(keeps[:, i], moved, 0)
            change = jnp.where(fixes, (wanted - best) / overs[:, i], best - rows[:, i])
            return rows.at[:, i].set(best), changes.at[:, i].set(change)

        rows, changes = lax.fori_loop(0, block, row, (rows, jnp.zeros_like(slopes)))
        slope = slope + product(own.swapaxes(1, 2), changes)
        return lax.dynamic_update_slice_in_dim(now, rows, first, 1), slope

    return lax.fori_loop(0, sweeps * blocks, some, (start, slope))[0]
