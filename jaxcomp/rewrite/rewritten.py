"""The noun of this package: a function that a rewrite made, and the plans by which it runs."""

import copy
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import jax
import numpy as np

from jaxcomp.core.arrays import as_array
from jaxcomp.core.calls import arguments, unjitted
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.meshes import replicated
from jaxcomp.core.paths import named_leaves, replace_leaves
from jaxcomp.core.types import Params
from jaxcomp.trace import compat
from jaxcomp.trace.interpreter import Interpreter
from jaxcomp.trace.ir import Program, Value, trace
from jaxcomp.trace.packed.leaf import Packed
from jaxcomp.trace.packed.run import PackedInterpreter
from jaxcomp.trace.plans import Plans, shapes_of

Plan = TypeVar("Plan")


class Decision(NamedTuple):
    """The decision of one rewrite: with it and shapes the same function is made again.

    Attributes:
      name: of the rewrite, ``"shrink"``.
      data: its arguments or outcome: strings, numbers, arrays, lists, dicts, schemes and grids.
      said: the same in a few words.
    """

    name: str
    data: Mapping[str, Any]
    said: str


class Born(NamedTuple):
    """The trace that a rewrite has made already: the plan for its example.

    Attributes:
      example: the inputs.
      program: the function, traced on them.
      plan: what :meth:`Rewritten.plan` makes of it.
    """

    example: tuple[Any, ...]
    program: Program
    plan: Any


