"""Batches of data: what of each a function is given, checked in one place.

A batch is the tuple of all of the function's inputs, or its single one (an array, or any tree). Where the function
cannot be called so, a tuple, list or dict is taken for examples that come with labels, and its first entry is the
input: ``(image, label)``, ``[image, label]``, ``{"image": ..., "label": ...}``. ``select=`` says otherwise: a key, or a
function of the batch that gives the input or the tuple of all of them.

Whatever takes batches takes lists, loaders and iterators, and reads them to their end, which must come: of what has
no length, more than 65,536 batches, or 4 GiB where all are held at once, are taken for data without end, and refused.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import length_hint
from typing import Any

import jax
import numpy as np

from jaxcomp.core.calls import check_function, described, explained
from jaxcomp.core.errors import ArgumentError, JaxcompError
from jaxcomp.core.types import Params

Select = Callable[[Any], Any] | str | int
"""The part of a batch that a function is given: a key, or a function of the batch."""


MOST_BATCHES = 2**16
"""An iterator without a length that gives more is taken for data without end."""

MOST_BYTES = 2**32
"""Likewise where all batches are held at once."""

Check = Callable[[tuple[Any, ...]], Any]
"""Raises an error of the library for inputs that a function cannot be called with."""


class Batches(list):
    """Tuples of a function's inputs, of one structure, shapes and dtypes."""


def checked_batches(
    apply_fn: Callable[..., Any], params: Params, batches: Iterable[Any], select: Select | None = None
) -> Batches:
    """Reads calibration batches into tuples of arguments: all of them, so that they can be read more than once.

    Args:
      apply_fn: the function that they are for.
      params: its parameters.
      batches: an iterable of batches, read once, to its end.
      select: the inputs of each batch, a key or a function of it; None: see above.

    Raises:
      ArgumentError: for none, for one array or dict in place of batches, an empty batch, data without end, several
        structures, shapes or dtypes; CallError: for a function that cannot be called with them.
    """
    if isinstance(batches, Batches):
        return batches
    given = Batches(_held(inputs_of(called(apply_fn, params), batches, select, alike=True), batches))
    if not given:
        raise ArgumentError("batches= gave no batch: give at least one (a generator can be read only once)")
    kinds = list(dict.fromkeys(map(kind_of, given)))
    if len(kinds) > 1:
        odd = next(batch for batch in given if kind_of(batch) == kinds[1])
        raise ArgumentError(
            "batches= must all be of one structure, shapes and dtypes: drop the last, smaller one (a tuple that is "
            f"itself one batch goes into a list, [batch]); got {_shown(given[0])} and then {_shown(odd)}"
        )
    return given


def called(apply_fn: Callable[..., Any], params: Params, form: str = "apply_fn(params, *inputs)") -> Check:
    """Returns a check that a function can be called with its parameters and given inputs; nothing is computed.

    Args:
      apply_fn: the function.
      params: its parameters.
      form: how it is called, for the error.

    Raises:
      CallError: for what is no function.
    """
    check_function(apply_fn, form)

    def check(inputs: tuple[Any, ...]) -> None:
        with explained(form, params, inputs):
            jax.eval_shape(apply_fn, params, *inputs)

    return check


def inputs_of(
    check: Check,
    batches: Iterable[Any],
    select: Select | None = None,
    *,
    name: str = "batches",
    single: bool = False,
    alike: bool = False,
) -> Iterator[tuple[Any, ...]]:
    """Yields the inputs of each batch, whatever their shapes; see :func:`checked_batches`.

    Args:
      check: raises an error of the library for inputs that the function cannot be called with.
      batches, select: see there.
      name: the argument's, for errors.
      single: whether a tuple is one input, not all of them.
      alike: whether batches of other shapes than the first are refused later, not checked here.
    """
    batches = ending(batches, name)
    return _each(check, batches, select, name, single, alike)


def _each(
    check: Check, batches: Iterable[Any], select: Select | None, name: str, single: bool, alike: bool
) -> Iterator[tuple[Any, ...]]:
    whole: bool | None = None
    known: set[Any] = set()
    for number, batch in enumerate(batches):
        inputs, which = _inputs(batch, select, single), f"batch {number} of {name}="
        if whole is None:
            first = _inputs(_first(batch), None, single) if select is None and _has_first(batch) else None
            whole = _takes(check, inputs, first, which)
        if not whole:
            inputs = _inputs(_first(batch), None, single)
        _check_numbers(inputs, which)
        kind = kind_of(inputs)
        if known and kind not in known and not alike:
            check(inputs)
        known.add(kind)
        yield inputs


def ending(batches: Any, name: str = "batches", of: str = "batches") -> Iterator[Any]:
    """Yields the items of an argument; refuses data without end.

    Args:
      batches: the argument.
      name, of: its name and what it is a list of, for errors.

    Raises:
      ArgumentError: at once for one array, one dict, and what cannot be iterated, in place of several; on the way for
        what does not end.
    """
    _check_iterable(batches, name, of)
    if isinstance(batches, itertools.cycle | itertools.count | itertools.repeat) and not length_hint(batches):
        raise _endless(name, of, f"itertools.{type(batches).__name__} never ends")
    most = max(_length(batches), MOST_BATCHES)

    def each() -> Iterator[Any]:
        for number, batch in enumerate(batches):
            if number >= most:
                raise _endless(name, of, f"{most:,} came, and no end")
            yield batch

    return each()


