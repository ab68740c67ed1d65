"""What a function does with its parameters: sites, channel groups, and the interpreter under every rewrite."""

from jaxcomp.core.channels import Group as Group
from jaxcomp.core.channels import Member as Member
from jaxcomp.core.channels import Reason as Reason
from jaxcomp.trace.channels.costs import Costs as Costs
from jaxcomp.trace.channels.groups import Groups as Groups
from jaxcomp.trace.channels.groups import groups as groups
from jaxcomp.trace.first_and_last import ends as ends
from jaxcomp.trace.reduction import reduction_axes as reduction_axes
from jaxcomp.trace.sites import Site as Site
from jaxcomp.trace.sites import Sites as Sites
from jaxcomp.trace.sites import sites as sites
