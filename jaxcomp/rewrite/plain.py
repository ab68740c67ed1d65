"""Decisions as JSON and back: numbers, strings, arrays, lists, dicts, schemes, grids; nothing that is code."""

import base64
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.types import Block, Grid
from jaxcomp.quant.formats import Format, named
from jaxcomp.quant.ranges import NamedFit, fit_named
from jaxcomp.rewrite.quant.calibrate import Ranges
from jaxcomp.rewrite.quant.scheme import Scheme


def to_json(value: Any, where: str) -> Any:
    """Converts a value to JSON; anything but a number or a string becomes ``[kind, ...]``.

    Args:
      value: a decision, or part of one.
      where: its name, for the error.

    Raises:
      ArgumentError: for what cannot be stored: a function, a format or a fit of one's own, an object.

    Example:
      >>> to_json({"bits": 4, "keep": np.array([True, False])}, "a decision")
      ['dict', {'bits': 4, 'keep': ['array', 'bool', [2], 'gA==']}]
    """
    match value:
        case None | bool() | int() | float() | str():
            return value
        case np.generic():
            return value.item()
        case Scheme():
            return ["scheme", {key: to_json(each, f"{where}, {key}") for key, each in value._asdict().items()}]
        case Grid():
            block = None if value.block is None else list(value.block)
            return ["grid", *(to_json(x, where) for x in (value.scale, value.zero_point)), to_json(block, where)]
        case Format():
            if _known(value.name) != value:
                raise _refused(where, f"the format {value.name!r}, which is none of jaxcomp.quant.every_format")
            return ["format", value.name]
        case NamedFit():
            return ["fit", value.name, dict(value.options)]
        case jax.ShapeDtypeStruct():
            return ["shape", list(value.shape), jnp.dtype(value.dtype).name]
        case np.ndarray() | jax.Array() if not isinstance(value, jax.core.Tracer):
            return _array(np.asarray(value))
        case Ranges():
            return ["ranges", to_json(dict(value), where), to_json(value.skipped, where)]
        case Mapping() if all(isinstance(key, str) for key in value):
            return ["dict", {key: to_json(each, f"{where}, {key}") for key, each in value.items()}]
        case list() | tuple():
            return ["list", *(to_json(each, f"{where}, {i}") for i, each in enumerate(value))]
    raise _refused(where, f"{value!r:.80}, of type {type(value).__name__}")


def from_json(value: Any) -> Any:
    """Converts the JSON of :func:`to_json` back to the value.

    Raises:
      ValueError, TypeError, KeyError: if it was made by something else.

    Example:
      >>> from_json(to_json([Scheme(bits=4), (1, None)], "rules"))[1]
      [1, None]
    """
    match value:
        case None | bool() | int() | float() | str():
            return value
        case ["dict", dict(own)]:
            return {key: from_json(each) for key, each in own.items()}
        case ["list", *own]:
            return [from_json(each) for each in own]
        case ["scheme", dict(own)]:
            fields = {key: from_json(each) for key, each in own.items()}
            if isinstance(fields.get("axis"), list):
                fields["axis"] = tuple(fields["axis"])
            return Scheme(**fields)
        case ["grid", scale, zero_point, block]:
            held = from_json(block)
            return Grid(from_json(scale), from_json(zero_point), None if held is None else Block(*held))
        case ["ranges", grids, skipped]:
            return Ranges(from_json(grids), from_json(skipped))
        case ["format", str(name)]:
            return named(name)
        case ["fit", str(name), dict(options)]:
            return fit_named(name, options)
        case ["shape", list(shape), str(dtype)]:
            return jax.ShapeDtypeStruct(tuple(map(_size, shape)), jnp.dtype(dtype))
        case ["array", str(dtype), list(shape), str(text)]:
            return _from_array(dtype, [_size(n) for n in shape], text)
    raise ValueError(f"{value!r:.80} is no part of a decision")


def _array(array: np.ndarray) -> list[Any]:
    raw = np.packbits(array.ravel()).tobytes() if array.dtype == bool else array.tobytes()
    return ["array", array.dtype.name, list(array.shape), base64.b64encode(raw).decode()]


def _from_array(dtype: str, shape: list[int], text: str) -> np.ndarray:
    raw, count = base64.b64decode(text, validate=True), math.prod(shape)
    if dtype == "bool":
        if len(raw) != -(-count // 8):
            raise ValueError(f"{len(raw)} bytes hold no {count} bits")
        return np.unpackbits(np.frombuffer(raw, np.uint8), count=count).astype(bool).reshape(shape)
    kind = jnp.dtype(dtype)
    if kind.hasobject or len(raw) != count * kind.itemsize:
        raise ValueError(f"{len(raw)} bytes hold no {count} numbers of {dtype}")
    return np.frombuffer(raw, kind).reshape(shape)


def _size(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"a size is a whole number, not {value!r}")
    return value


def _known(name: str) -> Format | None:
    try:
        return named(name)
    except ArgumentError:
        return None


def _refused(where: str, what: str) -> ArgumentError:
    return ArgumentError(
        f"{where} cannot be stored: it is {what}. A file holds names, numbers and arrays: give a named format or fit "
        "(jaxcomp.quant.mse(...)), or make the function again by the calls that made it"
    )
