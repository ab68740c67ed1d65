"""Search: which layer gets how many bits, so that a budget is kept or a loss in accuracy is not exceeded."""

from jaxcomp.search.allocate import allocate as allocate
from jaxcomp.search.fall_back import Fallback as Fallback
from jaxcomp.search.fall_back import fall_back as fall_back
from jaxcomp.search.sensitivity import Sensitivity as Sensitivity
from jaxcomp.search.sensitivity import SensitivityRow as SensitivityRow
from jaxcomp.search.sensitivity import sensitivity as sensitivity
