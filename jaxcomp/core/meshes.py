"""Layouts on a mesh of Explicit axes, where nothing is gathered or spread unasked. Elsewhere these do nothing."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def replicated(x: Any) -> Any:
    """An array that every device holds in full.

    Args:
      x: ``[...]``, on a mesh or not; under other axes than Explicit ones it comes back as it is.

    Example:
      >>> replicated(jnp.arange(3)).tolist()
      [0, 1, 2]
    """
    return jax.reshard(x, NamedSharding(_mesh(x), PartitionSpec())) if is_explicit(x) else x


def spread_like(x: Any, like: Any) -> Any:
    """An array broadcast to the shape of another, and laid out like it.

    Args:
      x: ``[...]``, of a shape that broadcasts to that of ``like``.
      like: the array to follow; if its mesh has no Explicit axes, ``x`` comes back as it is.

    Example:
      >>> spread_like(jnp.ones((1, 2)), jnp.ones((3, 2))).shape
      (1, 2)
    """
    return along(jnp.broadcast_to(x, like.shape), like) if is_explicit(like) else x


def along(x: Any, like: Any) -> Any:
    """An array that broadcasts against another of its rank, split as that one is along the axes that are not 1.

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
    """``function(*args)``, its layouts left to the compiler whatever axes the meshes of the arguments have.

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
    """The layout of an array of which an axis is cut to a size: its own, the axis in full if devices do not divide it.

    Returns:
      A ``NamedSharding``; None for an array without Explicit axes.
    """
    if not is_explicit(x):
        return None
    own = jax.typeof(x).sharding
    names = own.spec[axis] or ()
    over = math.prod(own.mesh.shape[name] for name in (names if isinstance(names, tuple) else (names,)))
    spec = [None if i == axis and size % over else entry for i, entry in enumerate(own.spec)]
    return NamedSharding(own.mesh, PartitionSpec(*spec))


def beside(x: Any, like: Any) -> Any:
    """An array in full on every device of the mesh with Explicit axes that holds another; without one it stays.

    Args:
      x: an array of JAX or of NumPy, outside of jit.
      like: the array that is on the mesh, or is not.
    """
    return jax.device_put(x, NamedSharding(like.sharding.mesh, PartitionSpec())) if is_explicit(like) else x


def on_set_mesh(tree: Any) -> Any:
    """Arrays of the host in full on every device of the mesh with Explicit axes that is set; as they are without one.

    A program that starts from arrays of no mesh and makes others has two meshes under one that is set.

    Args:
      tree: of arrays of NumPy, outside of jit.
    """
    mesh = jax.sharding.get_mesh()
    if mesh.empty or AxisType.Explicit not in mesh.axis_types:
        return tree
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def explicit_mesh(tree: Any) -> Any:
    """The mesh with Explicit axes that holds an array of a tree; None without one."""
    return next((_mesh(x) for x in jax.tree.leaves(tree) if is_explicit(x)), None)


def layouts(leaves: Sequence[Any], *others: Any) -> tuple[NamedSharding, ...] | None:
    """The layout of each leaf on the mesh with Explicit axes that holds one of all arguments; None without one.

    What is no array on the mesh counts as held in full by every device.

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
    """Whether an array's type says how it is split over a mesh."""
    return isinstance(x, jax.Array) and AxisType.Explicit in _mesh(x).axis_types


def mesh_is_set() -> bool:
    """Whether the code that now runs is under a mesh of its own, by ``jax.set_mesh``."""
    return not jax.sharding.get_abstract_mesh().empty


def _mesh(x: Any) -> Any:
    return jax.typeof(x).sharding.mesh


def unstacked(x: Any, axis: int) -> list[Any]:
    """The slices along an axis that may be split over an Explicit mesh, laid out as ``x`` is along the others.

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
