"""Fold: scales and shifts of a layer's result (batch norm at rest, layer scale) become part of its kernel and bias."""

from collections.abc import Callable
from typing import Any

import jax

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.paths import named_leaves, replace_leaves, without
from jaxcomp.core.types import Params
from jaxcomp.rewrite.folded import FoldedRun, folded_values
from jaxcomp.rewrite.folding import FoldReport, Folds, find_folds
from jaxcomp.rewrite.plans import Plans, checked_leaves
from jaxcomp.trace.ir import Program, trace
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
    program = trace(apply_fn, params, *example)
    check_reads(program)
    folds = find_folds(program)
    named = named_leaves(params)
    evaluate = jax.eval_shape if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in named.values()) else _run
    values = evaluate(lambda leaves: folded_values(program, folds, leaves), list(named.values()))
    small = without(replace_leaves(params, values), folds.gone)
    return Folded(apply_fn, params, small, folds), small


def _run(function: Callable[..., Any], leaves: list[Any]) -> Any:
    return jax.jit(function)(leaves)


class Folded:
    """A function whose scales and shifts were folded. Made by :func:`fold_batch_norm`; plans once a shape.

    Attributes:
      report: what became of each kernel.
    """

    def __init__(self, apply_fn: Callable[..., Any], params: Params, small: Params, folds: Folds):
        """Takes what :func:`fold_batch_norm` found."""
        self._apply_fn, self.report = apply_fn, FoldReport(folds.rows)
        self._full = jax.eval_shape(lambda tree: tree, params)
        self._small = {path: leaf.shape for path, leaf in named_leaves(small).items()}
        self._made = folds.made
        self._plans = Plans(self._plan)

    def __call__(self, params: Params, *inputs: Any) -> Any:
        checked_leaves(params, self._small, "folded", "fold_batch_norm")
        program, folds = self._plans(inputs)
        named = named_leaves(params)
        leaves = [named.get(path) for path in program.paths]
        outs = FoldedRun(program, folds).body(program.frame, [*leaves, *jax.tree.leaves(inputs)])
        return jax.tree.unflatten(program.out_tree, outs)

    def _plan(self, inputs: tuple[Any, ...]) -> tuple[Program, tuple[Program, Folds]]:
        program = trace(self._apply_fn, self._full, *inputs)
        folds = find_folds(program)
        if folds.made != self._made:
            raise ArgumentError(
                "for arguments of these shapes other scales and shifts can be folded than for the example: fold with "
                "an example of these shapes"
            )
        return program, (program, folds)
