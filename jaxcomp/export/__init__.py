"""Floor 4: programs that run without the code that made them.

``stablehlo`` writes a function and its parameters as one artifact, and gives back a function of both.
"""

from jaxcomp.export.stablehlo import Program, load, save

__all__ = [
    "Program",
    "load",
    "save",
]


def __dir__() -> list[str]:
    return __all__
