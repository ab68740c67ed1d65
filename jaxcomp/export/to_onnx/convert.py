"""The conversion: walks a traced program, computes what is constant, and hands the rest to the rules."""

from collections.abc import Mapping, Sequence, Set
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxcomp.core.leaves import is_key
from jaxcomp.export.to_onnx import codes, contractions, elementwise, indices, reductions, shapes
from jaxcomp.export.to_onnx.elementwise import file_dtype
from jaxcomp.export.to_onnx.graph import Graph
from jaxcomp.export.to_onnx.operands import Coded, Const, Operand, Tensor, valued
from jaxcomp.trace import compat
from jaxcomp.trace.ir import Frame, Node, Value
from jaxcomp.trace.liveness import has_effects
from jaxcomp.trace.packed.marked import mark_of

RULES: Mapping[str, Any] = {
    **elementwise.RULES,
    **shapes.RULES,
    **indices.RULES,
    **reductions.RULES,
    **contractions.RULES,
}

MOST_OPERATORS = 100_000
"""More of them come of loops that are too long to be written out."""


class Converter:
    """Writes a program into a graph.

    Attributes:
      graph: of the file.
      tensors: the value that each tensor is which the outermost body computes, by the tensor's name.
    """

    def __init__(self, graph: Graph, live: Set[Value]):
        """Takes an empty graph, and the values that the results depend on."""
        self.graph, self._live = graph, live
        self.tensors: dict[str, Value] = {}
        self._depth = 0

    def body(self, frame: Frame, operands: Sequence[Operand]) -> list[Operand]:
        """Writes a body; returns its results."""
        env: dict[Value, Operand] = dict(zip(frame.ins, operands, strict=True))

        def read(value: Value) -> Operand:
            if value.const is not None:
                return Const(value.const if is_key(value.const) else np.asarray(value.const, value.dtype))
            return env[value] if value in env or value in self._live else unread(value)

        self._depth += 1
        for node in frame.nodes:
            if self._live.isdisjoint(node.outs) and not has_effects(node):
                continue
            self.graph.place = node.place
            outs = self.node(node, [read(value) for value in node.ins])
            env.update(zip(node.outs, outs, strict=True))
            if self._depth == 1 and computes(node):
                for x, value in zip(outs, node.outs, strict=True):
                    if isinstance(x, Tensor):
                        self.tensors.setdefault(x.name, value)
        self._depth -= 1
        return [read(value) for value in frame.outs]

    def node(self, node: Node, operands: list[Operand]) -> list[Operand]:
        """Writes one primitive."""
        if has_effects(node):
            raise self.graph.refused(f"{node.op} has effects, which no file holds", "leave it out for export")
        if len(self.graph.operators) > MOST_OPERATORS:
            raise self.graph.refused(f"the graph has over {MOST_OPERATORS:,} operators", "write shorter loops")
        mark, attributes = mark_of(node)
        if mark in codes.MARKS:
            made = codes.MARKS[mark](self.graph, node, operands, **attributes)
            if made is not None:
                return [made]
        if node.op in shapes.MOVES and not isinstance(operands[0], Tensor):
            return [RULES[node.op](self.graph, node, operands)]
        if node.op == "convert_element_type" and isinstance(operands[0], Coded) and _is_float(node.outs[0].dtype):
            return [Coded(**{**vars(operands[0]), "dtype": np.dtype(node.outs[0].dtype)})]
        entered = node.frames and _names([*node.ins, *node.outs])
        if not any(isinstance(x, Tensor) for x in operands) and not entered:
            return list(self._folded(node, operands))
        if node.frames:
            return self._inside(node, operands)
        if node.op not in RULES:
            raise self.graph.refused(
                f"the operation {node.op} has no rule in the ONNX export",
                "write it of others, or export the function by jaxcomp.export.save, which takes all of them",
            )
        contracts = node.op in contractions.RULES
        outs = RULES[node.op](self.graph, node, operands if contracts else [self._named(x) for x in operands])
        return outs if isinstance(outs, list) else [outs]

    def _named(self, x: Operand) -> Tensor | Const:
        """Codes that something else reads than a site: large ones as codes too."""
        if isinstance(x, Coded) and x.codes.ndim > 1:
            return self.graph.once(("decoded", id(x)), lambda: (codes.decoded(self.graph, x), x))[0]
        return valued(x)

    def _folded(self, node: Node, operands: list[Operand]) -> list[Const]:
        """The result of a primitive on constants."""
        arrays = [x.array for x in map(valued, operands) if isinstance(x, Const)]
        if node.op in elementwise.RULES:
            arrays = list(np.broadcast_arrays(*arrays)) if len(arrays) > 1 else arrays
        elif node.op in _ANY_SIZE and _names(node.ins) == _names(node.outs):
            # Along an axis whose size has a name a constant is the same all over: it is computed for size 1.
            arrays = [np.broadcast_to(array, _unit(value)) for array, value in zip(arrays, node.ins, strict=True)]
        elif _names([*node.ins, *node.outs]):
            raise self.graph.refused(
                f"{node.op} computes {'x'.join(map(str, node.outs[0].dims))} constants of a symbolic size",
                "export the function for sizes that are numbers",
            )
        else:
            pairs = zip(arrays, node.ins, strict=True)
            arrays = [array if is_key(array) else np.broadcast_to(array, value.dims) for array, value in pairs]
        outs = compat.bind(node.equation, [jnp.asarray(array) for array in arrays])
        path = next((x.path for x in operands if isinstance(x, Const) and x.path), "")
        path = path if len(outs) == 1 else ""
        return [Const(out if is_key(out) else np.asarray(out), path) for out in outs]

    def _inside(self, node: Node, operands: list[Operand]) -> list[Operand]:
        """Writes the bodies of a primitive that has some."""
        match node.op:
            case "scan":
                return self._scan(node, operands)
            case "cond":
                return self._cond(node, operands)
            case "while" | "shard_map":
                hint = "use lax.scan, or fori_loop with bounds that are known" if node.op == "while" else "leave it out"
                raise self.graph.refused(f"{node.op} has no rule in the ONNX export", hint)
        return self.body(node.frames[0], operands)

    def _scan(self, node: Node, operands: list[Operand]) -> list[Operand]:
        """A loop, written out step by step."""
        (first, carried), (body,) = compat.scan_counts(node.params), node.frames
        length = node.params["length"]
        if compat.is_symbolic(length):
            raise self.graph.refused(f"a scan of {length} steps cannot be written out", "give that size as a number")
        consts, carry, xs = operands[:first], operands[first : first + carried], operands[first + carried :]
        steps: list[list[Operand]] = []
        order = range(length)[::-1] if node.params["reverse"] else range(length)
        for i in order:
            outs = self.body(body, [*consts, *carry, *(self._step(x, i) for x in xs)])
            carry, ys = outs[:carried], outs[carried:]
            steps.append(ys)
        steps = steps[::-1] if node.params["reverse"] else steps
        stacks = zip(*steps, strict=True) if steps else ()
        return [
            *carry,
            *(self._stacked(parts, value) for parts, value in zip(stacks, node.outs[carried:], strict=True)),
        ]

    def _step(self, x: Operand, i: int) -> Operand:
        """The slice of an array that a step of a loop reads."""
        x = valued(x)
        if isinstance(x, Const):
            return Const(x.array[i if x.shape[0] > 1 else 0], x.path)
        place = x.axes[0]
        dims = (*x.dims[:place], *x.dims[place + 1 :])
        axes = tuple(axis - (axis > place) for axis in x.axes[1:])
        return self.graph.emit("Gather", [x, np.asarray(i, np.int64)], dims, x.dtype, axes, axis=place)

    def _stacked(self, parts: Sequence[Operand], value: Value) -> Operand:
        each = [self.graph.full(valued(x), value.dims[1:]) for x in parts]
        if all(isinstance(x, Const) for x in each):
            return Const(np.stack([x.array for x in each if isinstance(x, Const)]))
        rows = [self.graph.reshaped(self.graph.plain(x), (1, *value.dims[1:])) for x in each]
        return self.graph.emit("Concat", rows, value.dims, rows[0].dtype, axis=0)

    def _cond(self, node: Node, operands: list[Operand]) -> list[Operand]:
        """The branch that is known; else both, and a Where."""
        which, *rest = operands
        if isinstance(which, Const):
            taken = int(np.clip(which.array, 0, len(node.frames) - 1))
            return self.body(node.frames[taken], rest)
        if len(node.frames) > 2:
            raise self.graph.refused("a switch of several branches has no rule", "use jnp.where")
        self.graph.notes["both branches of a cond are computed"] = None
        no, yes = (self.body(frame, rest) for frame in node.frames)
        assert isinstance(which, Tensor)
        if which.dtype != np.bool_:
            which = elementwise.apply(self.graph, "Cast", [which], bool, to=elementwise.onnx_dtype(bool))
        pairs = zip(map(valued, yes), map(valued, no), strict=True)
        return [elementwise.apply(self.graph, "Where", [which, a, b], a.dtype) for a, b in pairs]


