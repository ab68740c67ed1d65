"""The vocabulary of the library: the :class:`Compressor` and what it says of each parameter."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Self

import jax

from jaxcomp.core.arrays import held

Params = Any
"""Any pytree of arrays: dict, FrozenDict, tuple, ``nnx.State``, ..."""

State = Any
"""A pytree of arrays that lives beside the parameters."""

Step = int | jax.Array
"""The training step, counted by the caller."""

Schedule = Callable[[Any], Any]
"""An optax schedule: step -> value."""


class Block(NamedTuple):
    """How weights are cut into blocks with a scale each.

    Attributes:
      size: weights of a block.
      axes: those along which each index has blocks of its own, counted from the front; the others are flattened, in
        their order, and cut. The last block holds what is left.
    """

    size: int
    axes: tuple[int, ...]


@functools.partial(jax.tree_util.register_dataclass, data_fields=("scale", "zero_point"), meta_fields=("block",))
class Grid(NamedTuple):
    """The numbers that a quantized tensor can hold: ``level(code - zero_point) * scale``; of integers, level(c) = c.

    Attributes:
      scale: positive floats, of the tensor's rank; 1 along every axis that shares a scale. In blocks, the last of those
        axes counts them.
      zero_point: int32, of the same shape: the code that stands for 0.
      block: how the tensor is cut into blocks; None: it is not.
    """

    scale: Any
    zero_point: Any
    block: Block | None = None  # a field to what stores named tuples (flax.serialization), structure to JAX


class Skipped(NamedTuple):
    """A reason in place of a result.

    Attributes:
      reason: why, in words, as reports have it.
    """

    reason: str


class Learned(NamedTuple):
    """A value in a compressor's state that the user's optimizer trains: see :func:`jaxcomp.learned`.

    Attributes:
      value: a floating-point array.
    """

    value: Any


class Note(NamedTuple):
    """A compressor's note on one parameter; a field is None where it has nothing to say.

    Attributes:
      sparsity: the fraction of zeros asked for, in [0, 1]; under global scope, that of the whole group.
      bits: bits of a stored code.
      grid: the grid that the view's values lie on.
      format: the name of the codes' format (:func:`jaxcomp.quant.named`); None: integers.
      skipped: why the parameter is left as it is.
      rank: components of the view's matrix.
      remark: a peculiarity of its treatment.
      axis: along which layers are stacked (:func:`jaxcomp.stacked`), of which the other fields say the mean
        sparsity, the most bits and the highest rank.
      layers: the notes of these, without their grids.
    """

    sparsity: float | None = None
    bits: int | None = None
    grid: Grid | None = None
    format: str | None = None
    skipped: str | None = None
    rank: int | None = None
    remark: str | None = None
    axis: int | None = None
    layers: "tuple[Note, ...] | None" = None

    def over(self, earlier: "Note") -> "Note":
        """Completes this note by an earlier one where this one is silent; skipped only if both skip."""
        said = {field: value for field, value in self._asdict().items() if value is not None}
        if self.layers and earlier.layers and len(self.layers) == len(earlier.layers):
            said["layers"] = tuple(now.over(then) for now, then in zip(self.layers, earlier.layers, strict=True))
        both = earlier._replace(**said)
        treated = both._replace(skipped=None)
        return both if treated._replace(remark=None) == Note() else treated


def _nothing(params: Params, state: State, step: Step) -> dict[str, Note]:
    del params, state, step
    return {}


class _Functions(NamedTuple):
    init: Callable[[Params], State]
    update: Callable[..., State]
    apply: Callable[[Params, State], Params]
    describe: Callable[[Params, State, Step], Mapping[str, Note]] = _nothing
    kept: Callable[[Params, State], Params] | None = None
    bits: Callable[[Params, State], Mapping[str, jax.Array]] | None = None


class Compressor(_Functions):
    """A view: pure functions that show parameters as if they were compressed, without changing a shape.

    ``apply`` inside the loss is reparameterization (gradients flow through it), after
    ``optax.apply_updates`` it is projection, at the end of training it is what ships.

    Attributes:
      init: ``params -> state``. Equals ``update`` at step 0; works under ``jax.eval_shape``.
      update: ``(params, state, step, *, grads=None, ...) -> state``: re-rank, re-scale, re-cluster. The new
        state has the structure, shapes and dtypes of the old one, so that it can be scanned and donated.
      apply: ``(params, state) -> params`` of the same structure, shapes, dtypes and shardings. Idempotent.
      describe: ``(params, state, step) -> {path: Note}``: what was asked of each parameter, and how its view
        can be stored. Called on the host with concrete arrays; a compressor without it says nothing.
      kept: ``(params, state) -> masks``, a bool array a leaf: False where it prunes, which rounding to 0 is not. None:
        where its view is not 0, of ones or of very large numbers. Read by :func:`jaxcomp.prune.kept`. A compressor that
        wraps another should be made by ``_replace``, and has it.
      bits: ``(params, state) -> {path: bits}`` that the codes of each tensor take in a file, differentiable, for those
        that have a model of them; None: it has none. Read by :func:`jaxcomp.pack.rate`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> halve = Compressor(
      ...     init=lambda params: (),
      ...     update=lambda params, state, step, **extra: state,
      ...     apply=lambda params, state: jax.tree.map(lambda p: jnp.where(p > 1, 1, p), params),
      ... )
      >>> halve.apply({"w": jnp.array([0.5, 2.0])}, halve.init({}))["w"].tolist()
      [0.5, 1.0]
    """

    __slots__ = ()

    def __new__(
        cls,
        init: Callable[[Params], State],
        update: Callable[..., State],
        apply: Callable[[Params, State], Params],
        describe: Callable[[Params, State, Step], Mapping[str, Note]] = _nothing,
        kept: Callable[[Params, State], Params] | None = None,
        bits: Callable[[Params, State], Mapping[str, jax.Array]] | None = None,
    ) -> Self:
        """Lets the functions take numbers among the parameters (Python's, NumPy's): they are given arrays."""
        more = (None if each is None else _of_arrays(each) for each in (kept, bits))
        functions = (_of_arrays(each) for each in (init, update, apply, describe))
        return super().__new__(cls, *functions, *more)

    def called(self, text: str) -> Self:
        """Returns the same compressor, printing as ``text``: the call that made it."""
        apply = self.apply

        @functools.wraps(apply)
        def named(params: Params, state: State) -> Params:
            return apply(params, state)

        named.called = text  # type: ignore[attr-defined]
        return self._replace(apply=named)

    def __repr__(self) -> str:
        return getattr(self.apply, "called", f"Compressor(apply={getattr(self.apply, '__qualname__', self.apply)})")

    @classmethod
    def _make(cls, iterable: Iterable[Any]) -> Self:  # type: ignore[override]
        """Makes another for ``_replace``, with its functions wrapped as well."""
        return cls(*iterable)


def _of_arrays(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose trees of parameters, and of gradients, hold arrays in place of numbers."""
    if hasattr(function, "takes_numbers"):
        return function

    @functools.wraps(function)
    def of_arrays(params: Params, *args: Any, **extra: Any) -> Any:
        if "grads" in extra:
            extra["grads"] = held(extra["grads"])
        return function(held(params), *args, **extra)

    of_arrays.takes_numbers = True  # type: ignore[attr-defined]
    return of_arrays
