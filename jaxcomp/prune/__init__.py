"""Pruning: views in which some weights are zero. A pruner is score x pattern x distribution x schedule x regrowth.

Complex weights are ranked by their modulus, by gradients in channels alone; else they, and whole numbers, are left as
they are, with a note.
"""

from jaxcomp.prune.channels import channel_masks, channels
from jaxcomp.prune.distributions import Distribution, by_layer, erk, lamp, per_output, together, uniform
from jaxcomp.prune.group_lasso import group_lasso
from jaxcomp.prune.learned_threshold import learned_threshold
from jaxcomp.prune.limits import least_kept
from jaxcomp.prune.magnitude import magnitude, magnitude_masks
from jaxcomp.prune.masked import decay_pruned, kept, masked_optimizer
from jaxcomp.prune.patterns import Pattern, blocks, filters, kernels, nm, unstructured
from jaxcomp.prune.proximal import proximal_group_lasso, proximal_l1
from jaxcomp.prune.pruner import Scored, prune
from jaxcomp.prune.regrow import Regrow, gradient_growth, random_growth
from jaxcomp.prune.schedules import alternating, one_shot
from jaxcomp.prune.scores import Evidence, Score, fisher, magnitude_score, movement, random_score, snip, taylor, wanda
from jaxcomp.prune.top_kast import top_kast

__all__ = [
    "Distribution",
    "Evidence",
    "Pattern",
    "Regrow",
    "Score",
    "Scored",
    "alternating",
    "blocks",
    "by_layer",
    "channel_masks",
    "channels",
    "decay_pruned",
    "erk",
    "filters",
    "fisher",
    "gradient_growth",
    "group_lasso",
    "kept",
    "kernels",
    "lamp",
    "learned_threshold",
    "least_kept",
    "magnitude",
    "magnitude_masks",
    "magnitude_score",
    "masked_optimizer",
    "movement",
    "nm",
    "one_shot",
    "per_output",
    "proximal_group_lasso",
    "proximal_l1",
    "prune",
    "random_growth",
    "random_score",
    "snip",
    "taylor",
    "together",
    "top_kast",
    "uniform",
    "unstructured",
    "wanda",
]


def __dir__() -> list[str]:
    return __all__