def unread(value: Value) -> Const:
    """Makes what stands for a ``value`` that no result depends on, as the counter of a loop is."""
    return Const(np.zeros((1,) * len(value.dims), np.float32))


_ANY_SIZE = {*contractions.RULES, *reductions.RULES, "concatenate", "stack", "unstack", "split", "rev"}
"""Primitives that have no shape among their parameters."""


def _names(values: Sequence[Value]) -> set[str]:
    return {str(size) for value in values for size in value.dims if compat.is_symbolic(size)}


def _unit(value: Value) -> tuple[int, ...]:
    return tuple(1 if compat.is_symbolic(size) else size for size in value.dims)


def computes(node: Node) -> bool:
    """Returns whether a node computes numbers; nodes that move them differ where sizes are symbolic."""
    known = node.op in _COMPUTE or bool(node.frames)
    return known and len(node.outs[0].dims) > 1 and _is_float(node.outs[0].dtype)


_COMPUTE = {*elementwise.RULES, *reductions.RULES, *contractions.RULES, "concatenate"} - {"select_n"}


def _is_float(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, np.floating))


def written(graph: Graph, x: Operand, value: Value, name: str) -> str:
    """Puts the result ``x`` of a ``value`` into the file of ``graph`` under a ``name``; returns the name there."""
    whole = graph.whole(valued(x), value.dims)
    made = graph.plain(whole)
    own = graph.emit("Identity", [made], value.dims, file_dtype(graph, value.dtype))
    graph.operators[-1].outs = [graph.fresh(name)]
    graph.shapes[graph.operators[-1].outs[0]] = own.dims
    graph.dtypes[graph.operators[-1].outs[0]] = own.dtype
    return graph.operators[-1].outs[0]
