"""The library's errors, each also the built-in error that a caller would expect."""

from jaxcomp.core.errors import (
    ArgumentError,
    ArtifactError,
    CallError,
    JaxcompError,
    MissingExtraError,
    PathError,
    RuleError,
)

__all__ = [
    "ArgumentError",
    "ArtifactError",
    "CallError",
    "JaxcompError",
    "MissingExtraError",
    "PathError",
    "RuleError",
]
