"""Floor 3: the artifact. A checked, self-describing file that gives back the very bits that were saved.

``artifact`` (save, load) lays a tree out by path (``layout``), codes each tensor (``coding``, of ``fields`` in
byte ``streams``) and writes the lot as one file (``container``); ``contents`` tells what is in one. ``rate`` is what
codes will take, for training.
"""

from jaxcomp.pack.artifact import load, save
from jaxcomp.pack.contents import Contents, TensorInfo, inspect
from jaxcomp.pack.rate import Rated, rate, rated

__all__ = [
    "Contents",
    "Rated",
    "TensorInfo",
    "inspect",
    "load",
    "rate",
    "rated",
    "save",
]


def __dir__() -> list[str]:
    return __all__
