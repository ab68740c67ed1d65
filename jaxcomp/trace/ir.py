"""The intermediate representation: a function flattened into nodes over values, one value a call site.

JAX shares one sub-jaxpr between all calls of a function, so its variables do not tell the calls apart.
Flattening inlines plain calls and gives every value of every call an identity of its own. Control flow,
remat and functions with a derivative of their own stay nodes, with frames for their bodies.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax

from jaxcomp.core.calls import check_function, explained
from jaxcomp.core.paths import path_string
from jaxcomp.trace import compat
from jaxcomp.trace.once import found
from jaxcomp.trace.symbols import Numbers

MATMULS = ("dot_general", "conv_general_dilated")
"""The primitives whose weights can be packed, factorized and rounded."""

SITES = (*MATMULS, "ragged_dot_general")
"""The primitives that are sites where they read parameters."""


@dataclass(eq=False, slots=True)
class Value:
    """One array in one call of a function; compared by identity.

    Attributes:
      shape: its shape in the function as it was traced, with a number for each size that has a name.
      dtype: its dtype.
      const: its value, for a literal or a closed-over constant.
      dims: its shape with the names.
    """

    shape: tuple[int, ...]
    dtype: Any
    const: Any = None
    dims: tuple[Any, ...] = ()


@dataclass(eq=False, slots=True)
class Frame:
    """A body: operands, nodes in order, results."""

    ins: list[Value]
    nodes: "list[Node]"
    outs: list[Value]


@dataclass(eq=False, slots=True)
class Node:
    """One primitive applied once.

    Attributes:
      op: the primitive's name.
      ins, outs: operands and results.
      equations: the jaxpr equation it was made of, then those of the calls around it, from the inside.
      scope: the module path in which it was traced, if any.
      frames: the bodies: ``[body]`` for scan, remat, shard_map (of one device) and calls with rules of their own,
        ``[condition, body]`` for while, one a branch for cond, ``[function, derivative]`` for custom_jvp,
        ``[function]`` for custom_vjp.
      numbers: that stand in for symbolic sizes.
    """

    op: str
    ins: list[Value]
    outs: list[Value]
    equations: tuple[Any, ...]
    scope: str
    frames: list[Frame] = field(default_factory=list)
    numbers: Numbers = field(default_factory=Numbers)

    @property
    def equation(self) -> Any:
        """The jaxpr equation it was made of."""
        return self.equations[0]

    @property
    def place(self) -> str:
        """Where it was written, or the innermost call around it of which that is known."""
        where = next(filter(None, map(compat.place, self.equations)), "")
        return f"{where} in {self.scope}" if self.scope else where

    @property
    def params(self) -> dict[str, Any]:
        """The primitive's parameters."""
        return self.equation.params

    @property
    def sized(self) -> Mapping[str, Any]:
        """The primitive's parameters, with a number for each size that has a name."""
        return {name: self.numbers.within(setting) for name, setting in self.equation.params.items()}


class Program(NamedTuple):
    """A traced function.

    Attributes:
      frame: its body; the operands are the parameters' leaves, then the leaves of the other arguments.
      paths: the path of each parameter leaf, in the order of ``frame.ins``.
      out_paths: the path of each result leaf, in the order of ``frame.outs``.
      out_tree: the structure of the results.
    """

    frame: Frame
    paths: tuple[str, ...]
    out_paths: tuple[str, ...]
    out_tree: Any

    def parameters(self) -> dict[str, Value]:
        """Returns the value of each parameter, by path."""
        return dict(zip(self.paths, self.frame.ins, strict=False))


def trace(apply_fn: Callable[..., Any], params: Any, *example: Any) -> Program:
    """Traces ``apply_fn(params, *example)`` and flattens it; nothing is computed.

    Args:
      apply_fn: a function of a tree of parameters and of other trees.
      params: arrays or ``ShapeDtypeStruct`` of any tree.
      *example: the other arguments, likewise.

    Returns:
      The flattened function.

    Raises:
      CallError: for what is no function, and for whatever it raises when it is called with these arguments.

    Example:
      >>> import jax.numpy as jnp
      >>> program = trace(lambda p, x: x @ p["w"], {"w": jnp.ones((3, 2))}, jnp.ones((1, 3)))
      >>> program.paths, [node.op for node in program.frame.nodes]
      (('w',), ['dot_general'])
    """
    check_function(apply_fn)
    return found(apply_fn, (params, example), lambda: _traced(apply_fn, params, example))


