"""jaxcomp: functional model compression for JAX. Train with views, ship with rewrites, prove that they agree."""

from jaxcomp import distill as distill
from jaxcomp import export as export
from jaxcomp import lowrank as lowrank
from jaxcomp import measure as measure
from jaxcomp import observe as observe
from jaxcomp import optim as optim
from jaxcomp import pack as pack
from jaxcomp import posttrain as posttrain
from jaxcomp import prune as prune
from jaxcomp import quant as quant
from jaxcomp import rewrite as rewrite
from jaxcomp import search as search
from jaxcomp import trace as trace
from jaxcomp.combine import chain as chain
from jaxcomp.combine import every as every
from jaxcomp.combine import identity as identity
from jaxcomp.combine import partition as partition
from jaxcomp.combine import straight_through as straight_through
from jaxcomp.core.errors import JaxcompError as JaxcompError
from jaxcomp.core.learned import learned as learned
from jaxcomp.core.learned import with_learned as with_learned
from jaxcomp.core.stacked import stacked as stacked
from jaxcomp.core.types import Compressor as Compressor
from jaxcomp.core.types import Grid as Grid
from jaxcomp.core.types import Learned as Learned
from jaxcomp.core.types import Note as Note
