"""A walk through a program on data, in which the parameters of a site, and its bias, are replaced as it is reached.

What later sites read is then computed with the new parameters, at the cost of a single forward pass: node after node,
on all batches before the next.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.rewrite.matrices import input_rows
from jaxcomp.rewrite.moments import gram, observer
from jaxcomp.trace import compat
from jaxcomp.trace.interpreter import Interpreter
from jaxcomp.trace.ir import Frame, Node, Program, all_nodes
from jaxcomp.trace.scaled import by_factor
from jaxcomp.trace.uses import Use

LOOPS = ("scan", "while", "cond", "shard_map")


class Seen(NamedTuple):
    """What flows into the sites of a parameter, summed over batches.

    Attributes:
      now: with the new parameters before it, ``[stack x groups, reduction, reduction]``.
      cross: of that with what flowed there with the old ones; None inside of loops and branches.
      sums: the sums of both, ``[2, stack x groups, reduction]``; None there too.
      places: how many were summed up.
    """

    now: Any
    cross: Any
    sums: Any = None
    places: int = 0

    def centred(self) -> "Seen":
        """The same without means: of what a bias does not make up for."""
        if self.sums is None or not self.places:
            return self
        now, old = self.sums
        outer = [now[..., None] * other[:, None] / self.places for other in (now, old)]
        return self._replace(now=self.now - outer[0], cross=self.cross - outer[1])


class Bias(NamedTuple):
    """A parameter by which the means of a site's results can be set.

    Attributes:
      path: its own.
      weight: that of the site.
      node: what adds it, or subtracts it, as the mean of batch norm.
      axes: those of the node's result along which it varies.
      sign: of the result's change with it.
      scaled: whether the site's result is scaled before it.
    """

    path: str
    weight: str
    node: Node
    axes: tuple[int, ...]
    sign: int
    scaled: bool


Solve = Callable[[str, Use, Seen], Any]
"""``(path, one of its sites, what flows into them) -> its new value``."""


class _Streams(list):
    """A value that depends on data: one array a batch with the new parameters, then one with the old."""


class _Applied:
    """A primitive applied to what depends on parameters alone, or a parameter's leaf: computed where it is read."""

    def __init__(self, node: Node | None, operands: Sequence[Any]) -> None:
        self.node, self.operands = node, operands


class _OfParams(NamedTuple):
    """One result of such."""

    made: _Applied
    place: int


