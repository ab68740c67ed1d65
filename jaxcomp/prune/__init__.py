"""Pruning: views in which some weights are zero. A pruner is score x pattern x distribution x schedule x regrowth.

Complex weights are ranked by their modulus, by gradients in channels alone; else they, and whole numbers, are left as
they are, with a note.
"""

from jaxcomp.prune.channels import channel_masks as channel_masks
from jaxcomp.prune.channels import channels as channels
from jaxcomp.prune.distributions import Distribution as Distribution
from jaxcomp.prune.distributions import by_layer as by_layer
from jaxcomp.prune.distributions import erk as erk
from jaxcomp.prune.distributions import lamp as lamp
from jaxcomp.prune.distributions import per_output as per_output
from jaxcomp.prune.distributions import together as together
from jaxcomp.prune.distributions import uniform as uniform
from jaxcomp.prune.group_lasso import group_lasso as group_lasso
from jaxcomp.prune.learned_threshold import learned_threshold as learned_threshold
from jaxcomp.prune.limits import least_kept as least_kept
from jaxcomp.prune.magnitude import magnitude as magnitude
from jaxcomp.prune.magnitude import magnitude_masks as magnitude_masks
from jaxcomp.prune.masked import decay_pruned as decay_pruned
from jaxcomp.prune.masked import kept as kept
from jaxcomp.prune.masked import masked_optimizer as masked_optimizer
from jaxcomp.prune.patterns import Pattern as Pattern
from jaxcomp.prune.patterns import blocks as blocks
from jaxcomp.prune.patterns import filters as filters
from jaxcomp.prune.patterns import kernels as kernels
from jaxcomp.prune.patterns import nm as nm
from jaxcomp.prune.patterns import unstructured as unstructured
from jaxcomp.prune.proximal import proximal_group_lasso as proximal_group_lasso
from jaxcomp.prune.proximal import proximal_l1 as proximal_l1
from jaxcomp.prune.pruner import Scored as Scored
from jaxcomp.prune.pruner import prune as prune
from jaxcomp.prune.regrow import Regrow as Regrow
from jaxcomp.prune.regrow import gradient_growth as gradient_growth
from jaxcomp.prune.regrow import random_growth as random_growth
from jaxcomp.prune.schedules import alternating as alternating
from jaxcomp.prune.schedules import one_shot as one_shot
from jaxcomp.prune.scores import Evidence as Evidence
from jaxcomp.prune.scores import Score as Score
from jaxcomp.prune.scores import fisher as fisher
from jaxcomp.prune.scores import magnitude_score as magnitude_score
from jaxcomp.prune.scores import movement as movement
from jaxcomp.prune.scores import random_score as random_score
from jaxcomp.prune.scores import snip as snip
from jaxcomp.prune.scores import taylor as taylor
from jaxcomp.prune.scores import wanda as wanda
from jaxcomp.prune.top_kast import top_kast as top_kast
