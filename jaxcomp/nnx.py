"""NNX modules under rewrites that are trained: a module in, a module out, in a loop that stays as it was.

Imported on its own (``import jaxcomp.nnx``), as it needs Flax, which the rest of the library does not.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
from flax import nnx

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.types import Grid, Params
from jaxcomp.quant.gradients import Slope
from jaxcomp.rewrite.quant import qat
from jaxcomp.rewrite.quant.quantize import Quantized
from jaxcomp.rewrite.quant.report import QuantReport
from jaxcomp.rewrite.quant.scheme import INT8, Schemes

__all__ = ["QAT"]


class Range(nnx.Variable):
    """An end of a range that is averaged, as batch statistics are."""


class QAT(nnx.Module):
    """A module that rounds its weights, and what their sites read, as integers will: :func:`jaxcomp.rewrite.qat`.

    Goes where the module went: into ``nnx.Optimizer``, whose parameters (``nnx.Param``) are then the module's own and
    the step sizes, ``nnx.jit``, ``nnx.grad``, ``train()`` and ``eval()``. Batch statistics, and ranges with
    ``input_grids="average"``, move with each call in training.

    Args:
      model: any module; it becomes the attribute ``model``, and is trained where it is.
      batches: calibration batches, each the tuple of the module's inputs (or the single one).
      scheme: as of :func:`jaxcomp.rewrite.qat`.
      **options: as there.

    Raises:
      ArgumentError: for what is no NNX module; as :func:`jaxcomp.rewrite.qat`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> x = jnp.linspace(-1, 1, 12).reshape(4, 3)
      >>> model = QAT(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), [x])
      >>> optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)
      >>> _ = optimizer.update(model, nnx.grad(lambda model: (model(x) ** 2).sum())(model))
      >>> integers, packed = model.quantized(x)
      >>> packed["kernel"].parts["codes"].dtype.name, bool(jnp.allclose(integers(packed, x), model(x), atol=1e-6))
      ('int8', True)
    """

    def __init__(self, model: nnx.Module, batches: Iterable[Any], scheme: Schemes = INT8, **options: Any):
        """Takes the module, and what :func:`jaxcomp.rewrite.qat` is to be given."""
        if not isinstance(model, nnx.Module):
            raise ArgumentError(
                f"model must be an nnx.Module, got {type(model).__name__}: of functions call jaxcomp.rewrite.qat"
            )
        graphdef, state = nnx.split(model)
        function, both = qat.qat(_function(graphdef), state, batches, scheme, **options)
        self.model = model
        self.steps = nnx.data(jax.tree.map(nnx.Param, both["steps"]))
        self.ranges = nnx.data(jax.tree.map(Range, both["ranges"]))
        self.use_running_average = False  # as of batch norm: eval() sets it
        self._functions = _Functions(function)

    def __call__(self, *inputs: Any, slope: Slope | None = None, grids: Mapping[str, Grid] | None = None) -> Any:
        """Calls the module with rounded weights and inputs; ``slope`` and ``grids`` are those of qat's function."""
        graphdef, both = self._split(self.model)
        function = self._functions.of(graphdef)
        if self.ranges and not self.use_running_average:
            (out, moved), ranges = function.observed(both, *inputs, slope=slope, grids=grids)
            nnx.update(self.ranges, ranges)
        else:
            out, moved = function(both, *inputs, slope=slope, grids=grids)
        nnx.update(self.model, moved)
        return out

    @property
    def report(self) -> QuantReport:
        """The treatment of each weight."""
        return self._functions.first.report

    def quantized(self, *example: Any) -> tuple[Quantized, Params]:
        """Returns the integer function that computes what the module does in evaluation, and its parameters.

        Args:
          *example: the module's inputs, or their shapes.
        """
        model = nnx.clone(self.model)
        model.eval()
        graphdef, both = self._split(model)

        def infer(state: Params, *inputs: Any) -> Any:
            return _function(graphdef)(state, *inputs)[0]

        return self._functions.first.on(infer).quantized(both, *example)

    def _split(self, model: nnx.Module) -> tuple[Any, dict[str, Any]]:
        graphdef, state = nnx.split(model)
        steps, ranges = (
            jax.tree.map(lambda x: x[...], each, is_leaf=_is_variable) for each in (self.steps, self.ranges)
        )
        return graphdef, {"params": state, "steps": steps, "ranges": ranges}


class _Functions:
    """The function that is trained, for each form that its module takes (in training, in evaluation)."""

    def __init__(self, first: qat.QuantizedTraining):
        self.first, self._known = first, dict[Any, qat.QuantizedTraining]()

    def of(self, graphdef: Any) -> qat.QuantizedTraining:
        if graphdef not in self._known:
            self._known[graphdef] = self.first.on(_function(graphdef))
        return self._known[graphdef]


def _function(graphdef: Any) -> Callable[..., Any]:
    """A module's function: of its state and inputs; gives its outputs, and what of its state they moved."""

    def apply(state: Params, *inputs: Any) -> tuple[Any, Params]:
        model = nnx.merge(graphdef, state)
        out = model(*inputs)
        return out, nnx.state(model, nnx.Not(nnx.Param))

    return apply


def _is_variable(node: Any) -> bool:
    return isinstance(node, nnx.Variable)