class Walk(Interpreter):
    """Walks a program; see :meth:`run`.

    Attributes:
      errors: for each parameter that was replaced, the squared difference of its sites' results from the old ones, and
        the square of those; what is read in loops and branches alone has none.
    """

    def __init__(
        self,
        program: Program,
        sites: Mapping[str, Sequence[Use]],
        solve: Solve,
        places: int | None = None,
        inputs: Mapping[Node, Callable[[Any], Any]] | None = None,
        biases: Sequence[Bias] = (),
    ):
        """Takes the sites of the parameters to replace.

        Args:
          program: what is walked.
          sites: by path.
          solve: gives the new value of each.
          places: of each result of a convolution, how many count at most; None: all.
          inputs: what becomes of what sites read, with the new parameters.
          biases: those that are set, as they are reached, to what makes means the old ones.
        """
        super().__init__()
        self._program, self._solve, self._places = program, solve, places
        self._sites = {use.node: (path, use) for path, uses in sites.items() for use in uses}
        self._left = {path: len(uses) for path, uses in sites.items()}
        self._inputs, self._biases = inputs or {}, {bias.node: bias for bias in biases}
        self._sums: dict[str, Seen] = {}
        self._known: tuple[dict[_Applied, list[Any]], dict[_Applied, list[Any]]] = ({}, {})
        self.errors: dict[str, tuple[float, float]] = {}

    def run(
        self, params: Sequence[Any], batches: Sequence[Sequence[Any]], start: Sequence[Any] | None = None
    ) -> dict[str, Any]:
        """The new value of each parameter whose sites were all reached.

        Args:
          params: the leaves of the parameters.
          batches: the leaves of the other arguments, one list a batch.
          start: the leaves of those that new values replace, if not ``params``: they are what is computed with now.
        """
        self._batches = len(batches)
        self._leaves = [_Applied(None, ()) for _ in params]
        for known, values in zip(self._known, (start or params, params), strict=True):
            known.update({leaf: [value] for leaf, value in zip(self._leaves, values, strict=True)})
        data = [_Streams([*column, *column]) for column in zip(*batches, strict=True)]
        self.body(self._program.frame, [*(_OfParams(leaf, 0) for leaf in self._leaves), *data])
        named = zip(self._program.paths, self._leaves, strict=True)
        return {path: self._known[0][leaf][0] for path, leaf in named if self._left.get(path) == 0}

    def node(self, node: Node, operands: list[Any]) -> list[Any]:
        """Applies one primitive to every batch."""
        if node.frames and node.op not in LOOPS:
            return self.body(node.frames[0], operands)
        operands = self._altered(node, operands)
        here = [self._sites[inner] for inner in all_nodes(Frame([], [node], [])) if inner in self._sites]
        if not here and not any(isinstance(x, _Streams) for x in operands):
            made = _Applied(node, operands)
            return [_OfParams(made, i) for i in range(len(node.outs))]
        ready = self._observe(node, here, operands)
        outs = self._applied(node, operands)
        if node in self._biases:
            bias = self._biases[node]
            self._set(bias, outs[0])
            outs = self._applied(node, operands)
            ready = [bias.weight]
        if node.op not in LOOPS:
            self.errors |= {path: self._error(outs[0]) for path in ready}
        return outs

    def _applied(self, node: Node, operands: list[Any]) -> list[Any]:
        count = 2 * self._batches
        results = [compat.bind(node.equation, [self._at(x, i) for x in operands]) for i in range(count)]
        return [_Streams(column) for column in zip(*results, strict=True)]

    def _altered(self, node: Node, operands: list[Any]) -> list[Any]:
        """A node's operands, what a site reads now being altered."""
        if node not in self._inputs:
            return operands
        new, half = self._inputs[node], self._batches
        return [_Streams([*map(new, x[:half]), *x[half:]]) if isinstance(x, _Streams) else x for x in operands]

    def _set(self, bias: Bias, out: _Streams) -> None:
        """Moves a bias by as much as the means of what it is added to have moved."""
        others = tuple(i for i in range(out[0].ndim) if i not in bias.axes)
        means = [
            np.mean([np.asarray(jnp.mean(x.astype(jnp.float32), others)) for x in half], 0)
            for half in (out[: self._batches], out[self._batches :])
        ]
        (leaf,) = (leaf for leaf, path in zip(self._leaves, self._program.paths, strict=True) if path == bias.path)
        value = self._known[0][leaf][0]
        moved = jnp.asarray(value, jnp.float32) + bias.sign * (means[1] - means[0]).reshape(np.shape(value))
        self._replace({bias.path: moved.astype(jnp.result_type(value))})
        self._left[bias.path] = 0

    def _at(self, x: Any, stream: int) -> Any:
        if isinstance(x, _Streams):
            return x[stream]
        return self._value(x, stream >= self._batches) if isinstance(x, _OfParams) else x

    def _value(self, x: _OfParams, old: bool) -> Any:
        known = self._known[old]
        if x.made not in known:
            operands = [self._value(y, old) if isinstance(y, _OfParams) else y for y in x.made.operands]
            known[x.made] = compat.bind(x.made.node.equation, operands)  # type: ignore[union-attr]
        return known[x.made][x.place]

    def _observe(self, node: Node, here: Sequence[tuple[str, Use]], operands: list[Any]) -> list[str]:
        """Sums up what flows into sites; replaces the parameters that have no more of them to come."""
        if not here:
            return []
        uses = [use for _, use in here]
        found = self._inside(node, uses, operands) if node.op in LOOPS else [self._direct(uses[0], operands)]
        for (path, _), seen in zip(here, found, strict=True):
            before = self._sums.get(path)
            self._sums[path] = seen if before is None else _added(before, seen)
            self._left[path] -= 1
        ready = [path for path in dict.fromkeys(path for path, _ in here) if not self._left[path]]
        solved = {
            path: self._solve(path, use, self._sums.pop(path)) for path, use in dict(here).items() if path in ready
        }
        self._replace(solved)
        return ready

    def _replace(self, solved: Mapping[str, Any]) -> None:
        for leaf, path in zip(self._leaves, self._program.paths, strict=True):
            if path in solved:
                self._known[0][leaf] = [solved[path]]
        for made in [made for made in self._known[0] if made.node is not None] if solved else []:
            del self._known[0][made]

    def _direct(self, use: Use, operands: list[Any]) -> Seen:
        now, cross, sums, count = [], [], [], 0
        for i in range(self._batches):
            rows, old = (
                by_factor(use, input_rows(use, self._at(operands[1 - use.side], j), self._places))
                for j in (i, i + self._batches)
            )
            now.append(np.asarray(gram(rows), np.float64))
            cross.append(np.asarray(gram(rows, old), np.float64))
            sums.append(np.asarray([rows.sum(1), old.sum(1)], np.float64))
            count += rows.shape[1]
        return Seen(sum(now), sum(cross), sum(sums), count)

    def _inside(self, node: Node, uses: list[Use], operands: list[Any]) -> list[Seen]:
        frame = Frame(node.ins, [node], node.outs)
        alone = Program(frame, (), (), jax.tree.structure([0] * len(node.outs)))
        run = jax.jit(observer(alone, uses, "inputs", self._places))
        sums: Any = 0
        for i in range(self._batches):
            found = run([self._at(x, i) for x in operands])
            sums = [total + np.asarray(m, np.float64) for total, m in zip(sums or [0] * len(uses), found, strict=True)]
        return [Seen(moment, None) for moment in sums]

    def _error(self, out: _Streams) -> tuple[float, float]:
        pairs = [
            (jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32))
            for a, b in zip(out[: self._batches], out[self._batches :], strict=True)
        ]
        return sum(float(jnp.sum((a - b) ** 2)) for a, b in pairs), sum(float(jnp.sum(b**2)) for _, b in pairs)


def _added(one: Seen, other: Seen) -> Seen:
    if one.cross is None or other.cross is None:
        return Seen(one.now + other.now, None)
    return Seen(one.now + other.now, one.cross + other.cross, one.sums + other.sums, one.places + other.places)
