"""GPTQ: weights rounded input after input, those that follow making up for each; and codes changed one at a time.

On the host, as the moments are: BLAS adds up what blocks of rows change in others, and programs of few shapes round the
rows of a block. What one layer alone would compile takes longer than to round it.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxcomp.core.cholesky import product
from jaxcomp.core.factored import Factored
from jaxcomp.core.meshes import on_set_mesh
from jaxcomp.core.types import Grid
from jaxcomp.quant.formats import Format
from jaxcomp.quant.padded import common, padded, power
from jaxcomp.quant.ranges import quantized

BLOCK = 64
"""Rows after which what they change in all others is added up."""
COLUMNS = (8, 64, 256)
"""Sizes to which the columns of layers in groups are padded; of more there are several such parts."""
WIDE = 2048
"""Columns that are rounded side by side, where there are so many."""
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

    Example:
      >>> unit = Grid(jnp.ones((1, 1, 1)), jnp.zeros((1, 1, 1), int))
      >>> alike = jnp.array([[[1.0, 0.9], [0.9, 1.0]]])
      >>> from jaxcomp.quant.formats import integer
      >>> gptq(jnp.array([[[0.4], [0.4]]]), alike, unit, integer(4)).ravel().tolist()
      [0.0, 1.0]

    Reference: Frantar et al., GPTQ, 2023; Frantar and Alistarh, Optimal brain compression, 2022.
    """
    inputs = Factored.of(moment, None, act_order)
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
    order = inputs.order[..., None]
    new, errors = np.empty_like(weight), np.empty((len(weight), 1, weight.shape[2]))
    lines = _padded_lines(inputs.upper, block)
    for part in _parts([weight], numbers, block, choices, order):
        (now,) = part.values
        changes = np.zeros_like(now)
        for here in _blocks(now, block):
            slopes = np.matmul(lines[:, : here.start, here].swapaxes(1, 2), changes[:, : here.start])
            now[:, here], changes[:, here] = part.rounded(now, slopes, lines, here, True, format)
        new[..., part.some] = np.take_along_axis(part.own(now, weight), np.argsort(order, axis=1), 1)
        errors[..., part.some] = np.sum(np.square(part.own(changes, weight), dtype=np.float64), 1, keepdims=True)
    return new, errors


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

    Example:
      >>> unit = Grid(jnp.ones((1, 1, 1)), jnp.zeros((1, 1, 1), int))
      >>> alike = jnp.array([[[1.0, 0.9], [0.9, 1.0]]])
      >>> from jaxcomp.quant.formats import integer
      >>> descend(jnp.full((1, 2, 1), 0.4), jnp.zeros((1, 2, 1)), alike, unit, integer(4)).ravel().tolist()
      [1.0, 0.0]

    Reference: Behdin et al., QuantEase, 2023.
    """
    weight, start, moment = map(np.asarray, (weight, start, moment))
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
    lines, new = _padded_lines(moment, block), np.empty_like(start)
    for part in _parts([start, weight], numbers, block, choices):
        now, aim = part.values
        off = now - aim
        for here in [*_blocks(now, block)] * sweeps:
            slopes = np.matmul(lines[:, here], off)
            now[:, here], changes = part.rounded(now, slopes, lines, here, False, format)
            off[:, here] += changes
        new[..., part.some] = part.own(now, weight)
    return new


def _numbers(grid: Grid, kept: Any, shape: tuple[int, ...]) -> list[np.ndarray]:
    return [np.broadcast_to(np.asarray(x), shape) for x in (grid.scale, grid.zero_point, kept)]


def _padded_lines(lines: np.ndarray, block: int) -> np.ndarray:
    """A matrix of each group, of as many groups and blocks as are swept; its diagonal 1 beyond what there is."""
    groups, size = lines.shape[:2]
    length = -(-size // block) * block
    if (power(groups), length) == (groups, size):
        return lines
    found = padded(lines, (power(groups), length, length))
    found[:, range(size, length), range(size, length)] = 1
    found[groups:, range(size), range(size)] = 1
    return found


class _Part(NamedTuple):
    """Some columns of a layer, padded.

    Attributes:
      some: which they are.
      values: of each weight.
      numbers: scale, zero point and what is kept.
      choices: the numbers that weights can become.
    """

    some: slice
    values: list[np.ndarray]
    numbers: list[np.ndarray]
    choices: Choices | None

    def own(self, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Returns what is not padding."""
        return x[: len(weight), : weight.shape[1], : self.some.stop - self.some.start]

    def rounded(
        self, now: np.ndarray, slopes: np.ndarray, lines: np.ndarray, here: slice, fixes: bool, format: Format | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The new rows of a block, and by what they change others."""
        choices = None if self.choices is None else self.choices._replace(which=self.choices.which[:, here])
        given = now[:, here], slopes, [x[:, here] for x in self.numbers], lines[:, here, here], choices
        rows, changes = _block(*on_set_mesh(given), np.bool_(fixes), format)
        return np.asarray(rows), np.asarray(changes)


def _parts(
    values: Sequence[np.ndarray],
    numbers: Sequence[np.ndarray],
    block: int,
    choices: Choices | None,
    order: np.ndarray | None = None,
) -> Iterator[_Part]:
    """Some columns of a layer after another, their rows in an order."""
    groups, size, total = values[0].shape
    rows, first = -(-size // block) * block, 0
    choices = None if choices is None else _padded_choices(choices)
    while first < total:
        width = common(total, COLUMNS if groups > 1 else COLUMNS[-1:])
        width = WIDE if groups == 1 and total - first >= WIDE else width
        some = slice(first, min(first + width, total))

        def part(x: np.ndarray, value: Any = 0, some: slice = some, width: int = width) -> np.ndarray:
            own = x[..., some] if order is None else np.take_along_axis(x[..., some], order, 1)
            return padded(own, (power(groups), rows, width), value)

        scale, zero_point, kept = numbers
        own = choices and choices._replace(
            which=part(choices.which), price=padded(choices.price[..., some], (power(groups), 1, width))
        )
        yield _Part(some, [*map(part, values)], [part(scale, 1), part(zero_point), part(kept, False)], own)
        first = some.stop


def _padded_choices(given: Choices) -> Choices:
    """With one of a few numbers of levels and tables; the last level again never is better than itself."""
    levels, bits = (np.asarray(x, np.float32) for x in (given.levels, given.bits))
    ends = (0, common(len(levels), LEVELS) - len(levels))
    tables = (0, max(TABLES - len(bits), 0))
    which, price = np.asarray(given.which, np.int32), np.asarray(given.price, np.float32)
    return Choices(np.pad(levels, ends, "edge"), np.pad(bits, (tables, ends), "edge"), which, price)


def _blocks(x: np.ndarray, block: int) -> Iterator[slice]:
    return (slice(first, first + block) for first in range(0, x.shape[1], block))


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
