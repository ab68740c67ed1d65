"""The first and the last layers: the sites that no other site comes before, or after."""

from collections.abc import Callable, Collection
from typing import Any

from jaxcomp.core.types import Params
from jaxcomp.trace import compat
from jaxcomp.trace.ir import Frame, Node, Value, all_nodes, trace
from jaxcomp.trace.uses import uses_of


def ends(apply_fn: Callable[..., Any], params: Params, *example: Any) -> tuple[list[str], list[str]]:
    """Finds the weights of the first and of the last layers, which low bits harm most.

    Args:
      apply_fn: ``apply_fn(params, *inputs)``.
      params: its parameters, or their shapes.
      *example: the other arguments, or their shapes.

    Returns:
      The paths of weights whose sites read what no other site had a part in, and of those whose results no other site
      reads on. What is in loops and branches is neither.

    Example:
      >>> import jax
      >>> from jaxcomp.rewrite import Scheme
      >>> layers = lambda p, x: jax.nn.relu(jax.nn.relu(x @ p["a"]) @ p["b"]) @ p["c"]
      >>> first, last = ends(layers, dict.fromkeys("abc", jax.numpy.ones((2, 2))), jax.numpy.ones((1, 2)))
      >>> first, last
      (['a'], ['c'])
      >>> [(path, Scheme(bits=8)) for path in first + last] + [(".*", Scheme(bits=4))]
      [('a', Scheme(bits=8, ...)), ('c', Scheme(bits=8, ...)), ('.*', Scheme(bits=4, ...))]
    """
    program = trace(apply_fn, params, *example)
    paths = {use.node: (path, use.side) for path, own in uses_of(program).items() for use in own.sites}
    found = Ends(program.frame, {node: side for node, (_, side) in paths.items()})
    first, last = (dict.fromkeys(paths[node][0] for node in nodes) for nodes in (found.first, found.last))
    return list(first), list(last)


class Ends:
    """The first and the last of a program's sites, by what flows into which.

    Remat and functions with a derivative of their own are entered; what is in loops and branches is neither.

    Attributes:
      first: sites whose input no other site had a part in.
      last: sites whose result flows into no other.
    """

    def __init__(self, frame: Frame, sides: dict[Node, int]):
        """Takes a body and, for each of its sites, which operand is the weight."""
        self._sides, self.first, self.last = sides, list[Node](), list[Node]()
        self._forward(frame, set())
        self._backward(frame, set())
        self.last.reverse()

    def _holds_sites(self, node: Node) -> bool:
        return any(inner in self._sides for body in node.frames for inner in all_nodes(body))

    def _forward(self, frame: Frame, after: set[Value]) -> None:
        """Adds to ``after`` the values of a body that are computed by way of a site."""
        for node in frame.nodes:
            if node in self._sides and node.ins[1 - self._sides[node]] not in after:
                self.first.append(node)
            body = _entered(node) if self._holds_sites(node) else None
            if body is not None:
                after.update(_seen(node.ins, body.ins, after))
                self._forward(body, after)
                after.update(_seen(body.outs, node.outs, after))
            elif node in self._sides or self._holds_sites(node) or not after.isdisjoint(node.ins):
                after.update(node.outs)

    def _backward(self, frame: Frame, before: set[Value]) -> None:
        """Adds to ``before`` the values of a body of which a site computes something."""
        for node in reversed(frame.nodes):
            if node in self._sides and node.outs[0] not in before:
                self.last.append(node)
            body = _entered(node) if self._holds_sites(node) else None
            if body is not None:
                before.update(_seen(node.outs, body.outs, before))
                self._backward(body, before)
                before.update(_seen(body.ins, node.ins, before))
            elif node in self._sides or self._holds_sites(node) or not before.isdisjoint(node.outs):
                before.update(node.ins)


def _entered(node: Node) -> Frame | None:
    """The one body of a node that means no more than that."""
    is_call = node.op in (*compat.ENTERED, "shard_map") or node.op.startswith("custom_")
    return node.frames[0] if is_call else None


def _seen(these: Collection[Value], those: Collection[Value], known: set[Value]) -> list[Value]:
    return [other for value, other in zip(these, those, strict=True) if value in known]
