"""Patterns: which weights go or stay together. A pattern pools scores into units and spreads the units' masks back."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.leaves import wide
from jaxcomp.core.meshes import replicated
from jaxcomp.core.reproducible import filled_up, rounded, sum_runs
from jaxcomp.core.scalars import is_whole
from jaxcomp.core.types import Skipped

Shape = tuple[int, ...]


class Units(NamedTuple):
    """The units into which a pattern cuts one tensor.

    Attributes:
      number: of its units.
      least: how many of them the pattern keeps at least.
      remark: a peculiarity; empty if there is none.
    """

    number: int
    least: int = 0
    remark: str = ""


class Pattern(NamedTuple):
    """Which weights go or stay together.

    Attributes:
      name: for errors.
      units: ``shape -> Units``, or :class:`jaxcomp.core.types.Skipped` if a tensor of that shape has none.
      pool: ``scores [...] -> scores`` of units, in an array of any shape; None where every weight is a unit.
      pick: ``mask [...] -> mask`` of units, of a mask that is constant within units.
      spread: ``(mask of units, shape) -> mask [...]``.
      protect: ``scores [...] -> mask`` of what stays at any sparsity, exactly ``least`` units; None: nothing does.
      densest: the sparsity at which nothing but what is protected is left; None without protection.
      nearest: ``sparsity -> text``: what can be had in place of a sparsity other than ``densest``.
      n_of_m: the numbers of N:M; None for any other.
      at: ``path -> Pattern`` of the tensor there, of the same kind as this one; None: this one, for every tensor.
    """

    name: str
    units: Callable[[Shape], Units | Skipped]
    pool: Callable[[Array], Array] | None = None
    pick: Callable[[Array], Array] = lambda mask: mask
    spread: Callable[[Array, Shape], Array] = lambda mask, shape: mask
    protect: Callable[[Array], Array] | None = None
    densest: float | None = None
    nearest: Callable[[float], str] = lambda sparsity: ""
    n_of_m: tuple[int, int] | None = None
    at: Callable[[str], "Pattern"] | None = None

    def of(self, path: str) -> "Pattern":
        """Returns the pattern of the tensor at a path."""
        return self if self.at is None else self.at(path)

    def __repr__(self) -> str:
        return f"<Pattern {self.name}>"


Axes = Sequence[int] | Mapping[str, Sequence[int]] | None
"""The axes that make up one output: of every tensor, of each by its path, or all but the last."""


def fitted(pattern: Pattern, path: str, shape: Shape) -> Units:
    """Returns the units into which a pattern cuts one tensor.

    Args:
      pattern: any.
      path: of the tensor, for the error.
      shape: of the tensor.

    Raises:
      ArgumentError: if the pattern does not fit it, naming the path.
    """
    units = pattern.of(path).units(shape)
    if isinstance(units, Skipped):
        raise ArgumentError(
            f"the pattern {pattern.name} does not fit {path!r} of shape {shape}: {units.reason}. Give it the tensors "
            "that it fits, jc.partition([('.*/kernel', ...)]), or keep this one dense: dense=[...]"
        )
    return units


def unstructured() -> Pattern:
    """Prunes every weight by itself.

    Example:
      >>> import jaxcomp as jc
      >>> jc.prune.prune(0.5, pattern=unstructured()).init(jnp.array([[1.0, 5.0], [9.0, 6.0]])).astype(int).tolist()
      [[0, 0], [1, 1]]
    """
    return Pattern("unstructured", lambda shape: Units(math.prod(shape)))


def nm(n: int, m: int, axes: Axes = None) -> Pattern:
    """Keeps at most n of each m consecutive weights along the reduction axis (N:M).

    The reduction axes are all but the last: ``in`` of a matrix ``[in, out]``; of a convolution's kernel
    ``[h, w, in, out]``, grouped and depthwise ones too, h, w and in flattened, as hardware contracts them. If m does
    not divide them, the last group of each output is filled up with zeros: of its r weights min(n, r) are kept.

    On the way from dense to 1 - n/m the best n of each group are safe, and the others go in the order of their scores:
    masks nest, and end as n:m exactly.

    Args:
      n, m: 1 <= n < m.
      axes: the reduction axes where they are others: ``(0,)`` for a projection ``[in, heads, size]``, ``(2, 3, 1)`` for
        ``[out, in, h, w]``; or by path, as :func:`jaxcomp.trace.reduction_axes` reads them off a function, whatever the
        layouts of its kernels.

    Raises:
      ArgumentError: for other numbers; from the pruner, for a tensor without reduction axes, or a sparsity other than
        1 - n/m.

    Example:
      >>> import jaxcomp as jc
      >>> kernel = jnp.array([[1.0, 5.0], [-2.0, 6.0], [3.0, 7.0], [4.0, 8.0], [9.0, 0.1]])
      >>> jc.prune.prune(0.5, pattern=nm(2, 4)).init(kernel).astype(int).tolist()
      [[0, 0], [0, 0], [1, 1], [1, 1], [1, 1]]

    Reference: Mishra et al., Accelerating sparse deep neural networks, 2021; Zhou et al., Learning N:M fine-grained
    structured sparse neural networks from scratch, 2021.
    """
    if not (isinstance(n, int) and isinstance(m, int) and 1 <= n < m):
        raise ArgumentError(f"nm(n, m) needs whole numbers 1 <= n < m, got {n!r} and {m!r}")
    if isinstance(axes, Mapping):
        return _by_path(nm(n, m), {path: nm(n, m, own) for path, own in axes.items()})
    name = f"{n}:{m}"

    def units(shape: Shape) -> Units | Skipped:
        summed = reduced(len(shape), axes)
        if not summed:
            return Skipped("it has no reduction axis")
        length = math.prod(shape[axis] for axis in summed)
        outputs, rest = math.prod(shape) // max(length, 1), length % m
        remark = f"the last group of {m} holds {rest} weights and {m - rest} zeros that fill it up" if rest else ""
        return Units(math.prod(shape), outputs * (n * (length // m) + min(n, rest)), remark)

    def protect(scores: Array) -> Array:
        return best_of_groups(scores, n, m, reduced(scores.ndim, axes))

    def nearest(sparsity: float) -> str:
        below = min(max(math.ceil((1 - sparsity) * m), 1), m - 1)
        above = max(below - 1, 1)
        return " or ".join(f"{1 - k / m:g} of {k}:{m}" for k in dict.fromkeys((below, above)))

    return Pattern(name, units, protect=protect, densest=1 - n / m, nearest=nearest, n_of_m=(n, m))


def blocks(shape: Sequence[int] = (8, 128)) -> Pattern:
    """Prunes blocks along the last axes, scored by their mean; those at the edges may be smaller. (8, 128): TPU tiles.

    A convolution's kernel ``[h, w, in, out]`` has ``(in, out)`` blocks of its own at each h and w.

    Args:
      shape: the sizes of a block.

    Raises:
      ArgumentError: for sizes below 1; from the pruner, for a tensor of fewer axes.

    Example:
      >>> import jaxcomp as jc
      >>> kernel = jnp.array([[1.0, 1.0, 3.0], [1.0, 1.0, 3.0], [2.0, 4.0, 1.0]])
      >>> jc.prune.prune(0.5, pattern=blocks((2, 2))).init(kernel).astype(int).tolist()
      [[0, 0, 1], [0, 0, 1], [1, 1, 0]]

    Reference: Gray et al., GPU kernels for block-sparse weights, 2017.
    """
    block = tuple(shape) if isinstance(shape, Sequence) else ()
    if not block or not all(map(is_whole, block)):
        raise ArgumentError(f"blocks(shape) needs a whole number of at least 1 for each axis, got {shape!r}")

    def of(shape: Shape) -> Shape | Skipped:
        if len(shape) < len(block):
            return Skipped(f"it has {len(shape)} axes, and blocks of {block} need {len(block)}")
        whole = (1,) * (len(shape) - len(block)) + block
        return tuple(max(1, min(size, most)) for size, most in zip(whole, shape, strict=True))

    return _of_blocks(f"blocks({block})", of)


def kernels() -> Pattern:
    """Prunes spatial kernels, one for each input and output channel: all but the last two axes of ``[..., in, out]``.

    Example:
      >>> import jaxcomp as jc
      >>> kernel = jnp.arange(8.0).reshape(2, 1, 2, 2)  # two pixels, two inputs, two outputs
      >>> jc.prune.prune(0.5, pattern=kernels()).init(kernel).astype(int).tolist()
      [[[[0, 0], [1, 1]]], [[[0, 0], [1, 1]]]]

    Reference: Mao et al., Exploring the granularity of sparsity in convolutional neural networks, 2017.
    """

    def of(shape: Shape) -> Shape | Skipped:
        if len(shape) < 3:
            return Skipped("it has no spatial axes")
        return (*(max(1, size) for size in shape[:-2]), 1, 1)

    return _of_blocks("kernels", of)


def filters(axis: int = -1) -> Pattern:
    """Prunes all weights of one index along an axis: by the last axis those that make one output, in this tensor alone.

    What depends on that output stays as it is: :func:`jaxcomp.prune.channels` prunes all of it together.

    Args:
      axis: of the outputs: -1 for ``[..., in, out]``, 0 for ``[out, in, h, w]``.

    Raises:
      ArgumentError: from the pruner, for a tensor without that axis.

    Example:
      >>> import jaxcomp as jc
      >>> jc.prune.prune(0.5, pattern=filters()).init(jnp.array([[1.0, 5.0], [9.0, 6.0]])).astype(int).tolist()
      [[0, 1], [0, 1]]

    Reference: Li et al., Pruning filters for efficient ConvNets, 2017.
    """

    def of(shape: Shape) -> Shape | Skipped:
        if not -len(shape) <= axis < len(shape):
            return Skipped(f"it has no axis {axis}")
        return tuple(1 if i == axis % len(shape) else max(1, size) for i, size in enumerate(shape))

    return _of_blocks(f"filters(axis={axis})", of)


def _of_blocks(name: str, block_of: Callable[[Shape], Shape | Skipped]) -> Pattern:
    """A pattern of blocks whose size follows from the tensor's shape."""

    def block(shape: Shape) -> Shape:
        found = block_of(shape)
        assert not isinstance(found, Skipped)  # units() was asked first
        return found

    def units(shape: Shape) -> Units | Skipped:
        found = block_of(shape)
        return found if isinstance(found, Skipped) else Units(math.prod(_counts(shape, found)))

    def pick(mask: Array) -> Array:
        return replicated(mask)[tuple(slice(None, None, size) for size in block(mask.shape))]

    def spread(mask: Array, shape: Shape) -> Array:
        for axis, size in enumerate(block(shape)):
            mask = jax.lax.slice_in_dim(jnp.repeat(mask, size, axis), 0, shape[axis], axis=axis)
        return mask

    return Pattern(name, units, lambda scores: _means(scores, block(scores.shape)), pick, spread)


