"""Values by parameters' paths: a list of pairs is ordered regex rules, a mapping is exact paths."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from jaxcomp.core.errors import RuleError

T = TypeVar("T")

ByPath = Sequence[tuple[str, T]] | Mapping[str, T]
"""Rules ``[(regex, value), ...]``, of which the first that matches the whole path counts, or ``{path: value}``."""


def assign(patterns: Sequence[str], paths: Iterable[str]) -> dict[str, int]:
    """Assigns each path to the first pattern that matches the whole of it.

    Args:
      patterns: regular expressions, in order of precedence (``re.fullmatch``).
      paths: path strings.

    Returns:
      ``{path: index of its pattern}``, without the paths that no pattern matches.

    Raises:
      RuleError: if a pattern is no regular expression, matches no path, or matches only paths that earlier
        patterns have taken (a closing ``.*`` may be left without any).

    Example:
      >>> assign([r".*/kernel"], ["Conv_0/kernel", "Conv_0/bias"])
      {'Conv_0/kernel': 0}
    """
    paths = list(paths)
    compiled = [_compile(pattern) for pattern in patterns]
    owner = {}
    for path in paths:
        hit = next((i for i, regex in enumerate(compiled) if regex.fullmatch(path)), None)
        if hit is not None:
            owner[path] = hit
    for i, regex in enumerate(compiled):
        if i not in owner.values() and regex.pattern != ".*":
            _explain_unused(i, regex, owner, compiled, paths)
    return owner


def by_rule(value: Any, candidates: Sequence[str]) -> dict[str, Any]:
    """Gives each path its value: one for all, that of the first rule that matches, or that of the path itself.

    Args:
      value: one value for all paths; ``[(regex, value), ...]``, of which the first that matches the whole path counts
        (``re.fullmatch``); or ``{path: value}``, of exact paths.
      candidates: the paths.

    Returns:
      ``{path: value}``, without the paths that no rule matches or the mapping does not name.

    Raises:
      RuleError: as :func:`assign`; for a path of the mapping that is none of the candidates (the nearest is named), and
        a list of something else than pairs.

    Example:
      >>> by_rule([("a/.*", 4), (".*", 8)], ["a/w", "b/w"]), by_rule({"a/w": 4}, ["a/w", "b/w"])
      ({'a/w': 4, 'b/w': 8}, {'a/w': 4})
    """
    if isinstance(value, Mapping):
        _check_paths(value, candidates)
        return {path: value[path] for path in candidates if path in value}
    if not is_rules(value):
        return dict.fromkeys(candidates, value)
    owner = assign([pattern for pattern, _ in value], candidates)
    return {path: value[rule][1] for path, rule in owner.items()}


def rules_of(value: Any) -> list[tuple[str, Any]]:
    """Writes one value for all, or a mapping of exact paths, as rules; rules stay what they are.

    Example:
      >>> rules_of({"w.1": 4}), rules_of(8)
      ([('w\\\\.1', 4)], [('.*', 8)])
    """
    if isinstance(value, Mapping):
        return [(re.escape(path), each) for path, each in value.items()]
    return [(pattern, each) for pattern, each in value] if is_rules(value) else [(".*", value)]


def is_rules(value: Any) -> bool:
    """Tells rules from a value: a list, or a tuple that holds nothing but pairs of a string and something.

    Raises:
      RuleError: for a list of something else than such pairs.
    """
    if not isinstance(value, list):
        return type(value) is tuple and bool(value) and all(map(_is_pair, value))
    for i, each in enumerate(value):
        if not _is_pair(each):
            raise RuleError(
                f"a list is rules, [(regex, value), ...], and its element {i} is {each!r:.80}: give pairs, or "
                "{path: value} for exact paths"
            )
    return True


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2 and isinstance(value[0], str)


def _check_paths(given: Iterable[Any], paths: Sequence[str]) -> None:
    """Refuses keys of a mapping, ``given``, that are none of ``paths``.

    Raises:
      RuleError: for the first such key, with the nearest path.
    """
    known = set(paths)
    for path in given:
        if path in known:
            continue
        if isinstance(path, str) and any(map(_matcher(path), paths)):
            raise RuleError(
                f"a mapping is of exact paths, and {path!r} is a regular expression: give rules, [({path!r}, value)], "
                "a list of pairs"
            )
        near = difflib.get_close_matches(str(path), paths, 1, 0.0)
        listing = "\n  ".join(paths) or "(the tree has no leaves)"
        raise RuleError(
            f"a mapping is of exact paths, and {path!r} is none"
            + (f"; the nearest is {near[0]!r}" if near else "")
            + f". The paths are:\n  {listing}"
        )


def _matcher(pattern: str) -> Any:
    """The matcher of a regular expression to whole paths; of no path, if it is none."""
    try:
        return re.compile(pattern).fullmatch
    except re.error:
        return lambda _: None


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise RuleError(f"rule {pattern!r} is not a regular expression: {error}") from error


def _explain_unused(
    i: int, regex: re.Pattern[str], owner: dict[str, int], compiled: list[re.Pattern[str]], paths: list[str]
) -> None:
    taken = [path for path in paths if regex.fullmatch(path)]
    if taken:
        earlier = compiled[owner[taken[0]]].pattern
        raise RuleError(
            f"rule {i}, {regex.pattern!r}, is left without a parameter: the earlier rule {earlier!r} takes "
            f"{taken[0]!r} and every other path it matches. Put the more specific rule first."
        )
    listing = "\n  ".join(paths) or "(the tree has no leaves)"
    raise RuleError(
        f"rule {i}, {regex.pattern!r}, matches no parameter. A rule must match a whole path "
        f"(write '.*/kernel' for every kernel). The paths are:\n  {listing}"
    )
