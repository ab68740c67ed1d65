"""The graph under construction: its operators, its constants, and the layouts in which operands are handed to them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxcomp.core.errors import ArgumentError
from jaxcomp.export.to_onnx.operands import Coded, Const, Dims, Operand, Tensor
from jaxcomp.trace import compat

OPSET, IR_VERSION = 21, 10
"""The opset of the file: the first with codes of 4 bits and with scales in blocks."""


@dataclass(eq=False)
class Operator:
    """One operator of the file.

    Attributes:
      op: its type.
      ins, outs: names; of an operand that is left out, "".
      attributes: its settings.
      place: where the function was written that it comes from.
    """

    op: str
    ins: list[str]
    outs: list[str]
    attributes: dict[str, Any] = field(default_factory=dict)
    place: str = ""


class Graph:
    """The graph of the file, as it grows.

    Attributes:
      operators: in the order in which they run.
      constants: by name; codes of 4 bits are named in ``nibbles``.
      sizes: for each named size, the input and the axis that has it.
      place: where the function was written that is being converted.
      notes: what the file has otherwise than the function, for the report.
      grids: of tensors that were quantized and dequantized: the name of what was, and the grid.
      shapes, dtypes: of tensors, as they lie in the file.
    """

    def __init__(self) -> None:
        """Starts empty."""
        self.operators: list[Operator] = []
        self.constants: dict[str, np.ndarray] = {}
        self.nibbles: set[str] = set()
        self.sizes: dict[str, tuple[str, int]] = {}
        self.place = ""
        self.notes: dict[str, None] = {}
        self.grids: dict[str, Any] = {}
        self.shapes: dict[str, Dims] = {}
        self.dtypes: dict[str, Any] = {}
        self._names: set[str] = set()
        self._known: dict[Any, Any] = {}

    def fresh(self, hint: str) -> str:
        """Returns a name that nothing has yet."""
        name, count = hint, 0
        while name in self._names:
            count += 1
            name = f"{hint}_{count}"
        self._names.add(name)
        return name

    def emit(
        self,
        op: str,
        ins: Sequence[Operand | np.ndarray | None],
        dims: Dims,
        dtype: Any,
        axes: tuple[int, ...] | None = None,
        **attributes: Any,
    ) -> Tensor:
        """Adds an operator; gives its result.

        Args:
          op: its type.
          ins: its operands as they lie in the file.
          dims: the result's sizes in the file.
          dtype: the result's.
          axes: as of :class:`Tensor`; None: as they lie.
          **attributes: its settings.
        """
        name = self.fresh(op.lower())
        self.operators.append(Operator(op, [self.name(x) for x in ins], [name], attributes, self.place))
        self.shapes[name], self.dtypes[name] = tuple(dims), np.dtype(dtype)
        return Tensor(name, tuple(dims), tuple(range(len(dims))) if axes is None else axes, np.dtype(dtype))

    def name(self, x: Operand | np.ndarray | None) -> str:
        """Returns the name of an operand as it lies in the file; constants are put into it."""
        if x is None:
            return ""
        if isinstance(x, Tensor):
            return x.name
        assert not isinstance(x, Coded)  # they are decoded by those who know for what
        array, path = (x.array, x.path) if isinstance(x, Const) else (x, "")
        return self.constant(array, path)

    def constant(self, array: np.ndarray, hint: str = "", nibble: bool = False) -> str:
        """Adds a constant, one for all that are alike, and returns its name.

        Args:
          array: its value.
          hint: the beginning of its name.
          nibble: whether it is stored as 4-bit integers.
        """
        array = np.asarray(array)
        key = array.dtype.name, array.shape, nibble, array.tobytes() if array.size <= 4096 else id(array)
        if key not in self._known:
            name = self.fresh(hint or "constant")
            self.constants[name] = array
            self._known[key] = name, array  # held, so that its id stays its own
            if nibble:
                self.nibbles.add(name)
        return self._known[key][0]

    def once(self, key: Any, make: Any) -> Any:
        """Returns the result of ``make``, called once for a ``key``."""
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    def laid(self, x: Tensor | Const, axes: tuple[int, ...]) -> Tensor | Const:
        """Lays an operand ``x`` out with its axes in the order ``axes``, by a Transpose where they are not."""
        if isinstance(x, Const):
            return x.transposed(tuple(axes.index(p) for p in range(len(axes)))) if x.array.ndim else x
        if x.axes == axes or not x.dims:
            return x
        order = [0] * len(axes)
        for own, target in zip(x.axes, axes, strict=True):
            order[target] = own
        dims = tuple(x.dims[p] for p in order)
        key = ("laid", x.name, tuple(order))
        made = self.once(key, lambda: self.emit("Transpose", [x], dims, x.dtype, axes, perm=order))
        return Tensor(made.name, dims, axes, x.dtype)

    def tensor(self, x: Tensor | Const) -> Tensor:
        """Returns an operand as a tensor of the file."""
        return x if isinstance(x, Tensor) else Tensor(self.name(x), x.shape, tuple(range(len(x.shape))), x.dtype)

    def whole(self, x: Tensor | Const, dims: Dims) -> Tensor:
        """Broadcasts an operand ``x`` to its whole shape ``dims``, as a tensor."""
        return self.tensor(self.full(x, dims))

    def plain(self, x: Tensor | Const) -> Tensor | Const:
        """Lays an operand out with its axes in the value's order."""
        return self.laid(x, tuple(range(len(x.shape))))

    def full(self, x: Tensor | Const, dims: Dims) -> Tensor | Const:
        """Broadcasts an operand ``x`` to its whole shape ``dims``."""
        if all(own == size for own, size in zip(x.shape, dims, strict=True)):
            return x
        if isinstance(x, Const):
            if not any(map(compat.is_symbolic, dims)):
                return Const(np.broadcast_to(x.array, dims), x.path)
            x = self.tensor(x)
        wanted = [dims[logical] if x.dims[p] == 1 else 1 for p, logical in enumerate(x.order)]
        whole = tuple(dims[logical] for logical in x.order)
        return self.emit("Expand", [x, self.sized(wanted)], whole, x.dtype, x.axes)

    def sized(self, dims: Sequence[Any]) -> Operand | np.ndarray:
        """Returns a shape as an operand: a constant, or computed from the inputs' sizes."""
        if not any(map(compat.is_symbolic, dims)):
            return np.asarray(dims, np.int64)
        parts = [self._size(n) if compat.is_symbolic(n) else np.asarray([n], np.int64) for n in dims]
        return self.emit("Concat", parts, (len(parts),), np.int64, axis=0)

    def _size(self, size: Any) -> Tensor:
        name = str(size)
        if name not in self.sizes:
            raise self.refused(f"a value is broadcast to the size {name}, which no input has", "give it as a number")
        source, axis = self.sizes[name]
        owner = Tensor(source, (), (), np.int64)
        return self.once(("size", name), lambda: self.emit("Shape", [owner], (1,), np.int64, start=axis, end=axis + 1))

    def reshaped(self, x: Tensor | Const, dims: Dims, axes: tuple[int, ...] | None = None) -> Tensor | Const:
        """Reshapes an operand as it lies in the file.

        Args:
          x: the operand.
          dims: afterwards.
          axes: where each axis lies; None: in order.
        """
        if isinstance(x, Const):
            return x.reshaped(tuple(dims))
        axes = tuple(range(len(dims))) if axes is None else axes
        if x.dims == tuple(dims):
            return Tensor(x.name, x.dims, axes, x.dtype)
        named = [i for i, size in enumerate(dims) if compat.is_symbolic(size)]
        if len(named) == 1:
            free = [n for i, n in enumerate(dims) if i not in named]
            target = self.sized([-1 if i in named else n for i, n in enumerate(dims)]) if 0 not in free else None
        elif all(i < len(x.dims) and x.dims[i] == dims[i] for i in named):
            target = self.sized([0 if i in named else n for i, n in enumerate(dims)])
        else:
            target = self.sized(dims)
        return self.emit("Reshape", [x, self.sized(dims) if target is None else target], dims, x.dtype, axes)

    def refused(self, what: str, instead: str) -> ArgumentError:
        """Makes an error: ``what`` has no place in the file, where it was written, and what to do ``instead``."""
        return ArgumentError(f"{what}{f' (at {self.place})' if self.place else ''}: {instead}")


def count(dims: Sequence[Any]) -> Any:
    """Counts the numbers that a shape holds; symbolic where a size is.

    Example:
      >>> count((2, 3))
      6
    """
    return math.prod(dims)


def broadcast(shapes: Sequence[Dims]) -> Dims:
    """Returns the shape that several broadcast to; scalars fit any."""
    rank = max(map(len, shapes))
    columns = zip(*([1] * (rank - len(shape)) + list(shape) for shape in shapes), strict=True)
    return tuple(next((n for n in column if compat.is_symbolic(n) or n != 1), 1) for column in columns)
