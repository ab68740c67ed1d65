"""A layer that is rounded on the moment of its inputs: what does not fit together is refused before it is computed."""

from typing import Any

import numpy as np

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.finite import check_finite
from jaxcomp.core.leaves import is_real
from jaxcomp.core.types import Grid
from jaxcomp.quant.formats import Format

WHY = "for which no weights can be found"


def check_layer(weight: Any, moment: Any, grid: Grid, format: Format, kept: Any = True, start: Any = None) -> None:
    """Refuses a layer whose parts do not fit, or are no numbers; of traced ones what can be looked at is.

    Args:
      weight: ``[groups, reduction, out]``, real floating point.
      moment: ``[groups, reduction, reduction]``, likewise.
      grid: of numbers that broadcast against the weight, or in blocks.
      format: of the codes.
      kept: broadcasts against the weight.
      start: of its shape, or None.

    Raises:
      ArgumentError: names the argument, and what came.

    Example:
      >>> from jaxcomp.quant.formats import integer
      >>> check_layer(np.ones((2, 3)), np.eye(3), Grid(np.ones(1), np.zeros(1, int)), integer(4))
      Traceback (most recent call last):
      ...
      jaxcomp.core.errors.ArgumentError: weight must be real floating point [groups, reduction, out], got float64 of ...
    """
    real = {"weight": weight, "moment": moment} | ({} if start is None else {"start": start})
    for name, value in real.items():
        what = "[groups, reduction, reduction]" if name == "moment" else "[groups, reduction, out]"
        if not is_real(value) or np.ndim(value) != 3:
            raise ArgumentError(f"{name} must be real floating point {what}, got {_said(value)}")
    groups, size, _ = weight.shape
    if moment.shape != (groups, size, size):
        raise ArgumentError(f"moment must be {(groups, size, size)} for weights {weight.shape}, got {moment.shape}")
    if start is not None and start.shape != weight.shape:
        raise ArgumentError(f"start must be of the weight's shape {weight.shape}, got {start.shape}")
    if not isinstance(format, Format):
        raise ArgumentError(f"format must be a jc.quant.Format, as jc.quant.integer(4) is, got {format!r:.40}")
    numbers = {"kept": kept} | ({} if grid.block else {"grid.scale": grid.scale, "grid.zero_point": grid.zero_point})
    for name, value in numbers.items():
        try:
            fits = np.broadcast_shapes(np.shape(value), weight.shape) == weight.shape
        except ValueError:
            fits = False
        if not fits:
            raise ArgumentError(f"{name} must broadcast against the weight {weight.shape}, got {_said(value)}")
    check_finite(real | {"grid.scale": grid.scale}, why=WHY)


def _said(value: Any) -> str:
    return f"{getattr(value, 'dtype', type(value).__name__)} of shape {np.shape(value)}"
