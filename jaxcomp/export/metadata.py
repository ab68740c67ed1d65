"""Texts that a file carries beside its network: labels, normalization, where it comes from."""

from collections.abc import Mapping

from jaxcomp.core.errors import ArgumentError


def checked_metadata(metadata: Mapping[str, str] | None) -> dict[str, str]:
    """Returns the texts by name that are given as ``metadata``.

    Raises:
      ArgumentError: if a name or what it names is no text.

    Example:
      >>> checked_metadata(None), checked_metadata({"labels.txt": "cat"})
      ({}, {'labels.txt': 'cat'})
    """
    given = dict(metadata or {})
    odd = [key for key, value in given.items() if not (isinstance(key, str) and isinstance(value, str))]
    if odd:
        raise ArgumentError(f"metadata must be texts by name, got {type(given[odd[0]]).__name__} at {odd[0]!r}")
    return given
