"""The interpreter: runs a program again, node by node; what becomes of a node is a subclass's to say.

Control flow, remat and derivatives are rebuilt by JAX's public functions around the interpreted bodies.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from jaxcomp.trace import compat
from jaxcomp.trace.ir import Frame, Node, Value, holders
from jaxcomp.trace.origins import moving

AxisMask = np.ndarray | None
"""Which indices of an axis are kept, ``bool [size]``; None if all are."""


class Interpreter:
    r"""Runs programs; subclasses say what becomes of a node.

    These are the hooks, each below what calls it::

        watched                    body, with what its nodes have noted in ``seen``
         └─ body                   one frame, node after node
             ├─ reads              the values that a node is given
             ├─ node               one primitive: as it was traced, bodies and all
             │   └─ enter          one with bodies (those of EMIT): rebuilt around interpreted ones
             │       ├─ keeps      what is kept of a carry's or a result's axes
             │       ├─ sliced     what a scan runs over
             │       ├─ shared     what a shard_map is given
             │       ├─ tangent    what a derivative is given
             │       ├─ unseen     what a body notes that may never run
             │       ├─ watched    each body, ...
             │       ├─ fit        ... what it returns, and
             │       └─ note       what it has noted
             ├─ held               the values that ``end`` reads
             └─ end                the frame has run

    Most subclasses need ``node`` alone.

    Attributes:
      seen: notes of the nodes of the running body, by name.
      join: the ``jnp.ufunc`` by which what several runs of a body noted becomes one, leaf by
        leaf; 0 leaves the other as it is.

    Example:
      >>> from jaxcomp.trace.ir import trace
      >>> class HardTanh(Interpreter):
      ...     "Clips wherever the program takes a tanh, in loops and branches too."
      ...     def node(self, node, operands):
      ...         if node.op == "tanh":
      ...             return [jnp.clip(operands[0], -1, 1)]
      ...         return self.enter(node, operands) if node.op in EMIT else super().node(node, operands)
      >>> steps = lambda w, x: lax.scan(lambda x, w: (jnp.tanh(w * x), x), x, w)
      >>> program = trace(steps, jnp.full(3, 2.0), 0.25)
      >>> last, each = HardTanh().body(program.frame, [jnp.full(3, 2.0), 0.25])
      >>> float(last), each.tolist()
      (1.0, [0.25, 0.5, 1.0])
    """

    def __init__(self, join: Any = jnp.add) -> None:
        """Starts with nothing noted."""
        self.seen: dict[Any, Any] = {}
        self.join = join
        self._marks: Mapping[Value, str] = {}
        self._marked: frozenset[Node] = frozenset()
        self._scope = ""

    def mark(self, frame: Frame, marks: Mapping[Value, str]) -> None:
        """Lets values have names (``checkpoint_name``) in what this runs from now on.

        A value that the run does not compute, or computes otherwise than the program does, gets none.

        Args:
          frame: the body that will be run.
          marks: a name for each of some values of it, or of the bodies inside it.
        """
        altered = self.altered()
        self._marks = {value: name for value, name in marks.items() if value not in altered}
        self._marked = holders(frame, self._marks)

    def altered(self) -> frozenset[Value]:
        """Returns the values of a program that this run computes otherwise: none."""
        return frozenset()

    def body(self, frame: Frame, operands: Sequence[Any]) -> list[Any]:
        """Runs a body ``frame`` on ``operands``; returns its results."""
        env: dict[Value, Any] = dict(zip(frame.ins, self._named(frame.ins, operands), strict=True))

        def read(value: Value) -> Any:
            return value.const if value.const is not None else env[value]

        last = self._last_uses(frame)
        for node in frame.nodes:
            given, dying = [read(value) for value in self.reads(node)], last.get(node, ())
            for value in dying:  # before it is run, so that it may let go of what it was given
                env.pop(value, None)
            with compat.written_at(node.equations), self._within(node):
                outs = self._named(node.outs, self.node(node, given))
            env.update((value, x) for value, x in zip(node.outs, outs, strict=True) if value not in dying)
            del given, outs
        self.end(frame, read)
        return [read(value) for value in frame.outs]

    def _named(self, values: Sequence[Value], xs: Sequence[Any]) -> Sequence[Any]:
        """Numbers, those of them by name whose value has one."""
        if self._marks.keys().isdisjoint(values):
            return xs
        pairs = zip(values, xs, strict=True)
        return [checkpoint_name(x, self._marks[v]) if v in self._marks and compat.is_array(x) else x for v, x in pairs]

    @contextmanager
    def _within(self, node: Node) -> Iterator[None]:
        """Lets what is traced count as of the module that a node is of, as it did in the program."""
        outer, self._scope = self._scope, node.scope
        own = node.scope.removeprefix(outer).strip("/")
        try:
            if own:
                with jax.named_scope(own):
                    yield
            else:
                yield
        finally:
            self._scope = outer

    def _last_uses(self, frame: Frame) -> dict[Node, list[Value]]:
        """The values that no later node of a frame reads, by the node after which they can go."""
        needed = {*frame.outs, *self.held(frame)}
        last: dict[Node, list[Value]] = {}
        for node in reversed(frame.nodes):
            dying = [value for value in {*self.reads(node), *node.outs} if value not in needed]
            needed.update(dying)
            last[node] = dying
        return last

    def reads(self, node: Node) -> list[Value]:
        """Returns the operands that a node is given."""
        return node.ins

    def held(self, frame: Frame) -> Iterable[Value]:
        """Returns the values of a body that :meth:`end` reads."""
        return ()

    def end(self, frame: Frame, read: Callable[[Value], Any]) -> None:
        """Notes that a body ``frame`` has run; ``read`` returns each of its values that is :meth:`held`."""

    def node(self, node: Node, operands: list[Any]) -> list[Any]:
        """Applies the primitive of a ``node`` to ``operands`` as it was traced; returns its results."""
        if node in self._marked and node.op in EMIT:
            return self.enter(node, operands)
        return compat.bind(node.equation, operands)

    def enter(self, node: Node, operands: list[Any]) -> list[Any]:
        """Rebuilds a ``node`` with bodies, one of ``EMIT``, on ``operands``, by running its bodies."""
        return EMIT[node.op](self, node, operands)

    def watched(self, frame: Frame, operands: Sequence[Any]) -> tuple[list[Any], dict[Any, Any]]:
        """Runs a body ``frame`` on ``operands``; returns its results and its nodes' notes, to lead out of a trace."""
        outer, self.seen = self.seen, {}
        try:
            return self.body(frame, operands), self.seen
        finally:
            self.seen = outer

    def note(self, seen: dict[Any, Any], scan: Node | None = None) -> None:
        """Takes what a body noted, ``seen``; of a ``scan``, stacked along a new first axis."""
        self.seen.update(seen)

    def unseen(self, frame: Frame, operands: Sequence[Any]) -> dict[Any, Any]:
        """Returns zeros for what a body notes that may run once, often, or never; they are joined with its notes.

        By default nothing: what such a body notes is lost.

        Args:
          frame: the body.
          operands: of the body.
        """
        return {}

    def keeps(self, value: Value) -> list[AxisMask]:
        """Returns what is kept of each axis of a value: all."""
        return [None] * len(value.shape)

    def fit(self, x: Any, value: Value, targets: Sequence[AxisMask]) -> Any:
        """Returns an array as a loop's carry, or a branch's result, must be.

        Args:
          x: a result of a body.
          value: the program's, of which ``x`` is the number.
          targets: the kept indices of each axis of the carry or the result.
        """
        return x

    def sliced(self, x: Any, scan: Node) -> Any:
        """Returns what a ``scan`` runs over for its operand ``x``."""
        return x

    def shared(self, x: Any, spec: Any, node: Node) -> tuple[Any, Any, Callable[[Any], Any]]:
        """Returns what a shard_map is given, its specs, and a function from a device's part to the operand of its body.

        Args:
          x: the operand.
          spec: how the equation splits it over devices.
          node: the shard_map.
        """
        return x, spec, lambda part: part

    def tangent(self, x: Any, tangent: Any) -> Any:
        """Returns the tangent of a value ``x``, given the ``tangent`` of its parts."""
        return tangent


