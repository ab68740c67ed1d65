"""Arrays of what a tree holds: Python's and NumPy's numbers become what JAX computes with."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.paths import path_string

NUMBERS = (bool, int, float, complex, np.generic, np.ndarray)


def as_arrays(params: Any) -> Any:
    """A tree whose leaves are all arrays that JAX can hold.

    Args:
      params: any tree. Python's and NumPy's numbers, and arrays of types that JAX does not have (float64, unless it is
        enabled), become arrays of the types that JAX computes with; arrays, shapes and tracers stay as they are.

    Raises:
      ArgumentError: for any other leaf, and for numbers out of range; names the path.

    Example:
      >>> as_arrays({"gain": 2.0, "kernel": np.ones(2)})
      {'gain': Array(2., dtype=float32, weak_type=True), 'kernel': Array([1., 1.], dtype=float32)}
    """
    return jax.tree_util.tree_map_with_path(as_array, params)


def as_array(path: Any, leaf: Any) -> Any:
    """A leaf as an array; arrays and shapes as they are.

    Args:
      path: where it is in its tree, for the error.
      leaf: an array, a ``ShapeDtypeStruct``, or a number.
    """
    if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
        return leaf
    try:
        if isinstance(leaf, np.ndarray) and leaf.dtype == jnp.result_type(leaf):
            return leaf
        if isinstance(leaf, NUMBERS) or hasattr(leaf, "__jax_array__"):
            return jnp.asarray(leaf)
    except (TypeError, OverflowError) as error:
        raise ArgumentError(f"params must hold numbers that JAX can hold: {path_string(path)!r}: {error}") from error
    raise ArgumentError(
        f"params must hold arrays and numbers: {path_string(path)!r} is {type(leaf).__name__} ({leaf!r:.40}). Let the "
        "function close over what is no number"
    )


def held(tree: Any) -> Any:
    """The same for views, which leave what is no number as it is; a tree that holds arrays alone comes back itself."""
    if not any(isinstance(leaf, NUMBERS) for leaf in jax.tree.leaves(tree)):
        return tree
    return jax.tree.map(lambda leaf: as_array((), leaf) if isinstance(leaf, NUMBERS) else leaf, tree)
