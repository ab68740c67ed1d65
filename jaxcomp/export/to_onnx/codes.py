"""Rules for codes: QuantizeLinear and DequantizeLinear, which runtimes fuse with the site between them to integers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxcomp.export.to_onnx.elementwise import apply, file_dtype, like, onnx_dtype
from jaxcomp.export.to_onnx.graph import Graph
from jaxcomp.export.to_onnx.operands import Coded, Const, Operand, Tensor, shrunk, valued
from jaxcomp.trace.ir import Node
from jaxcomp.trace.packed.marked import DECODE, FAKE_QUANT


@dataclass(frozen=True)
class Codebook:
    """A grid of int8 or uint8 for a whole tensor: ``(code - zero_point) * scale``.

    Attributes:
      scale: positive.
      zero_point: in the file's dtype.
      reach: the least and the greatest number, where the codes have fewer than 8 bits; else None.
    """

    scale: float
    zero_point: np.generic
    reach: tuple[float, float] | None = None


def codebook(scale: float, zero_point: int, bottom: int, top: int) -> Codebook:
    """Makes the grid of int8 codes, as uint8 where they have a zero point of their own, which x86 multiplies fastest.

    Args:
      scale: of the codes.
      zero_point: likewise.
      bottom, top: the least and the greatest code.
    """
    reach = None
    if (bottom, top) not in ((-128, 127), (-127, 127)):
        reach = ((bottom - zero_point) * scale, (top - zero_point) * scale)
    shifted = bottom == -128 or (reach is not None and zero_point != 0)
    point = np.uint8(np.clip(zero_point + 128, 0, 255)) if shifted else np.int8(zero_point)
    return Codebook(scale, point, reach)


def on_grid(graph: Graph, x: Tensor, book: Codebook) -> Tensor:
    """Quantizes and dequantizes a tensor ``x`` of a ``graph`` on the grid ``book``, once for all that read it so."""

    def make() -> str:
        source = x
        if book.reach is not None:
            low, high = (like(x, each) for each in book.reach)
            source = graph.emit("Clip", [x, low, high], x.dims, x.dtype)
        grid = [np.asarray(book.scale, x.dtype), np.asarray(book.zero_point)]
        codes = graph.emit("QuantizeLinear", [source, *grid], x.dims, book.zero_point.dtype)
        return graph.emit("DequantizeLinear", [codes, *grid], x.dims, x.dtype).name

    key = ("grid", x.name, book.scale, int(book.zero_point), book.zero_point.dtype.name, book.reach)
    name = graph.once(key, make)
    graph.grids[name] = (x.name, book)
    return Tensor(name, x.dims, x.axes, x.dtype)


def _fake_quant(graph: Graph, node: Node, operands: Sequence[Any], bottom: int, top: int) -> Operand | None:
    x, scale, zero_point = operands
    if not all(isinstance(part, Const) and part.array.size == 1 for part in (scale, zero_point)):
        return None
    if not isinstance(x, Tensor):
        return None
    step = float(scale.array.reshape(()))
    if not (np.isfinite(step) and step > 0):
        raise graph.refused(f"a site's inputs have the scale {step}", "calibrate on data that reach it")
    return on_grid(graph, x, codebook(step, int(zero_point.array.reshape(())), bottom, top))


def _decode(graph: Graph, node: Node, operands: Sequence[Any], size: int, axes: tuple[int, ...]) -> Operand | None:
    parts = [valued(x) for x in operands]
    if not all(isinstance(x, Const) for x in parts):
        return None
    codes, scale, zero_point = ([x.array for x in parts] + [None])[:3]  # type: ignore[union-attr]
    dtype = np.dtype(node.outs[0].dtype)
    path = operands[0].path.rpartition("/")[0] if isinstance(operands[0], Const) else ""
    if not np.all(np.isfinite(scale)):
        raise graph.refused(f"the scale of {path!r} is not finite", "quantize finite weights")
    if not size:
        return Coded(codes, scale, zero_point, None, dtype, path=path)
    shared = [i for i in range(codes.ndim) if i not in axes]
    cut = shared[-1]
    if any(codes.shape[i] > 1 for i in shared[:-1]):
        graph.notes[f"{path}: blocks across several axes have no codes in the file: float32"] = None
        return None
    shape = [scale.shape[cut] if i == cut else n for i, n in enumerate(codes.shape)]
    return Coded(codes, np.broadcast_to(scale, shape), zero_point, (cut, min(size, codes.shape[cut])), dtype, path=path)


MARKS: dict[str, Callable[..., Operand | None]] = {FAKE_QUANT: _fake_quant, DECODE: _decode}
"""By name of the mark: ``(graph, node, operands, **attributes)``; None where the mark's body is to be written."""


def decoded(graph: Graph, x: Coded) -> Tensor:
    """Dequantizes codes ``x`` to the tensor of a ``graph`` that they stand for."""
    dtype = file_dtype(graph, x.dtype)
    varying = [axis for axis, n in enumerate(x.scale.shape) if n > 1]
    zero = x.zero_point
    if zero is not None and x.block is None:
        zero = np.broadcast_to(zero, x.scale.shape)
        varying = [axis for axis in range(zero.ndim) if x.scale.shape[axis] > 1]
    nibble = not x.wide and _fits(x.codes) and (zero is None or _fits(zero))
    name = graph.constant(x.codes, x.path, nibble)
    codes = Tensor(name, x.codes.shape, tuple(range(x.codes.ndim)), np.dtype(np.int8))
    scale, settings = x.scale.astype(dtype), dict[str, Any]()
    if x.block is None and len(varying) > 1:
        return _by_product(graph, codes, scale, zero)
    if x.block is not None:
        settings = {"axis": x.block[0], "block_size": x.block[1]}
    elif varying:
        settings, scale = {"axis": varying[0]}, scale.reshape(-1)
    else:
        scale = scale.reshape(())
    ins: list[Any] = [codes, scale]
    # Zeros are written out: ONNX Runtime takes no Gemm of integers without.
    points = np.zeros(scale.shape, np.int8) if zero is None else zero.astype(np.int8).reshape(scale.shape)
    held = graph.constant(points, "", nibble)
    ins.append(Tensor(held, points.shape, tuple(range(points.ndim)), points.dtype))
    return graph.emit("DequantizeLinear", ins, x.codes.shape, dtype, **settings)


def _by_product(graph: Graph, codes: Tensor, scale: np.ndarray, zero: np.ndarray | None) -> Tensor:
    """Codes whose scales vary along several axes, which no DequantizeLinear has: Cast and Mul."""
    wide = apply(graph, "Cast", [codes], scale.dtype, to=onnx_dtype(scale.dtype))
    if zero is not None:
        wide = apply(graph, "Sub", [wide, Const(shrunk(zero).astype(scale.dtype))], scale.dtype)
    return apply(graph, "Mul", [wide, Const(scale)], scale.dtype)


def _fits(codes: np.ndarray) -> bool:
    return bool(codes.size and codes.min() >= -8 and codes.max() <= 7)