def _held(given: Iterable[tuple[Any, ...]], batches: Any) -> Iterator[tuple[Any, ...]]:
    """Batches that are all to be held, of an iterator as many as a memory holds."""
    size, most = 0, math.inf if _length(batches) else MOST_BYTES
    for number, inputs in enumerate(given):
        size += sum(getattr(leaf, "nbytes", 0) for leaf in jax.tree.leaves(inputs))
        if size > most:
            raise _endless("batches", "batches", f"{number + 1:,} of {size:,} bytes came, and no end")
        yield inputs


def _length(batches: Any) -> int:
    """How many there are; 0 where that is not known."""
    try:
        return len(batches)
    except (TypeError, NotImplementedError):  # loaders of other libraries have a length that says so
        return 0


def _endless(name: str, of: str, came: str) -> ArgumentError:
    return ArgumentError(
        f"{name}= must come to an end, and is an iterator without a length: {came}. Give as many {of} as are to be "
        f"read, itertools.islice({name}, n), or a list"
    )


def _check_iterable(batches: Any, name: str, of: str) -> None:
    one = hasattr(batches, "shape") and hasattr(batches, "dtype")
    if one or isinstance(batches, Mapping | str | bytes) or not isinstance(batches, Iterable):
        what = f"one {described(batches)}, which would be taken apart" if one else described(batches)
        instead = f": give [{name}]" if one or isinstance(batches, Mapping) else ""
        raise ArgumentError(f"{name}= must be a list of {of} (or any iterable of them), got {what}{instead}")


def kind_of(inputs: tuple[Any, ...]) -> Any:
    """Returns what two batches must have in common to share a program: structure, shapes and dtypes.

    Example:
      >>> kind_of((np.ones((2, 3)),)) == kind_of((np.zeros((2, 3)),))
      True
    """
    leaves, tree = jax.tree.flatten(inputs)
    return tree, tuple((np.shape(leaf), jax.dtypes.result_type(leaf)) for leaf in leaves)


def _inputs(batch: Any, select: Select | None, single: bool) -> tuple[Any, ...]:
    if select is not None:
        try:
            if not callable(select) and hasattr(batch, "dtype"):
                raise TypeError("an array has no entries to choose from")
            batch = select(batch) if callable(select) else batch[select]
        except (LookupError, TypeError) as error:
            raise ArgumentError(
                f"select={select!r} chooses nothing of a batch, {described(batch)}: give one of its keys, or a "
                "function of the batch that gives the input, or the tuple of all inputs"
            ) from error
    return jax.tree.map(_array, batch if isinstance(batch, tuple) and not single else (batch,))


def _array(leaf: Any) -> Any:
    """Tensors of other libraries as NumPy arrays."""
    known = isinstance(leaf, jax.Array | np.ndarray | np.generic | int | float | complex)
    return leaf if known or not hasattr(leaf, "__array__") else np.asarray(leaf)


def _first(batch: Any) -> Any:
    return next(iter(batch.values())) if isinstance(batch, Mapping) else batch[0]


def _has_first(batch: Any) -> bool:
    """Whether a batch may be an input and what belongs to it."""
    return (isinstance(batch, Mapping) and bool(batch)) or (isinstance(batch, tuple | list) and len(batch) > 1)


def _takes(check: Check, inputs: tuple[Any, ...], first: tuple[Any, ...] | None, which: str) -> bool:
    """Whether a function takes a whole batch; False: its first entry."""
    if first is None:
        _check_numbers(inputs, which)
    try:
        check(inputs)
    except JaxcompError:
        if first is not None and _passes(check, first):
            return False
        raise  # what went wrong with the whole batch is told
    return True


def _passes(check: Check, inputs: tuple[Any, ...]) -> bool:
    try:
        check(inputs)
    except JaxcompError:
        return False
    return True


def _check_numbers(inputs: tuple[Any, ...], which: str) -> None:
    leaves = jax.tree.leaves(inputs)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        raise ArgumentError(f"{which} is traced, inside of jit, grad or vmap: give arrays, outside of them")
    for leaf in leaves:
        if isinstance(leaf, jax.Array):
            continue  # random keys too
        kind = getattr(getattr(leaf, "dtype", None), "kind", "")
        if isinstance(leaf, str | bytes) or not (kind or isinstance(leaf, int | float | complex)) or kind in "OSUMm":
            raise ArgumentError(
                f"{which} holds what is no array of numbers: {_shown(inputs)}; choose the inputs with select="
            )
    if leaves and not any(np.size(leaf) for leaf in leaves):
        raise ArgumentError(f"{which} holds no example: {_shown(inputs)}")


def _shown(inputs: tuple[Any, ...]) -> str:
    return ", ".join(map(described, inputs))
