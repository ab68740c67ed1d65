"""Methods of factorizing one parameter: what each rank costs and keeps, and the packed leaf that it makes."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxcomp.core.types import Skipped
from jaxcomp.lowrank.decompose import Svd, Tucker
from jaxcomp.observe.matrices import arranged, flat
from jaxcomp.trace.packed.leaf import Indices, Packed
from jaxcomp.trace.sites import macs
from jaxcomp.trace.uses import Use

Rank = tuple[int, ...]
METHODS = ("svd", "tucker", "spatial")


class Call(NamedTuple):
    """A use, and how often one application runs it."""

    use: Use
    times: int


class Factorization(NamedTuple):
    """One way to factorize one parameter, at every rank.

    Attributes:
      name: ``"svd"``, ``"tucker"`` or ``"spatial"``.
      full: the full rank; of Tucker, of input and output channels.
      ranks: ``[n, 1 or 2]``, every rank.
      macs, bytes: ``[n]``, what each costs, all calls together.
      energy: ``[n]``, the share of the squared entries that each keeps.
      pack: the packed leaf of a rank.
    """

    name: str
    full: Rank
    ranks: np.ndarray
    macs: np.ndarray
    bytes: np.ndarray
    energy: np.ndarray
    pack: Callable[[Rank], Packed]

    def place(self, rank: Rank) -> int:
        """Returns the index of a rank in the arrays."""
        return int(np.ravel_multi_index([r - 1 for r in rank], self.full))


def factorization(
    name: str, path: str, leaf: Any, calls: Sequence[Call], moment: np.ndarray | None
) -> Factorization | Skipped:
    """Factors a parameter by a method, if its sites allow it.

    Args:
      name: one of ``METHODS``.
      path: the parameter's.
      leaf: its value.
      calls: the sites that read it, alike.
      moment: the second moment of the sites' results, ``[..., out, out]``, to minimize their error; None: the weight's.
    """
    use = calls[0].use
    wide = [axis for axis in use.window if axis]
    if name == "tucker" and not wide:
        return Skipped("Tucker-2 needs a convolution with a window")
    if name == "spatial" and len(wide) < 2:
        return Skipped("spatial SVD needs a window of two axes or more")
    if name == "tucker":
        return _tucker(path, leaf, calls)
    first = [] if name == "svd" else wide[:1]
    rest = [] if name == "svd" else wide[1:]
    into = (*(flat(first) if first else flat(use.window)), *use.summed)
    return _svd(name, path, leaf, calls, (into, (*flat(rest), *use.free)), moment if name == "svd" else None)


def _packed(use: Use, path: str, leaf: Any, parts: dict[str, tuple[np.ndarray, Indices]], rank: Rank) -> Packed:
    sizes = use.sizes | {-i: r for i, r in enumerate(rank, 1)}
    arrays = {
        key: jnp.asarray(np.asarray(part, leaf.dtype).reshape([sizes[name] for name in (*use.stack, *names)]))
        for key, (part, names) in parts.items()
    }
    return Packed(path, arrays, [(*use.stack, *names) for _, names in parts.values()], use.home)


def _svd(
    name: str, path: str, leaf: Any, calls: Sequence[Call], groups: tuple[Indices, Indices], moment: Any
) -> Factorization:
    use, (into, out) = calls[0].use, groups
    svd = Svd(arranged(use, leaf, groups), moment)
    ranks = np.arange(1, svd.full + 1)

    def pack(rank: Rank) -> Packed:
        first, second = svd.parts(*rank)
        return _packed(use, path, leaf, {"in": (first, (*into, -1)), "out": (second, (-1, *out))}, rank)

    size = use.size(use.stack) * (use.size(into) + use.size(out)) * leaf.dtype.itemsize
    cost = sum(call.times * (_spatial_macs if name == "spatial" else _svd_macs)(call.use) for call in calls)
    return Factorization(name, (svd.full,), ranks[:, None], ranks * cost, ranks * size, svd.energy, pack)


def _svd_macs(use: Use) -> int:
    """Multiply-accumulates of one rank of a matrix product, or of a convolution to one channel and on from it."""
    into = use.size((*flat(use.window), *use.summed))
    return macs(use.node) // (into * use.size(use.free)) * (into + use.size(use.free))


def _spatial_macs(use: Use) -> int:
    """The multiply-accumulates of a convolution along the first axis of the window, and of one along the others."""
    lhs, out, axes = use.node.ins[0].shape, use.node.outs[0].shape, use.contraction
    batch, places = math.prod(out[i] for i in axes.free[0]), math.prod(out) // use.size(use.free)
    axis = next(i for i, group in enumerate(use.window) if group)
    middle = [
        out[axes.window[i]] if i == axis or not group else lhs[use.input.window[i]]
        for i, group in enumerate(use.window)
    ]
    rest = flat([group for i, group in enumerate(use.window) if i != axis])
    first = batch * math.prod(middle) * use.size((*use.window[axis], *use.summed))
    return first + places * use.size((*rest, *use.free))


def _tucker(path: str, leaf: Any, calls: Sequence[Call]) -> Factorization:
    use = calls[0].use
    window = flat(use.window)
    tucker = Tucker(arranged(use, leaf, (window, use.summed, use.free)))
    full = (use.size(use.summed), use.size(use.free))
    a, b = (r.ravel() for r in np.meshgrid(*(np.arange(1, n + 1) for n in full), indexing="ij"))

    def pack(rank: Rank) -> Packed:
        into, core, out = tucker.parts(*rank)
        names = {"in": (into, (*use.summed, -1)), "core": (core, (*window, -1, -2)), "out": (out, (-2, *use.free))}
        return _packed(use, path, leaf, names, rank)

    size = a * full[0] + a * b * use.size(window) + b * full[1]
    bytes_ = use.size(use.stack) * size * leaf.dtype.itemsize
    cost = sum(call.times * _tucker_macs(call.use, a, b) for call in calls)
    return Factorization("tucker", full, np.stack([a, b], 1), np.asarray(cost), bytes_, tucker.energy.ravel(), pack)


def _tucker_macs(use: Use, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The multiply-accumulates of channels in, the convolution between, and channels out."""
    before = math.prod(use.node.ins[0].shape)
    places = math.prod(use.node.outs[0].shape) // use.size(use.free)
    return before * a + places * (use.size(flat(use.window)) * a * b + b * use.size(use.free))
