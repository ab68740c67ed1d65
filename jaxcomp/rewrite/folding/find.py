"""Search for what can be folded in a program, and where the new biases go."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.rewrite.folding.report import FoldRow
from jaxcomp.trace import compat
from jaxcomp.trace.affine import Chain, chains, images
from jaxcomp.trace.ir import Node, Program, Value, all_nodes
from jaxcomp.trace.liveness import live_values
from jaxcomp.trace.origins import Origins
from jaxcomp.trace.sites import sites_of
from jaxcomp.trace.uses import Use, Uses, uses_of


class Fold(NamedTuple):
    """One site that takes in what is around it.

    Attributes:
      path: its kernel.
      use: how the site reads that.
      chain: what it takes in.
      bias: the parameter in whose place the new bias comes; empty if there is none.
      carrier: that parameter, as the site's body sees it.
    """

    path: str
    use: Use
    chain: Chain
    bias: str = ""
    carrier: Value | None = None

    @property
    def shifts(self) -> bool:
        """Whether there is a new bias."""
        return any(step.shifts for step in (*self.chain.before, *self.chain.after))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the features."""
        node = self.use.node
        return tuple(node.outs[0].shape[i] for i in self.use.contraction.places[self.use.side])


class Folds(NamedTuple):
    """The folds of one program.

    Attributes:
      folds: the sites that take something in.
      rows: the report.
      live: the values that are still needed.
      gone: the parameters that are not.
      constants: of which scales and shifts are computed, besides parameters.
    """

    folds: tuple[Fold, ...]
    rows: tuple[FoldRow, ...]
    live: frozenset[Value]
    gone: frozenset[str]
    constants: tuple[Any, ...]

    @property
    def changes(self) -> "Changes":
        """The changes to the program."""
        return Changes(self.folds)

    @property
    def made(self) -> Any:
        """The decision, comparable between programs of one function."""
        steps = {f.path: [step.node.op for step in (*f.chain.before, *f.chain.after)] for f in self.folds}
        return {fold.path: (fold.bias, steps[fold.path]) for fold in self.folds}, self.gone, self.constants


def find_folds(program: Program) -> Folds:
    """Finds what can be folded in a program."""
    uses, origins = uses_of(program), Origins(program)
    paths = {use.node: (path, use) for path, own in uses.items() for use in own.sites}
    found = {chain.node: chain for chain in chains(program, origins, {node: u.side for node, (_, u) in paths.items()})}
    read = {path for site in sites_of(program).rows for path in site.paths}
    skipped = {path: _of_kernel(uses[path]) for path in read if path in uses and not uses[path].sites}
    folds: list[Fold] = []
    for node, (path, use) in paths.items():
        reason = _refusal(uses[path], use, found.get(node))
        if reason:
            skipped.setdefault(path, reason)
        else:
            folds.append(Fold(path, use, found[node]))
    folds, live = _with_biases(program, origins, folds, skipped)
    before = live_values(program.frame, program.frame.outs)
    gone = frozenset(path for path, value in program.parameters().items() if value in before and value not in live)
    rows = {fold.path: FoldRow(fold.path, fold.bias, _taken(fold, origins, gone)) for fold in folds}
    rows |= {path: FoldRow(path, skipped=reason) for path, reason in skipped.items()}
    ordered = tuple(rows[path] for path in program.paths if path in rows)
    steps = [step.by for fold in folds for step in (*fold.chain.before, *fold.chain.after)]
    constants = constants_of(program, [value for value in steps if value is not None])
    return Folds(tuple(folds), ordered, frozenset(live), gone, constants)


def constants_of(program: Program, wanted: Sequence[Value]) -> tuple[Any, ...]:
    """Lists the constants that ``wanted`` values of a ``program`` are computed of, in order, as bytes.

    They may depend on the inputs' shapes.
    """
    live = live_values(program.frame, {value for value in wanted if value.const is None}, effects=False)
    nodes = [node for node in all_nodes(program.frame) if not live.isdisjoint(node.outs)]
    values = [*wanted, *(value for node in nodes for value in node.ins)]
    consts = [value.const for value in values if value.const is not None]
    known = [not compat.is_tracer(c) and jax.dtypes.issubdtype(jnp.result_type(c), np.number) for c in consts]
    return tuple(np.asarray(c).tobytes() if plain else "" for c, plain in zip(consts, known, strict=True))


def _taken(fold: Fold, origins: Origins, gone: frozenset[str]) -> tuple[str, ...]:
    read = frozenset().union(*(origins[value].paths for value in fold.chain.operands))
    return tuple(sorted(path for path in read if path in gone))