def _counts(shape: Shape, block: Shape) -> Shape:
    return tuple(-(-size // run) for size, run in zip(shape, block, strict=True))


def _means(scores: Array, block: Shape) -> Array:
    """The mean score of each block: sums in one fixed order, so that devices and compilers do not change their bits."""
    shape = scores.shape
    scores = rounded(replicated(scores).astype(wide(scores.dtype)))
    for axis, size in enumerate(block):
        scores = sum_runs(scores, axis, size)
    edges = [np.minimum(size, length - np.arange(0, length, size)) for length, size in zip(shape, block, strict=True)]
    if all((runs == runs[:1]).all() for runs in edges):
        return scores * np.float32(1 / max(math.prod(int(runs[0]) for runs in edges if runs.size), 1))
    members = np.ones((), np.float64)
    for runs in edges:
        members = members[..., None] * runs
    return scores * jnp.asarray(1 / members, scores.dtype)


def _by_path(pattern: Pattern, known: Mapping[str, Pattern]) -> Pattern:
    """A pattern of the tensors whose axes are known."""
    unknown = pattern._replace(units=lambda shape: Skipped("axes= has none for it"))
    return pattern._replace(at=lambda path: known.get(path, unknown))


def reduced(ndim: int, axes: Sequence[int] | None) -> tuple[int, ...]:
    """Returns the axes that make up one output of a tensor.

    Args:
      ndim: number of its axes.
      axes: if given; those beyond ``ndim`` make it none. None: all but the last.

    Example:
      >>> reduced(4, None), reduced(4, (-1,)), reduced(1, (2,))
      ((0, 1, 2), (3,), ())
    """
    if axes is None:
        return tuple(range(ndim - 1))
    return tuple(axis % ndim for axis in axes) if ndim and all(-ndim <= axis < ndim for axis in axes) else ()


def best_of_groups(scores: Array, n: int, m: int, axes: tuple[int, ...]) -> Array:
    """Makes a mask of the n best of each m consecutive scores along the axes, flattened; of equals the first.

    Args:
      scores: ``[...]``.
      n, m: 1 <= n < m.
      axes: along which scores are consecutive.

    Example:
      >>> best_of_groups(jnp.array([[3.0], [1.0], [2.0], [5.0]]), 1, 2, (0,)).astype(int).ravel().tolist()
      [1, 0, 0, 1]
    """
    order = (*axes, *(axis for axis in range(scores.ndim) if axis not in axes))
    turned = replicated(scores).transpose(order)
    length = math.prod(turned.shape[: len(axes)])
    flat = turned.reshape(length, math.prod(turned.shape[len(axes) :]))
    groups = filled_up(flat, 0, -(-length // m) * m, -jnp.inf)
    groups = groups.reshape(-1, m, flat.shape[1])
    place = np.arange(m)[None, :, None]
    before = jnp.zeros(groups.shape, jnp.uint32)
    for i in range(m):
        other = groups[:, i : i + 1]
        before += ((other > groups) | ((other == groups) & (place > i))).astype(jnp.uint32)
    best = (before < n).reshape(-1, flat.shape[1])[:length]
    return best.reshape(turned.shape).transpose(np.argsort(order))
