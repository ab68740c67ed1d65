"""Layers stacked in one array, as ``nn.scan`` and ``jax.lax.scan`` have them: a compressor sees each by itself."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxcomp.core import leaves, meshes
from jaxcomp.core.called import checked, printed
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.kept import everything, kept
from jaxcomp.core.paths import named_leaves, replace_leaves
from jaxcomp.core.rules import ByPath, by_rule
from jaxcomp.core.types import Block, Compressor, Grid, Note, Params, State, Step

Axes = int | ByPath[int]
"""The axis that counts layers: of every leaf, by rules ``[(regex, axis), ...]``, or ``{path: axis}``."""


@printed
def stacked(axis: Axes | None, compressor: Compressor) -> Compressor:
    """Compresses layers that are stacked along an axis as if each were a leaf of its own.

    What is ranked, fitted, projected, shared out or reported is then a layer, with its own shape: thresholds, quotas of
    a distribution, scales, codebooks, ranks. The compressor sees ``{"0/blocks/kernel": ..., "1/blocks/kernel": ...}``
    in place of ``blocks/kernel``, with which its rules and errors are spelled; axes that it names are a layer's.
    Channels that are cut together (:func:`jaxcomp.prune.channels`) are those of groups, which know of scans: leave
    that one outside.

    Args:
      axis: which; where some leaves are stacked and others not ``[(regex, axis), ...]`` or ``{path: axis}``; None: none
        is.
      compressor: any, combinators included.

    Returns:
      A compressor of the stacked leaves. Its state is the other's, with an entry a layer; its notes hold those of the
      layers.

    Raises:
      ArgumentError: from its functions, for a leaf without that axis, with its path. RuleError: as of
        :func:`jaxcomp.partition`.

    Example:
      >>> import jaxcomp as jc
      >>> params = {"kernel": jnp.array([[1.0, 2.0], [30.0, 40.0]])}  # two layers of two weights
      >>> half = stacked(0, jc.prune.magnitude(0.5))
      >>> half.apply(params, half.init(params))["kernel"].tolist()
      [[0.0, 2.0], [0.0, 40.0]]
    """
    checked(compressor, "stacked(axis, compressor): compressor")
    if axis is None:
        return compressor

    def init(params: Params) -> State:
        return compressor.init(_Layers(axis, params).split(params))

    def update(params: Params, state: State, step: Step, **extra: Any) -> State:
        own = _Layers(axis, params)
        given = {
            name: tree if tree is None else own.split_beside(tree) for name, tree in extra.items() if name in TREES
        }
        return compressor.update(own.split(params), state, step, **{**extra, **given})

    def apply(params: Params, state: State) -> Params:
        own = _Layers(axis, params)
        parts = own.split(params)
        return own.joined(params, parts, compressor.apply(parts, state))

    def describe(params: Params, state: State, step: Step) -> dict[str, Note]:
        own = _Layers(axis, params)
        notes = compressor.describe(own.split(params), state, step)
        return {path: own.note(path, notes) for path in own.named if own.names(path)[0] in notes}

    def own_kept(params: Params, state: State) -> Params:
        own = _Layers(axis, params)
        masks = kept(compressor, own.split(params), state)
        return own.joined(everything(params), {}, masks)

    def bits(params: Params, state: State) -> dict[str, Any]:
        own = _Layers(axis, params)
        found = (compressor.bits or (lambda params, state: {}))(own.split(params), state)
        of_layers = {path: [found[name] for name in own.names(path) if name in found] for path in own.named}
        return {path: sum(lengths[1:], lengths[0]) for path, lengths in of_layers.items() if lengths}

    return Compressor(init, update, apply, describe, own_kept, None if compressor.bits is None else bits)


TREES = ("grads", "statistics")
"""Trees that ``update`` may be given besides, by path as the parameters are."""


class _Layers:
    """The layers of a tree: which leaves are split, along which axis, and what the parts are called."""

    def __init__(self, axis: Axes, params: Params):
        self.named = named_leaves(params)
        real = [path for path, leaf in self.named.items() if leaves.is_inexact(leaf)]
        asked = {path: own for path, own in by_rule(axis, list(self.named)).items() if path in real}
        for path, own in asked.items():
            shape = self.named[path].shape
            if not isinstance(own, int | np.integer) or not -len(shape) <= own < len(shape):
                raise ArgumentError(
                    f"{path!r} of shape {shape} has no axis {own!r} that could count layers: say which leaves are "
                    "stacked, jc.stacked([(regex, axis)], compressor)"
                )
        self.axes = {path: own % self.named[path].ndim for path, own in asked.items() if self.named[path].shape[own]}

    def names(self, path: str) -> list[str]:
        """The names of a leaf's layers, or the leaf's own if it is not split."""
        if path not in self.axes:
            return [path]
        number = self.named[path].shape[self.axes[path]]
        return [f"{i:0{len(str(number - 1))}d}" + (f"/{path}" if path else "") for i in range(number)]

    def split(self, params: Params) -> dict[str, Any]:
        """``{name: array}`` of a tree like the parameters."""
        named = named_leaves(params)
        parts: dict[str, Any] = {}
        for path in self.named:
            names = self.names(path)
            layers = _layers(named[path], self.axes[path]) if path in self.axes else [named[path]]
            parts.update(zip(names, layers, strict=True))
        if len(parts) < sum(len(self.names(path)) for path in self.named):
            raise ArgumentError(f"layers are called {min(parts)!r}, ..., and so is another leaf: rename that one")
        return parts

    def split_beside(self, tree: Any) -> dict[str, Any]:
        """The facts on some of the leaves: of each layer, or one for all of them."""
        found: dict[str, Any] = {}
        for path, given in named_leaves(tree).items():
            names, axis = (self.names(path), self.axes.get(path)) if path in self.named else ([path], None)
            if axis is None or jnp.ndim(given) < self.named[path].ndim - 1:
                found |= dict.fromkeys(names, given)
                continue
            if axis >= jnp.ndim(given) or given.shape[axis] not in (1, len(names)):
                raise ArgumentError(
                    f"what belongs to {path!r} of shape {self.named[path].shape} must have its {len(names)} layers "
                    f"along axis {axis}, or 1 for all of them; got shape {jnp.shape(given)}"
                )
            layers = _layers(given, axis)
            found.update(zip(names, layers * (len(names) // len(layers)), strict=True))
        return found

    def joined(self, params: Params, parts: Mapping[str, Any], views: Mapping[str, Any]) -> Params:
        """A tree like the parameters, of the views of their parts; what is as it was comes back itself."""
        whole = {}
        for path, leaf in self.named.items():
            own = [views[name] for name in self.names(path)]
            if path not in self.axes:
                whole[path] = own[0]
            elif not all(view is parts.get(name) for view, name in zip(own, self.names(path), strict=True)):
                whole[path] = meshes.spread_like(jnp.stack(own, self.axes[path]), leaf)
        return replace_leaves(params, whole)

    def note(self, path: str, notes: Mapping[str, Note]) -> Note:
        """The note of all layers of a leaf together, and of each."""
        own = [notes[name] for name in self.names(path)]
        return _together(own, self.axes[path]) if path in self.axes else own[0]


def _layers(leaf: Any, axis: int) -> list[Any]:
    if isinstance(leaf, np.ndarray):
        return [np.take(leaf, i, axis) for i in range(leaf.shape[axis])]
    return meshes.unstacked(leaf, axis)


def _together(notes: Sequence[Note], axis: int) -> Note:
    def said(field: str, join: Callable[[list[Any]], Any]) -> Any:
        values = [getattr(note, field) for note in notes if getattr(note, field) is not None]
        return join(values) if values else None

    left_out = all(note.skipped is not None for note in notes)
    formats = {(note.bits, note.format) for note in notes}
    return Note(
        sparsity=said("sparsity", lambda rates: sum(rates) / len(notes)),
        bits=said("bits", max),
        grid=_stacked_grid([note.grid for note in notes], axis) if len(formats) == 1 else None,
        format=notes[0].format if len(formats) == 1 else None,
        skipped=notes[0].skipped if left_out else None,
        rank=said("rank", max),
        remark=said("remark", lambda remarks: "; ".join(dict.fromkeys(remarks))),
        axis=axis,
        layers=tuple(note._replace(grid=None) for note in notes),
    )


def _stacked_grid(grids: Sequence[Grid | None], axis: int) -> Grid | None:
    """One grid of a tensor of stacked layers; None where a layer has none or they are cut into blocks otherwise."""
    there = [grid for grid in grids if grid is not None]
    if len(there) < len(grids) or len({grid.block for grid in there}) > 1:
        return None
    block = there[0].block
    if block is not None:
        block = Block(block.size, tuple(sorted({axis, *(own + (own >= axis) for own in block.axes)})))
    scale, zero_point = (jnp.stack([getattr(grid, part) for grid in there], axis) for part in ("scale", "zero_point"))
    return Grid(scale, zero_point, block)
