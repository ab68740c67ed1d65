"""Places: in which body each value of a program is, and whether it can be led out of there."""

from collections.abc import Iterator
from typing import Any

from jaxcomp.trace import compat
from jaxcomp.trace.ir import Frame, Node, Program, Value

Around = tuple[tuple[Node, Frame], ...]
"""The nodes in whose bodies something is, each with the body, the outermost first."""

CLOSED = {
    "while": "inside a while loop, which runs as often as its data say: write the loop as jax.lax.scan, or as "
    "jax.lax.fori_loop between fixed bounds",
    "cond": "inside a branch of jax.lax.cond, which may not run: tap what the cond returns",
    "shard_map": "inside a shard_map, where each device has a value of its own: return it from there, or tap what the "
    "shard_map returns",
}
"""Why values inside of some primitives cannot be led out."""


class Places:
    """Where the values of a program are.

    Attributes:
      around: of each body, the nodes around it.
      frame: of each node, the body that it is in.
      maker: of each value, the node that computes it; operands of bodies have none.
      home: of each value, its body.
      order: the place of each node among all.
    """

    def __init__(self, program: Program) -> None:
        """Walks a program; the rules of derivatives and conditions of loops are left out."""
        self.around: dict[Frame, Around] = {}
        self.frame: dict[Node, Frame] = {}
        self.maker: dict[Value, Node] = {}
        self.home: dict[Value, Frame] = {}
        self._walk(program.frame, ())
        self.order = {node: i for i, node in enumerate(self.frame)}

    def _walk(self, frame: Frame, around: Around) -> None:
        self.around[frame] = around
        self.home |= dict.fromkeys(frame.ins, frame)
        for node in frame.nodes:
            self.frame[node] = frame
            self.maker |= dict.fromkeys(node.outs, node)
            self.home |= dict.fromkeys(node.outs, frame)
            for body in bodies(node):
                self._walk(body, (*around, (node, body)))

    def lifted(self, value: Value) -> Value:
        """Follows a value out of remat, calls and functions with a derivative of their own, where they return it."""
        while value in self.home and (around := self.around[self.home[value]]):
            node, body = around[-1]
            if not _same_outside(node):
                break
            if value in body.outs:
                value = node.outs[body.outs.index(value)]
            elif value in body.ins and len(body.ins) == len(node.ins):
                value = node.ins[body.ins.index(value)]
            else:
                break
        return value

    def why_not(self, value: Value) -> str:
        """Says why a value cannot be tapped; empty if it can."""
        nodes = [node for node, _ in self.around[self.home[value]]]
        return next((CLOSED[node.op] for node in nodes if node.op in CLOSED), "")

    def shape(self, value: Value) -> tuple[Any, ...]:
        """Returns a value's shape, after the lengths of the scans around it."""
        nodes = [node for node, _ in self.around[self.home[value]]]
        return (*(node.params["length"] for node in nodes if node.op == "scan"), *value.dims)

    def common(self, nodes: list[Node]) -> tuple[Frame, list[Node]]:
        """Finds the innermost body that holds some nodes, itself or in bodies, and its own node around each."""
        chains = [[*((self.frame[outer], outer) for outer, _ in self._above(node)), (self.frame[node], node)]
                  for node in nodes]  # fmt: skip
        depth = 0
        while all(len(chain) > depth + 1 and chain[depth + 1][0] is chains[0][depth + 1][0] for chain in chains):
            depth += 1
        return chains[0][depth][0], [chain[depth][1] for chain in chains]

    def _above(self, node: Node) -> Around:
        return self.around[self.frame[node]]


def bodies(node: Node) -> Iterator[Frame]:
    """Yields the bodies of a node whose values are those of its forward run."""
    if node.op == "while":
        yield node.frames[1]
    elif node.op == "cond":
        yield from node.frames
    else:
        yield from node.frames[:1]


def _same_outside(node: Node) -> bool:
    """Returns whether the result of a node's one body is the node's result."""
    return node.op in compat.ENTERED or node.op in ("custom_jvp_call", "custom_vjp_call")
