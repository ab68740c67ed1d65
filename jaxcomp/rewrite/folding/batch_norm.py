"""Fold: scales and shifts of a layer's result (batch norm at rest, layer scale) become part of its kernel and bias."""

from collections.abc import Callable, Collection
from typing import Any, Protocol

import jax

from jaxcomp.core.arrays import as_arrays
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.paths import named_leaves, replace_leaves, without
from jaxcomp.core.programs import compiled
from jaxcomp.core.types import Params
from jaxcomp.rewrite.folding.find import Changes, find_folds
from jaxcomp.rewrite.folding.report import FoldReport, FoldRow
from jaxcomp.rewrite.folding.run import FoldedRun, folded_values
from jaxcomp.rewrite.rewritten import Born, Rewritten
from jaxcomp.trace.account import left_out
from jaxcomp.trace.integer_weights import check_unquantized
from jaxcomp.trace.ir import Program, Value, trace
from jaxcomp.trace.sites import check_reads


def fold_batch_norm(apply_fn: Callable[..., Any], params: Params, *example: Any) -> tuple["FoldedNorms", Params]:
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
      kernel  bias  taken in
      ------  ----  ---------
      w       bias  mean, var
      bias: the parameter that holds the shift; taken in: parameters that were folded into kernel and bias

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
    return FoldedNorms(apply_fn, params, small, folds, find_folds, Born(example, program, folds)), small


def evaluated(function: Callable[..., Any], leaves: list[Any]) -> Any:
    """Evaluates a function of ``leaves``, compiled; to shapes if one of the leaves is a shape."""
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves):
        return jax.eval_shape(function, leaves)
    return compiled(function)(leaves)


class Found(Protocol):
    """The folds found in a program."""

    @property
    def rows(self) -> tuple[FoldRow, ...]:
        """The report."""

    @property
    def live(self) -> Collection[Value]:
        """The values that are still needed."""

    @property
    def changes(self) -> Changes:
        """The changes to the program."""

    @property
    def made(self) -> Any:
        """The decision, comparable between programs of one function."""


class Folded(Rewritten[Found]):
    """A function part of which was folded.

    Attributes:
      report: the treatment of each kernel.
    """

    def __init__(
        self,
        apply_fn: Callable[..., Any],
        params: Params,
        small: Params,
        found: Found,
        find: Callable[[Program], Found],
        born: Born,
    ):
        """Takes what was found in a program, and what finds it in another."""
        self._find, self._made = find, found.made
        told = FoldReport(found.rows).told
        report = FoldReport(found.rows, left_out(born.program, told))
        folds = [[row.path, row.bias, *row.taken] for row in found.rows if not row.skipped]
        super().__init__(
            apply_fn, params, small, report=report, decision={"folds": folds}, said=f"{len(folds)} kernels", born=born
        )

    def leaves(self, params: Params) -> list[Any]:
        """Returns the leaves of the parameters, None for those that are gone."""
        super().leaves(params)
        named = named_leaves(as_arrays(params))
        return [named.get(path) for path in self._paths]

    def plan(self, program: Program) -> Found:
        """Finds what is folded in a program, which has to be what was folded for the example.

        Raises:
          ArgumentError: if other things are folded for these shapes.
        """
        found = self._find(program)
        if found.made != self._made:
            raise ArgumentError(
                "for arguments of these shapes and types other scales and shifts, or weights, can be folded than for "
                f"the example: call {self.name} with parameters and an example of these"
            )
        return found

    def interpreter(self, program: Program, plan: Found) -> FoldedRun:
        """Returns the interpreter that runs ``program`` without what the ``plan`` folds."""
        return FoldedRun(program, plan.changes, plan.live)


class FoldedNorms(Folded):
    """A function whose scales and shifts were folded. Made by :func:`fold_batch_norm`."""

    name = "fold_batch_norm"
