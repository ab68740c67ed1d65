"""Rewrites: new functions of smaller parameters that compute what the views computed."""

from jaxcomp.rewrite.activations import activations as activations
from jaxcomp.rewrite.choose import choose as choose
from jaxcomp.rewrite.curvature import fisher as fisher
from jaxcomp.rewrite.curvature import hutchinson as hutchinson
from jaxcomp.rewrite.importance import importance as importance
from jaxcomp.rewrite.recalibrate import recalibrate as recalibrate
from jaxcomp.rewrite.shrink import Shrunk as Shrunk
from jaxcomp.rewrite.shrink import mask as mask
from jaxcomp.rewrite.shrink import shrink as shrink
