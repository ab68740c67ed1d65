"""Trees as rows of keys and back: what a file needs to know of a tree's structure.

A key is a string or an integer (of a dict, an attribute), or a list of one integer (the index of a sequence).
What a tree may be is checked by the same :func:`names` when it is written and when it is read.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax.tree_util import FlattenedIndexKey, SequenceKey

from jaxcomp.core.errors import ArgumentError, PathError
from jaxcomp.core.paths import key_name, named_steps, path_string

DEPTH = 512
"""The most keys of a leaf: JAX itself cannot flatten trees that are much deeper."""

EMPTY: tuple[Any, ...] = ({}, [], None)
"""Empty subtrees that are stored."""


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
    """Lists the leaves and empty subtrees of a tree, in the tree's own order.

    Args:
      tree: any pytree.

    Raises:
      PathError: if two leaves are spelled alike.
      ArgumentError: if a key is neither a string nor an integer, or the tree is nested too deep.

    Example:
      >>> [(leaf.name, leaf.keys) for leaf in rows({"block": [{"kernel": 1.0}, {}]})]
      [('block/0/kernel', ['block', [0], 'kernel']), ('block/1', ['block', [1]])]
    """
    _check_depth(tree)
    flat = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_empty)[0]
    inner = {path_string(path[:n]) for path, _ in flat for n in range(len(named_steps(path)))}
    leaves = []
    for path, value in flat:
        note = path_string(path)
        # The ``.value`` of an NNX variable is no step of its path, but that of a node with other fields is.
        steps = path if note in inner else named_steps(path)
        keys, empty = list(map(_key, steps)), _is_empty(value)
        leaves.append(Leaf("", note, keys, _bare(value) if empty else value, empty))
    spelled = names([leaf.keys for leaf in leaves])
    return [leaf._replace(name=name) for leaf, name in zip(leaves, spelled, strict=True)]


def bit_fields(tree: Any) -> dict[str, tuple[int, tuple[int, ...]]]:
    """Finds the leaves that hold several codes to a byte: their bits and their shape, by the leaf's name.

    A node says so of its child ``codes``, by an attribute ``fields``, ``(bits, shape)``, as those of
    :func:`jaxcomp.rewrite.quantize` do.

    Example:
      >>> bit_fields({"w": jax.numpy.ones(3, jax.numpy.uint8)})
      {}
    """
    found = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_has_fields)[0]
    return {f"{path_string(path)}/codes".lstrip("/"): node.fields for path, node in found if _has_fields(node)}


def _has_fields(node: Any) -> bool:
    fields = getattr(node, "fields", None)
    return type(fields) is tuple and len(fields) == 2 and type(fields[0]) is int and type(fields[1]) is tuple


def _check_depth(tree: Any) -> None:
    """Refuses a tree that is too deep before JAX flattens it, which ends some processes."""
    level = [tree]
    try:
        for _ in range(DEPTH + 2):  # an NNX variable and its value are no keys
            inner = map(jax.tree_util.default_registry.flatten_one_level, level)
            level = [node for found in inner if found is not None for node in found[0]]
            if not level:
                return
    except ValueError as error:  # JAX sorts the keys of dicts
        raise ArgumentError(f"the keys of each dict need to be all strings or all integers ({error})") from error
    raise ArgumentError(f"a tree is saved to a depth of {DEPTH} keys, and this one is nested deeper, or holds itself")


def names(rows: Sequence[Any]) -> list[str]:
    """Returns the path strings of all rows of a tree, once their keys are found to be those of a tree.

    Args:
      rows: the keys of each leaf and empty subtree.

    Raises:
      PathError: if two are spelled alike.
      ArgumentError: if keys are not strings, integers from -2**63 to 2**63 - 1 or lists of one index, or too many.

    Example:
      >>> names([["block", [0], "kernel"], ["block", [1]]])
      ['block/0/kernel', 'block/1']
    """
    found: dict[str, None] = {}
    for keys in rows:
        name = _spell(keys)
        if len(keys) > DEPTH:
            raise ArgumentError(
                f"{name[:60]}...: a tree is saved to a depth of {DEPTH} keys, and this leaf has {len(keys)}"
            )
        for key in keys:
            if not _is_key(key):
                raise ArgumentError(
                    f"{name}: a key of a saved tree needs to be a string or an integer, and {key!r} is a "
                    f"{type(key).__name__}: rename it"
                )
        if name in found:
            raise PathError(f"two leaves of the tree are both spelled {name!r}: rename one of their keys")
        found[name] = None
    return list(found)


def _is_key(key: Any) -> bool:
    if type(key) is list:
        return len(key) == 1 and type(key[0]) is int and key[0] >= 0
    return type(key) is str or (type(key) is int and -(2**63) <= key < 2**63)


def _spell(keys: list[Any]) -> str:
    """Spells the path string of a row's keys.

    Args:
      keys: strings and integers; a list holds the key first, then of which kind it is.

    Example:
      >>> _spell(["params", 0, "kernel"])
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


def _key(step: Any) -> Any:
    key = key_name(step)
    if isinstance(step, SequenceKey | FlattenedIndexKey):
        return [key]
    if isinstance(key, str):  # a subclass is stored as what it holds
        return str.__str__(key)
    return int(key) if isinstance(key, int) and not isinstance(key, bool) else key


def rebuild(leaves: Sequence[tuple[list[Any], Any]]) -> Any:
    """Rebuilds a tree of dicts and lists from the keys and values of its leaves.

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
    root = _Node()
    made: list[tuple[_Node, Any, _Node]] = []  # parent, key and node, parents first
    for keys, value in leaves:
        node, steps = root, [tuple(key) if isinstance(key, list) else key for key in keys]
        for step in steps[:-1]:
            if step not in node:
                made.append((node, step, _Node()))
                node[step] = made[-1][-1]
            node = node[step]
            if not isinstance(node, _Node):
                raise ValueError(f"a leaf lies inside the leaf {keys}")
        if steps[-1] in node:
            raise ValueError(f"two leaves lie at {keys}")
        node[steps[-1]] = value
    for parent, step, node in reversed(made):
        parent[step] = _bare_container(node)
    return _bare_container(root)


class _Node(dict[Any, Any]):
    """A container being rebuilt: nodes are told from leaves, and no recursion limits their depth."""


def _bare_container(node: _Node) -> Any:
    kinds = {type(step) for step in node}
    if len(kinds) > 1:
        raise ValueError(f"the keys of one container are names, numbers or indices, not a mixture: {list(node)}")
    if tuple not in kinds:
        return dict(node)
    if list(node) != [(index,) for index in range(len(node))]:
        raise ValueError(f"the indices of a sequence are 0, 1, ..., not {list(node)}")
    return list(node.values())
