"""Every spot where JAX versions differ, and every part of an equation that is read by its name."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export
from jax.extend import core, source_info_util
from jax.sharding import AxisType, NamedSharding

source_info_util.register_exclusion(f"{Path(__file__).parents[1]}{os.sep}")  # a place is one that the user wrote

Equation = Any
"""A ``jax.extend.core.JaxprEqn``."""

INLINED = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr"}
"""Calls that mean no more than their body, and the parameter that holds it."""

REMAT = ("remat2", "remat", "checkpoint")


def is_literal(atom: Any) -> bool:
    """Whether an operand of an equation is a literal rather than a variable."""
    return isinstance(atom, core.Literal)


def opened(jaxpr: Any) -> tuple[Any, Sequence[Any]]:
    """The bare jaxpr and its constants: open, closed (before JAX 0.12), or both in one (since)."""
    consts = list(getattr(jaxpr, "consts", ()))
    return getattr(jaxpr, "jaxpr", jaxpr), consts


def holds_body(equation: Equation) -> bool:
    """Whether a parameter of an equation is a program of its own."""
    held = [each for value in equation.params.values() for each in (value if isinstance(value, tuple) else (value,))]
    return any(isinstance(each, core.Jaxpr | core.ClosedJaxpr) for each in held)


def scan_counts(params: Mapping[str, Any]) -> tuple[int, int]:
    """How many operands of a scan are constants, and how many are carried."""
    if "num_carry" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = params["ft_in"].unpack()
    return len(consts), len(carry)


def bind(equation: Equation, args: Sequence[Any], **changes: Any) -> list[Any]:
    """Applies an equation's primitive to new operands, some of its parameters changed; always a list."""
    params = equation.primitive.get_bind_params({**equation.params, **changes})
    out = equation.primitive.bind(*args, **params)
    return list(out) if equation.primitive.multiple_results else [out]


def is_whole(equation: Equation) -> bool:
    """Whether every device holds an equation's result in full, as its type says."""
    return all(entry is None for entry in equation.outvars[0].aval.sharding.spec)


def laid_out(equation: Equation, operands: Sequence[Any]) -> list[jax.Array]:
    """Concrete operands for an equation, on devices as its types have them under Explicit axes."""
    return [_placed(jax.numpy.asarray(x), atom.aval) for x, atom in zip(operands, equation.invars, strict=True)]


def _placed(x: jax.Array, aval: Any) -> jax.Array:
    mesh = aval.sharding.mesh
    if AxisType.Explicit not in mesh.axis_types:
        return x
    mesh = jax.make_mesh(mesh.axis_sizes, mesh.axis_names, axis_types=mesh.axis_types)
    return jax.device_put(x, NamedSharding(mesh, aval.sharding.spec))


def is_inexact(dtype: Any) -> bool:
    """Whether a dtype has tangents: floating point or complex."""
    return jax.dtypes.issubdtype(dtype, np.inexact)


def is_number(dtype: Any) -> bool:
    """Whether NumPy knows a dtype: not that of random keys, nor any other extended one."""
    return jax.dtypes.issubdtype(dtype, np.generic) and not jax.dtypes.issubdtype(dtype, jax.dtypes.extended)


def derivative(equation: Equation) -> Any:
    """The jaxpr of a ``custom_jvp`` call's own rule.

    It takes all operands, then the tangents of the inexact ones; it returns all results, then the tangents of
    the inexact ones.
    """
    atoms = [_struct(atom.aval) for atom in equation.invars]
    moving = tuple(i for i, aval in enumerate(atoms) if is_inexact(aval.dtype))

    def rule(operands: Sequence[Any], tangents: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        def primal(*some: Any) -> list[Any]:
            full = list(operands)
            for i, value in zip(moving, some, strict=True):
                full[i] = value
            return bind(equation, full)

        outs, moved = jax.jvp(primal, tuple(operands[i] for i in moving), tuple(tangents))
        return outs, [t for o, t in zip(outs, moved, strict=True) if is_inexact(o.dtype)]

    return jax.make_jaxpr(rule)(atoms, [atoms[i] for i in moving])


def _struct(aval: Any) -> jax.ShapeDtypeStruct:
    # Under Explicit axes a layout is part of the type, as a shape is.
    sharding = None if aval.sharding.mesh.empty else aval.sharding
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=getattr(aval, "weak_type", False), sharding=sharding)


def scope(equation: Equation) -> str:
    """The module path in which an equation was traced (Linen gives one, NNX none)."""
    return str(equation.source_info.name_stack)


def place(equation: Equation) -> str:
    """Where an equation was written, ``file.py:line (function)``; empty if JAX does not say."""
    return source_info_util.summarize(equation.source_info).rsplit("/", 1)[-1]


def written_at(equations: Iterable[Equation]) -> Any:
    """A context in which what is traced counts as written where the first of some equations was that says so.

    So a rewrite of a rewritten function names the lines of who wrote the function, not those of the rewrite.
    """
    known = next((each for each in equations if place(each)), None)
    return nullcontext() if known is None else source_info_util.user_context(known.source_info.traceback)


def is_symbolic(size: Any) -> bool:
    """Whether the size of an axis is a name, in a function that is exported for any such size."""
    return export.is_symbolic_dim(size)


def is_tracer(value: Any) -> bool:
    """Whether a value is known only while some transformation traces."""
    return isinstance(value, jax.core.Tracer)


def checkpointed(function: Callable[..., Any], params: Mapping[str, Any]) -> Callable[..., Any]:
    """``jax.checkpoint`` with the settings of a remat equation."""
    return jax.checkpoint(function, prevent_cse=params["prevent_cse"], policy=params["policy"])
