"""What a walk sums up over its batches: moments of what a site reads, and the squares of errors."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxcomp.core.leaves import wide
from jaxcomp.core.meshes import automatic
from jaxcomp.core.programs import compiled
from jaxcomp.core.units import unit
from jaxcomp.observe.held_out import Examples
from jaxcomp.observe.matrices import input_rows
from jaxcomp.observe.row_moments import sums_of
from jaxcomp.trace.scaled import by_factor
from jaxcomp.trace.uses import Use


def sums_at(
    use: Use, places: int | None, examples: Sequence[Examples], now: Sequence[Any], old: Sequence[Any], weight: Any
) -> Any:
    """The moments of some batches, apart for the examples to fit to and for those that are held out."""
    changes = [before.astype(wide(before.dtype)) - x.astype(wide(x.dtype)) for x, before in zip(now, old, strict=True)]
    parts = [[by_factor(use, input_rows(use, x, places)) for x in values] for values in (now, changes)]
    count = parts[0][0].shape[1]
    splits = [own.split_rows(use, count) for own in examples]
    takes = [np.concatenate([take + i * count for i, take in enumerate(half)]) for half in zip(*splits, strict=True)]
    rows = [automatic(lambda *own: jnp.concatenate(own, 1), *own) if len(own) > 1 else own[0] for own in parts]
    return sums_of(rows[0], rows[1], weight, takes)


@functools.lru_cache(256)
def squares_of(examples: Examples) -> Callable[..., Any]:
    return compiled(functools.partial(_squares, examples))


def _squares(examples: Examples, new: Any, old: Any, leak: Any) -> tuple[Any, Any]:
    new = new if leak is None else new.astype(leak.dtype) + leak
    real = wide(new.dtype, old.dtype)
    new, old = (examples.held_of(x).astype(real) for x in (new, old))
    size = unit(jnp.maximum(jnp.max(jnp.abs(new), initial=0), jnp.max(jnp.abs(old), initial=0)))
    return size, jnp.stack([jnp.sum(jnp.square(x / size), 1) for x in (new - old, old)])
