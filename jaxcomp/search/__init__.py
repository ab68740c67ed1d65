"""Search: which layer gets how many bits, so that a budget is kept or a loss in accuracy is not exceeded."""

from jaxcomp.search.allocate import allocate
from jaxcomp.search.fall_back import Fallback, fall_back
from jaxcomp.search.sensitivity import Sensitivity, SensitivityRow, sensitivity

__all__ = [
    "Fallback",
    "Sensitivity",
    "SensitivityRow",
    "allocate",
    "fall_back",
    "sensitivity",
]


def __dir__() -> list[str]:
    return __all__