class Rewritten(Generic[Plan]):
    """A function that a rewrite made: ``fn(params, *inputs)``, pure: jit, differentiate, vmap, shard, export it.

    It traces the original once for each shape of its inputs (the example's is there from the start), checks that the
    parameters are those that it was returned with, of these or other floating-point types (bfloat16), and runs.

    A rewrite subclasses it, and says what is found in a traced program and what runs that:

      >>> import jax.numpy as jnp
      >>> from jaxcomp.trace.interpreter import Interpreter
      >>> class Negated(Rewritten[None]):
      ...     name = "negate"
      ...     def interpreter(self, program, plan):
      ...         return Interpreter()
      ...     def results(self, program, plan, run, outs):
      ...         return [-out for out in outs]
      >>> params = {"w": jnp.ones((2, 1))}
      >>> negated = Negated(lambda p, x: x @ p["w"], params, params)
      >>> negated(params, jnp.ones((1, 2))).tolist()
      [[-2.0]]

    Attributes:
      full: the shapes of the original's parameters.
      report: what was done and skipped, and why; prints as a table.
      decision: plain data to make the function again.
    """

    name: ClassVar[str]

    def __init__(
        self,
        apply_fn: Callable[..., Any],
        full: Params,
        small: Params,
        *,
        report: Any = None,
        decision: Mapping[str, Any] | None = None,
        said: str = "",
        born: Born | None = None,
    ):
        """Takes the function, its parameters before and after (arrays or shapes), and what was decided.

        Args:
          apply_fn: the original.
          full: its parameters.
          small: the new function's.
          report: of what was done.
          decision: plain data to make it again.
          said: the same in a few words.
          born: the trace that was made already.
        """
        self.__wrapped__ = apply_fn
        self.report = report
        self.decision = Decision(self.name, dict(decision or {}), said)
        self.full = shapes_of(full)
        self._small = shapes_of(small)
        self._paths = tuple(named_leaves(full))
        self._needed = {path: tuple(leaf.shape) for path, leaf in named_leaves(self._small).items()}
        self._plans: Plans[tuple[Program, Plan]] = Plans(full, self._planned)
        self._compiled = jax.jit(self.run)
        self._marks: Callable[[Program], Mapping[Value, str]] | None = None
        if born is not None:
            self._plans.remember(full, born.example, born.program, (born.program, born.plan))

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """The decisions of all rewrites, from the original function on: :func:`jaxcomp.rewrite.restore` takes them."""
        before = rewritten(self.__wrapped__)
        return (*(() if before is None else before.decisions), self.decision)

    @property
    def original(self) -> Callable[..., Any]:
        """The function that the first of these rewrites was given."""
        before = rewritten(self.__wrapped__)
        return self.__wrapped__ if before is None else before.original

    def marked(self, choose: Callable[[Program], Mapping[Value, str]]) -> "Rewritten[Plan]":
        """Returns the same function, in whose traces some values of the original have names.

        Args:
          choose: from the program of the original to ``{value: name}``.
        """
        marked = object.__new__(type(self))
        vars(marked).update(vars(self))
        marked._marks = choose
        return marked

    def __call__(self, *args: Any, **named: Any) -> Any:
        params, inputs = arguments(self.__wrapped__, args, named)
        return self.run_whole(self.leaves(params), inputs)

    def __repr__(self) -> str:
        steps = " -> ".join(f"{each.name}({each.said})" for each in self.decisions)
        return f"<{getattr(self.original, '__name__', type(self.original).__name__)} -> {steps}>"

    def __copy__(self) -> "Rewritten[Plan]":
        return self  # as any function: nothing in it changes

    def __deepcopy__(self, memo: Any) -> "Rewritten[Plan]":
        return self

    def __reduce__(self) -> Any:
        raise ArgumentError(
            "a rewritten function is not pickled: jaxcomp.rewrite.save(path, fn, params) stores it, and "
            "jaxcomp.rewrite.load(path, apply_fn, shapes, *example) makes it again"
        )

    def plan(self, program: Program) -> Plan:
        """Plans the run of a program, once for each shape of its inputs."""
        return None  # type: ignore[return-value]

    def interpreter(self, program: Program, plan: Plan) -> Interpreter:
        """Returns the interpreter that runs ``program`` by its ``plan``."""
        raise NotImplementedError

    def leaves(self, params: Params) -> list[Any]:
        """Returns a leaf of the new parameters, which are checked, for each of the original's."""
        return checked_leaves(params, self._needed, self.name)

    def check(self, params: Params) -> None:
        """Refuses other parameters than the function was returned with."""
        self.leaves(params)

    def operands(self, leaves: list[Any]) -> list[Any]:
        """Returns the leaves as the interpreter takes them."""
        return leaves

    def results(self, program: Program, plan: Plan, run: Any, outs: list[Any]) -> list[Any]:
        """Returns the results of a run as the caller takes them.

        Args:
          program: that was run.
          plan: of the program.
          run: the interpreter.
          outs: its results.
        """
        return outs

    def run_whole(self, *operands: Any) -> Any:
        """Runs as :meth:`run`; outside of transformations compiled whole, not primitive by primitive."""
        traced = any(map(compat.is_tracer, jax.tree.leaves(operands)))
        return (self.run if traced else self._compiled)(*operands)

    def run(self, leaves: list[Any], inputs: tuple[Any, ...]) -> Any:
        """Runs the function on the leaves of its parameters, as of :meth:`leaves`, and on its inputs."""
        program, plan = self._plans(leaves, inputs)
        return self.run_with(self.interpreter(program, plan), program, plan, leaves, inputs)

    def run_with(
        self, run: Interpreter, program: Program, plan: Plan, leaves: list[Any], inputs: tuple[Any, ...]
    ) -> Any:
        """Runs a program by an interpreter.

        Args:
          run: the interpreter.
          program, plan: as of :meth:`plan`.
          leaves: of the parameters, as of :meth:`leaves`.
          inputs: the other arguments.
        """
        if self._marks is not None:
            run = copy.copy(run)
            run.mark(program.frame, self._marks(program))
        outs = run.body(program.frame, [*self.operands(leaves), *jax.tree.leaves(inputs)])
        return jax.tree.unflatten(program.out_tree, self.results(program, plan, run, outs))

    def _planned(self, full: Params, inputs: tuple[Any, ...]) -> tuple[Program, tuple[Program, Plan]]:
        program = trace(self.__wrapped__, full, *inputs)
        return program, (program, self.plan(program))


