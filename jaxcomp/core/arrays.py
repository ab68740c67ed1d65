"""Arrays of what a tree holds: Python's and NumPy's numbers become what JAX computes with."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.paths import path_string

NUMBERS = (bool, int, float, complex, np.generic, np.ndarray)


def as_arrays(params: Any) -> Any:
    """Converts all leaves of a tree to arrays that JAX can hold.

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


def concrete(params: Any, maker: str) -> Any:
    """Converts all leaves of a tree to arrays, for what works on their values: on the host, once, not in a program.

    Args:
      params: as of :func:`as_arrays`.
      maker: what works on them, for the error.

    Raises:
      ArgumentError: for shapes, and for what a transformation (jit, grad, vmap) traces; names the path.

    Example:
      >>> concrete({"gain": 2.0}, "ptq")
      {'gain': Array(2., dtype=float32, weak_type=True)}
    """
    params = as_arrays(params)
    check_values(params, maker)
    return params


def check_values(params: Any, maker: str) -> None:
    """Refuses what has no values to work on: shapes, and what a transformation (jit, grad, vmap) traces.

    Args:
      params: a tree of anything.
      maker: what works on them, for the error.

    Raises:
      ArgumentError: names the path.
    """
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        if isinstance(leaf, jax.ShapeDtypeStruct | jax.core.Tracer):
            kind = "a shape" if isinstance(leaf, jax.ShapeDtypeStruct) else "traced, inside of jit, grad or vmap"
            which = repr(path_string(path)) if path else "the parameter"
            raise ArgumentError(
                f"{maker} works on values, and {which} is {kind}: call {maker} outside of "
                "jit, with arrays (what it returns can be used inside)"
            )


def as_array(path: Any, leaf: Any) -> Any:
    """Converts a leaf to an array; arrays and shapes stay as they are.

    Args:
      path: of the leaf in its tree, a tuple of pytree keys, for the error.
      leaf: an array, a ``ShapeDtypeStruct``, or a number.

    Raises:
      ArgumentError: for any other leaf, and for numbers out of range.

    Example:
      >>> as_array((), 2.0).shape
      ()
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


def check_arrays(**given: Any) -> None:
    """Refuses arguments that are no arrays, such as lists: of several arrays, or of numbers.

    Args:
      **given: an array of JAX or NumPy, or what JAX takes for one; by the argument's name.

    Raises:
      ArgumentError: names the argument.
    """
    for name, each in given.items():
        if not isinstance(each, jax.Array | np.ndarray | np.generic) and not hasattr(each, "__jax_array__"):
            came = "a shape" if isinstance(each, jax.ShapeDtypeStruct) else f"{type(each).__name__} ({each!r:.40})"
            raise ArgumentError(f"{name} must be an array, got {came}: jnp.asarray makes one of numbers")


def held(tree: Any) -> Any:
    """Converts numbers of Python and NumPy to arrays, for views: leaves that are no numbers stay as they are.

    Args:
      tree: any tree; one that holds JAX arrays alone comes back itself.

    Raises:
      ArgumentError: for numbers out of range, and for shapes.
    """
    leaves = jax.tree.leaves(tree)
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves):
        raise ArgumentError(
            "compressors work on arrays, and got shapes: jax.eval_shape(compressor.init, params) gives those of a state"
        )
    if not any(isinstance(leaf, NUMBERS) for leaf in leaves):
        return tree
    return jax.tree.map(lambda leaf: as_array((), leaf) if isinstance(leaf, NUMBERS) else leaf, tree)
