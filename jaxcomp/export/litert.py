"""A function as a .tflite file for LiteRT: in floating point, with integer weights, or in integers throughout.

The function's StableHLO goes through LiteRT's own converter. Of a function that :func:`jaxcomp.rewrite.quantize` made,
weights and activations are marked with their grids, and the converter writes codes and integer operations for them.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcomp.core.arrays import as_arrays
from jaxcomp.core.errors import ArgumentError, MissingExtraError
from jaxcomp.core.files import write_atomically
from jaxcomp.core.tables import table
from jaxcomp.core.types import Grid, Params
from jaxcomp.export.placement import measure, place
from jaxcomp.observe.batches import Select, checked_batches
from jaxcomp.rewrite.quant.integers import QuantizedRun
from jaxcomp.rewrite.quant.quantize import Quantized
from jaxcomp.rewrite.rewritten import rewritten
from jaxcomp.trace import compat
from jaxcomp.trace.ir import Node, Program, Value, trace
from jaxcomp.trace.packed.codes import Codes
from jaxcomp.trace.packed.leaf import Packed

PRODUCTS = ("CONV_2D", "DEPTHWISE_CONV_2D", "CONV_3D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "BATCH_MATMUL")
"""The runtime's operations that multiply."""

STEPS = 256
"""Of a scan: each is written out."""


class Operation(NamedTuple):
    """One operation of a file.

    Attributes:
      name: the runtime's, ``"CONV_2D"``.
      types: those of its first two operands, of which one is its weight, and of its result.
      shape: of its result.
    """

    name: str
    types: tuple[str, ...]
    shape: tuple[int, ...]


class LitertReport(NamedTuple):
    """What a file holds.

    Attributes:
      bytes: of the file.
      operations: in order.
      skipped: ``{path: why}`` of quantized weights that are stored in floating point.
    """

    bytes: int
    operations: tuple[Operation, ...]
    skipped: Mapping[str, str]

    @property
    def float_products(self) -> tuple[Operation, ...]:
        """Convolutions and matmuls that are computed in floating point."""
        return tuple(each for each in self.operations if each.name in PRODUCTS and "FLOAT32" in each.types)

    def __str__(self) -> str:
        rows = Counter((each.name, " ".join(dict.fromkeys(each.types))) for each in self.operations)
        lines = table(["operation", "types", "count"], [[*key, f"{count}"] for key, count in rows.items()])
        said = [f"{self.bytes:,} bytes; {len(self.float_products)} convolutions and matmuls in floating point"]
        return "\n".join([lines, *said, *(f"{path}: {why}" for path, why in self.skipped.items())])


def litert(
    path: str | os.PathLike[str],
    fn: Callable[..., Any],
    params: Params,
    *example: Any,
    batches: Iterable[Any] | None = None,
    select: Select | None = None,
    preprocess: Callable[..., Any] | None = None,
    names: Sequence[str] | None = None,
) -> LitertReport:
    """Saves a function with its parameters as a .tflite file.

    A function of :func:`jaxcomp.rewrite.quantize` with static inputs of 8 bits runs in integers: what its sites read
    keeps its grid, and what else is handed on (the sum of two branches, a mean, the last layer's result) is measured on
    ``batches`` and rounded to 8 bits too, which only such runtimes do: results differ from the function's by some steps
    of these grids. With ``inputs=None`` weights alone are integers, and with dynamic ranges too. Scans are unrolled.

    Args:
      path: the file; its folder exists.
      fn: ``fn(params, *inputs)``: any JAX function, jitted or not; quantize last, after cuts and folds.
      params: its parameters, which go into the file.
      *example: the other arguments, or their shapes; the file takes these shapes alone.
      batches: calibration batches, needed where a grid has to be measured; of any size.
      select: what of each batch the function is given, a key or a function of it.
      preprocess: what the file does with its inputs before: ``lambda pixels: ((pixels / 255 - mean) / std,)`` lets it
        take uint8. The example is then what goes into this; ``batches`` stay what the function takes.
      names: of the inputs, in order; None: ``x``, or ``x0``, ``x1``, ...

    Returns:
      What the file holds, which prints as a table.

    Raises:
      ArgumentError: if a grid has to be measured and there are no batches, if a scale is 0 or not finite, if something
        is rewritten after it was quantized, if names are too few, and if the converter refuses the function (it is said
        which operation).
      MissingExtraError: without litert-converter.

    Reference: https://ai.google.dev/edge/litert.
    """
    _need()
    program_fn, skipped = _function(fn, params, example, batches, select, preprocess)
    arguments = [leaf if isinstance(leaf, jax.ShapeDtypeStruct) else _shape(leaf) for leaf in jax.tree.leaves(example)]
    given = _names(names, len(arguments))
    lowered = jax.jit(program_fn).lower(*jax.tree.unflatten(jax.tree.structure(example), arguments))
    content = _converted(str(lowered.compiler_ir("stablehlo")), given, len(jax.tree.leaves(lowered.out_info)))
    report = LitertReport(len(content), _operations(content), skipped)
    marks = [each for each in report.operations if each.name == "STABLEHLO_COMPOSITE"]
    if marks:
        raise ArgumentError(f"the converter left {len(marks)} grids without effect: the file would compute in floats")
    write_atomically(path, content)
    return report


