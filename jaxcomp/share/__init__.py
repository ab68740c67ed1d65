"""Weight sharing: tensors that hold few values, a codebook's. One method, one file."""

from jaxcomp.share.cluster import Codebook, cluster
from jaxcomp.share.dkm import dkm
from jaxcomp.share.optimal import optimal

__all__ = [
    "Codebook",
    "cluster",
    "dkm",
    "optimal",
]


def __dir__() -> list[str]:
    return __all__
