"""Low rank: weights as products of smaller ones. One method, one file.

What is no real floating-point tensor (complex weights, whole numbers) is left as it is, with a note.
"""

from jaxcomp.lowrank.project import project

__all__ = [
    "project",
]


def __dir__() -> list[str]:
    return __all__