def _traced(apply_fn: Callable[..., Any], params: Any, example: tuple[Any, ...]) -> Program:
    with explained("apply_fn(params, *inputs)", params, example):
        closed, shapes = jax.make_jaxpr(apply_fn, return_shape=True)(params, *example)
    jaxpr, consts = compat.opened(closed)
    call = _Call({}, _Sizes())
    ins = [call.sizes.fresh(var) for var in jaxpr.invars]
    frame = _frame(jaxpr, consts, ins, call)
    call.sizes.settle()
    paths = [path_string(path) for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
    outs, out_tree = jax.tree_util.tree_flatten_with_path(shapes)
    return Program(frame, tuple(paths), tuple(path_string(path) for path, _ in outs), out_tree)


def all_nodes(frame: Frame) -> Iterator[Node]:
    """Yields every node of a body and of the bodies inside it, the outer one first."""
    for node in frame.nodes:
        yield node
        for inner in node.frames:
            yield from all_nodes(inner)


def holders(frame: Frame, values: Collection[Value]) -> frozenset[Node]:
    """Finds the nodes of a body ``frame``, and of those inside it, whose bodies hold some of ``values``."""
    found = set[Node]()
    for node in frame.nodes:
        inner = [holders(body, values) for body in node.frames]
        own = any(value in values for body in node.frames for value in body.ins)
        own |= any(value in values for body in node.frames for each in body.nodes for value in each.outs)
        found.update(*inner, [node] if own or any(inner) else [])
    return frozenset(found)


class _Sizes:
    """Makes values; those of named sizes get numbers once all are made."""

    def __init__(self) -> None:
        self.numbers = Numbers()
        self._named: list[Value] = []

    def fresh(self, var: Any) -> Value:
        """The value of a variable."""
        return self.constant(None, var.aval)

    def constant(self, value: Any, aval: Any) -> Value:
        """The value of a constant."""
        dims = tuple(aval.shape)
        made = Value(dims, aval.dtype, value, dims)
        if any(map(compat.is_symbolic, dims)):
            self._named.append(made)
        return made

    def settle(self) -> None:
        """Gives numbers to the sizes that have names."""
        self.numbers.settle([n for value in self._named for n in value.dims if compat.is_symbolic(n)])
        for value in self._named:
            value.shape = self.numbers.shape(value.dims)


class _Call(NamedTuple):
    """Where a jaxpr is flattened.

    Attributes:
      known: the derivatives known so far.
      sizes: what makes values.
      scope: the module.
      callers: the equations around it.
      derivatives: whether to derive.
      sharded: the settings of the shard_map around it, if there is one.
    """

    known: dict[Any, Any]
    sizes: _Sizes
    scope: str = ""
    callers: tuple[Any, ...] = ()
    derivatives: bool = True
    sharded: Any = None

    def within(self, equation: Any) -> "_Call":
        scope = "/".join(filter(None, (self.scope, compat.scope(equation))))
        return self._replace(scope=scope, callers=(equation, *self.callers))


def _frame(jaxpr: Any, consts: Sequence[Any], ins: list[Value], call: _Call) -> Frame:
    nodes: list[Node] = []
    outs = _inline(jaxpr, consts, ins, call, nodes)
    return Frame(ins, nodes, outs)


def _inline(jaxpr: Any, consts: Sequence[Any], ins: Sequence[Value], call: _Call, nodes: list[Node]) -> list[Value]:
    env: dict[Any, Value] = dict(zip(jaxpr.invars, ins, strict=True))
    env |= {var: call.sizes.constant(value, var.aval) for var, value in zip(jaxpr.constvars, consts, strict=True)}

    def read(atom: Any) -> Value:
        return call.sizes.constant(atom.val, atom.aval) if compat.is_literal(atom) else env[atom]

    for equation in jaxpr.eqns:
        op, operands = equation.primitive.name, [read(atom) for atom in equation.invars]
        here = call.within(equation)
        if op in compat.INLINED or (op == "custom_jvp_call" and not call.derivatives):
            body, held = compat.opened(equation.params[compat.INLINED.get(op, "call_jaxpr")])
            outs = _inline(body, held, operands, here, nodes)
        else:
            outs = [call.sizes.fresh(var) for var in equation.outvars]
            bodies = _bodies(op, equation, here)
            nodes.append(Node(op, operands, outs, here.callers, here.scope, bodies, call.sizes.numbers))
        env.update(zip(equation.outvars, outs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _bodies(op: str, equation: Any, call: _Call) -> list[Frame]:
    params = equation.params

    def body(jaxpr: Any, derivatives: bool = call.derivatives) -> Frame:
        inner, consts = compat.opened(jaxpr)
        ins = [call.sizes.fresh(var) for var in inner.invars]
        return _frame(inner, consts, ins, call._replace(derivatives=derivatives))

    if op == "shard_map":
        call = call._replace(sharded=params)
    if op in ("scan", "shard_map") or op in compat.REMAT:
        return [body(params["jaxpr"])]
    if op in compat.CALLS:
        held = compat.body_of_call(equation)
        return [] if held is None else [body(held)]
    if op == "while":
        return [body(params["cond_jaxpr"]), body(params["body_jaxpr"])]
    if op == "cond":
        return [body(branch) for branch in params["branches"]]
    if op == "custom_jvp_call":
        # The rule is taken one level deep: inside it, relu's rule calls relu, and so on without end.
        # Calls of one function share a jaxpr, which lives as long as the trace.
        key = id(params["call_jaxpr"]), *(str(atom.aval) for atom in equation.invars)
        if key not in call.known:
            call.known[key] = compat.derivative(equation, call.sharded)
        return [body(params["call_jaxpr"]), body(call.known[key], False)]
    return [body(params["call_jaxpr"])] if op == "custom_vjp_call" else []
