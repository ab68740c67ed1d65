"""Models have the published numbers of parameters."""

import math

import jax
import jax.numpy as jnp
import pytest

from train import models

PUBLISHED = {
    "lenet300": ((28, 28, 1), 10, {}, 266_610),
    "lenet5": ((28, 28, 1), 10, {}, 431_080),
    "resnet": ((32, 32, 3), 10, {"depth": 20}, 269_722),  # "0.27 M"; shortcuts have none
    "vit": ((224, 224, 3), 1000, {"patch": 16, "width": 768, "depth": 12, "heads": 12}, 86_567_656),
    "row_lstm": ((28, 28, 1), 10, {}, 4 * 128 * (28 + 128 + 1) + 128 * 10 + 10),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_as_many_as_published(name: str) -> None:
    shape, classes, options, count = PUBLISHED[name]
    module = models.create(name, classes, options)
    params = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, *shape)))["params"]
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == count
