"""Operands: what a traced value is while its graph is written: a tensor, a constant, or codes of a constant.

Axes are moved by saying so. A tensor remembers which of its axes in the file each axis of the value is, so that
transposes cost nothing and a network of NHWC convolutions stays NCHW from end to end. An axis along which a value is
broadcast has size 1 until someone needs it whole.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

Dims = tuple[Any, ...]
"""Sizes: numbers, or names of which a size is computed."""


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor that the graph computes.

    Attributes:
      name: in the file.
      dims: its sizes in the file; 1 along axes that are yet to be broadcast.
      axes: for each axis of the value, which axis in the file it is.
      dtype: NumPy's.
    """

    name: str
    dims: Dims
    axes: tuple[int, ...]
    dtype: Any

    @property
    def shape(self) -> Dims:
        """The sizes in the order of the value's axes."""
        return tuple(self.dims[axis] for axis in self.axes)

    @property
    def order(self) -> tuple[int, ...]:
        """For each axis in the file, which axis of the value it is."""
        return inverse(self.axes)

    @property
    def is_plain(self) -> bool:
        """Whether its axes lie in the file as in the value."""
        return self.axes == tuple(range(len(self.axes)))


@dataclass(frozen=True, eq=False)
class Const:
    """A number that is known.

    Attributes:
      array: of the value's rank (or a scalar, which fits any); 1 along axes that are yet to be broadcast. Random keys
        stay JAX's, of their own shape.
      path: the parameter that it is, if it is one.
    """

    array: Any
    path: str = ""

    @property
    def shape(self) -> Dims:
        """The sizes."""
        return self.array.shape

    @property
    def dtype(self) -> Any:
        """The dtype."""
        return self.array.dtype

    def transposed(self, order: tuple[int, ...]) -> "Const":
        """Puts the axes into another order."""
        return self if not self.array.ndim else replace(self, array=self.array.transpose(order))

    def reshaped(self, shape: tuple[int, ...]) -> "Const":
        """Reshapes the constant."""
        return replace(self, array=self.array.reshape(shape))


@dataclass(frozen=True, eq=False)
class Coded:
    """A constant that the file holds as codes: ``(codes - zero_point) * scale``.

    Attributes:
      codes: int8, of the value's shape.
      scale: of its rank, 1 along axes that share one; in blocks, a number a block along the axis that is cut.
      zero_point: int32 likewise; None: 0.
      block: the axis that is cut, and the size of its blocks; None: none is.
      dtype: of the value.
      wide: whether what reads it wants whole bytes: those of integer arithmetic do.
      path: the parameter that it is.
    """

    codes: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray | None
    block: tuple[int, int] | None
    dtype: Any
    wide: bool = False
    path: str = ""

    @property
    def shape(self) -> Dims:
        """The value's shape."""
        return self.codes.shape

    @property
    def value(self) -> Const:
        """The numbers that it stands for."""
        scale, zero_point = self.spread(self.scale), self.zero_point
        codes = self.codes.astype(scale.dtype)
        codes = codes if zero_point is None else codes - self.spread(zero_point).astype(scale.dtype)
        return Const((codes * scale).astype(self.dtype), self.path)

    def spread(self, part: np.ndarray) -> np.ndarray:
        """Spreads scales or zero points so that they broadcast."""
        if self.block is None:
            return part
        axis, size = self.block
        return part.repeat(size, axis).take(range(self.codes.shape[axis]), axis)

    def transposed(self, order: tuple[int, ...]) -> "Coded":
        """Puts the axes into another order."""
        zero = None if self.zero_point is None else self.zero_point.transpose(order)
        block = None if self.block is None else (order.index(self.block[0]), self.block[1])
        return replace(
            self, codes=self.codes.transpose(order), scale=self.scale.transpose(order), zero_point=zero, block=block
        )

    def reshaped(self, shape: tuple[int, ...]) -> "Coded | Const":
        """Reshapes the codes; to their numbers, if blocks cannot be told in the new shape."""
        if tuple(shape) == self.codes.shape:
            return self
        if self.block is not None:
            return self.value.reshaped(shape)

        def moved(part: np.ndarray) -> np.ndarray:
            if part.size == 1:
                return part.reshape([1] * len(shape))
            return shrunk(np.broadcast_to(part, self.codes.shape).reshape(shape))

        zero = None if self.zero_point is None else moved(self.zero_point)
        return replace(self, codes=self.codes.reshape(shape), scale=moved(self.scale), zero_point=zero)


Operand = Tensor | Const | Coded


def shrunk(part: np.ndarray) -> np.ndarray:
    """Shrinks an array to size 1 along every axis along which it does not vary."""
    for axis in range(part.ndim):
        first = part.take([0], axis)
        part = first if (part == first).all() else part
    return part


def inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    """Inverts a transposition.

    Example:
      >>> inverse((2, 0, 1))
      (1, 2, 0)
    """
    return tuple(order.index(axis) for axis in range(len(order)))


def valued(x: Operand) -> Tensor | Const:
    """Returns an operand as numbers, whatever they are held as."""
    return x.value if isinstance(x, Coded) else x
