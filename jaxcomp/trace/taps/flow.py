"""The flow of a value: through which later values all of it passes, and what norm and activation make of it."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from jaxcomp.trace import compat
from jaxcomp.trace.affine import AFFINE, MOVES
from jaxcomp.trace.channels.cut_values import ELEMENTWISE, KEEPS
from jaxcomp.trace.ir import Frame, Node, Program, Value, all_nodes
from jaxcomp.trace.liveness import live_values
from jaxcomp.trace.origins import Origins
from jaxcomp.trace.taps.places import Places, bodies

ROOTS = ("rsqrt", "sqrt", "pow")
REDUCTIONS = ("reduce_sum", "reduce_max", "reduce_min", "reduce_window_sum", "dot_general", "psum", "pmean")
SPREADS = ("broadcast_in_dim", "iota")
HALVES = ("slice", "split")
STEPS = {*AFFINE, *MOVES, *KEEPS, *SPREADS}
"""Primitives that alone make no activation."""


class Step(NamedTuple):
    """The way of a value to the next that all of it passes through.

    Attributes:
      nodes: on the way, the last of which computes the next value.
      inner: ``nodes``, and the nodes in the bodies of derivatives' functions.
      meets: the operands that come of the inputs by another way.
      weights: the operands that are computed of parameters alone.
    """

    nodes: tuple[Node, ...]
    inner: tuple[Node, ...]
    meets: tuple[Value, ...]
    weights: tuple[Value, ...]

    @property
    def end(self) -> Node:
        """The node that computes the next value."""
        return self.nodes[-1]

    @property
    def moves(self) -> bool:
        """Whether it only moves or casts numbers, or scales and shifts all of them by constants."""
        calm = all(node.op in STEPS for node in self.inner)
        return calm and not self.meets and not self.weights and not self.is_statistical

    @property
    def is_statistical(self) -> bool:
        """Whether it holds sums over what it scales."""
        return any(node.op in REDUCTIONS for node in self.inner)

    @property
    def is_affine(self) -> bool:
        """Whether it scales or shifts by parameters alone, or by statistics."""
        if self.meets or not self.same_shape:
            return False
        if self.is_statistical:
            return any(node.op in ROOTS for node in self.inner)
        return bool(self.weights) and all(node.op in STEPS for node in self.inner)

    @property
    def is_norm(self) -> bool:
        """Whether such a step makes a norm: a shift alone that differs from place to place (of positions) does not."""
        per_channel = all(sum(n > 1 for n in value.shape) < 2 for value in self.weights)
        return self.is_statistical or per_channel or any(node.op in ("mul", "div") for node in self.nodes)

    @property
    def is_sum(self) -> bool:
        """Whether something else of the same shape is added."""
        return len(self.nodes) == 1 and self.end.op in ("add", "add_any", "sub") and bool(self.meets)

    @property
    def is_activation(self) -> bool:
        """Whether it is a curve, number by number."""
        known = all(node.op in {*ELEMENTWISE, *SPREADS, *HALVES} for node in self.inner)
        return known and not self.meets and any(node.op not in {*STEPS, *HALVES} for node in self.inner)

    @property
    def same_shape(self) -> bool:
        """Whether the next value has the shape of this one."""
        return any(value.shape == self.end.outs[0].shape for value in self.nodes[0].ins)


class Flow:
    """Which values all of a value's flow passes through, in one body.

    What only leads to new states of parameters (batch statistics) is no flow.
    """

    def __init__(self, program: Program, places: Places, origins: Origins) -> None:
        """Takes a program."""
        self.places, self.origins = places, origins
        self.live = live_values(program.frame, [program.frame.outs[i] for i in _results(program)])
        self._next: dict[Frame, dict[Node, Node | None]] = {}
        self._readers: dict[Frame, dict[Value, list[Node]]] = {}
        self._depth: dict[Node | None, int] = {None: 0}
        self._exits: set[Value] = set()

    def readers(self, value: Value) -> list[Node]:
        """Finds the nodes that read a value in its body, on the way to results."""
        return self._of(self.places.home[value])[1].get(value, [])

    def _of(self, frame: Frame) -> tuple[dict[Node, Node | None], dict[Value, list[Node]]]:
        if frame not in self._next:
            nodes = [node for node in frame.nodes if any(out in self.live for out in node.outs)]
            readers: dict[Value, list[Node]] = {}
            for node in nodes:
                for value in dict.fromkeys(node.ins):
                    readers.setdefault(value, []).append(node)
            self._readers[frame], self._next[frame] = readers, {}
            self._exits |= self._returned(frame)
            for node in reversed(nodes):
                after: list[Node | None] = [each for out in node.outs for each in readers.get(out, [])]
                after += [None] if self._exits.intersection(node.outs) or not after else []
                self._next[frame][node] = found = self._meeting(self._next[frame], after)
                self._depth[node] = self._depth[found] + 1
        return self._next[frame], self._readers[frame]

    def _returned(self, frame: Frame) -> set[Value]:
        """The values that a body returns, as far as they are needed."""
        if not (around := self.places.around[frame]):
            return {value for value in frame.outs if value in self.live}
        node = around[-1][0]
        first, carried = compat.scan_counts(node.params) if node.op == "scan" else (0, 0)
        carry = dict(zip(frame.outs[:carried], frame.ins[first:], strict=False))
        pairs = zip(frame.outs, node.outs, strict=False)
        return {own for own, out in pairs if out in self.live or carry.get(own) in self.live}

    def _meeting(self, following: dict[Node, Node | None], nodes: Iterable[Node | None]) -> Node | None:
        """The first node through which all flow from some nodes passes, one of them if the others' does."""
        first, *others = dict.fromkeys(nodes)
        for other in others:
            while first is not other:
                if self._depth[first] < self._depth[other]:
                    first, other = other, first
                assert first is not None
                first = following[first]
        return first

    def meeting(self, nodes: list[Node]) -> Node | None:
        """Finds the first node of a body through which all flow from some of its nodes passes."""
        following = self._of(self.places.frame[nodes[0]])[0]
        live = [node for node in nodes if node in following]
        return self._meeting(following, live) if live else None

    def step(self, value: Value) -> Step | None:
        """Returns the way to the next value; None at the end of a body, or before a node of several results."""
        following, readers = self._of(self.places.home[value])
        own = readers.get(value, [])
        if not own or value in self._exits:
            return None
        end = self._meeting(following, own)
        if end is None or len(end.outs) != 1:
            return None
        nodes, made = list[Node](), {value}
        frame = self.places.frame[end]
        for node in frame.nodes[frame.nodes.index(own[0]) : frame.nodes.index(end) + 1]:
            if node in following and not made.isdisjoint(node.ins):
                nodes.append(node)
                made.update(node.outs)
        others = [each for node in nodes for each in node.ins if each not in made and each.const is None]
        meets = tuple(each for each in others if self.origins[each].live)
        weights = tuple(each for each in others if self.origins[each].is_weight)
        return Step(tuple(nodes), tuple(_inner(nodes)), meets, weights)

    def settled(self, value: Value) -> Value:
        """Follows a value through the cast that ends the code which computes it."""
        maker = self.places.maker.get(value)
        own = self.readers(value)
        if maker is None or len(own) != 1 or value in self._exits:
            return value
        cast = own[0]
        is_end = cast.op == "convert_element_type" and compat.is_inexact(cast.outs[0].dtype)
        return cast.outs[0] if is_end and _same_code(maker, cast) else value

    def normed(self, value: Value) -> Value | str:
        """Finds the result of the norm right after a value, or says why there is none."""
        found, is_norm, first, step = None, False, value, self.step(value)
        while step is not None and (step.is_affine or step.moves):
            value = step.end.outs[0]
            if step.is_affine:
                found, is_norm = self.settled(value), is_norm or step.is_norm
            step = self.step(value)
        return found if found is not None and is_norm else f"no norm follows: {self._next_of(first)}"

    def activated(self, value: Value) -> Value | str:
        """Finds the result of the activation after a value, its norm and its shortcut, or says why there is none."""
        step = self.step(value)
        while step is not None and not step.is_activation:
            if not (step.is_affine or step.moves or step.is_sum):
                break
            value = step.end.outs[0]
            step = self.step(value)
        if step is None or not step.is_activation:
            return f"no activation follows: {self._next_of(value)}"
        return self.settled(step.end.outs[0])

    def _next_of(self, value: Value) -> str:
        readers = self.readers(value)
        if value in self._exits or not readers:
            return "its result leaves the body that computes it"
        told = [f"{node.op} at {node.place}".removesuffix(" at ") for node in readers[:2]]
        return f"its result is read by {' and by '.join(told)}" + (", ..." if len(readers) > 2 else "")


def _inner(nodes: Iterable[Node]) -> Iterator[Node]:
    for node in nodes:
        if node.op in ("custom_jvp_call", "custom_vjp_call"):
            for body in bodies(node):
                yield from (each for each in all_nodes(body) if not each.frames)
        else:
            yield node


def _same_code(one: Node, other: Node) -> bool:
    """Whether two nodes were written in one module or function."""
    if one.scope and one.scope == other.scope:
        return True
    places = [compat.place(node.equation) for node in (one, other)]
    files, functions = zip(*((text.partition(":")[0], text.partition("(")[2]) for text in places), strict=True)
    return bool(places[0]) and files[0] == files[1] and functions[0] == functions[1]


def _results(program: Program) -> list[int]:
    """The results that are no new states of parameters; all if there are no others."""
    params = program.parameters()
    paths = {path: value.shape for path, value in params.items() if path}

    def is_state(path: str, value: Value) -> bool:
        keys = path.split("/")
        return any(paths.get("/".join(keys[i:])) == value.shape for i in range(len(keys)))

    pairs = zip(program.out_paths, program.frame.outs, strict=True)
    kept = [i for i, (path, value) in enumerate(pairs) if not is_state(path, value)]
    return kept or list(range(len(program.frame.outs)))
