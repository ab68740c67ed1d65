"""The library's errors. Each is also the built-in error that a caller would expect."""


class JaxcompError(Exception):
    """Any error that jaxcomp raises of its own accord: catch this one to catch them all."""


class ArgumentError(JaxcompError, ValueError):
    """An argument outside its range, or of a kind that the function does not take."""


class CallError(ArgumentError, TypeError):
    """A function that cannot be called as it is to be: with other arguments, or no function at all."""


class PathError(JaxcompError, ValueError):
    """A tree whose leaves cannot be told apart by their path strings."""


class RuleError(JaxcompError, ValueError):
    """A rule that is no regular expression, or that applies to no parameter."""


class ArtifactError(JaxcompError, ValueError):
    """A file that is no artifact, or one that was cut short or altered."""


class MissingExtraError(JaxcompError, ImportError):
    """An optional package is needed that is not installed; the message names the extra that brings it."""
