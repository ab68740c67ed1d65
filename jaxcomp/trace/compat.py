"""Every spot where JAX versions differ, and every part of an equation that is read by its name."""

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from jax import export, lax
from jax.extend import core, source_info_util
from jax.sharding import AxisType, NamedSharding, PartitionSpec

source_info_util.register_exclusion(f"{Path(__file__).parents[1]}{os.sep}")  # a place is one that the user wrote

Equation = Any
"""A ``jax.extend.core.JaxprEqn``."""

INLINED = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr"}
"""Calls that mean no more than their body, and the parameter that holds it."""

REMAT = ("remat2", "remat", "checkpoint")

CALLS = {
    "custom_vmap_call": ("call",),
    "custom_partitioning": ("call",),
    "composite": ("jaxpr", "call_jaxpr"),
    "linear_call": ("callee",),
}
"""Calls with a way of their own to be batched, partitioned, lowered or transposed, and what may hold their body."""

ENTERED = (*REMAT, *CALLS)
"""Nodes that compute what their one body does."""


def is_literal(atom: Any) -> bool:
    """Returns whether an operand of an equation is a literal rather than a variable."""
    return isinstance(atom, core.Literal)


def opened(jaxpr: Any) -> tuple[Any, Sequence[Any]]:
    """Returns the bare jaxpr and its constants: of an open one, a closed one (before JAX 0.12), or both in one."""
    consts = list(getattr(jaxpr, "consts", ()))
    return getattr(jaxpr, "jaxpr", jaxpr), consts


def body_of_call(equation: Equation) -> Any:
    """Returns the jaxpr of one of :data:`CALLS`; None if it does not take the call's operands as they are."""
    for name in CALLS[equation.primitive.name]:
        if name in equation.params:
            jaxpr = equation.params[name]
            same = [len(opened(jaxpr)[0].invars), len(opened(jaxpr)[0].outvars)]
            return jaxpr if same == [len(equation.invars), len(equation.outvars)] else None
    return None


def shards(params: Mapping[str, Any], spec: Any, ndim: int) -> list[int]:
    """Counts the devices among which a shard_map splits each axis of a value.

    Args:
      params: of the shard_map's equation.
      spec: of the value.
      ndim: its number of axes.

    Returns:
      A number an axis.
    """
    sizes = dict(params["mesh"].shape)
    entries = [*tuple(spec), *[None] * ndim][:ndim]
    return [math.prod(sizes[name] for name in _names(entry)) for entry in entries]


def _names(entry: Any) -> tuple[Any, ...]:
    return () if entry is None else entry if isinstance(entry, tuple) else (entry,)


def devices(params: Mapping[str, Any]) -> int:
    """Counts the devices on which a shard_map, of an equation's ``params``, runs its body."""
    sizes = dict(params["mesh"].shape)
    return math.prod(sizes[name] for name in params["newly_manual_axes"])


def shard_mapped(function: Callable[..., Any], params: Mapping[str, Any], in_specs: Any) -> Callable[..., Any]:
    """Applies ``jax.shard_map`` with the settings of its equation to a function of two results.

    Args:
      function: ``(*operands) -> (those of the equation, others)``; the others' first axis is that of the devices.
      params: of the equation.
      in_specs: of the operands.
    """
    axes = tuple(name for name in params["mesh"].axis_names if name in params["newly_manual_axes"])
    mapped = jax.shard_map(
        function,
        mesh=params["mesh"],
        in_specs=in_specs,
        out_specs=(tuple(params["out_specs"]), PartitionSpec(axes)),
        axis_names=set(axes),
        check_vma=params["check_vma"],
    )
    if not any(kind == AxisType.Explicit for kind in params["mesh"].axis_types):
        return mapped
    # Under Explicit axes operands must be laid out as they are shared out: shapes alone, and new parameters, are not.
    place = lambda spec, x: jax.reshard(x, NamedSharding(params["mesh"], spec))  # noqa: E731
    is_spec = lambda node: isinstance(node, PartitionSpec)  # noqa: E731
    return lambda *xs: mapped(*(jax.tree.map(place, s, x, is_leaf=is_spec) for s, x in zip(in_specs, xs, strict=True)))


