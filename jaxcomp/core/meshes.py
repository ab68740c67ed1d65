"""Layouts on a mesh of Explicit axes, where nothing is gathered or spread unasked. Elsewhere these do nothing."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def replicated(x: Any) -> Any:
    """Replicates an array: every device holds it in full.

    Args:
      x: ``[...]``, on a mesh or not; under other axes than Explicit ones it comes back as it is.

    Example:
      >>> replicated(jnp.arange(3)).tolist()
      [0, 1, 2]
    """
    return jax.reshard(x, NamedSharding(_mesh(x), PartitionSpec())) if is_explicit(x) else x


def spread_like(x: Any, like: Any) -> Any:
    """Broadcasts an array to the shape of another, and lays it out like it.

    Args:
      x: ``[...]``, of a shape that broadcasts to that of ``like``.
      like: the array to follow; if its mesh has no Explicit axes, ``x`` comes back as it is.

    Example:
      >>> spread_like(jnp.ones((1, 2)), jnp.ones((3, 2))).shape
      (1, 2)
    """
    return along(jnp.broadcast_to(x, like.shape), like) if is_explicit(like) else x


def along(x: Any, like: Any) -> Any:
    """Splits an array that broadcasts against another of its rank as that one is split, along the axes that are not 1.

    Args:
      x: ``[...]``, each axis of the size of ``like``'s or 1.
      like: the array to follow; if its mesh has no Explicit axes, ``x`` comes back as it is.

    Example:
      >>> along(jnp.ones((1, 2)), jnp.ones((3, 2))).shape
      (1, 2)
    """
    if not is_explicit(like) or x.ndim != like.ndim or (is_explicit(x) and jax.typeof(x).sharding == _layout(x, like)):
        return x
    return _laid_out(x, like) if mesh_is_set() else _laid_out_beside(x, like)


def _layout(x: Any, like: Any) -> NamedSharding:
    own = jax.typeof(like).sharding
    pairs = zip(x.shape, like.shape, own.spec, strict=True)
    return NamedSharding(own.mesh, PartitionSpec(*(entry if n == size else None for n, size, entry in pairs)))


def _laid_out(x: Any, like: Any) -> Any:
    return jax.reshard(x, _layout(x, like))


@jax.jit
def _laid_out_beside(x: Any, like: Any) -> Any:
    # Where no mesh is set a program has that of its operands: `like` has to be one, even if nothing else is read of it.
    return jax.lax.optimization_barrier((_laid_out(x, like), like))[0]


def automatic(function: Callable[..., Any], *args: Any, out: Any = None) -> Any:
    """Calls ``function(*args)`` with its layouts left to the compiler, whatever axes the meshes of the arguments have.

    Under Explicit axes, sorts, reshapes, gathers and sums over axes that are split are errors of type. Here they are
    what they are under Auto axes.

    Args:
      function: of the arguments, returns a tree of arrays.
      *args: trees of arrays.
      out: the layout of the results, a ``NamedSharding`` or a tree of them; None: every device holds them in full.

    Returns:
      What the function returns; without Explicit axes it is merely called.

    Example:
      >>> automatic(jnp.sort, jnp.array([2, 1])).tolist()
      [1, 2]
    """
    mesh = explicit_mesh(args)
    if mesh is None:
        return function(*args)
    out = NamedSharding(mesh, PartitionSpec()) if out is None else out
    return jax.sharding.auto_axes(function, axes=mesh.axis_names, out_sharding=out)(*args)


def layout_of_part(x: Any, axis: int, size: int) -> Any:
    """Returns the layout of ``x`` when ``axis`` is cut to ``size``: its own, unsplit there if it does not divide.

    Args:
      x: an array, on a mesh or not.
      axis: the one that is cut.
      size: of the axis afterwards.

    Returns:
      A ``NamedSharding``; None for an array without Explicit axes.

    Example:
      >>> layout_of_part(jnp.ones(4), 0, 2) is None
      True
    """
    if not is_explicit(x):
        return None
    own = jax.typeof(x).sharding
    names = own.spec[axis] or ()
    over = math.prod(own.mesh.shape[name] for name in (names if isinstance(names, tuple) else (names,)))
    spec = [None if i == axis and size % over else entry for i, entry in enumerate(own.spec)]
    return NamedSharding(own.mesh, PartitionSpec(*spec))


def beside(x: Any, like: Any) -> Any:
    """Replicates an array on the mesh with Explicit axes that holds another; without such a mesh it stays.

    Args:
      x: an array of JAX or of NumPy, outside of jit.
      like: the array that is on the mesh, or is not.
    """
    return jax.device_put(x, NamedSharding(like.sharding.mesh, PartitionSpec())) if is_explicit(like) else x


def on_set_mesh(tree: Any) -> Any:
    """Replicates host arrays on the mesh with Explicit axes that is set; without one they stay.

    A program that starts from arrays of no mesh and makes others has two meshes under one that is set.

    Args:
      tree: of NumPy arrays, outside of jit.
    """
    mesh = jax.sharding.get_mesh()
    if mesh.empty or AxisType.Explicit not in mesh.axis_types:
        return tree
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def explicit_mesh(tree: Any) -> Any:
    """Finds the mesh with Explicit axes that holds an array of a tree; None without one."""
    return next((_mesh(x) for x in jax.tree.leaves(tree) if is_explicit(x)), None)


def layouts(leaves: Sequence[Any], *others: Any) -> tuple[NamedSharding, ...] | None:
    """Returns the layout of each leaf on the mesh with Explicit axes that holds one of all arguments; None without one.

    Args:
      leaves: arrays; one that is not on the mesh counts as replicated.
      *others: trees of arrays that may tell the mesh.

    Example:
      >>> layouts([jnp.ones(2)]) is None
      True
    """
    mesh = explicit_mesh((leaves, others))
    if mesh is None:
        return None
    whole = NamedSharding(mesh, PartitionSpec())
    return tuple(jax.typeof(x).sharding if is_explicit(x) else whole for x in leaves)


def is_explicit(x: Any) -> bool:
    """Returns whether an array's type says how it is split over a mesh."""
    return isinstance(x, jax.Array) and AxisType.Explicit in _mesh(x).axis_types


def mesh_is_set() -> bool:
    """Returns whether the running code is under a mesh of its own, by ``jax.set_mesh``."""
    return not jax.sharding.get_abstract_mesh().empty


def _mesh(x: Any) -> Any:
    return jax.typeof(x).sharding.mesh


def unstacked(x: Any, axis: int) -> list[Any]:
    """Slices an array along an axis that may be split over an Explicit mesh.

    Args:
      x: ``[...]``.
      axis: the one that goes.

    Returns:
      ``x.shape[axis]`` arrays, laid out as ``x`` is along the other axes.

    Example:
      >>> [row.tolist() for row in unstacked(jnp.ones((2, 3)), 0)]
      [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    if is_explicit(x):
        spec = list(jax.typeof(x).sharding.spec)
        spec += [None] * (x.ndim - len(spec))
        spec[axis] = None
        x = jax.reshard(x, NamedSharding(_mesh(x), PartitionSpec(*spec)))
    return [jax.lax.index_in_dim(x, i, axis, keepdims=False) for i in range(x.shape[axis])]
