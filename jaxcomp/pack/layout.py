"""Trees as rows of keys and back: what a file needs to know of a tree's structure.

A key is a string or an integer (of a dict, an attribute), or a list of one integer (the index of a sequence).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax.tree_util import FlattenedIndexKey, SequenceKey

from jaxcomp.core.errors import ArgumentError, PathError
from jaxcomp.core.paths import key_name, named_steps, path_string


class Leaf(NamedTuple):
    """A leaf of a tree, or an empty subtree.

    Attributes:
      name: its path string, unlike that of any other leaf.
      note: the path string by which compressors call it; ``name``, but for a field ``value`` with siblings.
      keys: JSON-able keys, from the root.
      value: the leaf; the empty subtree as ``{}``, ``[]`` or None.
      empty: whether it is an empty subtree.
    """

    name: str
    note: str
    keys: list[Any]
    value: Any
    empty: bool


def rows(tree: Any) -> list[Leaf]:
    """The leaves and empty subtrees of a tree, in the tree's own order.

    Args:
      tree: any pytree.

    Raises:
      PathError: if two leaves are spelled alike.
      ArgumentError: if a key is neither a string nor an integer.

    Example:
      >>> [(leaf.name, leaf.keys) for leaf in rows({"block": [{"kernel": 1.0}, {}]})]
      [('block/0/kernel', ['block', [0], 'kernel']), ('block/1', ['block', [1]])]
    """
    flat = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_empty)[0]
    inner = {path_string(path[:n]) for path, _ in flat for n in range(len(named_steps(path)))}
    found: dict[str, Leaf] = {}
    for path, value in flat:
        note = path_string(path)
        # The ``.value`` of an NNX variable is no step of its path, but that of a node with other fields is.
        steps = path if note in inner else named_steps(path)
        keys = [_key(step, note) for step in steps]
        name, empty = spell(keys), _is_empty(value)
        if name in found:
            raise PathError(f"two leaves of the tree are both spelled {name!r}: rename one of their keys")
        found[name] = Leaf(name, note, keys, _bare(value) if empty else value, empty)
    return list(found.values())


def spell(keys: list[Any]) -> str:
    """The path string of a row's keys.

    Args:
      keys: strings and integers; a list holds the key first, then of which kind it is.

    Example:
      >>> spell(["params", 0, "kernel"])
      'params/0/kernel'
    """
    return "/".join(str(key[0] if isinstance(key, list) else key) for key in keys)


def _is_empty(node: Any) -> bool:
    level = jax.tree_util.default_registry.flatten_one_level(node)
    return level is not None and not any(True for _ in level[0])


def _bare(node: Any) -> Any:
    if node is None:
        return None
    return [] if isinstance(node, list | tuple) and not hasattr(node, "_fields") else {}


def _key(step: Any, name: str) -> Any:
    key = key_name(step)
    if isinstance(step, SequenceKey | FlattenedIndexKey):
        return [key]
    if not isinstance(key, str | int):
        raise ArgumentError(
            f"{name}: a key of a saved tree needs to be a string or an integer, and {key!r} is a "
            f"{type(key).__name__}: rename it"
        )
    return key


def rebuild(leaves: Sequence[tuple[list[Any], Any]]) -> Any:
    """A tree of dicts and lists, from the keys and values of its leaves.

    Args:
      leaves: ``(keys, value)``, siblings in their order.

    Raises:
      ValueError: if the keys are those of no tree.

    Example:
      >>> rebuild([(["block", [0], "kernel"], 1.0), (["block", [1]], {})])
      {'block': [{'kernel': 1.0}, {}]}
    """
    if any(not keys for keys, _ in leaves):
        ((_, value),) = leaves
        return value
    groups: dict[Any, list[tuple[list[Any], Any]]] = {}
    for keys, value in leaves:
        first = tuple(keys[0]) if isinstance(keys[0], list) else keys[0]
        groups.setdefault(first, []).append((keys[1:], value))
    if not any(isinstance(key, tuple) for key in groups):
        return {key: rebuild(group) for key, group in groups.items()}
    if list(groups) != [(index,) for index in range(len(groups))]:
        raise ValueError(f"the indices of a sequence are 0, 1, ..., not {list(groups)}")
    return [rebuild(group) for group in groups.values()]