def holds_body(equation: Equation) -> bool:
    """Returns whether a parameter of an equation is a program of its own."""
    held = [each for value in equation.params.values() for each in (value if isinstance(value, tuple) else (value,))]
    return any(isinstance(each, core.Jaxpr | core.ClosedJaxpr) for each in held)


def scan_counts(params: Mapping[str, Any]) -> tuple[int, int]:
    """Returns how many operands of a scan, of an equation's ``params``, are constants, and how many are carried."""
    if "num_carry" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = params["ft_in"].unpack()
    return len(consts), len(carry)


def bind(equation: Equation, args: Sequence[Any], **changes: Any) -> list[Any]:
    """Applies an equation's primitive to new operands; the result is always a list.

    Args:
      equation: as traced.
      args: the operands.
      **changes: of the primitive's parameters.
    """
    if len(args) > 1:
        args = [_varying(x, atom.aval) for x, atom in zip(args, equation.invars, strict=False)]
    params = equation.primitive.get_bind_params({**equation.params, **changes})
    out = equation.primitive.bind(*args, **params)
    return list(out) if equation.primitive.multiple_results else [out]


def constants_apart(fn: Callable[..., Any], *example: Any) -> tuple[Callable[..., Any], list[Any]]:
    """Takes the constants out of a function that it closes over.

    Args:
      fn: a function of arrays.
      *example: its arguments, or their shapes.

    Returns:
      ``fn`` as a function of ``(constants, *arguments)``, and its constants.

    Example:
      >>> apart, constants = constants_apart(lambda x: x + np.float32([2, 3]), np.float32([1, 1]))
      >>> apart([2 * each for each in constants], np.float32([1, 1])).tolist()
      [5.0, 7.0]
    """
    closed, results = jax.make_jaxpr(fn, return_shape=True)(*example)

    def apart(constants: Sequence[Any], *arguments: Any) -> Any:
        own = core.jaxpr_as_fun(core.ClosedJaxpr(closed.jaxpr, list(constants)))
        return jax.tree.unflatten(jax.tree.structure(results), own(*jax.tree.leaves(arguments)))

    return apart, [jax.numpy.asarray(each) for each in closed.consts]


def is_whole(equation: Equation) -> bool:
    """Returns whether every device holds an equation's result in full, as its type says."""
    return all(entry is None for entry in layout(equation).spec)


def _varying(x: Any, aval: Any) -> Any:
    """An operand that varies over the devices over which, inside of a shard_map, the one in its place did."""
    wanted = getattr(getattr(aval, "manual_axis_type", None), "varying", None)
    if not wanted:
        return x
    missing = wanted - getattr(jax.typeof(x).manual_axis_type, "varying", frozenset())
    return lax.pcast(x, tuple(missing), to="varying") if missing else x


def zeros(like: jax.ShapeDtypeStruct) -> jax.Array:
    """Makes zeros of a type, varying over the devices over which it does."""
    return cast(jax.Array, _varying(jax.numpy.zeros(like.shape, like.dtype), like))


def layout(equation: Equation) -> NamedSharding:
    """Returns how an equation's result lies on a mesh, as its type says."""
    return equation.outvars[0].aval.sharding


def laid_out(equation: Equation, operands: Sequence[Any]) -> list[jax.Array]:
    """Puts the concrete ``operands`` of an ``equation`` on devices as its types have them under Explicit axes."""
    return [_placed(jax.numpy.asarray(x), atom.aval) for x, atom in zip(operands, equation.invars, strict=True)]


def _placed(x: jax.Array, aval: Any) -> jax.Array:
    mesh = aval.sharding.mesh
    if AxisType.Explicit not in mesh.axis_types:
        return x
    mesh = jax.make_mesh(mesh.axis_sizes, mesh.axis_names, axis_types=mesh.axis_types)
    return jax.device_put(x, NamedSharding(mesh, aval.sharding.spec))


