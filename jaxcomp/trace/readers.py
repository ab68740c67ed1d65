"""Readers: who makes and who reads each value of a program, and which values are parameters in another shape."""

import math
from collections import Counter
from typing import Any

import numpy as np

from jaxcomp.trace.affine import frames, images
from jaxcomp.trace.ir import Node, Program, Value, all_nodes

SHAPES = ("reshape", "broadcast_in_dim", "squeeze", "expand_dims", "convert_element_type")
"""Primitives that leave a bias in its order."""


class Readers:
    """The nodes that make and read each value of a program."""

    def __init__(self, program: Program) -> None:
        """Takes the program."""
        self._images, self._params = images(program), program.parameters()
        self._maker: dict[Value, Node] = {}
        self._count = Counter(value for frame, _ in frames(program.frame) for value in frame.outs)
        for node in all_nodes(program.frame):
            self._maker |= dict.fromkeys(node.outs, node)
            self._count.update(node.ins)

    def parameter(self, value: Value) -> tuple[str, Value, bool] | None:
        """Finds the parameter that a value is, in any shape: its path, itself, and whether nothing else reads it."""
        alone = self._count[value] == 1
        while value not in self._images:
            maker = self._maker.get(value)
            if maker is None or maker.op not in SHAPES:
                return None
            (value,) = maker.ins
            alone &= self._count[value] == 1
        path, sliced = self._images[value]
        return path, value, alone and not sliced and self._count[self._params[path]] == 1

    def per_channel(self, value: Value, out: Value) -> tuple[str, int] | None:
        """Finds a parameter that has one number for each index of one axis of a result.

        Args:
          value: an operand that may be such a parameter.
          out: the result that it is computed into.

        Returns:
          The parameter's path, and the axis of ``out``; None if it is none.
        """
        found = self.parameter(value)
        if found is None or not found[2]:
            return None
        path, root, _ = found
        shape = value.shape
        numbers: Any = np.arange(math.prod(root.shape)).reshape(root.shape)
        for node in self._since(value):
            numbers = _reshaped(node, numbers)
        if len(shape) != len(out.shape) or numbers.size < 2:
            return None
        whole = np.broadcast_to(numbers, out.shape)
        own = [i for i, n in enumerate(out.shape) if n == math.prod(root.shape)]
        along = [np.arange(out.shape[i]).reshape([-1 if j == i else 1 for j in range(len(shape))]) for i in own]
        hits = [
            i for i, each in zip(own, along, strict=True) if np.array_equal(whole, np.broadcast_to(each, whole.shape))
        ]
        return (path, hits[0]) if len(hits) == 1 else None

    def _since(self, value: Value) -> list[Node]:
        """The nodes by which a parameter became a value, the first first."""
        nodes: list[Node] = []
        while value not in self._images:
            nodes.append(self._maker[value])
            (value,) = nodes[-1].ins
        return nodes[::-1]


def _reshaped(node: Node, numbers: np.ndarray) -> np.ndarray:
    if node.op == "broadcast_in_dim":
        shape = [1] * len(node.outs[0].shape)
        for i, j in enumerate(node.params["broadcast_dimensions"]):
            shape[j] = numbers.shape[i]
        return np.broadcast_to(numbers.reshape(shape), node.outs[0].shape)
    return numbers if node.op == "convert_element_type" else numbers.reshape(node.outs[0].shape)
