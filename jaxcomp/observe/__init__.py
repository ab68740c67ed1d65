"""Statistics: what a function computes on data, as trees of numbers."""

from jaxcomp.observe.activations import activations as activations
from jaxcomp.observe.gradients import fisher as fisher
from jaxcomp.observe.gradients import hutchinson as hutchinson
from jaxcomp.observe.gradients import output_gradients as output_gradients
from jaxcomp.observe.input_norms import input_norms as input_norms
