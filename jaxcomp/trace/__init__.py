"""Facts about a function: sites, channel groups, and the interpreter under every rewrite."""

from jaxcomp.core.channels import Group, Member, Reason
from jaxcomp.trace.channels.costs import Costs
from jaxcomp.trace.channels.groups import Groups, groups
from jaxcomp.trace.first_and_last import ends
from jaxcomp.trace.reduction import reduction_axes
from jaxcomp.trace.sites import Site, Sites, sites
from jaxcomp.trace.taps.tap import Tapped, tap
from jaxcomp.trace.taps.values import Tappable, Values, values

__all__ = [
    "Costs",
    "Group",
    "Groups",
    "Member",
    "Reason",
    "Site",
    "Sites",
    "Tappable",
    "Tapped",
    "Values",
    "ends",
    "groups",
    "reduction_axes",
    "sites",
    "tap",
    "values",
]


def __dir__() -> list[str]:
    return __all__
