"""Compressors as arguments and as values: what is none is refused; one prints as the call that made it."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec

import numpy as np

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.types import Compressor

Arguments = ParamSpec("Arguments")


def checked(value: Any, where: str) -> Compressor:
    """Returns ``value`` if it is a compressor; ``where`` names the argument, for the error.

    Raises:
      ArgumentError: with what came, and what to give.
    """
    if isinstance(value, Compressor):
        return value
    raise ArgumentError(
        f"{where} must be a compressor, like jc.prune.magnitude(0.5) or jc.identity(), got {value!r:.80}"
        + (": call it" if callable(value) else "")
    )


def check_optimizer(value: Any, where: str) -> None:
    """Refuses a ``value`` that is no optax transformation; ``where`` names the argument, for the error.

    Raises:
      ArgumentError: with what came, and what to give.
    """
    if not (callable(getattr(value, "init", None)) and callable(getattr(value, "update", None))):
        raise ArgumentError(
            f"{where} must be an optax transformation, like optax.adam(1e-3), got {value!r:.80}"
            + (": call it" if callable(value) else "")
        )


def printed(maker: Callable[Arguments, Compressor]) -> Callable[Arguments, Compressor]:
    """Lets the compressors that a function makes print as the call that made them.

    Example:
      >>> import jaxcomp as jc
      >>> jc.prune.magnitude(0.5)
      magnitude(0.5, scope='layer')
      >>> jc.partition([(".*/kernel", jc.quant.fake(bits=4))])
      partition([('.*/kernel', fake(bits=4))])
    """
    signature = inspect.signature(maker)

    @functools.wraps(maker)
    def made(*args: Arguments.args, **named: Arguments.kwargs) -> Compressor:
        compressor = maker(*args, **named)
        return compressor.called(f"{maker.__name__}({_arguments(signature, args, named)})")

    return made


def _arguments(signature: inspect.Signature, args: tuple[Any, ...], named: dict[str, Any]) -> str:
    """The arguments as they were given, and the words that stand for those that were not."""
    words = {
        name: each.default
        for name, each in signature.parameters.items()
        if isinstance(each.default, str) and name not in signature.bind(*args, **named).arguments
    }
    return ", ".join([*map(_value, args), *(f"{name}={_value(value)}" for name, value in {**named, **words}.items())])


def _value(value: Any) -> str:
    match value:
        case Compressor():
            return repr(value)
        case list():
            return f"[{', '.join(map(_value, value))}]"
        case tuple() if type(value) is tuple:
            return f"({', '.join(map(_value, value))}{',' * (len(value) == 1)})"
        case dict() if len(value) < 4:
            return f"{{{', '.join(f'{key!r}: {_value(each)}' for key, each in value.items())}}}"
        case dict():
            return f"{{... {len(value)} entries}}"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype}[{','.join(map(str, np.shape(value)))}]"
    if inspect.isroutine(value):  # "polynomial_schedule.<locals>.schedule" is known as what made it
        return value.__qualname__.split(".<locals>")[0].rpartition(".")[2]
    text = repr(value)
    return text if len(text) <= 60 else f"<{type(value).__name__}>"
