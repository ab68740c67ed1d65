"""Layer inputs as they will be once they are quantized."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.leaves import wide
from jaxcomp.core.meshes import automatic, is_explicit
from jaxcomp.core.programs import compiled
from jaxcomp.core.types import Grid
from jaxcomp.observe.held_out import Examples
from jaxcomp.quant.fake import fake_quantize, fit_grid
from jaxcomp.quant.formats import Format
from jaxcomp.rewrite.quant.targets import Target, Targets
from jaxcomp.trace.ir import Node
from jaxcomp.trace.uses import Use, Uses

Altered = Callable[[Any, Examples], Any]
"""``(what a site reads, the examples of the batch) -> what it will read``."""


def altered_inputs(targets: Targets, uses: Mapping[str, Uses], ranges: Mapping[str, Grid]) -> dict[Node, Altered]:
    """Returns how the inputs of each site are quantized, the same function where it is the same; not inside of scans.

    Examples that are held out are quantized by grids that they had no part in, if those are known: so unseen ones are.

    Args:
      targets: the weights that are quantized.
      uses: of the parameters, by path.
      ranges: of static inputs, by path.

    Raises:
      ArgumentError: for static inputs without a range; the weight is named.
    """
    found, judging, alike = {}, getattr(ranges, "judging", {}), dict[Any, Altered]()
    for path, target in targets.weights.items():
        if target.scheme.inputs == "static" and path not in ranges:
            raise ArgumentError(
                f"the range of the inputs of {path!r} is not known: give ranges= of "
                "jaxcomp.rewrite.calibrate, or a scheme with inputs='dynamic' or None for it"
            )
        for use in uses[path].sites if target.scheme.inputs is not None else ():
            if not use.scans:
                own = _altered(target, use, ranges.get(path), judging.get(path))
                found[use.node] = alike.setdefault(_kind(target, use, ranges.get(path), judging.get(path)), own)
    return found


def _kind(target: Target, use: Use, *grids: Grid | None) -> Any:
    """Tells whether inputs are altered alike, by equality."""
    numbers = [None if own is None else [np.asarray(x).tolist() for x in own[:2]] for own in grids]
    return target.scheme.input_format, repr((target.scheme.inputs, use.input.rows, numbers))


def _altered(target: Target, use: Use, grid: Grid | None, judging: Grid | None) -> Altered:
    either = _either(target.scheme.input_format, use.input.rows if target.scheme.inputs == "dynamic" else None)

    def altered(x: Any, examples: Examples) -> Any:
        if judging is None:
            return either(x, (grid,), None)
        return either(x, (grid, judging), np.asarray(examples.fitted_kinds[examples.kinds(x.shape)]))

    return altered


@functools.lru_cache(256)
def _either(format: Format, rows: tuple[int, ...] | None) -> Any:
    """Rounds inputs on one of some grids; dynamic ones on that which fits what these axes share."""

    def quantized(x: Any, grid: Grid | None) -> Any:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        if rows is not None:
            grid = fit_grid(x.astype(wide(x.dtype)), format, rows)
        else:
            assert grid is not None
            one = (1,) * x.ndim
            grid = Grid(jnp.reshape(grid.scale, one), jnp.reshape(grid.zero_point, one))
        return fake_quantize(x, grid, format)

    @compiled
    def either(x: Any, grids: tuple[Grid | None, ...], fitted: Any) -> Any:
        values = [quantized(x, each) for each in grids]
        layout = jax.typeof(x).sharding if is_explicit(x) else None
        return values[0] if fitted is None else automatic(jnp.where, fitted, *values, out=layout)

    return either
