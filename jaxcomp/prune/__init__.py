"""Pruning: views in which some weights are zero. One method, one file."""

from jaxcomp.prune.magnitude import magnitude as magnitude
from jaxcomp.prune.magnitude import magnitude_masks as magnitude_masks