class RewrittenPacked(Rewritten[Plan]):
    """A function that computes with packed leaves."""

    def __init__(self, apply_fn: Callable[..., Any], full: Params, packed: Mapping[str, Packed], **known: Any):
        """Takes the function, its parameters as they were, and the packed leaves, arrays or shapes, by path."""
        super().__init__(apply_fn, full, replace_leaves(shapes_of(full), dict(packed)), **known)
        self._structure = jax.tree.structure(self._small)

    def interpreter(self, program: Program, plan: Plan) -> PackedInterpreter:
        """Returns the interpreter that runs ``program`` by its ``plan``."""
        return PackedInterpreter()

    def leaves(self, params: Params) -> list[Any]:
        """Returns the leaves of the parameters, some of them packed."""
        leaves: list[Any] = []
        whole = jax.tree.unflatten(self._structure, super().leaves(params))

        def take(_: Any, before: Any, leaf: Any) -> None:
            leaves.append(leaf.following(before) if isinstance(leaf, Packed) else leaf)

        jax.tree.map(take, self.full, self._small, whole)  # a packed leaf is one
        return leaves

    def operands(self, leaves: list[Any]) -> list[Any]:
        """Replicates packed leaves: under Explicit axes, their values were traced so."""
        return _everywhere(leaves)

    def results(self, program: Program, plan: Plan, run: Any, outs: list[Any]) -> list[Any]:
        """Multiplies out packed leaves among the results ``outs`` of ``run``; ``program`` and ``plan`` are not read."""
        return [run.dense(out, None) for out in outs]


def leaf_data(leaf: Packed) -> dict[str, Any]:
    """Describes a packed leaf without its numbers, as plain data: :func:`leaf_from` makes one of shapes from it."""
    static = leaf.tree_flatten_with_keys()[1]
    return {"static": static, "parts": {key: [list(x.shape), np.dtype(x.dtype).name] for key, x in leaf.parts.items()}}


def leaf_from(data: Mapping[str, Any], kind: type[Packed]) -> Packed:
    """Makes a packed leaf of class ``kind``, of shapes, from the ``data`` of :func:`leaf_data`."""
    parts = [jax.ShapeDtypeStruct(tuple(shape), jax.numpy.dtype(dtype)) for shape, dtype in data["parts"].values()]
    return kind.tree_unflatten(_tuples(data["static"]), parts)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def _everywhere(leaves: list[Any]) -> list[Any]:
    """Replicates packed leaves on their mesh with Explicit axes; the others stay."""
    return [jax.tree.map(replicated, leaf) if isinstance(leaf, Packed) else leaf for leaf in leaves]


def run_packed(program: Program, run: PackedInterpreter, leaves: list[Any], inputs: tuple[Any, ...]) -> Any:
    """Runs a ``program`` by ``run`` on the ``leaves`` of its parameters, some of them packed, and on ``inputs``."""
    outs = run.body(program.frame, [*_everywhere(leaves), *jax.tree.leaves(inputs)])
    return jax.tree.unflatten(program.out_tree, [run.dense(out, None) for out in outs])


def rewritten(function: Any) -> Rewritten | None:
    """Returns a function as the rewritten function that it is, jitted or not; None if it is none.

    Example:
      >>> rewritten(abs) is None
      True
    """
    function = unjitted(function)
    return function if isinstance(function, Rewritten) else None


def checked_leaves(params: Any, needed: Mapping[str, tuple[int, ...]], maker: str) -> list[Any]:
    """Returns the leaves of a new function's parameters in order, whatever tree of those paths they come in.

    Args:
      params: a tree.
      needed: ``{path: shape}`` of the leaves, in their order.
      maker: the rewrite, for the error.

    Raises:
      ArgumentError: if they are not those that the function was made with; names the first leaf that differs.
    """
    named = named_leaves(params)
    given = {path: np.shape(leaf) for path, leaf in named.items()}
    if given == needed:
        return [as_array((jax.tree_util.DictKey(path),), named[path]) for path in needed]
    path = next(path for path in sorted({**given, **needed}) if given.get(path) != needed.get(path))
    wanted, came = needed.get(path), given.get(path)
    raise ArgumentError(
        f"the function that {maker} returned needs the parameters that {maker} returned with it: at {path!r} it needs "
        f"{'no parameter' if wanted is None else f'shape {wanted}'} and got {'none' if came is None else came}"
    )
