"""GPTQ: weights rounded input after input, those that follow making up for each; and codes changed one at a time.

On the host, as the moments are: BLAS adds up what blocks of rows change in others, and programs of few shapes round the
rows of a block. What one layer alone would compile takes longer than to round it.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxcomp.core.arrays import check_values
from jaxcomp.core.cholesky import product
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.factored import Factored
from jaxcomp.core.halves import blocks
from jaxcomp.core.meshes import on_set_mesh
from jaxcomp.core.types import Grid
from jaxcomp.quant.formats import Format
from jaxcomp.quant.layer import check_layer
from jaxcomp.quant.padded import common, padded, power
from jaxcomp.quant.ranges import quantized

BLOCK = 64
"""Rows after which what they change in all others is added up."""
COLUMNS = (8, 64, 256)
"""Sizes to which the columns of layers in groups are padded; of more there are several such parts."""
WIDE = 2048
"""Columns that are rounded side by side, where there are half as many."""
LEFT = 0.9
"""The part of outputs that are not given up, below which only they are gone on with."""
LEVELS = (16, 64, 256)
"""Sizes to which the numbers are padded that weights can become."""
TABLES = 32
"""Tables of code lengths, at least."""


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
        r"""Chooses for each weight :math:`\arg\min_l (w - l)^2 + s\, p\, b(l)`, errors of outputs being those over s.

        Args:
          wanted: w ``[...]``.
          scale: of each weight.
          which: the table of bits of each weight.
          share: s.
        """
        values = self.levels[None, None] * scale[..., None]
        costs = jnp.square(wanted[..., None] - values) + (self.price[:, 0] * share)[..., None] * self.bits[which]
        return jnp.take_along_axis(values, jnp.argmin(costs, -1)[..., None], -1)[..., 0]


def gptq(
    weight: Any,
    moment: Any,
    grid: Grid,
    format: Format,
    kept: Any = True,
    *,
    act_order: bool = True,
    block: int = BLOCK,
) -> np.ndarray:
    r"""Rounds a layer so that its outputs change least: :math:`\operatorname{tr} (W - W')^\top H (W - W')`.

    Row after row is rounded to the nearest, and its error taken from the rows that follow. Costs reduction^3 +
    reduction^2 x out.

    Args:
      weight: W ``[groups, reduction, out]``.
      moment: H ``[groups, reduction, reduction]``, positive definite (``jaxcomp.core.quadratic.damped``).
      grid: its numbers broadcast against the weight.
      format: of the codes.
      kept: where it is False, weights become 0; broadcasts against the weight.
      act_order: whether the inputs of the largest squares come first; else they come in order.
      block: rows after which errors are taken from all that follow; does not change the result.

    Returns:
      ``[groups, reduction, out]``, on the grid.

    Raises:
      ArgumentError: for a layer whose parts do not fit or are no numbers, a moment that is not positive
        definite, and inside of jit.

    Example:
      >>> unit = Grid(jnp.ones((1, 1, 1)), jnp.zeros((1, 1, 1), int))
      >>> alike = jnp.array([[[1.0, 0.9], [0.9, 1.0]]])
      >>> from jaxcomp.quant.formats import integer
      >>> gptq(jnp.array([[[0.4], [0.4]]]), alike, unit, integer(4)).ravel().tolist()
      [0.0, 1.0]

    Reference: Frantar et al., GPTQ, 2023; Frantar and Alistarh, Optimal brain compression, 2022.
    """
    check_values({"weight": weight, "moment": moment, "grid": grid, "kept": kept}, "gptq")
    check_layer(weight, moment, grid, format, kept)
    inputs = Factored.of(moment, None, act_order)
    if np.size(moment) and np.isnan(inputs.upper).any():
        raise ArgumentError("moment must be positive definite: raise its diagonal by a hundredth of its mean")
    return fixed(np.asarray(weight), inputs, _numbers(grid, kept, np.shape(weight)), format, block)[0]


def fixed(
    weight: np.ndarray,
    inputs: Factored,
    numbers: Sequence[np.ndarray],
    format: Format | None,
    block: int = BLOCK,
    choices: Choices | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Rounds a layer as :func:`gptq` does, by a moment that is factored.

    Args:
      weight: ``[groups, n, out]``.
      inputs: their moment.
      numbers: scale, zero point and what is kept, of the shape of the weight.
      format: of the codes; None with ``choices``.
      block: rows after which errors are taken from all that follow.
      choices: the numbers that weights can become, if that is not the nearest on their grids.

    Returns:
      The weights, and the squared error of each output, ``[groups, 1, out]``, float64.
    """
    weight, *numbers = (inputs.in_order(x) for x in (weight, *numbers))
    choices = choices and choices._replace(which=inputs.in_order(choices.which))
    new, errors = fixed_in_order(weight, inputs.upper, numbers, format, block, choices)
    return inputs.as_before(new), errors