def _function(
    fn: Callable[..., Any],
    params: Params,
    example: tuple[Any, ...],
    batches: Iterable[Any] | None,
    select: Select | None,
    preprocess: Callable[..., Any] | None,
) -> tuple[Callable[..., Any], Mapping[str, str]]:
    """The function of inputs alone, marked with its grids; by path, why quantized weights stay in floating point."""
    before = preprocess or (lambda *inputs: inputs)
    own = rewritten(fn)
    if not isinstance(own, Quantized):
        if any(isinstance(leaf, Codes) for leaf in jax.tree.leaves(params, is_leaf=lambda x: isinstance(x, Packed))):
            raise ArgumentError(
                "the function was quantized and then changed by code or a rewrite, which hides its grids: quantize "
                "last, and give what comes before the function as preprocess="
            )
        params = as_arrays(params)
        program = trace(fn, params, *jax.eval_shape(before, *example))
        return _runs(program, jax.tree.leaves(params), before, {}, {}), {}
    leaves = own.leaves(params)
    program, _ = own._plans(leaves, jax.eval_shape(before, *example))
    read, skipped = _read(own, program, leaves)
    placement = place(program, read)
    measured = []
    if placement.missing:
        measured = _measured(own, params, leaves, batches, select, len(placement.missing))
    return _runs(program, own.operands(leaves), before, read, placement.grids(measured)), skipped


def _runs(
    program: Program,
    leaves: list[Any],
    before: Callable[..., Any],
    read: Mapping[Node, Grid],
    grids: Mapping[Value, Grid],
) -> Callable[..., Any]:
    """A program as a function of its inputs."""

    def marked(*raw: Any) -> Any:
        run = _MarkedRun(read, grids)
        inputs = run.marked(program.frame.ins[len(leaves) :], jax.tree.leaves(before(*raw)))
        outs = run.body(program.frame, [*leaves, *inputs])
        return jax.tree.unflatten(program.out_tree, [run.dense(out, None) for out in outs])

    return marked


def _read(own: Quantized, program: Program, leaves: list[Any]) -> tuple[dict[Node, Grid], dict[str, str]]:
    """The grids of what sites with weights in integers read, and why others compute in floating point."""
    run = _Sites(own.plan(program))
    operands = own.operands(leaves)
    rest = [jax.ShapeDtypeStruct(value.dims, value.dtype) for value in program.frame.ins[len(leaves) :]]
    jax.eval_shape(lambda *inputs: [run.dense(x, None) for x in run.body(program.frame, [*operands, *inputs])], *rest)
    return run.read, {**run.skipped, **run.dense_at}


class _Sites(QuantizedRun):
    """Notes what every site reads its input on."""

    def __init__(self, sites: Any) -> None:
        super().__init__(sites)
        self.read: dict[Node, Grid] = {}
        self.skipped: dict[str, str] = {}

    def site(self, node: Node, operands: list[Any], side: int) -> Any:
        weight = operands[side]
        if isinstance(weight, Codes) and weight.inputs is not None:
            why = _unfit(weight)
            if why:
                self.skipped[weight.path] = why
            elif node in self._sites and not any(map(compat.is_tracer, weight.parts.values())):
                grid = weight.input_grid
                self.read[node] = Grid(np.asarray(grid.scale).reshape(()), np.asarray(grid.zero_point).reshape(()))
        return super().site(node, operands, side)


