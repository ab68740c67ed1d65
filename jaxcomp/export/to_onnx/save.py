"""ONNX: a function and its parameters as a file for the runtimes of other frameworks, integers as integers."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import jax
import numpy as np
from jax import export

from jaxcomp.core.arrays import concrete
from jaxcomp.core.calls import unjitted
from jaxcomp.core.errors import ArgumentError, MissingExtraError
from jaxcomp.core.files import write_atomically
from jaxcomp.core.leaves import is_key
from jaxcomp.core.paths import path_string
from jaxcomp.core.tables import table
from jaxcomp.core.types import Params
from jaxcomp.export.metadata import checked_metadata
from jaxcomp.export.to_onnx import handed
from jaxcomp.export.to_onnx.convert import Converter, unread, written
from jaxcomp.export.to_onnx.elementwise import file_dtype
from jaxcomp.export.to_onnx.fuse import fused
from jaxcomp.export.to_onnx.graph import OPSET, Graph
from jaxcomp.export.to_onnx.model import Port, built
from jaxcomp.export.to_onnx.observed import observed
from jaxcomp.export.to_onnx.operands import Const, Operand, Tensor
from jaxcomp.observe.batches import Select, checked_batches
from jaxcomp.trace import compat
from jaxcomp.trace.ir import Program, trace
from jaxcomp.trace.liveness import live_values
from jaxcomp.trace.packed.marked import marking

Path = str | os.PathLike[str]
_SITES = ("Conv", "ConvTranspose", "MatMul", "Gemm")


@dataclass(frozen=True)
class OnnxReport:
    """The file that was written; prints as a table.

    Attributes:
      bytes: the size of the file.
      operators: how many of each type.
      integer_sites, float_sites: the matmuls and convolutions between quantized operands, and all others.
      handed_on: the tensors that were given a grid that the function does not have.
      notes: the differences of the file from the function.
    """

    bytes: int
    operators: Mapping[str, int]
    integer_sites: int
    float_sites: int
    handed_on: int
    notes: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        rows = [[name, f"{count:,}"] for name, count in sorted(self.operators.items())]
        said = [
            f"{self.bytes:,} bytes, opset {OPSET}; matmuls and convolutions: {self.integer_sites} between integers, "
            f"{self.float_sites} in floating point; {self.handed_on} results on grids of their own",
            *self.notes,
        ]
        return "\n".join([table(["operator", "count"], rows, ["total", str(sum(self.operators.values()))]), *said])


def onnx(
    path: Path,
    fn: Callable[..., Any],
    params: Params,
    *example: Any,
    shapes: Any = None,
    batches: Iterable[Any] | None = None,
    select: Select | None = None,
    metadata: Mapping[str, str] | None = None,
) -> OnnxReport:
    """Writes a function and its parameters as an ONNX file: for ONNX Runtime, OpenVINO, TensorRT and others.

    Sites that :func:`jaxcomp.rewrite.quantize` made are written as the runtimes want them, each a float operator
    between ``QuantizeLinear`` and ``DequantizeLinear`` (QDQ): codes of int8 weights a channel, uint8 or int8 inputs;
    weights alone in int8 or int4, in blocks too. Convolutions are NCHW, whatever their layout in the function.

    Loops (``lax.scan``) are written out. bfloat16 is computed in float32. Inputs with dynamic ranges, and of formats
    other than integers, are rounded in floating point; weights of such formats are float32.

    Args:
      path: the file; its folder exists.
      fn: ``fn(params, *inputs)``: any JAX function, rewritten or not, for inference.
      params: any tree of concrete arrays, packed leaves among them.
      *example: the other arguments, or their shapes.
      shapes: as of :func:`jaxcomp.export.save`: ``"batch, ..."`` for inputs whose first axis may have any size.
      batches: calibration batches, on which the ranges of what layers hand on are found, to round that too. None: sites
        hand on floating point, which is our own arithmetic; OpenVINO computes these sites in integers, ONNX Runtime
        only those whose result is quantized.
      select: the inputs of each batch, a key or a function of it.
      metadata: texts by name, for the file's properties.

    Returns:
      What was written.

    Raises:
      ArgumentError: for an operation without a rule, which is named with its place; for effects; for parameters of
        more than 2 GiB; for scales that are no positive numbers; for a path that cannot be written.
      MissingExtraError: without the package onnx.

    Example:
      >>> import tempfile
      >>> import jax.numpy as jnp
      >>> mlp = lambda p, x: jax.nn.relu(x @ p["up"]) @ p["down"]
      >>> params = {"up": jnp.ones((4, 8)), "down": jnp.ones((8, 2))}
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     report = onnx(f"{folder}/m.onnx", mlp, params, jnp.ones((1, 4)), shapes="batch, ...")
      >>> dict(report.operators)
      {'MatMul': 2, 'Relu': 1}

    Reference: https://onnx.ai/onnx/operators (opset 21).
    """
    if find_spec("onnx") is None:
        raise MissingExtraError('ONNX files are written by the package onnx: pip install "jaxcomp[onnx]"')
    texts = checked_metadata(metadata)
    fn, params = unjitted(fn), concrete(params, "onnx")
    given = None if batches is None else checked_batches(fn, params, batches, select)
    program, inputs = _traced(fn, params, example, shapes)
    graph, results = Graph(), list[Port]()
    converter = _converted(graph, program, params, inputs, results)
    names = [name for name, *_ in results]
    fused(graph, names)
    count = 0 if given is None else _handed(graph, names, converter, fn, params, given, program)
    fused(graph, names)
    _renamed(graph, names)
    content = built(graph, inputs, results, texts).SerializeToString(deterministic=True)
    write_atomically(path, content)
    return _report(graph, len(content), count)


def _traced(fn: Any, params: Params, example: tuple[Any, ...], shapes: Any) -> tuple[Program, list[Port]]:
    try:
        arguments = export.symbolic_args_specs(example, shapes) if shapes is not None else example
    except ValueError as error:
        raise ArgumentError(f"the shapes {shapes!r} do not fit the example: {error}") from error
    with marking():
        program = trace(fn, params, *arguments)
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(arguments)[0]]
    values = program.frame.ins[len(program.paths) :]
    names = _named([path_string(path) for path in paths], "input")
    return program, [(name, value.dims, value.dtype) for name, value in zip(names, values, strict=True)]


def _named(paths: Sequence[str], one: str) -> list[str]:
    """Names of inputs or results: the one has a name, several are numbered or have their own keys."""
    if len(paths) == 1:
        return [one]
    return [f"{one}_{path.replace('/', '_')}" if path[:1].isdigit() else path.replace("/", "_") for path in paths]


def _converted(graph: Graph, program: Program, params: Params, inputs: list[Port], results: list[Port]) -> Converter:
    """Writes the program into the graph, and what comes of it into ``results``."""
    live = live_values(program.frame, program.frame.outs)
    rows = zip(program.paths, jax.tree.leaves(params), program.frame.ins, strict=False)  # inputs follow
    leaves = [_constant(path, leaf) if value in live else unread(value) for path, leaf, value in rows]
    given: list[Operand] = []
    for name, dims, dtype in inputs:
        if not compat.is_number(dtype):
            raise ArgumentError(f"the input {name!r} is of {dtype}, which no ONNX file holds: bind it to the function")
        graph.shapes[graph.fresh(name)], graph.dtypes[name] = dims, file_dtype(graph, dtype)
        given.append(Tensor(name, dims, tuple(range(len(dims))), np.dtype(dtype)))
        for axis, size in enumerate(dims):
            if compat.is_symbolic(size):
                graph.sizes.setdefault(str(size), (name, axis))
    converter = Converter(graph, live)
    outs = converter.body(program.frame, [*leaves, *given])
    for name, x, value in zip(_named(program.out_paths, "output"), outs, program.frame.outs, strict=True):
        results.append((written(graph, x, value, name), value.dims, value.dtype))
    return converter


def _constant(path: str, leaf: Any) -> Const:
    if isinstance(leaf, jax.ShapeDtypeStruct) or not (compat.is_number(leaf.dtype) or is_key(leaf)):
        raise ArgumentError(f"the parameter {path!r} must be an array of numbers, got {leaf}")
    return Const(leaf if is_key(leaf) else np.asarray(leaf), path)


def _handed(
    graph: Graph,
    names: list[str],
    converter: Converter,
    fn: Any,
    params: Params,
    batches: list[Any],
    program: Program,
) -> int:
    ends = [name for name in handed.ends_of_chains(graph, names) if name in converter.tensors]
    values = [converter.tensors[name] for name in ends]
    ranges = observed(fn, params, batches, program, values) if values else []
    return handed.hand_on(graph, names, dict(zip(ends, ranges, strict=True)))


def _renamed(graph: Graph, names: list[str]) -> None:
    """Gives results their names where they are made, without an Identity between."""
    makers = {name: operator for operator in graph.operators for name in operator.outs}
    for operator in [each for each in graph.operators if each.op == "Identity" and each.outs[0] in names]:
        (source,), (name,) = operator.ins, operator.outs
        if source not in makers or source in names:
            continue
        graph.operators.remove(operator)
        for other in graph.operators:
            other.ins = [name if each == source else each for each in other.ins]
            other.outs = [name if each == source else each for each in other.outs]
        makers[name] = makers[source]


def _report(graph: Graph, size: int, count: int) -> OnnxReport:
    makers = {name: operator.op for operator in graph.operators for name in operator.outs}
    sites = [operator for operator in graph.operators if operator.op in _SITES]
    whole = sum(all(makers.get(name) == "DequantizeLinear" for name in site.ins[:2]) for site in sites)
    types = dict(sorted(Counter(operator.op for operator in graph.operators).items()))
    return OnnxReport(size, types, whole, len(sites) - whole, count, tuple(graph.notes))
