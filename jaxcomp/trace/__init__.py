"""What a function does with its parameters: sites, channel groups, and the interpreter under every rewrite."""

from jaxcomp.trace.channels import Group as Group
from jaxcomp.trace.channels import Member as Member
from jaxcomp.trace.costs import Costs as Costs
from jaxcomp.trace.groups import Groups as Groups
from jaxcomp.trace.groups import groups as groups
from jaxcomp.trace.labels import Reason as Reason
from jaxcomp.trace.reduction import reduction_axes as reduction_axes
from jaxcomp.trace.sites import Site as Site
from jaxcomp.trace.sites import Sites as Sites
from jaxcomp.trace.sites import sites as sites