def _unfit(weight: Codes) -> str:
    """Why a runtime has no integers for a weight and what it is multiplied by; empty if it has."""
    assert weight.inputs is not None
    if weight.inputs.mode != "static":
        return "its inputs have dynamic ranges: its weight alone is stored as integers"
    if weight.inputs.format.kind != "integer" or weight.inputs.format.bits != 8:
        return f"its inputs are {weight.inputs.name}, and a runtime has 8 bits: its weight alone is stored as integers"
    return _unfit_alone(weight)


def _unfit_alone(weight: Codes) -> str:
    if weight.format != "int8" or weight.block is not None or "zero_point" in weight.parts:
        return "its codes are no whole numbers about 0 with a scale a channel: stored in floating point"
    return ""


class _MarkedRun(QuantizedRun):
    """Runs a program in floating point, and marks weights and activations with their grids."""

    def __init__(self, read: Mapping[Node, Grid], grids: Mapping[Value, Grid]) -> None:
        super().__init__(frozenset(read))
        self._read, self._grids = read, grids

    def marked(self, values: Sequence[Value], xs: Sequence[Any]) -> list[Any]:
        """Numbers on the grids of their values."""
        return [self._on(self._grids.get(value), x) for value, x in zip(values, xs, strict=True)]

    def node(self, node: Node, operands: list[Any]) -> list[Any]:
        if not any(map(compat.is_tracer, jax.tree.leaves(operands))):
            with jax.ensure_compile_time_eval():  # what depends on parameters alone is a constant of the file
                return super().node(node, operands)
        if node.op == "custom_jvp_call":
            return self.marked(node.outs, self.body(node.frames[0], operands))
        if node.op == "scan":
            return self._unrolled(node, operands)
        return self.marked(node.outs, super().node(node, operands))

    def site(self, node: Node, operands: list[Any], side: int) -> Any:
        weight, x = operands[side], operands[1 - side]
        if not isinstance(weight, Codes) or _unfit_alone(weight):
            return None
        x = x if node not in self._read or self._same(node) else self._on(self._read[node], x)
        pair = [x, _weight(weight)] if side == 1 else [_weight(weight), x]
        return compat.bind(node.equation, pair)[0]

    def _unrolled(self, node: Node, operands: list[Any]) -> list[Any]:
        """A scan step by step: the file format's loops are not what the converter makes of JAX's."""
        (first, carried), (body,) = compat.scan_counts(node.params), node.frames
        length = node.params["length"]
        if length > STEPS:
            raise ArgumentError(f"a scan of {length} steps ({node.place}) is too long to be unrolled: at most {STEPS}")
        held, carry = operands[:first], operands[first : first + carried]
        over = [self.dense(x, node) for x in operands[first + carried :]]
        made: list[list[Any]] = [[] for _ in body.outs[carried:]]
        for i in reversed(range(length)) if node.params["reverse"] else range(length):
            outs = self.body(body, [*held, *carry, *(x[i] for x in over)])
            carry = outs[:carried]
            for each, out in zip(made, outs[carried:], strict=True):
                each.append(out)
        turned = [each[::-1] if node.params["reverse"] else each for each in made]
        return [*carry, *(jnp.stack(each) for each in turned)]

    def _same(self, node: Node) -> bool:
        """Whether what a site reads is on its grid already."""
        own = self._read[node]
        held = [self._grids[value] for value in node.ins if value in self._grids]
        return any(grid.scale == own.scale and grid.zero_point == own.zero_point for grid in held)

    def _on(self, grid: Grid | None, x: Any) -> Any:
        return x if grid is None else _mark(x, grid.scale, grid.zero_point)


def _weight(weight: Codes) -> Any:
    """A weight's value, marked with its grid."""
    with jax.ensure_compile_time_eval():
        value, scale = np.asarray(weight.dense()), np.asarray(weight.part("scale"))
        most = int(np.abs(np.asarray(weight.parts["codes"])).max(initial=0))
    axes = [i for i, n in enumerate(scale.shape) if n > 1]
    if len(axes) > 1:
        return jnp.asarray(value)
    return _mark(jnp.asarray(value), scale.ravel(), 0, "i4" if most <= 7 else "i8", axes[0] if axes else None)