def fixed_in_order(
    weight: np.ndarray,
    upper: np.ndarray,
    numbers: Sequence[np.ndarray],
    format: Format | None,
    block: int = BLOCK,
    choices: Choices | None = None,
    most: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Rounds a layer as :func:`fixed` does, whose inputs are in order already.

    Args:
      weight, numbers, format, block, choices: see there.
      upper: ``[groups, n, n]``, U of the inputs (:class:`jaxcomp.core.factored.Factored`).
      most: the squared error of each output, ``[groups, 1, out]``, beyond which it is given up: infinite then.
    """
    new, choices = np.empty_like(weight), choices and _padded_choices(choices)

    def step(here: slice, columns: Any, slopes: np.ndarray) -> np.ndarray:
        own = choices and choices._replace(
            which=choices.which[:, here][..., columns], price=choices.price[..., columns]
        )
        now, *some = (x[:, here][..., columns] for x in (weight, *numbers))
        new[:, here, columns], changes = _rounded(now, slopes, some, upper[:, here, here], own, True, format, block)
        return changes

    return new, _errors(upper, weight.shape, step, block, most)


def errors_in_order(
    change: np.ndarray, upper: np.ndarray, block: int = BLOCK, most: np.ndarray | None = None
) -> np.ndarray:
    r"""Computes :math:`\operatorname{diag} D^\top H D = |U^{-\top} D|^2`, row after row: as much as is not given up.

    Args:
      change: D ``[groups, n, out]``, in the order of U.
      upper, block, most: as of :func:`fixed_in_order`.

    Returns:
      ``[groups, 1, out]``, float64.
    """

    def step(here: slice, columns: Any, slopes: np.ndarray) -> np.ndarray:
        inverse = np.linalg.inv(upper[:, here, here]).swapaxes(1, 2)
        return np.matmul(inverse, change[:, here][..., columns] - slopes)

    return _errors(upper, change.shape, step, block, most)


def _errors(upper: np.ndarray, shape: Sequence[int], step: Any, block: int, most: np.ndarray | None) -> np.ndarray:
    """The squared errors of outputs, added up over blocks of rows; of those that are given up infinite.

    Args:
      upper: U ``[groups, n, n]``.
      shape: of the layer.
      step: ``(a block, which columns, what rows before it take from it) -> its errors``.
      block: rows.
      most: the errors beyond which outputs are given up; None: none is.
    """
    groups, size, outs = shape
    columns: Any = slice(None)
    found, changes = np.zeros((groups, 1, outs)), np.empty((groups, size, outs), np.float32)
    for here in blocks(size, block):
        slopes = np.matmul(upper[:, : here.start, here].swapaxes(1, 2), changes[:, : here.start])
        changes[:, here] = step(here, columns, slopes)
        found[..., columns] += np.sum(np.square(changes[:, here], dtype=np.float64), 1, keepdims=True)
        good = (found[..., columns] <= most[..., columns]).any((0, 1)) if most is not None else np.ones(1, bool)
        if good.mean() < LEFT:
            columns, less = np.arange(outs)[columns][good], np.empty((groups, size, good.sum()), np.float32)
            less[:, : here.stop] = changes[:, : here.stop, good]
            changes = less
            if not len(columns):
                break
    return found if most is None else np.where(found <= most, found, np.inf)


def descend(
    weight: Any,
    start: Any,
    moment: Any,
    grid: Grid,
    format: Format,
    kept: Any = True,
    *,
    sweeps: int = 4,
    block: int = BLOCK,
) -> np.ndarray:
    r"""Changes one input's weights at a time to the codes that are best beside all others; the error never rises.

    :math:`w'_i \leftarrow \mathrm{round}(w'_i - [H (W' - W)]_i / H_{ii})`. A sweep costs reduction^2 x out.

    Args:
      weight: W ``[groups, reduction, out]``: what is aimed at.
      start: of its shape, on the grid.
      moment: H ``[groups, reduction, reduction]``.
      grid, format, kept: as of :func:`gptq`.
      sweeps: over all inputs.
      block: rows after which what they change in all others is added up; does not change the result.

    Returns:
      ``[groups, reduction, out]``, on the grid.

    Raises:
      ArgumentError: for a layer whose parts do not fit or are no numbers, a moment without a positive
        diagonal, and inside of jit.

    Example:
      >>> unit = Grid(jnp.ones((1, 1, 1)), jnp.zeros((1, 1, 1), int))
      >>> alike = jnp.array([[[1.0, 0.9], [0.9, 1.0]]])
      >>> from jaxcomp.quant.formats import integer
      >>> descend(jnp.full((1, 2, 1), 0.4), jnp.zeros((1, 2, 1)), alike, unit, integer(4)).ravel().tolist()
      [1.0, 0.0]

    Reference: Behdin et al., QuantEase, 2023.
    """
    given = {"weight": weight, "start": start, "moment": moment, "grid": grid, "kept": kept}
    check_values(given, "descend")
    check_layer(weight, moment, grid, format, kept, start)
    weight, start, moment = map(np.asarray, (weight, start, moment))
    if not (np.diagonal(moment, axis1=1, axis2=2) > 0).all():
        raise ArgumentError("moment must be positive definite: there are numbers on its diagonal that are not above 0")
    return descended(weight, start, moment, _numbers(grid, kept, weight.shape), format, sweeps, block)


def descended(
    weight: np.ndarray,
    start: np.ndarray,
    moment: np.ndarray,
    numbers: Sequence[np.ndarray],
    format: Format | None,
    sweeps: int,
    block: int = BLOCK,
    choices: Choices | None = None,
) -> np.ndarray:
    """Rounds a layer as :func:`descend` does, on the host.

    Args:
      weight: W ``[groups, n, out]``.
      start: where to begin, likewise, on the grid.
      moment: H ``[groups, n, n]``.
      numbers, format, block, choices: as of :func:`fixed`.
      sweeps: over all rows.
    """
    now, off = start.copy(), start - weight
    choices = choices and _padded_choices(choices)
    for here in [*blocks(now.shape[1], block)] * sweeps:
        slopes, some = np.matmul(moment[:, here], off), [x[:, here] for x in numbers]
        own = choices and choices._replace(which=choices.which[:, here])
        now[:, here], changes = _rounded(now[:, here], slopes, some, moment[:, here, here], own, False, format, block)
        off[:, here] += changes
    return now


def _numbers(grid: Grid, kept: Any, shape: tuple[int, ...]) -> list[np.ndarray]:
    return [np.broadcast_to(np.asarray(x), shape) for x in (grid.scale, grid.zero_point, kept)]


def _rounded(
    now: np.ndarray,
    slopes: np.ndarray,
    numbers: Sequence[np.ndarray],
    lines: np.ndarray,
    choices: Choices | None,
    fixes: bool,
    format: Format | None,
    block: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The new rows of a block, and by what they change others: :func:`_block`, by programs of few shapes."""
    (groups, rows, total), first = now.shape, 0
    some = power(groups), block
    lines = padded(lines, (*some, block))
    lines[:, range(rows, block), range(rows, block)] = 1
    lines[groups:, range(rows), range(rows)] = 1
    new, changes = np.empty_like(now), np.empty_like(slopes)
    while first < total:
        wide = groups == 1 and total - first > WIDE // 2
        width = WIDE if wide else common(total, COLUMNS if groups > 1 else COLUMNS[-1:])
        end = min(first + width, total)

        def part(x: np.ndarray, value: Any = 0, own: slice = slice(first, end), width: int = width) -> np.ndarray:
            return padded(x[..., own], (*some, width), value)

        own = choices and choices._replace(
            which=part(choices.which), price=padded(choices.price[..., first:end], (some[0], 1, width))
        )
        each = [part(x, value) for x, value in zip(numbers, (1, 0, False), strict=True)]
        found = _block(*on_set_mesh((part(now), part(slopes), each, lines, own)), np.bool_(fixes), format)
        for whole, x in zip((new, changes), found, strict=True):
            whole[..., first:end] = np.asarray(x)[:groups, :rows, : end - first]
        first = end
    return new, changes


def _padded_choices(given: Choices) -> Choices:
    """With one of a few numbers of levels and tables; the last level again never is better than itself."""
    levels, bits = (np.asarray(x, np.float32) for x in (given.levels, given.bits))
    ends = (0, common(len(levels), LEVELS) - len(levels))
    tables = (0, max(TABLES - len(bits), 0))
    which, price = np.asarray(given.which, np.int32), np.asarray(given.price, np.float32)
    return Choices(np.pad(levels, ends, "edge"), np.pad(bits, (tables, ends), "edge"), which, price)


@functools.partial(jax.jit, static_argnames="format")
def _block(
    rows: Array,
    slopes: Array,
    numbers: Sequence[Array],
    lines: Array,
    choices: Choices | None,
    fixes: Array,
    format: Format | None,
) -> tuple[Array, Array]:
    """Rounds row after row; what that changes is taken from those that follow.

    Args:
      rows: ``[groups, block, out]``, as all other numbers of each weight are.
      slopes: what each row is off by, times the diagonal; of weights to fix, what is to be taken from it.
      numbers: scale, zero point, and what is kept.
      lines: ``[groups, block, block]``: by how much a row changes the slopes of all others.
      choices: the numbers that weights can become, if that is not the nearest on their grids.
      fixes: whether ``lines`` are of :func:`gptq`, which fixes rows, or of :func:`descend`, which changes codes.
      format: of the codes.
    """
    over = jnp.diagonal(lines, axis1=1, axis2=2)[..., None]

    def row(changes: Array, own: Any) -> tuple[Array, Array]:
        i, now, slope, line, over, (scale, zero_point, kept), which = own
        steep = slope + product(line[:, None], changes)[:, 0]
        wanted = now - jnp.where(fixes, steep, steep / over)
        if choices is None:
            assert format is not None
            moved = quantized(wanted, Grid(scale, zero_point), format)
        else:
            moved = choices.cheapest(wanted, scale, which, jnp.where(fixes, jnp.square(over), 1 / over))
        best = jnp.where(kept, moved, 0)
        change = jnp.where(fixes, (wanted - best) / over, best - now)
        return changes.at[:, i].set(change), best

    # Rows first, so that each is read in one piece: five times as fast on CPUs as rows of an array that is carried.
    which = rows if choices is None else choices.which
    own = rows, slopes, lines.swapaxes(1, 2), over, list(numbers), which
    each = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), own)
    changes, new = lax.scan(row, jnp.zeros_like(slopes), (jnp.arange(rows.shape[1]), *each))
    return jnp.moveaxis(new, 0, 1), changes
