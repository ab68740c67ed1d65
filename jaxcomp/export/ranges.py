"""The ranges of values inside a function on data, for grids that a runtime needs and the function does not have."""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.trace.ir import Program, Value
from jaxcomp.trace.observer import Observer


def ranges_of(
    program: Program, values: Sequence[Value], leaves: Sequence[Any], batches: Iterable[tuple[Any, ...]]
) -> list[tuple[float, float]]:
    """Measures the least and the greatest number of each value on all batches; the range always takes in 0.

    Args:
      program: a traced function.
      values: of its outermost body.
      leaves: of the parameters.
      batches: tuples of the other arguments, of the shapes that it was traced for.
    """
    if not values:
        return []
    observer = Observer(program, dict.fromkeys(values, _ends), join=jnp.maximum)
    ends = jax.jit(lambda leaves, inputs: observer([*leaves, *jax.tree.leaves(inputs)])[1])
    seen = np.max([np.asarray(ends(list(leaves), batch)) for batch in batches], axis=0)
    return [(-float(low), float(high)) for low, high in seen]


def _ends(x: jax.Array) -> jax.Array:
    """Minus the least and the greatest number, both at least 0."""
    x = x.astype(jnp.float32)
    return jnp.maximum(jnp.stack([-jnp.min(x), jnp.max(x)]), 0)
