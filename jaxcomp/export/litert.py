"""A function as a .tflite file for LiteRT: in floating point, with integer weights, or in integers throughout.

The function's StableHLO goes through LiteRT's own converter. Where
:func:`jaxcomp.rewrite.quantize` quantized, weights and activations are marked with their grids as the converter wants
them, and it writes codes and integer operations.
"""

import io
import math
import os
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcomp.core.arrays import concrete
from jaxcomp.core.errors import ArgumentError, MissingExtraError
from jaxcomp.core.files import write_atomically
from jaxcomp.core.tables import table
from jaxcomp.core.types import Grid, Params
from jaxcomp.export.litert_file import Operation, converted, operations
from jaxcomp.export.metadata import checked_metadata
from jaxcomp.export.placement import KEEPS, place
from jaxcomp.export.ranges import ranges_of
from jaxcomp.observe.batches import Select, checked_batches
from jaxcomp.quant.formats import integer
from jaxcomp.quant.ranges import grid_between
from jaxcomp.trace import compat
from jaxcomp.trace.interpreter import Interpreter
from jaxcomp.trace.ir import Node, Program, Value, trace
from jaxcomp.trace.packed.marked import DECODE, FAKE_QUANT, mark_of, marking

STEPS = 256
"""Iterations of a scan, each of which is written out."""

FEW = 4096
"""Numbers of which a grid may be computed; weights have more."""


class LitertReport(NamedTuple):
    """The contents of a file.

    Attributes:
      bytes: of the file.
      operations: in order.
    """

    bytes: int
    operations: tuple[Operation, ...]

    @property
    def float_products(self) -> tuple[Operation, ...]:
        """Convolutions and matmuls that are computed in floating point."""
        return tuple(each for each in self.operations if each.is_product and "FLOAT32" in each.types)

    def __str__(self) -> str:
        rows = Counter((each.name, " ".join(dict.fromkeys(each.types))) for each in self.operations)
        lines = table(["operation", "types", "count"], [[*key, f"{count}"] for key, count in rows.items()])
        said = f"{self.bytes:,} bytes; {len(self.float_products)} convolutions and matmuls in floating point"
        names = Counter(each.name for each in self.float_products)
        return f"{lines}\n{said}{': ' * bool(names)}{', '.join(names)}"