def _fit_all(
    run: Interpreter, xs: Sequence[Any], values: Sequence[Value], targets: Sequence[list[AxisMask]]
) -> list[Any]:
    return [run.fit(*each) for each in zip(xs, values, targets, strict=True)]


def _keeps(run: Interpreter, values: Sequence[Value]) -> list[list[AxisMask]]:
    return [run.keeps(value) for value in values]


def _joined(run: Interpreter, one: dict[Any, Any], other: dict[Any, Any]) -> dict[Any, Any]:
    return {key: jax.tree.map(run.join, own, other[key]) if key in other else own for key, own in one.items()}


def emit_scan(run: Interpreter, node: Node, operands: list[Any]) -> list[Any]:
    """Emits ``lax.scan`` over the rebuilt body."""
    (first, carried), (body,) = compat.scan_counts(node.params), node.frames
    targets = _keeps(run, [*body.ins[first : first + carried], *body.outs[carried:]])
    carry = slice(first, first + carried)

    def step(state: list[Any], xs: list[Any]) -> tuple[list[Any], Any]:
        outs, seen = run.watched(body, [*operands[:first], *state, *xs])
        outs = _fit_all(run, outs, body.outs, targets)
        return outs[:carried], (outs[carried:], seen)

    start = _fit_all(run, operands[carry], node.ins[carry], targets[:carried])
    settings = {name: node.params[name] for name in ("length", "reverse", "unroll")}
    if compat.is_symbolic(settings["length"]):
        settings["length"] = None  # what it runs over has it; lax.scan refuses a name
    last, (ys, seen) = lax.scan(step, start, [run.sliced(x, node) for x in operands[carry.stop :]], **settings)
    run.note(seen, node)
    return [*last, *ys]