def is_inexact(dtype: Any) -> bool:
    """Returns whether a dtype has tangents: floating point or complex."""
    return jax.dtypes.issubdtype(dtype, np.inexact)


def is_number(dtype: Any) -> bool:
    """Returns whether NumPy knows a dtype: not that of random keys, nor any other extended one."""
    return jax.dtypes.issubdtype(dtype, np.generic) and not jax.dtypes.issubdtype(dtype, jax.dtypes.extended)


def derivative(equation: Equation, sharded: Mapping[str, Any] | None = None) -> Any:
    """Returns the jaxpr of the derivative rule of a ``custom_jvp`` call.

    It takes all operands, then the tangents of the inexact ones; it returns all results, then the tangents of
    the inexact ones.

    Args:
      equation: the call.
      sharded: the settings of the shard_map around it; None: there is none.
    """
    atoms = [_struct(atom.aval, sharded is None) for atom in equation.invars]
    moving = tuple(i for i, aval in enumerate(atoms) if is_inexact(aval.dtype))

    def rule(operands: Sequence[Any], tangents: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        def primal(*some: Any) -> list[Any]:
            full = list(operands)
            for i, value in zip(moving, some, strict=True):
                full[i] = value
            return bind(equation, full)

        outs, moved = jax.jvp(primal, tuple(operands[i] for i in moving), tuple(tangents))
        return outs, [t for o, t in zip(outs, moved, strict=True) if is_inexact(o.dtype)]

    if sharded is None:
        return jax.make_jaxpr(rule)(atoms, [atoms[i] for i in moving])
    found = []

    def local(*xs: Any) -> tuple[tuple[()], tuple[()]]:
        own = [_varying(x, atom.aval) for x, atom in zip(xs, equation.invars, strict=True)]
        found.append(jax.make_jaxpr(rule)(own, [own[i] for i in moving]))
        return (), ()

    whole = [jax.ShapeDtypeStruct(atom.shape, atom.dtype, weak_type=atom.weak_type) for atom in atoms]
    jax.eval_shape(shard_mapped(local, {**sharded, "out_specs": ()}, (PartitionSpec(),) * len(whole)), *whole)
    return found[0]


def _struct(aval: Any, laid: bool = True) -> jax.ShapeDtypeStruct:
    # Under Explicit axes a layout is part of the type, as a shape is.
    sharding = aval.sharding if laid and not aval.sharding.mesh.empty else None
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=getattr(aval, "weak_type", False), sharding=sharding)


def scope(equation: Equation) -> str:
    """Returns the module path in which an equation was traced (Linen gives one, NNX none)."""
    return str(equation.source_info.name_stack)


def place(equation: Equation) -> str:
    """Returns where an equation was written, ``file.py:line (function)``; empty if JAX does not say."""
    return source_info_util.summarize(equation.source_info).rsplit("/", 1)[-1]


def written_at(equations: Iterable[Equation]) -> Any:
    """Returns a context in which traced equations count as written where the first of ``equations`` was that says so.

    So a rewrite of a rewritten function names the lines of whoever wrote the function, not those of the rewrite.
    """
    known = next((each for each in equations if place(each)), None)
    return nullcontext() if known is None else source_info_util.user_context(known.source_info.traceback)


def is_symbolic(size: Any) -> bool:
    """Returns whether the size of an axis is symbolic, in a function that is exported for any such size."""
    return export.is_symbolic_dim(size)


def is_tracer(value: Any) -> bool:
    """Returns whether a value is known only while some transformation traces."""
    return isinstance(value, jax.core.Tracer)


def is_array(value: Any) -> bool:
    """Returns whether a value is one array, concrete or traced."""
    return isinstance(value, jax.Array | np.ndarray | np.generic)


def checkpointed(function: Callable[..., Any], params: Mapping[str, Any]) -> Callable[..., Any]:
    """Applies ``jax.checkpoint`` to a ``function``, with the settings ``params`` of a remat equation."""
    return jax.checkpoint(function, prevent_cse=params["prevent_cse"], policy=params["policy"])
