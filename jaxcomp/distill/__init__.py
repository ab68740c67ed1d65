"""Distillation: losses that teach a student what a teacher computes. One method, one file."""

from jaxcomp.distill.kl import cross_entropy, kl, soft_and_hard

__all__ = [
    "cross_entropy",
    "kl",
    "soft_and_hard",
]


def __dir__() -> list[str]:
    return __all__
