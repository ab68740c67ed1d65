"""Floor 3: the artifact. A checked, self-describing file that gives back the very bits that were saved.

``artifact`` (save, load) lays a tree out by path (``layout``), codes each tensor (``coding``, of ``fields`` in
byte ``streams``) and writes the lot as one file (``container``); ``contents`` tells what is in one.
"""

from jaxcomp.pack.artifact import load, save
from jaxcomp.pack.contents import Contents, TensorInfo, inspect

__all__ = [
    "Contents",
    "TensorInfo",
    "inspect",
    "load",
    "save",
]


def __dir__() -> list[str]:
    return __all__
