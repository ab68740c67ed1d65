"""Pruning: views in which some weights are zero. One method, one file."""

from jaxcomp.prune.channels import channel_masks as channel_masks
from jaxcomp.prune.channels import channels as channels
from jaxcomp.prune.group_lasso import group_lasso as group_lasso
from jaxcomp.prune.limits import least_kept as least_kept
from jaxcomp.prune.magnitude import magnitude as magnitude
from jaxcomp.prune.magnitude import magnitude_masks as magnitude_masks