def _mark(x: Any, scale: Any, zero_point: Any, kind: str = "i8", axis: int | None = None) -> Any:
    """A value that the converter is to store as codes."""
    scale = np.atleast_1d(np.asarray(scale, np.float32))
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise ArgumentError(f"a grid has the scale {scale.min()}: it must be positive and finite; calibrate anew")
    known: dict[str, Any] = {
        "scale": scale,
        "zero_point": np.broadcast_to(np.asarray(zero_point, np.int64), scale.shape).copy(),
        "dtype": kind,
        "narrow_range": bool(np.all(np.asarray(zero_point) == 0)) and axis is not None,
    }
    if axis is not None:
        known["quantization_dimension"] = axis
    # The converter takes marks whose body is a function of one operand and closes over no array.
    return lax.composite(lambda x, **_: x * jnp.ones((), x.dtype), name="quant.fake_quant")(x, **known)


def _measured(
    own: Quantized, params: Params, leaves: list[Any], batches: Any, select: Select | None, count: int
) -> list[Grid]:
    if batches is None:
        raise ArgumentError(
            f"{count} values that are handed on (sums of branches, means, the last result) have no grid: give batches= "
            "of calibration data, as jaxcomp.rewrite.calibrate was given"
        )
    given = checked_batches(own, params, batches, select)
    program, _ = own._plans(leaves, given[0])
    missing = place(program, _read(own, program, leaves)[0]).missing
    dense = [leaf.dense() if isinstance(leaf, Packed) else leaf for leaf in leaves]
    return measure(program, missing, dense, (jax.tree.leaves(batch) for batch in given))


def _need() -> None:
    if find_spec("litert_converter") is None:
        raise MissingExtraError('.tflite files are written by litert-converter: pip install "jaxcomp[litert]"')


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    array = leaf if hasattr(leaf, "dtype") else jnp.asarray(leaf)
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def _names(names: Sequence[str] | None, count: int) -> list[str]:
    found = list(names) if names is not None else [f"x{i}" for i in range(count)] if count != 1 else ["x"]
    if len(found) != count or len({*found}) != count:
        raise ArgumentError(f"names are to be {count} different ones, one for each input's array: got {found}")
    return found


def _converted(text: str, inputs: list[str], outputs: int) -> bytes:
    from litert_converter import converter_api_ext as converter
    from litert_converter.mlir import ir, passmanager
    from litert_converter.mlir.dialects import stablehlo

    context = ir.Context()
    converter.prepare_mlir_context(context)
    stablehlo.register_dialect(context)
    results = ["y"] if outputs == 1 else [f"y{i}" for i in range(outputs)]
    try:
        with context:
            module = ir.Module.parse(text)
            converter.set_signature(
                module.operation, signature_name="serving_default", input_names=inputs, output_names=results
            )
            settings = converter.ConvertToTFLConfig()
            settings.model_origin_framework = "JAX"
            settings.strict_qdq_mode = True  # else marks are dropped without a word
            converter.run_convert_to_tfl_passes(module, passmanager.PassManager(), settings)
            return bytes(converter.export_flatbuffer_to_bytes(module.operation))
    except Exception as error:  # the converter's own kinds
        raise ArgumentError(f"LiteRT's converter refuses the function: {type(error).__name__}: {error}") from error


def _operations(content: bytes) -> tuple[Operation, ...]:
    from litert_converter import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
    names = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
    types = {number: name for name, number in vars(schema.TensorType).items() if isinstance(number, int)}
    found = []
    for graph in model.subgraphs:
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            tensors = [graph.tensors[i] for i in (*operator.inputs[:2], *operator.outputs[:1]) if i >= 0]
            kinds = tuple(types[tensor.type] for tensor in tensors)
            shape = () if tensors[-1].shape is None else tuple(map(int, tensors[-1].shape))
            found.append(Operation(names[max(code.builtinCode, code.deprecatedBuiltinCode)], kinds, shape))
    return tuple(found)