def _of_kernel(uses: Uses) -> str:
    return f"of its kernel: {uses.elsewhere()}"


def _refusal(uses: Uses, use: Use, chain: Chain | None) -> str:
    """Why a site takes nothing in; empty if it does."""
    if uses.other:
        return _of_kernel(uses)
    if len(uses.sites) > 1:
        return f"{len(uses.sites)} sites read its kernel"
    if chain is None:
        return "it is inside a branch, a while loop, a shard_map or a custom derivative"
    if not chain.before and all(step.shifts for step in chain.after) and len(chain.after) < 2:
        return chain.end
    if math.prod(chain.lengths) != use.size(use.stack[: len(use.scans)]):
        return "the steps of a scan share its kernel"
    return ""


def _with_biases(
    program: Program, origins: Origins, folds: list[Fold], skipped: dict[str, str]
) -> tuple[list[Fold], set[Value]]:
    """Finds a parameter that is no longer needed for each new bias; drops the folds for which there is none."""
    known = images(program)
    while True:
        bare = [fold._replace(bias="", carrier=None) for fold in folds]
        live = _live(program, bare)
        taken: set[str] = set()
        chosen = []
        for fold in bare:
            carrier = _carrier(program, origins, fold, known, live, taken) if fold.shifts else None
            if carrier is not None:
                fold = fold._replace(bias=known[carrier][0], carrier=carrier)
                taken.add(fold.bias)
            chosen.append(fold)
        lost = [fold for fold in chosen if fold.shifts and fold.carrier is None]
        if not lost:
            return chosen, _live(program, chosen)
        skipped |= {fold.path: "no parameter becomes free to hold its bias" for fold in lost}
        folds = [fold for fold in chosen if fold not in lost]


def _carrier(
    program: Program,
    origins: Origins,
    fold: Fold,
    known: Mapping[Value, tuple[str, tuple[int, ...]]],
    live: set[Value],
    taken: set[str],
) -> Value | None:
    """The parameter, seen from the site's body, that is to hold the new bias: at best one of its size, added last."""
    steps = [step for step in (*fold.chain.before, *fold.chain.after) if step.by is not None]
    order = {path: i for i, step in enumerate(steps) for path in sorted(origins[step.by].paths)}  # type: ignore[index]
    adds = {path for step in steps if step.shifts for path in origins[step.by].paths}  # type: ignore[index]
    params = program.parameters()
    fitting = [
        value
        for value in fold.chain.frame.ins
        if value in known
        and known[value][0] in order.keys() - taken
        and known[value][1] == fold.chain.lengths
        and compat.is_inexact(value.dtype)  # a whole number would round what it is to hold
        and params[known[value][0]] not in live
    ]
    size = math.prod(fold.shape)

    def rank(value: Value) -> tuple[bool, bool, int]:
        path = known[value][0]
        return math.prod(value.shape) == size, path in adds, order[path]

    return max(fitting, key=rank, default=None)


def _live(program: Program, folds: Sequence[Fold]) -> set[Value]:
    return live_values(program.frame, program.frame.outs, Changes(folds).reads)


class Changes:
    """The nodes that folds change.

    Attributes:
      folds: the folds.
      passes: nodes that pass an operand on, and which.
      adds: nodes that add a bias, and along which axes of their result its features run.
      stands: nodes whose result is a parameter's, and which.
    """

    def __init__(self, folds: Sequence[Fold], stands: Mapping[Node, Value | None] | None = None):
        """Takes the folds, and for what the weights that were computed once are read."""
        self.folds, self.stands = tuple(folds), dict(stands or {})
        self.passes: dict[Node, int] = {}
        self.adds: dict[Node, tuple[Fold, tuple[int, ...]]] = {}
        for fold in folds:
            chain = fold.chain
            self.passes |= {step.node: step.place for step in (*chain.before, *chain.after)}
            if fold.carrier is not None:
                last = chain.after[-1] if chain.after else None
                axes = last.axes if last else fold.use.contraction.places[fold.use.side]
                self.adds[last.node if last else fold.use.node] = fold, axes

    def reads(self, node: Node) -> list[Value]:
        """Returns the operands that a node needs."""
        if node in self.stands:
            return [value for value in (self.stands[node],) if value is not None]
        own = [node.ins[self.passes[node]]] if node in self.passes else list(node.ins)
        if node in self.adds and (carrier := self.adds[node][0].carrier) is not None:
            own.append(carrier)
        return own
