"""Observers: from what was seen of values to the range that their codes span."""

from typing import Literal

import jax.numpy as jnp
import numpy as np

from jaxcomp.core.types import Grid
from jaxcomp.quant.fake import code_range, fit_grid

ObserverName = Literal["minmax", "average", "percentile", "mse"]

Range = tuple[np.ndarray, np.ndarray]
"""The least and the greatest value, ``[...]`` each; the least is at most 0, the greatest at least 0."""


def range_grid(low: np.ndarray, high: np.ndarray, bits: int, symmetric: bool) -> Grid:
    """The grid that spans a range, as :func:`jaxcomp.quant.fit_grid` would fit it to values of that range.

    Args:
      low: ``[...]``, at most 0.
      high: ``[...]``, at least 0.
      bits: 2 to 8.
      symmetric: whether codes lie evenly about 0.

    Returns:
      A grid of the range's shape.

    Example:
      >>> range_grid(np.float32(-1.0), np.float32(1.55), bits=8, symmetric=False).zero_point.tolist()
      -28
    """
    ends = jnp.asarray(np.stack([low, high]), jnp.float32)
    grid = fit_grid(ends, bits, tuple(range(1, ends.ndim)), symmetric)
    return Grid(*(part[0] for part in grid))


def moving_average(ranges: list[Range], momentum: float) -> Range:
    """The exponential moving average of ranges, one a batch, in order: ``r <- momentum r + (1 - momentum) new``.

    Starts with the first one.

    Example:
      >>> low, high = moving_average([(np.float64(0), np.float64(1)), (np.float64(-1), np.float64(3))], momentum=0.5)
      >>> float(low), float(high)
      (-0.5, 2.0)

    Reference: Jacob et al., Quantization and training of neural networks for integer-arithmetic-only inference, 2018.
    """
    (low, high), *rest = ranges
    for new_low, new_high in rest:
        low, high = momentum * low + (1 - momentum) * new_low, momentum * high + (1 - momentum) * new_high
    return low, high


def percentile_range(counts: np.ndarray, low: np.ndarray, high: np.ndarray, percentile: float) -> Range:
    """The range without what lies beyond a percentile at either end: ``[quantile(1 - p), quantile(p)]``, through 0.

    Args:
      counts: ``[..., bins]``, how many values fell into each of the bins that divide the range evenly.
      low: ``[...]``, where the first bin starts.
      high: ``[...]``, where the last bin ends.
      percentile: above 50, at most 100.

    Returns:
      The smaller range; it ends at edges of bins, outwards.

    Example:
      >>> low, high = percentile_range(np.array([1, 49, 0, 49, 1]), np.float64(-1), np.float64(1.5), percentile=98)
      >>> low.round(6).item(), high.round(6).item()
      (-0.5, 1.0)

    Reference: Wu et al., Integer quantization for deep learning inference, 2020.
    """
    total = counts.sum(-1, keepdims=True)
    width = (high - low) / counts.shape[-1]
    beyond = total * (1 - percentile / 100) * (1 + 1e-9)
    below = (np.cumsum(counts, -1) <= beyond).sum(-1)
    above = (np.cumsum(counts[..., ::-1], -1) <= beyond).sum(-1)
    return np.minimum(low + below * width, 0), np.maximum(high - above * width, 0)


def mse_range(
    counts: np.ndarray, low: np.ndarray, high: np.ndarray, bits: int, symmetric: bool, shares: int = 100
) -> Range:
    """The share of the range, from 1 / ``shares`` to all, at which codes miss the values least in the mean square.

    Args:
      counts: ``[..., bins]``, how many values fell into each of the bins that divide the range evenly.
      low: ``[...]``, where the first bin starts.
      high: ``[...]``, where the last bin ends.
      bits: 2 to 8.
      symmetric: whether codes lie evenly about 0.
      shares: how many are tried.

    Returns:
      The smaller range.

    Example:
      >>> counts = np.zeros(1000); counts[:500] = 1; counts[-1] = 1
      >>> low, high = mse_range(counts, np.float64(0), np.float64(1), bits=2, symmetric=False)
      >>> high.round(6).item()
      0.44

    Reference: Choukroun et al., Low-bit quantization of neural networks for efficient inference, 2019.
    """
    bottom, top = code_range(bits, symmetric)
    steps = (np.arange(counts.shape[-1]) + 0.5) / counts.shape[-1]
    values = low[..., None] + (high - low)[..., None] * steps
    best, least = np.ones(np.shape(low)), np.full(np.shape(low), np.inf)
    for share in np.arange(1, shares + 1) / shares:
        grid = range_grid(low * share, high * share, bits, symmetric)
        scale, zero_point = (np.asarray(part, np.float64)[..., None] for part in grid)
        codes = np.clip(np.round(values / scale) + zero_point, bottom, top)
        error = (counts * (values - (codes - zero_point) * scale) ** 2).sum(-1)
        best, least = np.where(error < least, share, best), np.minimum(error, least)
    return low * best, high * best
