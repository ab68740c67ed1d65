"""Accounts: of every parameter that a report has nothing else to say of, what reads it and why that is no site."""

from collections.abc import Collection, Iterator, Mapping

import jax
import numpy as np

from jaxcomp.trace import compat
from jaxcomp.trace.ir import SITES, Frame, Node, Program, Value
from jaxcomp.trace.origins import Origins

BODIES = ("scan", "while", "cond", "shard_map")
"""Primitives into whose bodies not everything is followed."""


def left_out(program: Program, told: Collection[str], origins: Origins | None = None) -> dict[str, str]:
    """Says what reads each parameter that a report does not name.

    Args:
      program: a traced function.
      told: the paths of the parameters that the report names.
      origins: of the program, if they are known.

    Returns:
      ``{path: what reads it}`` of all others, in order of the tree's leaves.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxcomp.trace.ir import trace
      >>> layer = lambda p, x: x @ p["w"] + p["bias"]
      >>> left_out(trace(layer, {"w": jnp.ones((3, 2)), "bias": jnp.ones(2)}, jnp.ones((1, 3))), {"w"})
      {'bias': 'read by add: no matmul or convolution'}
    """
    others = [path for path in program.paths if path not in told]
    if not others:
        return {}
    found = readers(program, Origins(program) if origins is None else origins)
    params, returned = program.parameters(), set(program.frame.outs)
    bodies = dict(_bodies(program.frame))
    return {path: _said(params[path], found.get(path, []), params[path] in returned, bodies) for path in others}


def _bodies(frame: Frame, op: str = "") -> Iterator[tuple[Node, str]]:
    """Each node with the primitive in whose body it is, the outermost that is no mere call."""
    for node in frame.nodes:
        yield node, op
        for inner in node.frames:
            yield from _bodies(inner, op or (node.op if node.op in BODIES else ""))


def _not_entered(node: Node) -> bool:
    """Returns whether a node computes what the program does not show: a kernel, a callback, an unknown body."""
    hidden = node.op.endswith(("callback", "ffi_call", "hi_primitive")) or compat.holds_body(node.equation)
    return hidden and not node.frames


def readers(program: Program, origins: Origins) -> dict[str, list[Node]]:
    """Finds the nodes that first mix a parameter, or a value made of parameters alone, with something else.

    Args:
      program: a traced function.
      origins: of the program.

    Returns:
      ``{path: nodes}``.
    """
    found: dict[str, list[Node]] = {}
    for node, calls in origins.calls.items():
        for value in _mixed(node, origins) if calls else ():
            for path in origins[value].paths:
                own = found.setdefault(path, [])
                if node not in own:
                    own.append(node)
    return found


def _mixed(node: Node, origins: Origins) -> Iterator[Value]:
    """The values made of parameters alone that a node mixes with others."""
    if not node.frames:
        if _not_entered(node) or any(origins[out].live for out in node.outs) or not node.outs:
            yield from node.ins
        return
    skipped = 1 if node.op == "cond" else 0
    for body in node.frames:
        # A loop that carries it mixes it with what comes round; a branch, with what chooses.
        pairs = [*zip(node.ins[skipped:], body.ins, strict=False), *zip(body.outs, node.outs, strict=False)]
        yield from (one for one, other in pairs if origins[one].is_weight and origins[other].live)


def _said(value: Value, own: list[Node], returned: bool, bodies: Mapping[Node, str]) -> str:
    at_site = any(node.op in SITES for node in own)
    kind = _kind(value, at_site)
    hidden = [node for node in own if _not_entered(node)]
    if hidden:
        said = f"read inside {hidden[0].op}, which is not looked into"
        return _at(said, hidden[0])
    if not own:
        return kind + ("returned as it is, read by nothing" if returned else "nothing reads it")
    names = list(dict.fromkeys(node.op for node in own))
    said = kind + f"read by {', '.join(names[:3])}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    within = list(dict.fromkeys(bodies[node] for node in own if bodies.get(node)))
    said += f" inside {' and '.join(within)}" if within else ""
    return said if at_site else f"{said}: no matmul or convolution"


def _at(said: str, node: Node) -> str:
    return f"{said} ({node.place})" if node.place else said


def _kind(value: Value, at_site: bool) -> str:
    """Describes a parameter, if its shape or dtype says why it is no weight."""
    if not jax.dtypes.issubdtype(value.dtype, np.floating):
        return f"of {value.dtype}, not floating-point; "
    if 0 in value.shape:
        return "empty; "
    if not value.shape:
        return "a scalar; "
    return "a vector; " if at_site and len(value.shape) == 1 else ""
