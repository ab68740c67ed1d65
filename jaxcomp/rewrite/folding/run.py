"""Folded kernels and biases, and the interpreter that leaves out what they took in."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxcomp.core.leaves import wide
from jaxcomp.rewrite.folding.find import Changes, Fold, Folds
from jaxcomp.trace.affine import AffineStep
from jaxcomp.trace.interpreter import EMIT, Interpreter
from jaxcomp.trace.ir import Frame, Node, Program, Value, all_nodes
from jaxcomp.trace.liveness import has_effects, live_values, values_inside
from jaxcomp.trace.packed.leaf import Indices
from jaxcomp.trace.uses import Use


class FoldedRun(Interpreter):
    """Runs a program without what was folded; values that nothing needs are None."""

    def __init__(self, program: Program, changes: Changes, live: Collection[Value]):
        super().__init__()
        self._changes, self._live = changes, frozenset(live)
        changed = {*changes.passes, *changes.adds, *changes.stands}
        self._rebuilt = {
            node
            for node in all_nodes(program.frame)
            if node.op in EMIT
            and (
                any(value.const is None and value not in self._live for value in node.ins)
                or any(inner in changed for body in node.frames for inner in all_nodes(body))
            )
        }

    def reads(self, node: Node) -> list[Value]:
        return self._changes.reads(node)

    def altered(self) -> frozenset[Value]:
        """Returns the values between a site and the steps that were folded into it."""
        return frozenset(value for fold in self._changes.folds for value in _between(fold))

    def node(self, node: Node, operands: list[Any]) -> list[Any]:
        if not has_effects(node) and self._live.isdisjoint(node.outs):
            return [None] * len(node.outs)
        fold, axes = self._changes.adds.get(node, (None, ()))
        bias: Any = operands.pop() if fold is not None else None
        if node in self._changes.passes:
            outs = [operands[0].astype(node.outs[0].dtype)]
        elif node in self._changes.stands:
            outs = [jnp.broadcast_to(operands[0].astype(node.outs[0].dtype), node.outs[0].dims)]
        elif node in self._rebuilt:
            outs = self.enter(node, operands)
        else:
            outs = super().node(node, operands)
        if fold is not None:
            outs = [(outs[0] + _spread(bias.reshape(fold.shape), axes, outs[0].ndim)).astype(outs[0].dtype)]
        return outs


def _between(fold: Fold) -> Iterator[Value]:
    """The values from the first step on a site's input to the site, and from it to the last step on its result."""
    chain = fold.chain
    maker = {value: node for node in chain.frame.nodes for value in node.outs}
    ends = [(step.node.ins[step.place], chain.node) for step in chain.after]
    ends += [(chain.node.ins[1 - fold.use.side], step.node) for step in chain.before]
    places = {step.node: step.place for step in (*chain.before, *chain.after)}
    for value, first in ends:
        yield value
        while (node := maker[value]) is not first:
            value = node.ins[places.get(node, 0)]
            yield value


def _spread(features: Any, axes: Sequence[int], ndim: int) -> Any:
    """An array over feature axes, with those at their places among ``ndim``."""
    order = sorted(range(len(axes)), key=lambda i: axes[i])
    shape = [1] * ndim
    for i, axis in enumerate(axes):
        shape[axis] = features.shape[i]
    return jnp.transpose(features, order).reshape(shape)


class Evaluation(Interpreter):
    """Runs what some values are computed of and nothing else; a subclass notes what it wants of them in ``end``."""

    def __init__(self, program: Program, wanted: Iterable[tuple[Frame, Iterable[Value]]]):
        """Takes the values that are wanted of each body; those of branches and while loops cannot be."""
        super().__init__()
        self._wanted: dict[int, set[Value]] = {}
        for frame, values in wanted:
            self._wanted.setdefault(id(frame), set()).update(values)
        self._live = live_values(program.frame, set[Value]().union(*self._wanted.values()), effects=False)

    def node(self, node: Node, operands: list[Any]) -> list[Any]:
        if self._live.isdisjoint(node.outs) and self._live.isdisjoint(values_inside(node)):
            return [None] * len(node.outs)
        return self.enter(node, operands) if node.op in EMIT else super().node(node, operands)

    def held(self, frame: Frame) -> Iterable[Value]:
        return self._wanted.get(id(frame), ())


