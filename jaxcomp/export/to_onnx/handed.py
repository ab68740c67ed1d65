"""Values between layers: on grids too, where a runtime computes in integers only what it may also round.

Sites hand on floating point. Of a runtime that has no such convolution (ONNX Runtime), and for sums of branches in
integers, the results of sites, sums, concatenations and means are quantized: on the grid of who reads them, or where
nobody has one, on that of the range that they have on data.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxcomp.export.to_onnx.codes import Codebook, codebook
from jaxcomp.export.to_onnx.fuse import View
from jaxcomp.export.to_onnx.graph import Graph, Operator

SITES = ("Conv", "ConvTranspose")
"""Operators that runtimes compute in integers only if their result is quantized; matrix products need no rounding."""

JOINS = ("Add", "Concat", "AveragePool", "ReduceMean", "GlobalAveragePool")
KEEPS = ("MaxPool", "Transpose", "Reshape", "Slice", "Gather", "Pad")
_ENDS = ("Relu", "Clip")


def ends_of_chains(graph: Graph, results: list[str]) -> list[str]:
    """Finds the tensors of a ``graph`` that are to be put on grids, in the order in which they are computed.

    Args:
      graph: of the file.
      results: names of its results.
    """
    view, found, coded = View(graph, results), list[str](), set[str]()
    for operator in graph.operators:
        out = operator.outs[0]
        if operator.op == "DequantizeLinear" or (operator.op in KEEPS and operator.ins[0] in coded):
            coded.add(out)
        inputs = [name for name in operator.ins[:2] if name in view.makers or name not in graph.constants]
        if operator.op not in (*SITES, *JOINS) or not inputs or not all(name in coded for name in inputs):
            continue
        end = _end(view, out)
        if end not in view.results:
            found.append(end)
            coded.add(end)
    return found


def _end(view: View, name: str) -> str:
    """The end of what is computed of a tensor alone, number by number, by who alone reads it."""
    readers = view.readers.get(name, [])
    if len(readers) == 1 and readers[0].op in _ENDS and name not in view.results:
        return readers[0].outs[0]
    return name


def hand_on(graph: Graph, results: list[str], ranges: Mapping[str, tuple[float, float]]) -> int:
    """Puts what layers hand on onto grids.

    Args:
      graph: fused.
      results: the names of the function's results.
      ranges: the least and the greatest number of each of :func:`ends_of_chains`.

    Returns:
      How many tensors were given a grid of their own.
    """
    count = 0
    for name in ends_of_chains(graph, results):
        view = View(graph, results)
        readers = view.readers.get(name, [])
        known = [reader for reader in readers if reader.op == "QuantizeLinear"]
        others = [reader for reader in readers if reader not in known]
        if not others:
            continue
        if known:
            source = view.readers[known[0].outs[0]][0].outs[0]
        elif name in ranges:
            source, count = _quantized(graph, view, name, _book_of(*ranges[name])), count + 1
        else:
            continue
        for reader in others:
            reader.ins = [source if each == name else each for each in reader.ins]
    _sorted(graph)
    _pad_codes(graph, results)
    return count


def _pad_codes(graph: Graph, results: list[str]) -> None:
    """Pads codes by the code of 0, not the numbers that they stand for, for which runtimes would have to leave them."""
    for pad in [operator for operator in graph.operators if operator.op == "Pad"]:
        view = View(graph, results)
        chain, made = [pad], view.makers.get(pad.ins[0])
        while made is not None and made.op == "Slice":
            chain, made = [made, *chain], view.makers.get(made.ins[0])
        shared = any(len(view.readers[each.outs[0]]) > 1 for each in chain[:-1])
        if made is None or made.op != "DequantizeLinear" or len(made.ins) < 3 or shared:
            continue
        zero = graph.constants[made.ins[2]]
        if view.number(pad.ins[2]) != 0 or zero.size != 1:
            continue
        name, codes = pad.outs[0], made.ins[0]
        for each in chain:
            each.ins[0] = codes
            codes = graph.fresh("codes")
            graph.shapes[codes], graph.dtypes[codes] = graph.shapes[each.outs[0]], zero.dtype
            each.outs = [codes]
        pad.ins[2] = made.ins[2]
        numbers = Operator("DequantizeLinear", [codes, *made.ins[1:]], [name], dict(made.attributes), pad.place)
        graph.operators.insert(graph.operators.index(pad) + 1, numbers)


def _book_of(least: float, most: float) -> Codebook:
    """Makes the grid of 8 bits that spans the range from ``least`` to ``most`` and has a 0."""
    low, high = min(least, 0.0), max(most, 0.0)
    scale = max((high - low) / 255, float(np.finfo(np.float32).tiny))
    return codebook(float(np.float32(scale)), round(-128 - low / scale), -128, 127)


def _quantized(graph: Graph, view: View, name: str, book: Codebook) -> str:
    dtype, shape = graph.dtypes[name], graph.shapes[name]
    grid = [graph.constant(np.asarray(book.scale, dtype)), graph.constant(np.asarray(book.zero_point))]
    codes, numbers = graph.fresh("quantizelinear"), graph.fresh("dequantizelinear")
    for each, kind in ((codes, book.zero_point.dtype), (numbers, dtype)):
        graph.shapes[each], graph.dtypes[each] = shape, kind
    place = view.makers[name].place
    graph.operators += [
        Operator("QuantizeLinear", [name, *grid], [codes], {}, place),
        Operator("DequantizeLinear", [codes, *grid], [numbers], {}, place),
    ]
    return numbers


def _sorted(graph: Graph) -> None:
    """Puts operators into an order in which each comes after what it reads."""
    makers = {name: operator for operator in graph.operators for name in operator.outs}
    done: dict[int, Operator] = {}
    stack: list[tuple[Operator, bool]] = [(operator, False) for operator in reversed(graph.operators)]
    while stack:
        operator, ready = stack.pop()
        if id(operator) in done:
            continue
        if ready:
            done[id(operator)] = operator
            continue
        stack.append((operator, True))
        stack += [(makers[name], False) for name in operator.ins if name in makers and id(makers[name]) not in done]
    graph.operators[:] = done.values()


Ranges = Mapping[str, Any]
