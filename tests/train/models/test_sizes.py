"""Models have the published numbers of parameters and of multiply-accumulates; by shapes alone, nothing is computed."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest

import jaxcomp as jc
from train import models


class Published(NamedTuple):
    """A model as published; MACs are those of weights (nothing published: None)."""

    model: str
    shape: tuple[int, ...]
    classes: int
    options: dict[str, Any]
    parameters: int
    macs: float | None = None


IMAGENET = (224, 224, 3), 1000

PUBLISHED = {
    "LeNet-300-100": Published("lenet300", (28, 28, 1), 10, {}, 266_610, 266_200),
    "LeNet-5": Published("lenet5", (28, 28, 1), 10, {}, 431_080, 2_293_000),
    "ResNet-20": Published("resnet", (32, 32, 3), 10, {"depth": 20}, 269_722, 40.55e6),  # "0.27 M", He et al.
    "ViT-B/16": Published(
        "vit", *IMAGENET, {"patch": 16, "width": 768, "depth": 12, "heads": 12}, 86_567_656, 16.85e9
    ),  # torchvision: 17.56 G with the 0.71 G of attention, which read no weights
    "row_lstm": Published("row_lstm", (28, 28, 1), 10, {}, 4 * 128 * (28 + 128 + 1) + 128 * 10 + 10),
    "MobileNetV2": Published("mobilenet_v2", *IMAGENET, {}, 3_504_872, 300.8e6),  # torchvision; "3.4 M, 300 M"
    "U-Net": Published(
        "unet", (64, 64, 3), 1, {"widths": (64, 128, 256, 512, 1024), "attention": False}, 31_037_633
    ),  # github.com/milesial/Pytorch-UNet, of transposed convolutions
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_macs_are_as_many_as_published(name: str) -> None:
    model, shape, classes, options, count, macs = PUBLISHED[name]
    module = models.create(model, classes, options)
    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), image)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"])) == count
    if macs is not None:
        assert jc.trace.sites(module.apply, variables, image).macs == pytest.approx(macs, rel=0.005)
