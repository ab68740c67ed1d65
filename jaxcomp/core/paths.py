"""Path strings of parameters: one spelling for Linen, NNX and plain trees."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import jax
from jax.tree_util import DictKey, FlattenedIndexKey, GetAttrKey, SequenceKey

from jaxcomp.core.errors import PathError


class PartKey(GetAttrKey):
    """The name of one of the arrays that together stand for a parameter, below that parameter's path."""


def key_name(key: Any) -> str | int:
    """Returns the bare name of one key of a pytree path: a dict key, an index, an attribute."""
    match key:
        case DictKey():
            return key.key
        case SequenceKey():
            return key.idx
        case GetAttrKey():
            return key.name
        case FlattenedIndexKey():
            return key.key
    return str(key)


def named_steps(path: Sequence[Any]) -> tuple[Any, ...]:
    """Drops from a pytree path the ``.value`` by which an NNX variable holds its array, or the parts of one."""
    end = len(path) - (isinstance(path[-1], PartKey) if path else 0)
    is_held = end > 1 and isinstance(path[end - 1], GetAttrKey) and path[end - 1].name in ("value", "raw_value")
    return (*path[: end - is_held], *path[end:])


def _path_keys(path: Sequence[Any]) -> tuple[str | int, ...]:
    """Returns the names along a pytree path, those of :func:`named_steps`."""
    return tuple(key_name(key) for key in named_steps(path))


def path_string(path: Sequence[Any]) -> str:
    """Spells a pytree path as ``Conv_0/kernel``, alike for Linen dicts and NNX states.

    Args:
      path: a path of ``jax.tree_util.tree_flatten_with_path``.

    Returns:
      The names joined by ``/``; the empty string for a tree that is a single leaf.

    Example:
      >>> import jax
      >>> [(path, _)], _ = jax.tree_util.tree_flatten_with_path({"block": [{"kernel": 1.0}]})
      >>> path_string(path)
      'block/0/kernel'
    """
    return "/".join(map(str, _path_keys(path)))


def named_leaves(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a tree by path string, in the tree's own order.

    Args:
      tree: any pytree.

    Returns:
      ``{path: leaf}``, itself a pytree whose paths are spelled the same.

    Raises:
      PathError: if two leaves are spelled alike (``{"a/b": x, "a": {"b": y}}``).

    Example:
      >>> named_leaves({"Dense_0": {"kernel": 1.0, "bias": 2.0}})
      {'Dense_0/bias': 2.0, 'Dense_0/kernel': 1.0}
    """
    named: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = path_string(path)
        if name in named:
            raise PathError(f"two leaves of the tree are both spelled {name!r}: rename one of their keys")
        named[name] = leaf
    return named


def leaves_of(tree: Any, paths: Iterable[str], whose: str = "the parameters") -> list[Any]:
    """Returns the leaves of a tree in the order of paths, whatever their container (dict, NamedTuple, nnx.State, ...).

    Args:
      tree: any pytree.
      paths: of all its leaves.
      whose: its name, for the error.

    Raises:
      PathError: for leaves of other paths; the first is named.

    Example:
      >>> leaves_of({"a": 1.0, "b": 2.0}, ["b", "a"])
      [2.0, 1.0]
    """
    named, paths = named_leaves(tree), list(paths)
    missing, others = [path for path in paths if path not in named], sorted(named.keys() - set(paths))
    if missing or others:
        lost = f"have no leaf {missing[0]!r}" if missing else f"have a leaf {others[0]!r} too many"
        raise PathError(f"{whose} {lost}: give the same leaves, under the same paths; these are {', '.join(named)}")
    return [named[path] for path in paths]


def in_container(tree: Any, like: Any, whose: str) -> Any:
    """Puts a tree's leaves into the container of another, matched by path; a tree in it already stays itself.

    Args:
      tree: any pytree.
      like: a pytree with leaves of the same paths.
      whose: the tree's name, for the error.

    Raises:
      PathError: for leaves of other paths; the first is named.

    Example:
      >>> in_container({"0": 1.0, "1": 2.0}, [3.0, 4.0], "the masks")
      [1.0, 2.0]
    """
    structure: Any = jax.tree.structure(like)
    if jax.tree.structure(tree) == structure:
        return tree
    return jax.tree.unflatten(structure, leaves_of(tree, named_leaves(like), whose))


def replace_leaves(tree: Any, named: dict[str, Any]) -> Any:
    """Replaces the leaves of ``tree`` whose paths are in ``named``; the others stay.

    Example:
      >>> replace_leaves({"a": 1, "b": 2}, {"a": 3})
      {'a': 3, 'b': 2}
    """
    return jax.tree_util.tree_map_with_path(lambda path, leaf: named.get(path_string(path), leaf), tree)


def without(tree: Any, gone: Collection[str]) -> Any:
    """Drops leaves from a tree: mappings lose the keys, and those left empty go; elsewhere None stands in.

    Args:
      tree: any pytree.
      gone: paths of leaves.

    Returns:
      The smaller tree; the tree itself if nothing goes.

    Example:
      >>> without({"norm": {"scale": 1.0}, "rest": [2.0, 3.0]}, {"norm/scale", "rest/0"})
      {'rest': [None, 3.0]}
    """
    return _without(tree, (), gone) if gone else tree


def _without(node: Any, above: tuple[Any, ...], gone: Collection[str]) -> Any:
    children, treedef = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda inner: inner is not node)
    if children and children[0][1] is node:
        return None if path_string(above) in gone else node
    kept = [_without(child, (*above, *path), gone) for path, child in children]
    pairs = zip(kept, children, strict=True)
    emptied = [not jax.tree.leaves(new) and bool(jax.tree.leaves(old)) for new, (_, old) in pairs]
    if isinstance(node, Mapping) and any(emptied):
        keys = [key_name(path[0]) for path, _ in children]
        return type(node)({key: new for key, new, empty in zip(keys, kept, emptied, strict=True) if not empty})  # type: ignore[call-arg]
    return jax.tree.unflatten(treedef, kept)