def litert(
    path: str | os.PathLike[str],
    fn: Callable[..., Any],
    params: Params,
    *example: Any,
    batches: Iterable[Any] | None = None,
    select: Select | None = None,
    preprocess: Callable[..., Any] | None = None,
    names: Sequence[str] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> LitertReport:
    """Saves a function with its parameters as a .tflite file.

    What :func:`jaxcomp.rewrite.quantize` made with static inputs runs in integers: what its sites read keeps its grid,
    and what else is handed on (the sum of two branches, a mean, the last layer's result) is measured on ``batches`` and
    rounded to 8 bits too, as such a runtime needs it: results differ from the function's by some steps of these grids.
    With ``inputs=None`` weights alone are integers; dynamic ranges are computed in floating point. Scans are unrolled.

    Args:
      path: the file; its folder exists.
      fn: ``fn(params, *inputs)``: any JAX function, jitted or not, quantized or not; fold batch norms first.
      params: its parameters, which go into the file.
      *example: the other arguments, or their shapes; the file takes these shapes alone.
      batches: calibration batches, needed where a grid has to be measured; of any size.
      select: the inputs of each batch, a key or a function of it.
      preprocess: what the file does with its inputs before: ``lambda pixels: ((pixels / 255 - mean) / std,)`` lets it
        take uint8. The example is then what goes into this; ``batches`` stay what the function takes.
      names: of the inputs, in order; None: ``x``, or ``x0``, ``x1``, ...
      metadata: texts by file name, ``{"labels.txt": "cat\\ndog"}``, behind the network in a zip archive, as the format
        has associated files: ``unzip`` and ``zipfile`` read them.

    Returns:
      What the file holds, which prints as a table.

    Raises:
      ArgumentError: if a grid has to be measured and there are no batches, if a scale is 0 or not finite, if names are
        too few, and if the converter refuses the function (it is said which operation).
      MissingExtraError: without litert-converter.

    Example:
      >>> import tempfile
      >>> layer = lambda p, x: jax.nn.relu(x @ p["w"])
      >>> with tempfile.TemporaryDirectory() as folder:  # doctest: +SKIP
      ...     litert(f"{folder}/m.tflite", layer, {"w": jnp.ones((4, 2))}, jnp.ones((1, 4))).operations[0].name
      'FULLY_CONNECTED'

    Reference: https://ai.google.dev/edge/litert.
    """
    _need()
    texts = checked_metadata(metadata)
    arguments = [leaf if isinstance(leaf, jax.ShapeDtypeStruct) else _shape(leaf) for leaf in jax.tree.leaves(example)]
    given = _names(names, len(arguments))
    if any(compat.is_symbolic(size) for leaf in arguments for size in leaf.shape):
        shapes = ", ".join(f"[{','.join(map(str, leaf.shape))}]" for leaf in arguments)
        raise ArgumentError(
            f"LiteRT's converter takes sizes that are numbers, got {shapes}: give each batch that is to run a file of "
            "its own"
        )
    example = jax.tree.unflatten(jax.tree.structure(example), arguments)
    batches = None if batches is None else [_on_no_mesh(batch) for batch in batches]
    with jax.set_mesh(jax.sharding.Mesh(np.empty((), object), ())):  # the converter knows of none
        marked = _marked(fn, _on_no_mesh(concrete(params, "litert")), example, batches, select, preprocess)
        content = converted(marked, example, given)
    made = operations(content)
    content = _with_files(content, texts) if texts else content
    report = LitertReport(len(content), made)
    marks = [each for each in report.operations if each.name == "STABLEHLO_COMPOSITE"]
    if marks:
        raise ArgumentError(f"the converter left {len(marks)} grids without effect: the file would compute in floats")
    write_atomically(path, content)
    return report


def _marked(
    fn: Callable[..., Any],
    params: Params,
    example: tuple[Any, ...],
    batches: Iterable[Any] | None,
    select: Select | None,
    preprocess: Callable[..., Any] | None,
) -> Callable[..., Any]:
    """The function of inputs alone, in which everything that is to be codes is marked as the converter wants it."""
    before = preprocess or (lambda *inputs: inputs)
    leaves = jax.tree.leaves(params)
    program = _traced(fn, params, jax.eval_shape(before, *example))
    placement = place(program, _grids(program, leaves))
    measured: list[Grid] = []
    if placement.missing:
        if batches is None:
            raise ArgumentError(
                f"{len(placement.missing)} values that are handed on (sums of branches, means, the last result) have "
                "no grid: give batches= of calibration data, as jaxcomp.rewrite.calibrate was given"
            )
        measured = _measured(fn, params, checked_batches(fn, params, batches, select))
    grids = placement.grids(measured)

    def marked(*raw: Any) -> Any:
        run = _MarkedRun(grids)
        inputs = run.marked(program.frame.ins[len(leaves) :], jax.tree.leaves(before(*raw)))
        return jax.tree.unflatten(program.out_tree, run.body(program.frame, [*leaves, *inputs]))

    return marked


def _traced(fn: Callable[..., Any], params: Params, inputs: Sequence[Any]) -> Program:
    with marking():
        return trace(fn, params, *inputs)


def _measured(fn: Callable[..., Any], params: Params, batches: Sequence[tuple[Any, ...]]) -> list[Grid]:
    """8-bit grids over whole ranges, for values without one, measured on batches of one shape."""
    leaves, program = jax.tree.leaves(params), _traced(fn, params, batches[0])
    missing = place(program, _grids(program, leaves)).missing
    values = [value for own in missing for value in own]
    found = dict(zip(values, ranges_of(program, values, leaves, batches), strict=True))
    affine = integer(8, symmetric=False)
    ends = [(min(found[value][0] for value in own), max(found[value][1] for value in own)) for own in missing]
    grids = (grid_between(jnp.float32(low), jnp.float32(high), affine) for low, high in ends)
    return [Grid(np.asarray(scale), np.asarray(zero)) for scale, zero, _ in grids]  # NumPy: compared while JAX traces


def _grids(program: Program, leaves: list[Any]) -> dict[Node, Grid]:
    """The grid of each mark of what a site reads, in the outermost body."""
    run = _Constants()
    run.body(program.frame, [*leaves, *(None for _ in program.frame.ins[len(leaves) :])])
    return run.grids


class _Constants(Interpreter):
    """Computes the few numbers that depend on parameters alone, grids among them; anything else is None."""

    def __init__(self) -> None:
        super().__init__()
        self.grids: dict[Node, Grid] = {}

    def node(self, node: Node, operands: list[Any]) -> list[Any]:
        if mark_of(node)[0] == FAKE_QUANT and operands[0] is None and operands[1] is not None:
            self.grids[node] = _grid(operands)
        if any(x is None for x in operands) or any(math.prod(value.shape) > FEW for value in node.outs):
            return [None for _ in node.outs]
        return compat.bind(node.equation, operands)


def _grid(operands: Sequence[Any]) -> Grid:
    scale, zero_point = (np.asarray(x).reshape(()) for x in operands[1:])
    return Grid(scale, zero_point)


class _MarkedRun(Interpreter):
    """Runs a program, and marks weights and activations with their grids."""

    def __init__(self, grids: Mapping[Value, Grid]) -> None:
        super().__init__()
        self._grids, self._turned = grids, set[Value]()

    def marked(self, values: Sequence[Value], xs: Sequence[Any]) -> list[Any]:
        """Numbers on the grids of their values."""
        grids = [self._grids.get(value) for value in values]
        return [x if grid is None else _mark(x, *grid[:2]) for grid, x in zip(grids, xs, strict=True)]

    def node(self, node: Node, operands: list[Any]) -> list[Any]:
        name, attributes = mark_of(node)
        if name == DECODE and not any(map(compat.is_tracer, operands)):
            return [self._weight(node, operands, attributes["size"])]
        if not any(map(compat.is_tracer, operands)):
            with jax.ensure_compile_time_eval():  # what depends on parameters alone is a constant of the file
                return super().node(node, operands)
        if node.op == "rev" or (node.op in KEEPS and not self._turned.isdisjoint(node.ins)):
            self._turned.update(node.outs)
        if name == FAKE_QUANT and not any(map(compat.is_tracer, operands[1:])):
            return [self._on_grid(node, operands, **attributes)]
        if node.op == "scan":
            return self.marked(node.outs, self._unrolled(node, operands))
        if node.op == "reduce_window_sum" and any(map(any, node.params["padding"])):
            return self.marked(node.outs, self._window_sums(node, *operands))
        made = self.body(node.frames[0], operands) if node.op in _ENTERED else super().node(node, operands)
        return self.marked(node.outs, made)

    def _on_grid(self, node: Node, operands: list[Any], bottom: int, top: int) -> Any:
        """The input of a site: on a grid of 8 bits, or clipped to the fewer codes that it has.

        What was turned round stays on the grid that it shares with what it was made of: of another one behind it the
        converter makes the result's of REVERSE_V2, which copies codes.
        """
        x, own, held = operands[0], _grid(operands), self._grids.get(node.ins[0])
        if (bottom, top) not in _WHOLE:
            return _mark(jnp.clip(x, *((code - own.zero_point) * own.scale for code in (bottom, top))), *own[:2])
        same = held is not None and held.scale == own.scale and held.zero_point == own.zero_point
        same = same or (held is not None and node.ins[0] in self._turned)
        return x if same else _mark(x, *own[:2])

    def _window_sums(self, node: Node, x: Any) -> list[Any]:
        """Sums over windows, padded before: else the converter does not know the mean that is made of them."""
        if any(step != 1 for step in node.params["base_dilation"]):
            return compat.bind(node.equation, [x])
        padded = lax.pad(x, jnp.zeros((), x.dtype), [(low, high, 0) for low, high in node.params["padding"]])
        grid = self._grids.get(node.ins[0])
        padded = padded if grid is None else _mark(padded, *grid[:2])
        return compat.bind(node.equation, [padded], padding=((0, 0),) * x.ndim)

    def _weight(self, node: Node, operands: list[Any], size: int) -> Any:
        """A weight's value, marked if a runtime has its codes: about 0, with a scale a channel or one for all."""
        codes, scale = map(np.asarray, operands[:2])
        axes = [i for i, n in enumerate(scale.shape) if n > 1]
        if size or len(operands) > 2 or len(axes) > 1:
            with jax.ensure_compile_time_eval():
                return compat.bind(node.equation, operands)[0]
        kind = "i4" if np.abs(codes).max(initial=0) <= 7 else "i8"
        value = codes.astype(scale.dtype) * scale  # by NumPy: XLA would compile it for each shape
        return _mark(jnp.asarray(value), scale.ravel(), 0, kind, axes[0] if axes else None)

    def _unrolled(self, node: Node, operands: list[Any]) -> list[Any]:
        """A scan step by step: the file format's loops are not what the converter makes of JAX's."""
        (first, carried), (body,) = compat.scan_counts(node.params), node.frames
        length = node.params["length"]
        if length > STEPS:
            raise ArgumentError(f"a scan of {length} steps ({node.place}) is too long to be unrolled: at most {STEPS}")
        held, carry, over = operands[:first], operands[first : first + carried], operands[first + carried :]
        made: list[list[Any]] = [[] for _ in body.outs[carried:]]
        for i in reversed(range(length)) if node.params["reverse"] else range(length):
            outs = self.body(body, [*held, *carry, *(_step(x, i) for x in over)])
            carry = outs[:carried]
            for each, out in zip(made, outs[carried:], strict=True):
                each.append(out)
        turned = [each[::-1] if node.params["reverse"] else each for each in made]
        return [*carry, *(jnp.stack(each) for each in turned)]


_ENTERED = ("custom_jvp_call", "custom_vjp_call", *compat.ENTERED)
"""Primitives that compute what their body does, when nothing is differentiated."""

_WHOLE = ((-128, 127), (-127, 127))
"""The ends of codes of 8 bits."""


def _step(x: Any, i: int) -> Any:
    """The slice of an array that a step of a scan reads; of a constant a constant."""
    if compat.is_tracer(x):
        return x[i]
    with jax.ensure_compile_time_eval():
        return x[i]


def _mark(x: Any, scale: Any, zero_point: Any, kind: str = "i8", axis: int | None = None) -> Any:
    """A value that the converter is to store as codes."""
    scale = np.atleast_1d(np.asarray(scale, np.float32))
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise ArgumentError(f"a grid has the scale {scale.min()}: it must be positive and finite; calibrate anew")
    known: dict[str, Any] = {
        "scale": scale,
        "zero_point": np.broadcast_to(np.asarray(zero_point, np.int64), scale.shape).copy(),
        "dtype": kind,
        "narrow_range": axis is not None,
    }
    if axis is not None:
        known["quantization_dimension"] = axis
    # The converter takes marks whose body is a function of one operand and closes over no array.
    return lax.composite(lambda x, **_: x * jnp.ones((), x.dtype), name="quant.fake_quant")(x, **known)


def _with_files(content: bytes, texts: Mapping[str, str]) -> bytes:
    """A file with texts in a zip archive behind it."""
    whole = io.BytesIO()
    whole.write(content)
    with zipfile.ZipFile(whole, "a") as archive:
        for name, text in texts.items():
            archive.writestr(zipfile.ZipInfo(name), text)  # of no date: the same file each time
    return whole.getvalue()


def _need() -> None:
    if find_spec("litert_converter") is None:
        raise MissingExtraError('.tflite files are written by litert-converter: pip install "jaxcomp[litert]"')


def _on_no_mesh(tree: Any) -> Any:
    """The arrays of a tree without their layout on devices."""
    is_laid_out = lambda x: isinstance(x, jax.Array) and isinstance(x.sharding, jax.sharding.NamedSharding)  # noqa: E731
    return jax.tree.map(lambda x: np.asarray(x) if is_laid_out(x) else x, tree)


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    array = leaf if hasattr(leaf, "dtype") else jnp.asarray(leaf)
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def _names(names: Sequence[str] | None, count: int) -> list[str]:
    found = list(names) if names is not None else [f"x{i}" for i in range(count)] if count != 1 else ["x"]
    if len(found) != count or len({*found}) != count:
        raise ArgumentError(f"names are to be {count} different ones, one for each input's array: got {found}")
    return found
