"""Post-training: better parameters of the same function, found on data without labels."""

from jaxcomp.posttrain.correct_biases import Corrected as Corrected
from jaxcomp.posttrain.correct_biases import correct_biases as correct_biases
from jaxcomp.posttrain.equalize import Equalized as Equalized
from jaxcomp.posttrain.equalize import equalize as equalize
from jaxcomp.posttrain.equalize import migrate as migrate
from jaxcomp.posttrain.ptq import PostTrained as PostTrained
from jaxcomp.posttrain.ptq import post_training as post_training
from jaxcomp.posttrain.recalibrate import recalibrate as recalibrate
from jaxcomp.posttrain.refit import refit as refit
from jaxcomp.posttrain.round_weights import Rounded as Rounded
from jaxcomp.posttrain.round_weights import round_weights as round_weights
from jaxcomp.posttrain.sparsify import Sparsified as Sparsified
from jaxcomp.posttrain.sparsify import sparsify as sparsify
