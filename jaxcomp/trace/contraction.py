"""Contractions: which axes of a matmul's or convolution's operands meet, and where the others are in the result."""

from typing import NamedTuple

from jaxcomp.trace.ir import Node


class Axes(NamedTuple):
    """The axes of one operand.

    Attributes:
      batch: run over in step with the other operand's, which come in the same order; of a convolution none.
      contracted: summed over together with the other operand's, likewise; of a convolution the input channels (the
        kernel has those of one group).
      free: of this operand alone, in the result too; of a convolution the examples, of its kernel the output channels.
      window: of a convolution the places, of its kernel those of its window, in the order of its strides.
    """

    batch: tuple[int, ...]
    contracted: tuple[int, ...]
    free: tuple[int, ...]
    window: tuple[int, ...] = ()

    @property
    def met(self) -> tuple[int, ...]:
        """The axes that have a counterpart in the other operand, ``window`` aside."""
        return (*self.batch, *self.contracted)

    @property
    def passed(self) -> tuple[int, ...]:
        """The axes that the result has too, ``window`` aside: where they are there is :attr:`Contraction.places`."""
        return (*self.batch, *self.free)

    @property
    def rows(self) -> tuple[int, ...]:
        """The axes of an input that are neither summed nor slid over, in order: each index is a row, or an example."""
        return tuple(sorted(self.passed))

    @property
    def summed(self) -> tuple[int, ...]:
        """The axes of a weight that the result no longer has."""
        return (*self.contracted, *self.window)


class Contraction:
    """The axes of a ``dot_general`` or ``conv_general_dilated``.

    Attributes:
      operands: the axes of the left operand and of the right one: of a convolution, its input and its kernel.
      batch: of the result, those that are both operands' batch.
      free: of the result, those that are the left operand's free ones, and the right one's.
      window: of the result, the places of a convolution.
      groups: of a convolution, into how many groups its channels fall, each read by its own part of the kernel.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxcomp.trace.ir import trace
      >>> program = trace(lambda w, x: jnp.einsum("nhc,hcd->hnd", x, w), jnp.ones((2, 3, 4)), jnp.ones((5, 2, 3)))
      >>> found = Contraction(program.frame.nodes[0])
      >>> found.operands[0]
      Axes(batch=(1,), contracted=(2,), free=(0,), window=())
      >>> found.batch, found.free
      ((0,), ((1,), (2,)))
    """

    def __init__(self, node: Node) -> None:
        """Reads them off a node."""
        numbers = node.params["dimension_numbers"]
        self.groups: int = node.params.get("feature_group_count", 1)
        if node.op == "conv_general_dilated":
            (example, channel, *space), (out, reads, *window) = numbers.lhs_spec, numbers.rhs_spec
            self.operands = Axes((), (channel,), (example,), (*space,)), Axes((), (reads,), (out,), (*window,))
            self.batch: tuple[int, ...] = ()
            self.free: tuple[tuple[int, ...], ...] = (numbers.out_spec[0],), (numbers.out_spec[1],)
            self.window = tuple(numbers.out_spec[2:])
            return
        summed, batch = numbers
        free = [
            tuple(i for i in range(len(node.ins[side].shape)) if i not in (*summed[side], *batch[side]))
            for side in (0, 1)
        ]
        lhs, rhs = (Axes(tuple(batch[side]), tuple(summed[side]), free[side]) for side in (0, 1))
        start, middle = len(lhs.batch), len(lhs.batch) + len(lhs.free)
        self.operands = lhs, rhs
        self.batch, self.window = tuple(range(start)), ()
        self.free = tuple(range(start, middle)), tuple(range(middle, middle + len(rhs.free)))

    @property
    def places(self) -> tuple[tuple[int, ...], ...]:
        """The places in the result of the axes that each operand passes on, in the order of its ``passed``."""
        return tuple((*self.batch, *own) for own in self.free)
