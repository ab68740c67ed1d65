"""Liveness: the values that results, or other values of interest, are computed of."""

from collections.abc import Callable, Iterable

from jaxcomp.trace import compat
from jaxcomp.trace.ir import Frame, Node, Value, all_nodes

Reads = Callable[[Node], Iterable[Value]]


def live_values(
    frame: Frame, roots: Iterable[Value], reads: Reads = lambda node: node.ins, effects: bool = True
) -> set[Value]:
    """Finds every value, of a body and of those inside it, that the roots depend on.

    Args:
      frame: the body.
      roots: values of it, or of bodies inside it.
      reads: from a node without bodies to the operands that it reads; default: all of them.
      effects: whether nodes with effects are roots too, as they are of a run; False where values alone are wanted.

    Returns:
      The values, the roots among them. A while loop is live as a whole or not at all.
    """
    live = set(roots)
    count = -1
    while count != len(live):
        count = len(live)
        _back(frame, live, reads, effects)
    return live


def _back(frame: Frame, live: set[Value], reads: Reads, effects: bool) -> None:
    for node in reversed(frame.nodes):
        if node.frames:
            _through(node, live, reads, effects)
        elif (effects and has_effects(node)) or not live.isdisjoint(node.outs):
            live.update(reads(node))


def has_effects(node: Node) -> bool:
    """Returns whether a node does more than compute its results; naming an axis of devices does not count."""
    effects = [effect for effect in node.equation.effects if type(effect).__name__ != "NamedAxisEffect"]
    return not node.outs or bool(effects)


def values_inside(node: Node) -> set[Value]:
    """Returns every value in a node's bodies, and in those inside them."""
    own = {value for body in node.frames for value in (*body.ins, *body.outs)}
    return own | {value for body in node.frames for each in all_nodes(body) for value in (*each.ins, *each.outs)}


def _through(node: Node, live: set[Value], reads: Reads, effects: bool) -> None:
    """From a node's results into its bodies, and from those out to its operands."""
    if node.op in ("while", "custom_jvp_call"):
        inside = values_inside(node)
        acts = effects and has_effects(node)
        if acts or not live.isdisjoint(node.outs) or not live.isdisjoint(inside):
            live |= inside | {*node.ins, *node.outs}
        return
    if node.op == "custom_vjp_call" and not live.isdisjoint(node.outs):
        live.update(node.ins)  # the functions of its derivative may read what its body does not
    skipped = 1 if node.op == "cond" else 0
    for body in node.frames:
        live.update(inner for inner, out in zip(body.outs, node.outs, strict=True) if out in live)
        if node.op == "scan":
            first, carried = compat.scan_counts(node.params)
            carry = zip(body.ins[first : first + carried], body.outs, strict=False)
            live.update(out for into, out in carry if into in live)
            live.update(own for own, out in zip(node.outs[:carried], body.outs, strict=False) if out in live)
        _back(body, live, reads, effects)
        needed = {outer for outer, inner in zip(node.ins[skipped:], body.ins, strict=True) if inner in live}
        live |= needed
        if skipped and (needed or not live.isdisjoint(body.outs) or not live.isdisjoint(node.outs)):
            live.add(node.ins[0])
