"""Tap: the same function, which returns values inside it too; no model is edited."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax

from jaxcomp.core.calls import arguments, unjitted
from jaxcomp.core.errors import ArgumentError
from jaxcomp.trace import compat
from jaxcomp.trace.ir import Program, Value, trace
from jaxcomp.trace.plans import Plans
from jaxcomp.trace.taps.names import Names
from jaxcomp.trace.taps.places import Places
from jaxcomp.trace.taps.run import MARK, TapRun, is_mark

Taps = dict[str, Value]


@runtime_checkable
class Markable(Protocol):
    """A function that a rewrite made.

    Attributes:
      name: of the rewrite.
      full: the parameters of what it was made of, as shapes.
    """

    name: str
    full: Any
    __wrapped__: Callable[..., Any]

    def __call__(self, *args: Any, **named: Any) -> Any:
        """The function that it computes."""

    def marked(self, choose: Callable[[Program], Mapping[Value, str]]) -> Callable[..., Any]:
        """Returns the same function, in whose traces some values of the original have names.

        Args:
          choose: from the program of the original to ``{value: name}``.
        """


def tap(apply_fn: Callable[..., Any], params: Any, *example: Any, at: Sequence[str] | Mapping[str, str]) -> "Tapped":
    """Makes a function that returns values inside another one beside its results.

    Values are called by what computes them, and :func:`jaxcomp.trace.values` lists them:

    - ``"Conv_3"``, ``"encoder/block_1"``: what a layer or a block gives. Where the function has scopes (Linen's
      modules, ``jax.named_scope``) that is what leaves the scope; elsewhere (NNX, Equinox, dicts) the first value
      through which all passes that is computed with the parameters below that path;
    - ``"Conv_3/kernel"``: a parameter, by its path: what its site gives (:func:`jaxcomp.trace.sites`), before the bias;
    - ``"Conv_3:normed"``: what the norm right after it makes of it;
    - ``"Conv_3:activated"``: what the next activation makes of it, after its norm, and after a shortcut that is added
      on the way;
    - ``"Conv_3:input"``: what it reads;
    - ``"Dense_0[1]"``: of a layer that is called several times, or gives several results, the second; before the colon.

    The collection of Linen's variables, and the beginning of a path, may be left out where one path alone ends so.

    Inside of jit, remat, scan (stacked: an axis for the steps comes first) and functions with a derivative of their own
    values are led out. The gradient of a value in one of the last is that of its own operations.

    Args:
      apply_fn: ``apply_fn(params, *inputs)``: any JAX function, one that a rewrite made included. The names of that one
        are those of the function that it was made of.
      params: arrays or ``ShapeDtypeStruct`` of any tree.
      *example: the other arguments, likewise.
      at: the values to return: names, or ``{key: name}``.

    Returns:
      ``(params, *inputs) -> (what apply_fn returns, {key or name: value})``. It traces once for each shape of its
      arguments, and nothing but what is named is kept. It is pure: jit, differentiate, vmap and shard it, and call it
      with what a view shows, as you would ``apply_fn``.

    Raises:
      ArgumentError: for a name of nothing (the nearest are listed), of several values, or of a value that cannot be
        led out: of a while loop, a branch, a shard_map, or one that a rewrite no longer computes.

    Example:
      >>> import jax.numpy as jnp
      >>> params = {"up": {"w": jnp.eye(2), "b": jnp.ones(2)}, "down": {"w": jnp.ones((2, 1))}}
      >>> mlp = lambda p, x: jax.nn.relu(x @ p["up"]["w"] + p["up"]["b"]) @ p["down"]["w"]
      >>> x = jnp.array([[-3.0, 1.0]])
      >>> out, values = tap(mlp, params, x, at=["up", "up:activated"])(params, x)
      >>> out.tolist(), {name: value.tolist() for name, value in values.items()}
      ([[2.0]], {'up': [[-2.0, 2.0]], 'up:activated': [[0.0, 2.0]]})
      >>> tap(mlp, params, x, at=["upper"])
      Traceback (most recent call last):
      ...
      jaxcomp.core.errors.ArgumentError: 'upper' names no value of the function; the nearest are 'up', 'up/w', 'up/b', \
