"""Distillation: losses that teach a student what a teacher computes. One method, one file.

Losses are ``f(student, teacher, ...)`` on logits ``[..., classes]`` or features ``[batch, ...]``, and give a number an
example, ``[batch]``; those that compare examples with each other give a scalar. No gradient reaches the teacher.
Everything is computed in float32 or better. What ``where=`` leaves out adds nothing, whatever it holds. Losses and
connectors that learn are pairs of pure functions, ``init(key)`` and ``apply(values, ...)``.
"""

from jaxcomp.distill.attention import attention
from jaxcomp.distill.binary import binary_cross_entropy, binary_kl
from jaxcomp.distill.class_maps import map_classes
from jaxcomp.distill.connect import Connector, connect
from jaxcomp.distill.correlation import correlation
from jaxcomp.distill.crd import ContrastiveLoss, crd, crd_negatives
from jaxcomp.distill.dense import channel_wise, per_position
from jaxcomp.distill.dist import dist
from jaxcomp.distill.distances import cosine, mse
from jaxcomp.distill.dkd import dkd
from jaxcomp.distill.fsp import fsp
from jaxcomp.distill.hint import hint
from jaxcomp.distill.kl import cross_entropy, kl, soft_and_hard
from jaxcomp.distill.learned_loss import LearnedLoss
from jaxcomp.distill.multi_level import multi_level
from jaxcomp.distill.nst import nst
from jaxcomp.distill.ofd import ofd, ofd_margin
from jaxcomp.distill.pkt import pkt
from jaxcomp.distill.ranks import rank_list, rank_pairs
from jaxcomp.distill.review import hierarchical, review
from jaxcomp.distill.rkd import rkd_angle, rkd_distance
from jaxcomp.distill.similarity import similarity
from jaxcomp.distill.standardized import standardized
from jaxcomp.distill.stored import load_labels, store_labels, stored_bytes
from jaxcomp.distill.vid import vid

__all__ = [
    "Connector",
    "ContrastiveLoss",
    "LearnedLoss",
    "attention",
    "binary_cross_entropy",
    "binary_kl",
    "channel_wise",
    "connect",
    "correlation",
    "cosine",
    "crd",
    "crd_negatives",
    "cross_entropy",
    "dist",
    "dkd",
    "fsp",
    "hierarchical",
    "hint",
    "kl",
    "load_labels",
    "map_classes",
    "mse",
    "multi_level",
    "nst",
    "ofd",
    "ofd_margin",
    "per_position",
    "pkt",
    "rank_list",
    "rank_pairs",
    "review",
    "rkd_angle",
    "rkd_distance",
    "similarity",
    "soft_and_hard",
    "standardized",
    "store_labels",
    "stored_bytes",
    "vid",
]


def __dir__() -> list[str]:
    return __all__
