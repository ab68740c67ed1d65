"""Marks: while a function is exported, what stands for codes is a call with a name that a writer of files knows.

A file's runtime has integers of its own, which it finds by their pattern: an array that is quantized and at once
dequantized. So sites are traced as products of such arrays, each a ``jax.lax.composite``, and not as our arithmetic.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import jax
from jax import lax

FAKE_QUANT = "jaxcomp.fake_quant"
"""``(x, scale, zero_point) -> x`` on its grid; attributes ``bottom`` and ``top``, of its codes."""

DECODE = "jaxcomp.decode"
"""``(codes, scale[, zero_point]) -> value``; attributes ``size`` and ``axes`` of its blocks, 0 and () without."""

_MARKING = ContextVar("marking", default=False)


@contextlib.contextmanager
def marking() -> Iterator[None]:
    """Returns a context in which quantized functions are traced with marks.

    Example:
      >>> import jax.numpy as jnp
      >>> with marking():
      ...     jaxpr = jax.make_jaxpr(lambda x: marked("half", lambda x: x / 2, x))(jnp.ones(3))
      >>> jaxpr.eqns[0].params["name"], marked("half", lambda x: x / 2, 3.0)
      ('half', 1.5)
    """
    # JAX remembers what it traced: under another setting, which no file holds, it traces anew and forgets it after.
    own = getattr(jax.config, "jax_default_matmul_precision")  # noqa: B009
    other = "float32" if own == "tensorfloat32" else "tensorfloat32"
    token = _MARKING.set(True)
    try:
        with jax.default_matmul_precision(other):
            yield
    finally:
        _MARKING.reset(token)


@contextlib.contextmanager
def unmarked() -> Iterator[None]:
    """Returns a context of plain arithmetic within :func:`marking`: for derivatives, since a mark has none."""
    token = _MARKING.set(False)
    try:
        yield
    finally:
        _MARKING.reset(token)


def is_marking() -> bool:
    """Returns whether a function is being exported."""
    return _MARKING.get()


def marked(name: str, function: Callable[..., Any], *operands: Any, **attributes: Any) -> Any:
    """Calls a function; within :func:`marking` by a name that whoever reads the trace knows.

    Args:
      name: of the call.
      function: of arrays.
      *operands: arrays.
      **attributes: to put into the trace.
    """
    if not is_marking():
        return function(*operands)
    return lax.composite(lambda *xs, **_: function(*xs), name)(*operands, **attributes)


def mark_of(node: Any) -> tuple[str, dict[str, Any]]:
    """Returns the name and the attributes of a node's mark; no name if it is none."""
    if node.op != "composite":
        return "", {}
    found = {name: jax.tree.unflatten(tree, leaves) for name, leaves, tree in node.params["attributes"]}
    return node.params["name"], found
