"""Weights that a function computes of its parameters (standardised, normalised, adapted), computed once."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jaxcomp.core.arrays import as_arrays
from jaxcomp.core.paths import named_leaves, replace_leaves, without
from jaxcomp.core.types import Params
from jaxcomp.rewrite.fold import Folded, evaluated
from jaxcomp.rewrite.folded import Evaluation
from jaxcomp.rewrite.folding import Changes, Row, constants_of
from jaxcomp.rewrite.schemes import MOVES
from jaxcomp.trace import compat
from jaxcomp.trace.affine import frames
from jaxcomp.trace.ir import MATMULS, Frame, Node, Program, Value, all_nodes, trace
from jaxcomp.trace.liveness import live_values
from jaxcomp.trace.origins import Origins
from jaxcomp.trace.sites import check_reads


def fold_weights(apply_fn: Callable[..., Any], params: Params, *example: Any) -> tuple[Folded, Params]:
    r"""Makes parameters of the weights that a function computes of its parameters, each time anew, whatever they are.

    Of weight standardisation, weight and spectral norm at rest, a low-rank adapter added to a kernel, kernels
    concatenated, masked or cast: what a matmul or convolution reads becomes a parameter, in place of the one that it is
    mostly made of, and can be quantised, pruned, cut and factorised. For inference: training it is training another
    network. Also in remat and in scan, not in branches, while loops and custom derivatives.

    Args:
      apply_fn: ``apply_fn(params, *inputs)``: any JAX function, in evaluation mode.
      params: a whole tree of variables; ``ShapeDtypeStruct`` will do.
      *example: the other arguments, or their shapes.

    Returns:
      The new function, whose ``report`` prints as a table, and its parameters: each weight in place of a parameter that
      it is computed of and that nothing else needs, at best one of its shape, else the largest; the others that nothing
      needs any more are gone from dicts and ``nnx.State``, and None in other containers.

    Raises:
      ArgumentError: if the function reads no parameter; from the new function, for inputs for which weights are
        computed otherwise.

    Example:
      >>> import jax.numpy as jnp
      >>> params = {"w": jnp.ones((4, 3)), "a": jnp.ones((4, 1)), "b": jnp.full((1, 3), 2.0)}
      >>> adapted = lambda p, x: x @ (p["w"] + p["a"] @ p["b"])
      >>> new, folded = fold_weights(adapted, params, jnp.ones((1, 4)))
      >>> {path: leaf.shape for path, leaf in folded.items()}, float(folded["w"][0, 0])
      ({'w': (4, 3)}, 3.0)
      >>> print(new.report)
      kernel  bias  taken in  not folded because
      ------  ----  --------  ------------------
      w             a, b

    Reference: Qiao et al., Micro-batch training with batch-channel normalization and weight standardization, 2019;
    Salimans and Kingma, Weight normalization, 2016.
    """
    params = as_arrays(params)
    program = trace(apply_fn, params, *example)
    check_reads(program)
    found = find_weights(program)
    values = evaluated(lambda leaves: _values(program, found.weights, leaves), list(named_leaves(params).values()))
    small = without(replace_leaves(params, values), found.gone)
    return Folded(apply_fn, params, small, found, find_weights, "fold_weights", program), small


class Computed(NamedTuple):
    """A weight that is computed of parameters.

    Attributes:
      node: what computes it last.
      frame: the body that it is computed in.
      around: the scans around that body, the outermost first.
      stacked: those of them on whose step it depends.
      paths: the parameters that it is computed of.
      carrier: the parameter, as the body sees it, in whose place it comes; None if there is none.
      owner: that parameter's path.
    """

    node: Node
    frame: Frame
    around: tuple[Node, ...]
    stacked: frozenset[Node]
    paths: tuple[str, ...]
    carrier: Value | None = None
    owner: str = ""

    @property
    def value(self) -> Value:
        """The weight."""
        return self.node.outs[0]


class FoundWeights(NamedTuple):
    """The weights of a program that are computed.

    Attributes:
      weights: those that become parameters.
      rows: the report.
      live: the values that are still needed.
      gone: the parameters that are not.
      constants: what the weights are computed of besides parameters.
      operations: by which operations.
    """

    weights: tuple[Computed, ...]
    rows: tuple[Row, ...]
    live: frozenset[Value]
    gone: frozenset[str]
    constants: tuple[Any, ...]
    operations: tuple[str, ...]

    @property
    def changes(self) -> Changes:
        """What they change."""
        return Changes((), {each.node: each.carrier for each in self.weights})

    @property
    def made(self) -> Any:
        """The decision, comparable between programs of one function."""
        return tuple(each.owner for each in self.weights), self.gone, self.constants, self.operations


@dataclass
class _Bodies:
    """Where each value of a program comes from.

    Attributes:
      maker: the node that computes it.
      outer: for an operand of a body, the value that the body around hands in.
      image: for a parameter, or an operand of a body that is one: its path.
      stacked: for a value that depends on the step of a scan around it: which.
    """

    maker: dict[Value, Node] = field(default_factory=dict)
    outer: dict[Value, Value] = field(default_factory=dict)
    image: dict[Value, str] = field(default_factory=dict)
    stacked: dict[Value, frozenset[Node]] = field(default_factory=dict)

    def scans(self, *values: Value) -> frozenset[Node]:
        """The scans on whose step values depend."""
        return frozenset[Node]().union(*(self.stacked[value] for value in values if value in self.stacked))


def _bodies(program: Program) -> tuple[_Bodies, dict[int, tuple[Node, ...]]]:
    """Where values come from, and the scans around each body, by its id."""
    found, around = _Bodies(image={value: path for path, value in program.parameters().items()}), {}
    around[id(program.frame)] = tuple[Node, ...]()
    for frame, _ in frames(program.frame):
        scans = around[id(frame)]
        for node in frame.nodes:
            found.maker.update(dict.fromkeys(node.outs, node))
            found.stacked.update(dict.fromkeys(node.outs, found.scans(*node.ins)))
            if node.op != "scan" and node.op not in compat.REMAT:
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


def find_weights(program: Program) -> FoundWeights:
    """Finds the weights of a program that are computed of parameters, and the parameters that can hold them.

    Args:
      program: a traced function.
    """
    origins, (bodies, around) = Origins(program), _bodies(program)
    homes = {node: frame for frame, _ in frames(program.frame) for node in frame.nodes}
    weights: dict[Node, Computed] = {}
    for site in all_nodes(program.frame):
        if site.op not in MATMULS:
            continue
        sides = [value for value in site.ins if origins[value].is_weight]
        node = _maker(sides[0], bodies) if len(sides) == 1 else None
        if node is not None and node in homes and len(node.outs) == 1:
            scans = around[id(homes[node])]
            paths = tuple(path for path in program.paths if path in origins[node.outs[0]].paths)
            weights[node] = Computed(node, homes[node], scans, bodies.scans(node.outs[0]), paths)
    kept, live, left = _with_owners(program, bodies, list(weights.values()))
    before = live_values(program.frame, program.frame.outs)
    gone = frozenset(path for path, value in program.parameters().items() if value in before and value not in live)
    rows = {each.owner: Row(each.owner, taken=tuple(p for p in each.paths if p in gone)) for each in kept}
    rows |= {each.paths[0]: Row(each.paths[0], left=NO_OWNER) for each in left if each.paths[0] not in rows}
    values = [each.value for each in kept]
    made = live_values(program.frame, values)
    operations = tuple(node.op for node in all_nodes(program.frame) if not made.isdisjoint(node.outs))
    ordered = tuple(rows[path] for path in program.paths if path in rows)
    return FoundWeights(tuple(kept), ordered, frozenset(live), gone, constants_of(program, values), operations)


NO_OWNER = "no parameter of its becomes free to hold the weight"


def _maker(value: Value, bodies: _Bodies) -> Node | None:
    """What computes a weight, before it is moved about, cast and scaled by a number; None if that is a parameter."""
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


PASSED = frozenset({*MOVES, "convert_element_type", "broadcast_in_dim", "neg", "mul", "div"})
"""The operations, of one weight and numbers, that leave it what it is."""


def _with_owners(
    program: Program, bodies: _Bodies, weights: list[Computed]
) -> tuple[list[Computed], set[Value], list[Computed]]:
    """Finds for each weight a parameter that is no longer needed; those for which there is none stay computed."""
    left: list[Computed] = []
    while True:
        live = _live(program, weights)
        taken, chosen = set[str](), list[Computed]()
        for each in weights:
            carrier = _carrier(program, bodies, each, live, taken)
            owner = "" if carrier is None else bodies.image[carrier]
            taken.add(owner)
            chosen.append(each._replace(carrier=carrier, owner=owner))
        lost = [each for each in chosen if each.carrier is None]
        if not lost:
            return chosen, _live(program, chosen), left
        left += lost
        weights = [each for each, own in zip(weights, chosen, strict=True) if own.carrier is not None]


def _live(program: Program, weights: Sequence[Computed]) -> set[Value]:
    changes = Changes((), {each.node: each.carrier for each in weights})
    return live_values(program.frame, program.frame.outs, changes.reads)


def _carrier(program: Program, bodies: _Bodies, each: Computed, live: set[Value], taken: set[str]) -> Value | None:
    """The parameter, seen from the weight's body, in whose place it comes: of its shape, else the largest."""
    params = program.parameters()
    fitting = [
        value
        for value in each.frame.ins
        if bodies.image.get(value) in set(each.paths) - taken
        and bodies.scans(value) == each.stacked
        and compat.is_inexact(value.dtype)
        and params[bodies.image[value]] not in live
    ]

    def rank(value: Value) -> tuple[bool, bool, int]:
        same = value.shape == each.value.shape
        return same, same and value.dtype == each.value.dtype, math.prod(value.shape)

    return max(fitting, key=rank, default=None)


class _Weights(Evaluation):
    """Notes the weights of each body as it has run."""

    def __init__(self, program: Program, weights: Sequence[Computed]):
        super().__init__(program, [(each.frame, [each.value]) for each in weights])
        self._of = {id(each.frame): [one for one in weights if one.frame is each.frame] for each in weights}

    def end(self, frame: Frame, read: Callable[[Value], Any]) -> None:
        self.seen |= {each.owner: read(each.value) for each in self._of.get(id(frame), ())}


def _values(program: Program, weights: Sequence[Computed], leaves: Sequence[Any]) -> Mapping[str, Any]:
    """The weights, by path; of those that scans compute again and again, one."""
    rest = [None] * (len(program.frame.ins) - len(leaves))
    _, seen = _Weights(program, weights).watched(program.frame, [*leaves, *rest])
    return {each.owner: seen[each.owner][_one(each)] for each in weights}


def _one(each: Computed) -> tuple[Any, ...]:
    return tuple(slice(None) if scan in each.stacked else 0 for scan in each.around)
