"""Computed weights: what matmuls and convolutions read that is computed of parameters alone."""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax

from jaxcomp.core.types import Params
from jaxcomp.rewrite.folding.find import constants_of
from jaxcomp.trace import compat
from jaxcomp.trace.affine import MOVES, frames
from jaxcomp.trace.ir import MATMULS, Frame, Node, Program, Value, all_nodes, trace
from jaxcomp.trace.liveness import live_values
from jaxcomp.trace.origins import Origins
from jaxcomp.trace.variation import Variation, Varies

Key = tuple[tuple[str, ...], int]
"""The parameters that a weight is computed of, and the how manyeth of those it is."""


class Computed(NamedTuple):
    """A weight that is computed of parameters.

    Attributes:
      node: that computes it last.
      frame: the body that it is computed in.
      around: the scans around that body, the outermost first.
      stacked: those of them on whose step it depends.
      paths: the parameters that it is computed of.
      carrier: the parameter, as the body sees it, in whose place it comes; None if there is none.
      owner: the parameter's path.
      varies: along which of its axes it differs; along the others one entry is kept.
      grew: whether that is more than the parameters that it is computed of.
    """

    node: Node
    frame: Frame
    around: tuple[Node, ...]
    stacked: frozenset[Node]
    paths: tuple[str, ...]
    carrier: Value | None = None
    owner: str = ""
    varies: Varies = ()
    grew: bool = False

    @property
    def value(self) -> Value:
        """The weight."""
        return self.node.outs[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of what is kept of it."""
        return tuple(n if own else 1 for n, own in zip(self.value.shape, self.varies, strict=True))

    def once(self, weight: Any) -> Any:
        """Returns what is kept of a weight; of a stack of weights, whose axes come first, of each."""
        axes = [slice(None) if own else slice(0, 1) for own in self.varies]
        return weight[(..., *axes)]


@dataclass
class Bodies:
    """Where each value of a program comes from.

    Attributes:
      program: the program.
      maker: the node that computes it.
      outer: for an operand of a body, the value that the body around hands in.
      image: for a parameter, or an operand of a body that is one: its path.
      stacked: for a value that depends on the step of a scan around it: which.
    """

    program: Program
    maker: dict[Value, Node] = field(default_factory=dict)
    outer: dict[Value, Value] = field(default_factory=dict)
    image: dict[Value, str] = field(default_factory=dict)
    stacked: dict[Value, frozenset[Node]] = field(default_factory=dict)

    def scans(self, *values: Value) -> frozenset[Node]:
        """Finds the scans on whose step values depend."""
        return frozenset[Node]().union(*(self.stacked[value] for value in values if value in self.stacked))


def _bodies(program: Program) -> tuple[Bodies, dict[int, tuple[Node, ...]]]:
    """Where values come from, and the scans around each body, by its id."""
    found, around = Bodies(program, image={value: path for path, value in program.parameters().items()}), {}
    around[id(program.frame)] = tuple[Node, ...]()
    for frame, _ in frames(program.frame):
        scans = around[id(frame)]
        for node in frame.nodes:
            found.maker.update(dict.fromkeys(node.outs, node))
            found.stacked.update(dict.fromkeys(node.outs, found.scans(*node.ins)))
            if node.op != "scan" and node.op not in compat.ENTERED:
                continue
            (body,), scanned = node.frames, node.op == "scan"
            around[id(body)] = (*scans, node) if scanned else scans
            first, carried = compat.scan_counts(node.params) if scanned else (len(node.ins), 0)
            for i, (outer, inner) in enumerate(zip(node.ins, body.ins, strict=True)):
                own = frozenset([node]) if i >= first else frozenset[Node]()
                found.stacked[inner] = found.scans(outer) | own
                if not first <= i < first + carried:
                    found.outer[inner] = outer
                    if outer in found.image:
                        found.image[inner] = found.image[outer]
    return found, around


class Candidates(NamedTuple):
    """The weights of a program that are computed of parameters, and where its values come from."""

    weights: dict[Key, Computed]
    bodies: Bodies


def candidates(program: Program) -> Candidates:
    """Finds the weights of a program that are computed of parameters.

    Args:
      program: a traced function.
    """
    origins, (bodies, around) = Origins(program), _bodies(program)
    variation = Variation(frame for frame, _ in frames(program.frame))
    homes = {node: frame for frame, _ in frames(program.frame) for node in frame.nodes}
    sizes = {path: math.prod(value.shape) for path, value in program.parameters().items()}
    found: dict[Node, Computed] = {}
    for site in all_nodes(program.frame):
        sides = [value for value in site.ins if origins[value].is_weight] if site.op in MATMULS else []
        node = _maker(sides[0], bodies) if len(sides) == 1 else None
        if node is not None and node in homes and len(node.outs) == 1:
            scans = around[id(homes[node])]
            paths = tuple(path for path in program.paths if path in origins[node.outs[0]].paths)
            each = Computed(node, homes[node], scans, bodies.scans(node.outs[0]), paths)
            each = each._replace(varies=variation[each.value])
            stack = math.prod(scan.numbers(scan.params["length"]) for scan in each.stacked)
            whole = stack * math.prod(each.shape)
            found[node] = each._replace(grew=whole > sum(sizes[path] for path in paths))
    counts, weights = dict[tuple[str, ...], int](), dict[Key, Computed]()
    for each in found.values():
        counts[each.paths] = counts.get(each.paths, -1) + 1
        weights[each.paths, counts[each.paths]] = each
    return Candidates(weights, bodies)


def _maker(value: Value, bodies: Bodies) -> Node | None:
    """The node that computes a weight, before it is moved, cast and scaled by a number; None if that is a parameter."""
    while True:
        node = bodies.maker.get(value)
        if node is None:
            if value not in bodies.outer:
                return None  # a parameter, or carried by a loop
            value = bodies.outer[value]
            continue
        passed = [operand for operand in node.ins if operand.const is None or operand.shape]
        if node.op not in PASSED or len(passed) != 1 or (node.op == "div" and passed[0] is not node.ins[0]):
            return node
        (value,) = passed


_PLACED = frozenset({"reshard", "sharding_constraint", "layout_constraint", "mesh_cast", "pvary", "pcast"})
PASSED = frozenset({*MOVES, *_PLACED, "convert_element_type", "broadcast_in_dim", "neg", "mul", "div"})
"""The operations, of one weight and numbers, that leave it what it is, wherever it lies."""


def recipe(program: Program, values: list[Value]) -> tuple[Any, ...]:
    """Lists the operations and constants that values are computed of: comparable between programs.

    Args:
      program: a traced function.
      values: of it.
    """
    live = live_values(program.frame, values, effects=False)
    nodes = [node for node in all_nodes(program.frame) if not live.isdisjoint(node.outs)]
    return constants_of(program, values), tuple(node.op for node in nodes if node.op not in _SPREADS)


_SPREADS = frozenset({"broadcast_in_dim", "tile", "reshape", "squeeze"})
"""Primitives that repeat a value, or not, as the sizes of inputs are."""


def of_these_sizes(
    apply_fn: Callable[..., Any], params: Params, example: tuple[Any, ...], found: Candidates
) -> frozenset[Key]:
    """Finds weights that depend on the sizes of the inputs: traces another batch, in doubt other sizes too.

    Args:
      apply_fn: ``apply_fn(params, *inputs)``.
      params: its parameters.
      example: the other arguments.
      found: the weights that are computed.
    """
    program, weights = found.bodies.program, found.weights
    known = {key: _signature(program, each) for key, each in weights.items()}
    sized = {key for key, each in weights.items() if _is_of_inputs(each)}
    doubted = {key for key, each in weights.items() if _names_sizes(program, each)}
    shapes = jax.eval_shape(lambda tree: tree, params)
    for other in _other_sizes(example, bool(doubted)) if weights else ():
        try:
            again = trace(apply_fn, shapes, *other)
        except Exception:  # whatever a function says to sizes that it does not take: it has no weights of those
            continue
        new = candidates(again).weights
        sized |= {key for key in weights if key not in new or _signature(again, new[key]) != known[key]}
    return frozenset(sized)


def _is_of_inputs(each: Computed) -> bool:
    return any(own and compat.is_symbolic(n) for n, own in zip(each.value.dims, each.varies, strict=True))


def _nodes(program: Program, each: Computed) -> list[Node]:
    live = live_values(program.frame, [each.value], effects=False)
    return [node for node in all_nodes(program.frame) if not live.isdisjoint(node.outs)]


def _names_sizes(program: Program, each: Computed) -> bool:
    """Whether an operation by which a weight is computed may name a size of the inputs."""
    shapes = {program.parameters()[path].shape for path in each.paths}
    nodes = _nodes(program, each)
    return any(node.op in _SIZED or (node.op in _SPREADS and each.shape not in shapes) for node in nodes) or any(
        value.const is not None and value.shape for node in nodes for value in node.ins
    )


_SIZED = frozenset({
    "slice", "dynamic_slice", "gather", "iota", "pad", "concatenate", "dynamic_update_slice", "scatter", "split",
})  # fmt: skip


def _signature(program: Program, each: Computed) -> Any:
    """The recipe of a weight, comparable between programs."""
    settings = tuple((node.op, _plain(node)) for node in _nodes(program, each) if node.op not in _SPREADS)
    return each.shape, each.value.dtype, settings, constants_of(program, [each.value])


def _plain(node: Node) -> tuple[Any, ...]:
    return tuple((name, setting) for name, setting in node.params.items() if _is_plain(setting))


def _is_plain(setting: Any) -> bool:
    return isinstance(setting, int) or (isinstance(setting, tuple) and all(map(_is_plain, setting)))


def _other_sizes(example: tuple[Any, ...], every: bool) -> Iterator[tuple[Any, ...]]:
    """Examples with the batch doubled and halved; with ``every``, also axes at one place, or of one size, changed."""
    leaves, tree = jax.tree.flatten(jax.eval_shape(lambda tree: tree, example))
    axes = [(i, axis, n) for i, leaf in enumerate(leaves) for axis, n in enumerate(leaf.shape)]
    axes = [each for each in axes if not compat.is_symbolic(each[2])]
    places = {axis: n for _, axis, n in reversed(axes)}
    chosen = [frozenset(e for e in axes if e[1] == axis and e[2] == n) for axis, n in sorted(places.items())]
    chosen += [frozenset(each for each in axes if each[2] == n) for n in sorted({each[2] for each in axes})]
    changes: list[Callable[[int], int]] = [lambda n: 2 * n, lambda n: n // 2, lambda n: n + 1, lambda n: n - 1]
    pairs = itertools.product(dict.fromkeys(chosen) if every else chosen[:1], changes if every else changes[:2])
    for these, change in pairs:
        shapes = [list(leaf.shape) for leaf in leaves]
        for i, axis, n in these:
            shapes[i][axis] = change(n)
        if all(compat.is_symbolic(n) or n > 0 for shape in shapes for n in shape):
            made = [leaf.update(shape=tuple(shape)) for leaf, shape in zip(leaves, shapes, strict=True)]
            yield tuple(jax.tree.unflatten(tree, made))