def emit_while(run: Interpreter, node: Node, operands: list[Any]) -> list[Any]:
    """Emits ``lax.while_loop`` over the rebuilt condition and body."""
    heads, first = node.params["cond_nconsts"], node.params["body_nconsts"]
    condition, body = node.frames
    start = heads + first
    targets = _keeps(run, body.ins[first:])

    def test(state: tuple[list[Any], Any]) -> Any:
        return run.watched(condition, [*operands[:heads], *state[0]])[0][0]

    def step(state: tuple[list[Any], Any]) -> tuple[list[Any], Any]:
        outs, seen = run.watched(body, [*operands[heads:start], *state[0]])
        return _fit_all(run, outs, body.outs, targets), _joined(run, state[1], seen)

    carry = _fit_all(run, operands[start:], node.ins[start:], targets)
    last, seen = lax.while_loop(test, step, (carry, run.unseen(body, [*operands[heads:start], *carry])))
    run.note(seen)
    return last


def emit_cond(run: Interpreter, node: Node, operands: list[Any]) -> list[Any]:
    """Emits ``lax.switch`` over the rebuilt branches."""
    targets, unseen = _keeps(run, node.outs), dict[Any, Any]()
    for frame in node.frames:
        unseen |= run.unseen(frame, operands[1:])

    def branch(frame: Frame) -> Callable[..., tuple[list[Any], Any]]:
        def taken(*xs: Any) -> tuple[list[Any], Any]:
            outs, seen = run.watched(frame, xs)
            return _fit_all(run, outs, frame.outs, targets), _joined(run, unseen, seen)

        return taken

    branches = [branch(frame) for frame in node.frames]
    outs, seen = lax.switch(operands[0].astype(np.int32), branches, *operands[1:])
    run.note(seen)
    return outs


def emit_remat(run: Interpreter, node: Node, operands: list[Any]) -> list[Any]:
    """Emits ``jax.checkpoint`` of the rebuilt body, by the same policy."""
    outs, seen = compat.checkpointed(lambda *xs: run.watched(node.frames[0], xs), node.params)(*operands)
    run.note(seen)
    return outs


def emit_call(run: Interpreter, node: Node, operands: list[Any]) -> list[Any]:
    """Emits the rebuilt body; rules by which the call itself was batched, partitioned or transposed are gone."""
    outs, seen = run.watched(node.frames[0], operands)
    run.note(seen)
    return outs


def emit_shard_map(run: Interpreter, node: Node, operands: list[Any]) -> list[Any]:
    """Emits ``jax.shard_map`` of the rebuilt body; what nodes noted comes out with a first axis for the devices."""
    (body,) = node.frames
    targets = _keeps(run, body.outs)
    shared = [run.shared(x, spec, node) for x, spec in zip(operands, node.params["in_specs"], strict=True)]
    given = [i for i, (x, _, _) in enumerate(shared) if x is not None]

    def local(*xs: Any) -> tuple[tuple[Any, ...], Any]:
        own: list[Any] = [None] * len(shared)
        for i, x in zip(given, xs, strict=True):
            own[i] = shared[i][2](x)
        outs, seen = run.watched(body, own)
        return tuple(_fit_all(run, outs, body.outs, targets)), jax.tree.map(lambda each: jnp.asarray(each)[None], seen)

    specs = tuple(shared[i][1] for i in given)
    outs, seen = compat.shard_mapped(local, node.params, specs)(*(shared[i][0] for i in given))
    run.note(seen, node)
    return list(outs)


def emit_custom_jvp(run: Interpreter, node: Node, operands: list[Any]) -> list[Any]:
    """Emits a ``jax.custom_jvp`` of the rebuilt function, with the rebuilt derivative."""
    function, rule = node.frames
    targets, count = _keeps(run, node.outs), len(node.outs)
    inexact = [compat.is_inexact(value.dtype) for value in node.outs]

    @jax.custom_jvp
    def rebuilt(*xs: Any) -> tuple[Any, ...]:
        return tuple(_fit_all(run, run.watched(function, xs)[0], function.outs, targets))

    @rebuilt.defjvp
    def _(xs: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        outs, _ = run.watched(rule, [*xs, *(run.tangent(xs[i], tangents[i]) for i in moving(node))])
        ends = targets + [target for target, is_inexact in zip(targets, inexact, strict=True) if is_inexact]
        outs = _fit_all(run, outs, rule.outs, ends)
        moved = iter(outs[count:])
        pairs = zip(outs[:count], inexact, strict=True)
        return tuple(outs[:count]), tuple(next(moved) if i else np.zeros(x.shape, jax.dtypes.float0) for x, i in pairs)

    return list(rebuilt(*operands))


EMIT: dict[str, Callable[..., list[Any]]] = {
    "scan": emit_scan,
    "while": emit_while,
    "cond": emit_cond,
    "custom_jvp_call": emit_custom_jvp,
    "shard_map": emit_shard_map,
    **dict.fromkeys(compat.CALLS, emit_call),
} | dict.fromkeys(compat.REMAT, emit_remat)
"""How each primitive with bodies is rebuilt."""
