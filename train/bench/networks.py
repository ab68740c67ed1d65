"""Full-size networks whose costs are published: as shapes alone for planning, with random weights for all else."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from train import models

ResNet50 = functools.partial(models.create, "imagenet_resnet", 1000)
ResNet152 = functools.partial(models.create, "imagenet_resnet", 1000, {"blocks": (3, 8, 36, 3)})
MobileNetV2 = functools.partial(models.create, "mobilenet_v2", 1000)
ViTB16 = functools.partial(models.create, "vit", 1000, {"patch": 16, "width": 768, "depth": 12, "heads": 12})


def abstract(model: nn.Module, *example: Any) -> Any:
    """The model's variables as shapes, computed by nobody."""
    return jax.eval_shape(model.init, jax.random.key(0), *example)


def filled(model: nn.Module, *example: Any) -> Any:
    """The model's variables at random: kernels that keep the size of what they read, norms that do little."""
    rng = np.random.default_rng(0)

    def leaf(path: Any, own: Any) -> jax.Array:
        name, fan = path[-1].key, max(own.size // own.shape[-1], 1)
        if name in ("scale", "var"):
            value = rng.uniform(0.5, 1.5, own.shape)
        elif len(own.shape) > 1:
            value = rng.standard_normal(own.shape, np.float32) * np.sqrt(2 / fan)
        else:
            value = 0.1 * rng.standard_normal(own.shape, np.float32)
        return jnp.asarray(value, own.dtype)

    return jax.tree_util.tree_map_with_path(leaf, abstract(model, *example))
