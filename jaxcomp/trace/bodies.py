"""Control flow, remat and derivatives: rebuilt by JAX's public functions around the interpreted bodies."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcomp.trace import compat
from jaxcomp.trace.ir import Frame, Node, Value
from jaxcomp.trace.origins import moving

if TYPE_CHECKING:
    from jaxcomp.trace.interpreter import Interpreter, Keep


def _fit_all(
    run: "Interpreter", xs: Sequence[Any], values: Sequence[Value], targets: "Sequence[list[Keep]]"
) -> list[Any]:
    return [run.fit(*each) for each in zip(xs, values, targets, strict=True)]


def _keeps(run: "Interpreter", values: Sequence[Value]) -> "list[list[Keep]]":
    return [run.keeps(value) for value in values]


def _joined(run: "Interpreter", one: dict[Any, Any], other: dict[Any, Any]) -> dict[Any, Any]:
    return {key: jax.tree.map(run.join, own, other[key]) if key in other else own for key, own in one.items()}


def emit_scan(run: "Interpreter", node: Node, operands: list[Any]) -> list[Any]:
    """``lax.scan`` over the rebuilt body."""
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


def emit_while(run: "Interpreter", node: Node, operands: list[Any]) -> list[Any]:
    """``lax.while_loop`` over the rebuilt condition and body."""
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


def emit_cond(run: "Interpreter", node: Node, operands: list[Any]) -> list[Any]:
    """``lax.switch`` over the rebuilt branches."""
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


def emit_remat(run: "Interpreter", node: Node, operands: list[Any]) -> list[Any]:
    """``jax.checkpoint`` of the rebuilt body, by the same policy."""
    outs, seen = compat.checkpointed(lambda *xs: run.watched(node.frames[0], xs), node.params)(*operands)
    run.note(seen)
    return outs


def emit_call(run: "Interpreter", node: Node, operands: list[Any]) -> list[Any]:
    """The rebuilt body; the call's own way to be batched, partitioned or transposed is that of what it was."""
    outs, seen = run.watched(node.frames[0], operands)
    run.note(seen)
    return outs


def emit_shard_map(run: "Interpreter", node: Node, operands: list[Any]) -> list[Any]:
    """``jax.shard_map`` of the rebuilt body; what nodes noted comes out with a first axis for the devices."""
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


def emit_custom_jvp(run: "Interpreter", node: Node, operands: list[Any]) -> list[Any]:
    """A ``jax.custom_jvp`` of the rebuilt function, with the rebuilt derivative."""
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
