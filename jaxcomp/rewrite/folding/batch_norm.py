"""Fold: scales and shifts of a layer's result (batch norm at rest, layer scale) become part of its kernel and bias."""

from collections.abc import Callable, Collection
from typing import Any, Protocol

import jax

from jaxcomp.core.arrays import as_arrays
from jaxcomp.core.calls import arguments
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.paths import named_leaves, replace_leaves, without
from jaxcomp.core.types import Params
from jaxcomp.rewrite.folding.find import Changes, find_folds
from jaxcomp.rewrite.folding.report import FoldReport, FoldRow
from jaxcomp.rewrite.folding.run import FoldedRun, folded_values
from jaxcomp.rewrite.rewritten import Plans, checked_leaves
from jaxcomp.trace.account import left_out
from jaxcomp.trace.integer_weights import check_unquantized
from jaxcomp.trace.ir import Program, Value, trace
from jaxcomp.trace.sites import check_reads


def fold_batch_norm(apply_fn: Callable[..., Any], params: Params, *example: Any) -> tuple["Folded", Params]:
    r"""Folds batch norm, and every other scale and shift made of parameters alone, into the layer before it.

    :math:`\gamma (W x - \mu) / \sqrt{v + \epsilon} + \beta = (a W) x + b` with :math:`a = \gamma / \sqrt{v + \epsilon}`
    and :math:`b = \beta - a \mu`. A matmul or convolution (grouped, depthwise, transposed, of any layout, also in remat
    and in scan with stacked parameters) takes in whatever is added to, subtracted from, multiplied with or divided into
    its result, as long as that is computed of parameters and constants alone, varies along its features alone, and
    nothing else reads the result in between; likewise what is done to its input and to that alone, but no shift before
    a padded convolution. Training mode has nothing to fold: its statistics are computed from the inputs.

    Args:
      apply_fn: ``apply_fn(params, *inputs)``: any JAX function, in evaluation mode.
      params: a whole tree of variables (statistics are parameters here); ``ShapeDtypeStruct`` will do.
      *example: the other arguments, or their shapes.

    Returns:
      The new function, whose ``report`` prints as a table, and its parameters: kernels of the same paths and shapes;
      the bias in place of the last shift's parameter (the norm's bias; else of another that is no longer needed); the
      others are gone from dicts and ``nnx.State``, and None in other containers.

    Raises:
      ArgumentError: if the function reads no parameter; from the new function, for inputs for which other folds would
        be made.

    Example:
      >>> import jax.numpy as jnp
      >>> params = {"w": jnp.ones((2, 3)), "mean": jnp.ones(3), "var": jnp.full(3, 4.0), "bias": jnp.zeros(3)}
      >>> layer = lambda p, x: (x @ p["w"] - p["mean"]) / jnp.sqrt(p["var"]) + p["bias"]
      >>> new, folded = fold_batch_norm(layer, params, jnp.ones((1, 2)))
      >>> folded["w"].tolist(), folded["bias"].tolist(), sorted(folded)
      ([[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]], [-0.5, -0.5, -0.5], ['bias', 'w'])
      >>> print(new.report)
      kernel  bias  taken in   not folded because
      ------  ----  ---------  ------------------
      w       bias  mean, var

    Reference: Jacob et al., Quantization and training of neural networks for integer-arithmetic-only inference, 2018.
    """
    params = as_arrays(params)
    check_unquantized(apply_fn, params, "fold_batch_norm")
    program = trace(apply_fn, params, *example)
    check_reads(program)
    folds = find_folds(program)
    named = named_leaves(params)
    values = evaluated(lambda leaves: folded_values(program, folds, leaves), list(named.values()))
    small = without(replace_leaves(params, values), folds.gone)
    return Folded(apply_fn, params, small, folds, find_folds, "fold_batch_norm", program), small


def evaluated(function: Callable[..., Any], leaves: list[Any]) -> Any:
    """What a function makes of leaves, compiled; its shapes if one of the leaves is a shape."""
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves):
        return jax.eval_shape(function, leaves)
    return jax.jit(function)(leaves)


class Found(Protocol):
    """What was found to fold in a program."""

    @property
    def rows(self) -> tuple[FoldRow, ...]:
        """The report."""

    @property
    def live(self) -> Collection[Value]:
        """The values that are still needed."""

    @property
    def changes(self) -> Changes:
        """What is changed."""

    @property
    def made(self) -> Any:
        """The decision, comparable between programs of one function."""


class Folded:
    """A function part of which was folded. Made by :func:`fold_batch_norm`, :func:`fold_weights`; plans once a shape.

    Attributes:
      report: what became of each kernel.
    """

    def __init__(
        self,
        apply_fn: Callable[..., Any],
        params: Params,
        small: Params,
        found: Found,
        find: Callable[[Program], Found],
        maker: str,
        program: Program,
    ):
        """Takes what was found in a program, what finds it in another, and the function that this is done by."""
        self.__wrapped__ = apply_fn
        self._apply_fn, self._find, self._maker = apply_fn, find, maker
        told = FoldReport(found.rows).told
        self.report = FoldReport(found.rows, left_out(program, told))
        self._paths = tuple(named_leaves(params))
        self._small = {path: leaf.shape for path, leaf in named_leaves(small).items()}
        self._made = found.made
        self._plans = Plans(params, self._plan)

    def __call__(self, *args: Any, **by_name: Any) -> Any:
        params, inputs = arguments(self.__wrapped__, args, by_name)
        checked_leaves(params, self._small, "folded", self._maker)
        named = named_leaves(as_arrays(params))
        leaves = [named.get(path) for path in self._paths]
        program, found = self._plans(leaves, inputs)
        run = FoldedRun(program, found.changes, found.live)
        return jax.tree.unflatten(program.out_tree, run.body(program.frame, [*leaves, *jax.tree.leaves(inputs)]))

    def _plan(self, full: Params, inputs: tuple[Any, ...]) -> tuple[Program, tuple[Program, Found]]:
        program = trace(self._apply_fn, full, *inputs)
        found = self._find(program)
        if found.made != self._made:
            raise ArgumentError(
                "for arguments of these shapes other scales and shifts, or weights, can be folded than for the "
                f"example: call {self._maker} with an example of these shapes"
            )
        return program, (program, found)
