"""Every model of ``train.models``, so small that many programs of each can be compiled; images are of 16x16."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from train import models

CLASSES = 3


class Tiny(NamedTuple):
    """A model, and the options with which it is small."""

    model: str
    options: dict[str, Any]


RESNET = {"blocks": (1, 1), "width": 4, "halvings": 2}
MOBILE = {"width": 0.5, "stages": ((1, 8, 1, 1), (2, 24, 2, 2)), "head": 12, "halvings": 2}

TINY = {
    "alexnet": Tiny("alexnet", {"widths": (4, 5, 6, 7, 8), "hidden": 9, "stem": (3, 1)}),
    "cnn": Tiny("cnn", {"widths": (4, 6, 8)}),
    "convnext": Tiny("convnext", {"blocks": (1, 1), "widths": (6, 8), "patch": 2}),
    "deit": Tiny("vit", {"width": 12, "depth": 1, "heads": 3, "distilled": True}),
    "densenet": Tiny("densenet", {"blocks": (2, 2), "growth": 4, "width": 6, "halvings": 2}),
    "efficientnet_lite": Tiny("efficientnet_lite", MOBILE | {"stages": ((1, 3, 8, 1, 1), (2, 5, 24, 2, 2))}),
    "ghostnet": Tiny(
        "ghostnet",
        {"width": 0.5, "blocks": ((3, 16, 16, False, 1), (5, 24, 24, True, 2)), "head": 12, "halvings": 2},
    ),
    "googlenet": Tiny(
        "googlenet",
        {"width": 1 / 8, "stages": (((32, 32, 48, 24, 32, 40),), ((24, 40, 40, 16, 24, 32),)), "halvings": 2},
    ),
    "lenet300": Tiny("lenet300", {}),
    "lenet5": Tiny("lenet5", {}),
    "mixer": Tiny("mixer", {"width": 8, "depth": 1, "hidden": (5, 12)}),
    "mobilenet_v1": Tiny("mobilenet_v1", {"width": 0.5, "blocks": ((16, 1), (24, 2)), "halvings": 2}),
    "mobilenet_v2": Tiny("mobilenet_v2", MOBILE),
    "mobilenet_v3": Tiny(
        "mobilenet_v3",
        {"width": 0.5, "head": 20, "halvings": 2,
         "blocks": ((3, 16, 16, True, False, 2), (5, 32, 24, True, True, 1), (3, 48, 24, False, True, 1))},
    ),
    "mobilenet_v4": Tiny(
        "mobilenet_v4",
        {"width": 1 / 8, "head": 12, "halvings": 2, "blocks": ((5, 3, 2, 96, 1), (3, 0, 2, 96, 1), (0, 3, 2, 96, 1))},
    ),
    "resnet": Tiny("resnet", {"depth": 8, "width": 4}),
    "resnet_bottleneck": Tiny("imagenet_resnet", RESNET),
    "resnet_d": Tiny("imagenet_resnet", RESNET | {"bottleneck": False, "variant": "d"}),
    "row_lstm": Tiny("row_lstm", {"width": 6}),
    "shufflenet_v2": Tiny("shufflenet_v2", {"widths": (6, 8, 12, 10), "blocks": (2, 1), "halvings": 2}),
    "tiny_resnet": Tiny("tiny_resnet", {"width": 4}),
    "vgg": Tiny("vgg", {"depth": 11, "widths": (3, 4, 5, 6, 7), "hidden": (9,), "halvings": 3}),
    "vit": Tiny("vit", {"width": 12, "depth": 1, "heads": 3}),
    "wide_resnet": Tiny("wide_resnet", {"depth": 10, "factor": 0.25}),
    "centernet": Tiny("centernet", {"backbone_options": MOBILE, "width": 6}),
    "deeplab": Tiny("deeplab", {"backbone_options": MOBILE, "width": 6, "fine": 4, "rates": (1, 2)}),
    "ssd": Tiny("ssd", {"backbone": "imagenet_resnet", "backbone_options": RESNET, "width": 6, "anchors": 2}),
    "unet": Tiny("unet", {"widths": (4, 6, 8)}),
}  # fmt: skip

IMAGES = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)


def made(name: str) -> Any:
    """The module."""
    return models.create(TINY[name].model, CLASSES, TINY[name].options)


def small_backbone(name: str) -> dict[str, Any]:
    """The options of the first tiny model of that kind."""
    return next(own.options for own in TINY.values() if own.model == name)
