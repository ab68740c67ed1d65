"""A walk through a program on data, in which the parameters of a site, and its bias, are replaced as it is reached.

What later sites read is then computed with the new parameters, at the cost of a single forward pass: stretch after
stretch of nodes, each compiled whole, on all batches before the next.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.core.leaves import wide
from jaxcomp.core.memory import give_back
from jaxcomp.core.meshes import beside
from jaxcomp.core.paths import leaves_of
from jaxcomp.core.programs import compiled
from jaxcomp.observe.evidence import Seen
from jaxcomp.observe.held_out import ENOUGH, Examples, by_chance, chance, examples_of
from jaxcomp.observe.matrices import matrix, rows_read
from jaxcomp.observe.moments import seen_at
from jaxcomp.observe.row_moments import NOTHING
from jaxcomp.posttrain.find_biases import Bias
from jaxcomp.posttrain.stretches import STRETCH, merged
from jaxcomp.posttrain.walk_sums import seen_by, squares_of
from jaxcomp.trace import compat
from jaxcomp.trace.interpreter import Interpreter
from jaxcomp.trace.ir import Frame, Node, Program, all_nodes
from jaxcomp.trace.uses import Use

LOOPS = ("scan", "while", "cond", "shard_map")
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


@dataclass(eq=False)
class Way:
    """One way to replace parameters, and what became of the network by it.

    Attributes:
      new: the new value of each parameter whose sites were all reached.
      errors: for each parameter that was replaced, the squared difference of its sites' results from the old ones, and
        the square of those, on the examples that are held out; what is read in loops and branches alone has none.
      unmoved: by path, why biases were left as they are.
      lost: of each of those examples, the squared errors of all results over the mean of their squares.
    """

    new: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, tuple[float, float]] = field(default_factory=dict)
    unmoved: dict[str, str] = field(default_factory=dict)
    lost: np.ndarray = field(default_factory=lambda: np.zeros(0))


def _value(x: _OfParams, known: dict[_Applied, list[Any]]) -> Any:
    """A value that depends on parameters alone, given those that are known; it becomes known."""
    if x.made not in known:
        operands = [_value(y, known) if isinstance(y, _OfParams) else y for y in x.made.operands]
        known[x.made] = compat.bind(x.made.node.equation, operands)  # type: ignore[union-attr]
    return known[x.made][x.place]


def _run(
    frame: Frame, operands: list[Any], places: list[int], leaves: list[_Applied], data: list[Any], values: list[Any]
) -> list[Any]:
    """Runs a frame on operands of which some are data, and others are computed of the leaves of parameters."""
    known = {leaf: [value] for leaf, value in zip(leaves, values, strict=True)}
    given = [_value(x, known) if isinstance(x, _OfParams) else x for x in operands]
    for i, x in zip(places, data, strict=True):
        given[i] = x
    return Interpreter().body(frame, given)


def _let_go(operands: list[Any], kept: int = 0) -> None:
    """Frees what depends on data, but for the first batches."""
    for i in (i for i, x in enumerate(operands) if isinstance(x, _Streams)):
        operands[i] = _Streams(operands[i][:kept])


class Walk(Interpreter):
    """Walks a program; see :meth:`run`.

    Attributes:
      examples: the examples of each batch.
      ways: as its parameters are solved, and the other way if there is one.
      results: with the new parameters, one list a batch each, way after way, then with the old ones.
    """

    def __init__(
        self,
        program: Program,
        sites: Mapping[str, Sequence[Use]],
        solve: Solve,
        places: int | None = None,
        inputs: Mapping[Node, Callable[[Any, Examples], Any]] | None = None,
        biases: Sequence[Bias] = (),
        gather: bool = True,
        apart: bool = False,
        measured: bool = True,
        beside: "Walk | None" = None,
        programs: dict[Any, Any] | None = None,
        other: Callable[[str], Any] | None = None,
    ):
        """Takes the sites of the parameters to replace.

        Args:
          program: a traced function.
          sites: by path.
          solve: gives the new value of each.
          places: of each result of a convolution, how many count at most; None: all.
          inputs: what becomes of what sites read, with the new parameters, on the examples of a batch.
          biases: those that are set, as they are reached, to what makes means the old ones.
          gather: whether ``solve`` is given what flows into sites; else an empty :class:`Seen`.
          apart: whether ``inputs`` round held-out examples otherwise, so that biases are set by the fitted ones alone.
          measured: whether ``errors`` are; else a site and what follows it are one program.
          beside: another walk, that has run, of the same program, parameters and batches: its programs are taken, and
            what the old parameters gave is not computed anew, so that there are no ``errors``.
          programs: those of other walks through the same program, and of this one.
          other: gives other new values, once they are solved: the network is walked both ways, side by side, at two
            thirds of the passes of two walks.
        """
        super().__init__()
        self._program, self._solve, self._places, self._uses = program, solve, places, sites
        self._sites = {use.node: (path, use) for path, uses in sites.items() for use in uses}
        self._left = {path: len(uses) for path, uses in sites.items()}
        self._inputs, self._biases = inputs or {}, {bias.node: bias for bias in biases}
        self._alike = self._groups()
        self._sums: dict[str, Seen] = {}
        self._ahead: dict[Node, Seen] = {}
        self._gather, self._apart, self._measured = gather, apart, measured and beside is None
        self._beside = beside
        self._splits: bool = measured if beside is None else beside._splits
        self._programs: dict[Any, Any] = ({} if programs is None else programs) if beside is None else beside._programs
        self._means: dict[str, list[np.ndarray]] = {} if beside is None else beside._means
        self._other = other
        self.ways = [Way() for _ in range(1 if other is None else 2)]
        self._known: list[dict[_Applied, list[Any]]] = [{} for _ in (*self.ways, "old")]
        self.examples: list[Examples] = []
        self.results: list[Any] = []

    def run(
        self,
        params: Sequence[Any],
        batches: Sequence[Sequence[Any]],
        start: Sequence[Any] | None = None,
    ) -> Way:
        """Returns what becomes of the network as its parameters are solved, the first of ``ways``.

        Args:
          params: the leaves of the parameters.
          batches: the leaves of the other arguments, one list a batch.
          start: the leaves of those that new values replace, if not ``params``: they are what is computed with now.
        """
        self._given = params, batches
        self._batches, self.examples = len(batches), examples_of([tuple(batch) for batch in batches])
        self._leaves = [_Applied(None, ()) for _ in params]
        for known, values in zip(self._known, [start or params for _ in self.ways] + [params], strict=True):
            known.update({leaf: [value] for leaf, value in zip(self._leaves, values, strict=True)})
        self._news = self._batches * len(self.ways)
        self._streams = self._news + (self._batches if self._beside is None else 0)
        data = [_Streams(column * (self._streams // self._batches)) for column in zip(*batches, strict=True)]
        outs = self.body(self._program.frame, [*(_OfParams(leaf, 0) for leaf in self._leaves), *data])
        if self._beside is not None:
            both = zip(outs, self._beside.results, strict=True)
            outs = [_Streams([*x, *old[-self._batches :]]) if isinstance(x, _Streams) else x for x, old in both]
        self.results = outs
        named = [pair for pair in zip(self._program.paths, self._leaves, strict=True) if self._left.get(pair[0]) == 0]
        for way, known, lost in zip(self.ways, self._known, self._lost(outs), strict=False):
            way.new, way.lost = {path: known[leaf][0] for path, leaf in named}, lost
        return self.ways[0]

    def lost_with(self, new: Mapping[str, Any]) -> np.ndarray:
        """Returns what other values of the parameters that were replaced lose, by the programs that there are."""
        now = dict(zip(self._program.paths, (self._known[0][leaf][0] for leaf in self._leaves), strict=True))
        if all(len(self._uses[path]) == 1 and now[path] is leaf for path, leaf in new.items()):
            return self.ways[0].lost  # of parameters with more sites, all but the last were computed with the old ones
        now |= new
        kept: Solve = lambda path, *_: now[path]  # noqa: E731
        again = Walk(self._program, self._uses, kept, gather=False, beside=self)
        return again.run(*self._given, [now[path] for path in self._program.paths]).lost

    def body(self, frame: Frame, operands: Sequence[Any]) -> list[Any]:
        """Runs a body, its nodes between those at which the walk stops as one."""
        data = {value for value, x in zip(frame.ins, operands, strict=True) if isinstance(x, _Streams)}
        return super().body(merged(frame, data, self._stops, self._opens), operands)

    def _stops(self, node: Node) -> bool:
        """Whether there is something to do at a node, or inside of it."""
        return any(
            inner in self._sites or inner in self._inputs or inner in self._biases
            for inner in all_nodes(Frame([], [node], []))
        )

    def _opens(self, node: Node) -> bool:
        """Whether a node is a site of whose result nothing is asked, so that a stretch begins with it."""
        return node in self._sites and not (self._splits or node in self._inputs or node in self._biases)

    def node(self, node: Node, operands: list[Any]) -> list[Any]:
        """Applies one primitive, or a stretch of them, to every batch; each is freed once it is read."""
        if node.op == STRETCH:
            first, given = node.frames[0].nodes[0], dict(zip(node.ins, operands, strict=True))
            if first in self._sites:
                read = [value.const if value.const is not None else given[value] for value in first.ins]
                self._observe(first, [self._sites[first]], read)
                del read  # it is let go of below
            del given
            return self._applied(node.frames[0], operands)
        if node.frames and node.op not in LOOPS and self._stops(node):
            return self.body(node.frames[0], operands)
        self._alter(node, operands)
        here = [self._sites[inner] for inner in all_nodes(Frame([], [node], [])) if inner in self._sites]
        if not here and not any(isinstance(x, _Streams) for x in operands):
            made = _Applied(node, operands)
            return [_OfParams(made, i) for i in range(len(node.outs))]
        ready, leaks = self._observe(node, here, operands), [None for _ in self.ways]
        alone = Frame(node.ins, [node], node.outs)
        if node in self._biases:
            bias = self._biases[node]
            ready = [bias.weight]
            outs, leaks = self._set(bias, alone, operands)
        else:
            outs = self._applied(alone, operands)
        if self._measured and node.op not in LOOPS:
            self._note(ready, outs[0], leaks)
        return outs

    def _applied(self, frame: Frame, operands: list[Any]) -> list[Any]:
        """Runs a stretch of nodes on every batch, with parameters as they are now and as they were."""
        each = self._each(frame, operands, range(self._streams))
        _let_go(operands)
        return [_Streams(column) for column in zip(*each, strict=True)]

    def _each(self, frame: Frame, operands: list[Any], streams: Iterable[int]) -> Iterator[list[Any]]:
        """Runs a stretch of nodes on some batches, one after another; each is freed once it is read."""
        places = [i for i, x in enumerate(operands) if isinstance(x, _Streams)]
        leaves = self._leaves_in(operands)
        key = (*frame.nodes,), (*places,), (*(self._leaves.index(leaf) for leaf in leaves),)
        if key not in self._programs:
            own = [None if isinstance(x, _Streams) else x for x in operands]
            self._programs[key] = compiled(functools.partial(_run, frame, own, places, leaves))
        program, data = self._programs[key], [list(operands[i]) for i in places]

        def run() -> Iterator[list[Any]]:
            last = None
            for stream in streams:
                known, given = self._known[stream // self._batches], [own[stream] for own in data]
                for own in data:
                    own[stream] = None
                outs = program(given, [known[leaf][0] for leaf in leaves])
                del given
                jax.block_until_ready(last)  # what waits to be run holds memory: one batch at a time
                last = outs
                yield outs

        return run()

    def _leaf(self, path: str) -> _Applied:
        return self._leaves[self._program.paths.index(path)]

    def _leaves_in(self, operands: Sequence[Any]) -> list[_Applied]:
        """The leaves of parameters that operands are computed of."""
        found: dict[_Applied, None] = {}
        pending = [x.made for x in operands if isinstance(x, _OfParams)]
        seen = set(pending)
        while pending:
            made = pending.pop()
            if made.node is None:
                found[made] = None
            more = {x.made for x in made.operands if isinstance(x, _OfParams)} - seen
            seen |= more
            pending += more
        return sorted(found, key=self._leaves.index)

    def _alter(self, node: Node, operands: list[Any]) -> None:
        """Alters what a site reads now."""
        if node not in self._inputs:
            return
        for i in (i for i, x in enumerate(operands) if isinstance(x, _Streams)):
            operands[i] = _Streams(operands[i])
            for stream in range(self._news):
                own = self.examples[stream % self._batches]
                operands[i][stream] = self._inputs[node](operands[i][stream], own)

    def _set(self, bias: Bias, frame: Frame, operands: list[Any]) -> tuple[list[Any], list[Any]]:
        """Moves a bias by as much as the means of what it is added to have moved, if that is no mere chance.

        Returns:
          The results of what adds it, and for each way what the examples that are held out had a part in, as it
          broadcasts against them.
        """
        examples, shift = self.examples, bias.axes

        def means(results: Iterable[list[Any]]) -> list[np.ndarray]:
            return [own.means(x[0], shift) for own, x in zip(examples * len(self.ways), results, strict=False)]

        now = means(self._each(frame, operands, range(self._news)))
        old = self._each(frame, operands, range(self._news, self._streams))
        _let_go(operands, self._news)
        rest = list(old)
        if rest:
            self._means[bias.path] = means(rest)
        off = [mean - was for mean, was in zip(now, self._means[bias.path] * len(self.ways), strict=True)]
        each = [off[first : first + self._batches] for first in range(0, self._news, self._batches)]
        leaks = [self._moved(i, bias, own) for i, own in enumerate(each)]
        new = self._each(frame, operands, range(self._news))
        _let_go(operands)
        outs = [_Streams(column) for column in zip(*new, *rest, strict=True)]
        give_back()
        return outs, leaks

    def _moved(self, i: int, bias: Bias, off: list[np.ndarray]) -> Any:
        """Moves a bias one way by what examples' means are off by, unless by chance; returns held-out ones' part in it.

        Args:
          i: which of the ways.
          bias: what is moved.
          off: of the examples of each batch.
        """
        held = np.concatenate([own.held_means(len(rows)) for own, rows in zip(self.examples, off, strict=True)])
        each, fit = np.concatenate(off), ~held
        if (self._apart or len(each) < ENOUGH) and fit.any():
            each, fit = each[fit], fit[fit]
        leaf, result = self._leaf(bias.path), bias.node.outs[0]
        value = self._known[i][leaf][0]
        self._left[bias.path] = 0
        if by_chance(each):
            self.ways[i].unmoved[bias.path] = chance(len(each))
            self._replace(i, {bias.path: value})
            return None
        mean = np.mean(each, 0)
        real = wide(jnp.result_type(value))
        moved = np.asarray(value).astype(real) - (bias.sign * mean.reshape(np.shape(value))).astype(real)
        self._replace(i, {bias.path: beside(jax.device_put(moved.astype(jnp.result_type(value))), value)})
        shape = [n if i in bias.axes else 1 for i, n in enumerate(result.shape)]
        return (mean - np.mean(each[fit], 0)).reshape(shape).astype(wide(result.dtype)) if fit.any() else None

    def _at(self, x: Any, stream: int) -> Any:
        if isinstance(x, _Streams):
            return x[stream]
        return _value(x, self._known[stream // self._batches]) if isinstance(x, _OfParams) else x

    def _observe(self, node: Node, here: Sequence[tuple[str, Use]], operands: list[Any]) -> list[str]:
        """Sums up what flows into sites; replaces the parameters that have no more of them to come."""
        if not here:
            return []
        give_back()
        uses = [use for _, use in here]
        if not self._gather:
            found = [Seen(NOTHING, NOTHING)] * len(uses)
        else:
            found = self._inside(node, uses, operands) if node.op in LOOPS else [self._direct(uses[0], operands)]
        for (path, _), seen in zip(here, found, strict=True):
            before = self._sums.get(path)
            self._sums[path] = seen if before is None else before.added(seen)
            self._left[path] -= 1
        ready = [path for path in dict.fromkeys(path for path, _ in here) if not self._left[path]]
        solved = {
            path: self._solve(path, use, self._sums.pop(path)) for path, use in dict(here).items() if path in ready
        }
        self._replace(0, solved)
        if self._other is not None:
            self._replace(1, {path: self._other(path) for path in solved})
        return ready

    def _replace(self, i: int, solved: Mapping[str, Any]) -> None:
        known = self._known[i]
        for leaf, path in zip(self._leaves, self._program.paths, strict=True):
            if path in solved:
                known[leaf] = [solved[path]]
        for made in [made for made in known if made.node is not None] if solved else []:
            del known[made]

    def _groups(self) -> dict[Node, list[tuple[str, Use]]]:
        """The sites that read the same rows, for each of them; outside of loops."""
        found: dict[Any, list[tuple[str, Use]]] = {}
        for node, (path, use) in self._sites.items():
            read = node.ins[1 - use.side], self._inputs.get(node), rows_read(use)
            found.setdefault(read, []).append((path, use))
        return {use.node: group for group in found.values() for _, use in group}

    def _direct(self, use: Use, operands: list[Any]) -> Seen:
        """Sums up what flows into a site, once for all sites that read the same."""
        group = self._alike[use.node]
        if use.node not in self._ahead:
            weights = [matrix(own, self._known[-1][self._leaf(path)][0]) for path, own in group]
            x = operands[1 - use.side]
            inputs = ((self._at(x, i), self._at(x, i + self._news)) for i in range(self._batches))
            seen = seen_by(use, self._places, self.examples, inputs, weights)
            self._ahead |= zip((own.node for _, own in group), seen, strict=True)
        found = self._ahead.pop(use.node)
        return found.copied() if any(own.node in self._ahead for _, own in group) else found

    def _inside(self, node: Node, uses: list[Use], operands: list[Any]) -> list[Seen]:
        frame = Frame(node.ins, [node], node.outs)
        alone = Program(frame, (), (), jax.tree.structure([0] * len(node.outs)))
        batches = [[self._at(x, i) for x in operands] for i in range(self._batches)]
        return seen_at(alone, uses, batches, self.examples, self._places)

    def _lost(self, outs: Sequence[Any]) -> list[np.ndarray]:
        """By each way, of each example that is held out, the squared errors of all results over their mean squares."""
        if sum(own.size for own in self.examples) < 2:
            return [np.zeros(0) for _ in self.ways]
        total: Any = np.zeros((len(self.ways), 1))
        for out in outs:
            if isinstance(out, _Streams) and jnp.issubdtype(out[0].dtype, jnp.floating):
                *errors, squares = self._squares(out, [None for _ in self.ways])
                if squares.any():
                    total = total + np.stack(errors) / squares.mean()
        return list(total)

    def _note(self, paths: Sequence[str], out: _Streams, leaks: Sequence[Any]) -> None:
        """Notes the errors of what parameters have a result of."""
        *errors, whole = self._squares(out, leaks).sum(1).tolist() if paths else [0.0] * (len(self.ways) + 1)
        for way, error in zip(self.ways, errors, strict=True):
            way.errors |= dict.fromkeys(paths, (error, whole))

    def _squares(self, out: _Streams, leaks: Sequence[Any]) -> np.ndarray:
        """The squared errors of a value by each way, and its squares, held out: ``[ways + 1, examples]``."""
        each = zip(self.examples, *(out[i : i + self._batches] for i in range(0, len(out), self._batches)), strict=True)
        return np.concatenate([squares_of(own, new, old, leaks) for own, *new, old in each], 1)


def lost(
    program: Program, params: Any, changed: Any, batches: Sequence[Any], inputs: Mapping[Node, Any] | None = None
) -> np.ndarray:
    """Measures the squared errors of a program's results over their squares, of each example that is held out.

    Args:
      program: a traced function.
      params: the leaves of its parameters.
      changed: the leaves of other parameters.
      batches: the leaves of the other arguments, one list a batch.
      inputs: how sites' inputs are altered.
    """
    walk = Walk(program, {}, lambda *_: None, None, inputs)
    now = leaves_of(changed, program.paths, "the changed parameters")
    return walk.run(jax.tree.leaves(params), [jax.tree.leaves(each) for each in batches], now).lost
