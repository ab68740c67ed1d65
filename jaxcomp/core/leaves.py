"""How a method treats the leaves that it is given: which it works on, and how it leaves the others out."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcomp.core.errors import PathError
from jaxcomp.core.host import are_here, put_like
from jaxcomp.core.paths import path_string
from jaxcomp.core.programs import together
from jaxcomp.core.types import Params, State

NOT_REAL = "not a floating-point tensor"


def is_real(leaf: Any) -> bool:
    """Returns whether a leaf holds real floating-point numbers (not integers, complex numbers or random keys)."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)


def is_inexact(leaf: Any) -> bool:
    """Returns whether a leaf holds floating-point numbers, real or complex."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact)


def is_key(leaf: Any) -> bool:
    """Returns whether a leaf holds random keys (``jax.random.key``)."""
    return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def single(dtype: Any) -> Any:
    """Returns the single precision of a dtype's kind: float32, or complex64."""
    return jnp.dtype(jnp.complex64 if jnp.issubdtype(dtype, jnp.complexfloating) else jnp.float32)


def wide(*dtypes: Any) -> Any:
    """Returns the dtype in which numbers of these dtypes are computed with: float32, or float64 where one of them is.

    Written out because ``promote_types`` refuses 8-bit floats, and everything where promotion is strict.

    Example:
      >>> wide(jnp.bfloat16).name, wide(jnp.float32, float).name
      ('float32', 'float64')
    """
    return jnp.dtype(jnp.float64 if jnp.float64 in map(jnp.dtype, dtypes) else jnp.float32)


def left_out(node: Any) -> bool:
    """Returns whether a node of a state stands for a parameter that the compressor leaves as it is."""
    return isinstance(node, optax.MaskedNode)


def map_real(function: Callable[..., Any], params: Params) -> State:
    """Maps ``function(path, leaf)`` over the real leaves of ``params``; the others become ``optax.MaskedNode()``."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: function(path, leaf) if is_real(leaf) else optax.MaskedNode(), params
    )


def map_states(function: Callable[..., Any], params: Params, state: State) -> State:
    """Maps ``function(path, leaf, own state)`` over leaves that have a state; the others become ``optax.MaskedNode()``.

    Args:
      function: from ``(path, leaf, own state)`` to anything.
      params: parameters.
      state: of ``params``' structure, ``optax.MaskedNode()`` where a leaf has none.

    Example:
      >>> map_states(lambda path, leaf, own: leaf * own, {"a": 2, "b": 3}, {"a": optax.MaskedNode(), "b": 10})
      {'a': MaskedNode(), 'b': 30}
    """
    check_alike(params, state)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf, node: node if left_out(node) else function(path, leaf, node), params, state
    )


def map_view(
    function: Callable[[Any, Any], Any],
    params: Params,
    state: State,
    on_host: Callable[[Any, Any], np.ndarray] | None = None,
) -> Params:
    """Maps ``function(leaf, own state)`` over leaves that have a state; the others stay as they are.

    Outside of transformations that is a program a shape, found again for the same function object.

    Args:
      function: from ``(leaf, own state)`` to an array.
      params: parameters.
      state: of ``params``' structure, ``optax.MaskedNode()`` where a leaf has none.
      on_host: the same of NumPy's arrays, for those that a CPU holds: nothing is compiled then. None: there is none.
    """
    check_alike(params, state)
    pairs: list[tuple[Any, Any]] = []
    jax.tree.map(lambda leaf, node: None if left_out(node) else pairs.append((leaf, node)), params, state)
    if on_host is not None and are_here(jax.tree.leaves(pairs)):
        found = iter([put_like(on_host(np.asarray(leaf), np.asarray(node)), leaf) for leaf, node in pairs])
    else:
        found = iter(together(function, check=False)(pairs)[0])
    return jax.tree.map(lambda leaf, node: leaf if left_out(node) else next(found), params, state)


def named_states(params: Params, state: State) -> dict[str, Any]:
    """Returns ``{path: own state}`` for every leaf of ``params``, from a ``state`` of the same structure."""
    check_alike(params, state)
    named: dict[str, Any] = {}
    jax.tree_util.tree_map_with_path(lambda path, _, node: named.update({path_string(path): node}), params, state)
    return named


def check_alike(params: Params, state: State) -> None:
    """Refuses a state of another container than that of ``params``, in which nothing says what belongs to which leaf.

    Raises:
      PathError: with the two containers, or the leaves in which they differ.
    """
    try:
        jax.tree.map(lambda *_: None, params, state)
    except ValueError as error:
        kinds = [type(tree).__name__ for tree in (params, state)]
        where = " ".join(line.strip() for line in str(error).splitlines()[:3])
        raise PathError(
            f"the parameters ({kinds[0]}) are not laid out as those that the state ({kinds[1]}) was made for: {where}. "
            "Give the same container as to init (jax.tree.unflatten puts leaves into it), or a state made for these"
        ) from error
