"""Ordered regex rules over parameters' paths: the first that matches the whole of a path decides."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from jaxcomp.core.errors import RuleError


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
    """A value for each path: one for all, or that of the first rule that matches."""
    if not isinstance(value, list):
        return dict.fromkeys(candidates, value)
    owner = assign([pattern for pattern, _ in value], candidates)
    return {path: value[rule][1] for path, rule in owner.items()}


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
