"""Statistics: what a function computes on data, as trees of numbers."""

from jaxcomp.observe.activations import activations
from jaxcomp.observe.gradients import fisher_diagonal, hessian_diagonal, output_gradients
from jaxcomp.observe.input_norms import input_norms

__all__ = [
    "activations",
    "fisher_diagonal",
    "hessian_diagonal",
    "input_norms",
    "output_gradients",
]


def __dir__() -> list[str]:
    return __all__