'down/w', 'down'. jc.trace.values(apply_fn, params, *example) lists them all
    """
    if isinstance(at, str) or not all(isinstance(name, str) for name in at):
        raise ArgumentError(f"at must be a list of names, or a mapping of keys to names, got {at!r:.80}")
    wanted = {key: str(name) for key, name in (at.items() if isinstance(at, Mapping) else zip(at, at, strict=True))}
    _check_before(apply_fn, wanted, example)
    tapped = Tapped(apply_fn, wanted)
    tapped.prepare(params, *example)
    return tapped


class Tapped:
    """A function that returns values inside another one beside its results. Made by :func:`tap`.

    Attributes:
      at: ``{key: name}`` of what it returns.
    """

    def __init__(self, apply_fn: Callable[..., Any], at: Mapping[str, str]) -> None:
        """Takes the function, and what to return."""
        self.__wrapped__, self.at = apply_fn, dict(at)
        self._plans: Plans[tuple[Program, Taps]] = Plans((), lambda _, given: self._planned(given))
        self._compiled = jax.jit(self._run)

    def __call__(self, *args: Any, **named: Any) -> tuple[Any, dict[str, Any]]:
        """Returns the function's results, and the values."""
        params, inputs = arguments(self.__wrapped__, args, named)
        given = (params, *inputs)
        traced = any(map(compat.is_tracer, jax.tree.leaves(given)))
        # As with rewritten functions: outside of any transformation it is compiled whole.
        out, values = self._run(given) if traced else self._compiled(given)
        return out, {key: values[key] for key in self.at}

    def __repr__(self) -> str:
        return f"<{getattr(self.__wrapped__, '__name__', self.__wrapped__)} tapped at {', '.join(self.at.values())}>"

    def __deepcopy__(self, memo: Any) -> "Tapped":
        return self  # as any function: nothing in it changes

    def prepare(self, *given: Any) -> None:
        """Finds the values for arguments of some shapes; nothing is computed."""
        self._plans((), given)

    def _run(self, given: tuple[Any, ...]) -> tuple[Any, dict[str, Any]]:
        program, taps = self._plans((), given)
        run = TapRun(program, taps)
        outs, seen = run.watched(program.frame, jax.tree.leaves(given))
        return jax.tree.unflatten(program.out_tree, outs), seen

    def _planned(self, given: tuple[Any, ...]) -> tuple[Program, tuple[Program, Taps]]:
        found = _program_of(self.__wrapped__, self.at, given)
        return found[0], found


def _program_of(apply_fn: Callable[..., Any], at: Mapping[str, str], given: tuple[Any, ...]) -> tuple[Program, Taps]:
    """Traces a function, and finds the values that are to be tapped.

    Args:
      apply_fn: ``apply_fn(params, *inputs)``.
      at: ``{key: name}``, as for :func:`tap`.
      given: ``(params, *example)``.

    Returns:
      The program, and its values by key.
    """
    rewritten = unjitted(apply_fn)
    if isinstance(rewritten, Markable):
        return _marked(rewritten, at, given)
    program = trace(apply_fn, *given)
    names = Names(program)
    return program, {key: names(name) for key, name in at.items()}


def _marked(
    rewritten: Markable, at: Mapping[str, str], given: tuple[Any, ...], lenient: bool = False
) -> tuple[Program, Taps]:
    """Traces a rewritten function: its program, in which the values of the original's program are found.

    Args:
      rewritten: the function.
      at: the names, by key.
      given: its arguments.
      lenient: whether names of nothing are left out.
    """
    marks: dict[Value, str] = {}
    keys: dict[str, str] = {}

    def choose(program: Program) -> dict[Value, str]:
        names = Names(program)
        wanted = {key: names(name) for key, name in at.items() if not lenient or names.knows(name)}
        marks.update({value: f"{MARK}{i}" for i, value in enumerate(dict.fromkeys(wanted.values()))})
        keys.update({key: marks[value] for key, value in wanted.items()})
        return marks

    program = trace(rewritten.marked(choose), *given)
    places = Places(program)
    found = {node.params["name"]: places.lifted(node.outs[0]) for node in reversed(places.frame) if is_mark(node)}
    lost = [at[key] for key, mark in keys.items() if mark not in found]
    if lost:
        raise ArgumentError(
            f"{lost[0]!r} cannot be tapped: {rewritten.name} left it out, or made another value of it (a layer that a "
            f"norm was folded into gives what the norm gave: '{lost[0].partition(':')[0]}:normed')"
        )
    return program, {key: found[mark] for key, mark in keys.items()}


def _check_before(apply_fn: Any, at: Mapping[str, str], inputs: tuple[Any, ...]) -> None:
    """Refuses what one of the rewrites before the last of a chain no longer computes."""
    last = unjitted(apply_fn)
    before = unjitted(last.__wrapped__) if isinstance(last, Markable) else None
    if isinstance(last, Markable) and isinstance(before, Markable):
        _check_before(before, at, inputs)
        _marked(before, at, (last.full, *inputs), lenient=True)