class _Composition(Evaluation):
    """Notes what each site is to take in."""

    def __init__(self, program: Program, folds: Sequence[Fold]):
        super().__init__(program, [(fold.chain.frame, _needs(fold)) for fold in folds])
        self._folds: dict[int, list[Fold]] = {}
        for fold in folds:
            self._folds.setdefault(id(fold.chain.frame), []).append(fold)

    def end(self, frame: Frame, read: Callable[[Value], Any]) -> None:
        for fold in self._folds.get(id(frame), ()):
            use, chain = fold.use, fold.chain
            inner = tuple(use.node.ins[1 - use.side].shape[i] for i in use.input.met)
            into, offset = _composed(chain.before, inner, read)
            scale, shift = _composed(chain.after, fold.shape, read)
            if any(step.shifts for step in chain.before):
                shift = shift + scale * _through(use, read(use.node.ins[use.side]), offset)
            self.seen[fold.path] = into if chain.before else None, scale, shift


def _needs(fold: Fold) -> set[Value]:
    weight = {fold.use.node.ins[fold.use.side]} if any(step.shifts for step in fold.chain.before) else set()
    return {*fold.chain.operands, *weight}


def _composed(steps: Sequence[AffineStep], shape: tuple[int, ...], read: Callable[[Value], Any]) -> tuple[Any, Any]:
    """Scale and shift, ``[features]``, of steps one after the other."""
    factors = [None if step.by is None else _per_feature(read(step.by), step.axes) for step in steps]
    real = np.result_type(np.float32, *(by.dtype for by in factors if by is not None))  # in strict modes too
    scale, shift = jnp.ones(shape, real), jnp.zeros(shape, real)
    for step, factor in zip(steps, factors, strict=True):
        by = -1.0 if factor is None else factor.astype(real)
        match step.node.op, step.place:
            case "add", _:
                shift = shift + by
            case "sub", 0:
                shift = shift - by
            case "sub", _:
                scale, shift = -scale, by - shift
            case "div", _:
                scale, shift = scale / by, shift / by
            case _:
                scale, shift = scale * by, shift * by
    return scale, shift


def _per_feature(by: Any, axes: Sequence[int]) -> Any:
    by = jnp.asarray(by)
    by = by if jnp.iscomplexobj(by) else by.astype(wide(by.dtype))
    if not by.ndim:
        return by
    by = by[tuple(slice(None) if i in axes else 0 for i in range(by.ndim))]
    return jnp.transpose(by, [sorted(axes).index(i) for i in axes])


def _through(use: Use, weight: Any, offset: Any) -> Any:
    """The shift of a site's result by a shift of its input: ``[features]``."""
    own = use.weight
    sums = (weight * _spread(offset, own.met, weight.ndim)).sum(own.summed)
    return jnp.transpose(sums, [sorted(own.passed).index(i) for i in own.passed])


def folded_values(program: Program, folds: Folds, leaves: Sequence[Any]) -> dict[str, Any]:
    """Computes the new kernels and biases, by path.

    Args:
      program: a traced function.
      folds: of the program.
      leaves: of its parameters.
    """
    rest = [None] * (len(program.frame.ins) - len(leaves))
    _, seen = _Composition(program, folds.folds).watched(program.frame, [*leaves, *rest])
    named = dict(zip(program.paths, leaves, strict=True))
    values: dict[str, Any] = {}
    for fold in folds.folds:
        use, (into, scale, shift) = fold.use, seen[fold.path]
        weight = named[fold.path]
        home = [name for axis in use.home for name in axis]
        parts = weight.astype(scale.dtype).reshape([use.sizes[name] for name in home])
        if into is not None:
            parts = parts * _over(use, into, (*use.stack, *use.summed), home)
        parts = parts * _over(use, scale, (*use.stack, *use.free), home)
        values[fold.path] = parts.reshape(weight.shape).astype(weight.dtype)
        if fold.bias:
            old = named[fold.bias]
            values[fold.bias] = (shift.reshape(old.shape) if shift.size == old.size else shift).astype(old.dtype)
    return values


def _over(use: Use, x: Any, names: Indices, home: Sequence[int]) -> Any:
    """An array over some indices of a parameter, as one that broadcasts over all of them."""
    here = [name for name in home if name in names]
    x = jnp.transpose(x.reshape([use.sizes[name] for name in names]), [names.index(name) for name in here])
    return x.reshape([use.sizes[name] if name in names else 1 for name in home])
