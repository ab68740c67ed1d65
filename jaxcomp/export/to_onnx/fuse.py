"""Fusing: operators that runtimes have as one are written as one; what nothing reads goes."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxcomp.export.to_onnx.graph import Graph, Operator


class View:
    """A graph's operators by what they make and who reads it.

    Attributes:
      graph: the graph.
      results: names of the tensors that it returns: nobody may take them away.
      makers: the operator that makes each tensor.
      readers: the operators that read each.
    """

    def __init__(self, graph: Graph, results: list[str]):
        """Reads a graph."""
        self.graph, self.results = graph, set(results)
        self.makers = {name: operator for operator in graph.operators for name in operator.outs}
        self.readers: dict[str, list[Operator]] = {}
        for operator in graph.operators:
            for name in operator.ins:
                self.readers.setdefault(name, []).append(operator)

    def maker(self, name: str, *ops: str) -> Operator | None:
        """Returns the operator that makes the tensor ``name``, if it is one of ``ops`` and is read once."""
        made = self.makers.get(name)
        alone = len(self.readers.get(name, ())) == 1 and name not in self.results
        return made if made is not None and made.op in ops and alone else None

    def number(self, name: str) -> float | None:
        """Returns the one number of a constant."""
        array = self.graph.constants.get(name)
        return None if array is None or array.size != 1 else float(array.reshape(()))


def fused(graph: Graph, results: list[str]) -> None:
    """Fuses operators of ``graph`` that can be, and drops those that none of ``results`` needs."""
    for step in (_clips, _means, _biases):
        _dropped(graph, results)
        step(View(graph, results))
    _dropped(graph, results)


def _dropped(graph: Graph, results: list[str]) -> None:
    """Drops operators and constants of ``graph`` that none of ``results`` needs."""
    needed, kept = set(results), list[Operator]()
    for operator in reversed(graph.operators):
        if not needed.isdisjoint(operator.outs):
            needed.update(operator.ins)
            kept.append(operator)
    graph.operators[:] = kept[::-1]
    graph.constants = {name: array for name, array in graph.constants.items() if name in needed}


def _clips(view: View) -> None:
    """``min(max(x, a), b)`` as one Clip."""
    for operator in view.graph.operators:
        inner = view.maker(operator.ins[0], "Relu", "Clip") if operator.op == "Clip" else None
        if inner is None or operator.ins[1]:
            continue
        if inner.op == "Clip" and len(inner.ins) > 2:
            continue
        zero = np.zeros((), view.graph.dtypes[operator.outs[0]])
        low = view.graph.constant(zero) if inner.op == "Relu" else inner.ins[1]
        operator.ins = [inner.ins[0], low, operator.ins[2]]


def _means(view: View) -> None:
    """Sums over windows or axes, divided by their number."""
    for operator in view.graph.operators:
        if operator.op not in ("Mul", "Div"):
            continue
        by = view.number(operator.ins[1])
        source = view.maker(operator.ins[0], "Mul", "ReduceSum")
        if by is None or source is None:
            continue
        factor = by if operator.op == "Mul" else 1 / by
        if source.op == "ReduceSum":
            axes, shape = view.graph.constants[source.ins[1]], view.graph.shapes[source.ins[0]]
            sizes = [shape[i] for i in axes.tolist()]
            if all(isinstance(n, int) for n in sizes) and np.isclose(factor * np.prod(sizes), 1, rtol=1e-6):
                _become(operator, "ReduceMean", source.ins, source.attributes)
            continue
        number, pool = view.number(source.ins[1]), view.maker(source.ins[0], "AveragePool")
        if number is not None and pool is not None and np.isclose(factor * number, 1, rtol=1e-6):
            _become(operator, "AveragePool", pool.ins, pool.attributes)


def _biases(view: View) -> None:
    """Makes what is added to each channel of a convolution, or column of a matrix product, its bias."""
    for operator in view.graph.operators:
        if operator.op != "Add":
            continue
        for own, other in (operator.ins, operator.ins[::-1]):
            bias = view.graph.constants.get(other)
            source = view.maker(own, "Conv", "ConvTranspose", "MatMul")
            if bias is None or source is None or len(source.ins) > 2:
                continue  # a MatMul of integers is one in runtimes, a Gemm may not be
            fit = _as_bias(view, source, bias, own)
            if fit is not None:
                _fuse_bias(view, operator, source, fit, other)
                break


def _as_bias(view: View, source: Operator, bias: np.ndarray, own: str) -> np.ndarray | None:
    shape = view.graph.shapes[own]
    axis = len(shape) - 1 if source.op == "MatMul" else 1
    if source.op == "MatMul" and (len(shape) != 2 or len(view.graph.shapes.get(source.ins[1], (0, 0))) != 2):
        return None
    padded = (1,) * (len(shape) - bias.ndim) + bias.shape
    if any(n != 1 for i, n in enumerate(padded) if i != axis):
        return None
    return np.broadcast_to(bias.reshape(-1), (shape[axis],))


def _fuse_bias(view: View, operator: Operator, source: Operator, bias: np.ndarray, hint: str) -> None:
    graph = view.graph
    op = "Gemm" if source.op == "MatMul" else source.op
    name = _integer_bias(view, source, bias) or graph.constant(np.ascontiguousarray(bias), hint)
    _become(operator, op, [*source.ins, name], {"alpha": 1.0, "beta": 1.0} if op == "Gemm" else source.attributes)


def _integer_bias(view: View, source: Operator, bias: np.ndarray) -> str | None:
    """The bias of an integer site: int32 on the grid of its sums, as runtimes want it; None if it does not fit."""
    if source.op == "ConvTranspose" or not _of_codes(view, source):
        return None
    graph, (x, w) = view.graph, (view.makers[name] for name in source.ins)
    if graph.constants[w.ins[0]].dtype != np.int8 or "block_size" in w.attributes:
        return None
    scale = graph.constants[x.ins[1]].astype(np.float64) * graph.constants[w.ins[1]].astype(np.float64)
    whole = np.round(bias / scale)
    if not np.all(np.abs(whole) < 2**31) or (scale.ndim and scale.shape != bias.shape):
        return None
    dtype = graph.constants[x.ins[1]].dtype
    ins = [graph.constant(whole.astype(np.int32)), graph.constant(scale.astype(dtype))]
    name = graph.fresh("bias")
    graph.shapes[name], graph.dtypes[name] = bias.shape, dtype
    made = Operator("DequantizeLinear", ins, [name], {"axis": 0} if scale.ndim else {}, source.place)
    graph.operators.insert(0, made)
    return name


def _of_codes(view: View, source: Operator) -> bool:
    """Whether a site is between quantized operands."""
    return all(name in view.makers and view.makers[name].op == "DequantizeLinear" for name in source.ins[:2])


def _become(operator: Operator, op: str, ins: list[str], attributes: dict[str, Any]) -> None:
    operator.op, operator.ins, operator.attributes = op, list(ins), dict(attributes)


Step = Callable[[View], None]
