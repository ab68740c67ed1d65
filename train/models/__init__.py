"""The networks that the scripts train, by name: classifiers, and on their maps segmenters and detectors."""

import inspect
from typing import Any

from flax import linen as nn

from train.common.errors import UserError
from train.models.centernet import CenterNet
from train.models.cnn import CNN
from train.models.lenet import LeNet5, LeNet300
from train.models.lstm import RowLSTM
from train.models.mobilenet_v2 import MobileNetV2
from train.models.resnet import ResNet
from train.models.tiny import TinyResNet
from train.models.unet import UNet
from train.models.vit import ViT

BACKBONES: dict[str, type[nn.Module]] = {
    "mobilenet_v2": MobileNetV2,
    "resnet": ResNet,
}
"""Classifiers that, made with 0 classes, give maps: what segmenters and detectors stand on."""

CLASSIFIERS: dict[str, type[nn.Module]] = BACKBONES | {
    "cnn": CNN,
    "lenet300": LeNet300,
    "lenet5": LeNet5,
    "row_lstm": RowLSTM,
    "tiny_resnet": TinyResNet,
    "vit": ViT,
}
SEGMENTERS: dict[str, type[nn.Module]] = {
    "unet": UNet,
}
DETECTORS: dict[str, type[nn.Module]] = {
    "centernet": CenterNet,
}
MODELS = CLASSIFIERS | SEGMENTERS | DETECTORS


def create(name: str, classes: int, options: dict[str, Any] | None = None, axis_name: str | None = None) -> nn.Module:
    """Makes a network: ``model.apply(variables, images, train=..., valid=...)`` -> logits.

    Args:
      name: a key of ``MODELS``.
      classes: number of outputs; of ``BACKBONES``, 0 for maps instead.
      options: the module's further attributes, such as ``{"depth": 56}``; of one that stands on a backbone, that one's
        name and options: ``{"backbone": "mobilenet_v2", "backbone_options": {"width": 0.35}}``.
      axis_name: the pmap axis over which batch norm takes its statistics.

    Raises:
      UserError: for an unknown model or option; the known ones are listed.
    """
    if name not in MODELS:
        raise UserError(f"unknown model {name!r}; the models are: {', '.join(sorted(MODELS))}")
    known = set(inspect.signature(MODELS[name]).parameters) - {"classes", "axis_name", "parent", "name"}
    options = {key: _hashable(value) for key, value in (options or {}).items()}
    if unknown := set(options) - known - ({"backbone_options"} if "backbone" in known else set()):
        raise UserError(f"model {name!r} has no option {sorted(unknown)}; it has: {sorted(known) or 'none'}")
    if "backbone" in known:
        backbone = options.get("backbone", "mobilenet_v2")
        if backbone not in BACKBONES:
            raise UserError(f"{backbone!r} gives {name!r} no maps; the backbones are: {', '.join(sorted(BACKBONES))}")
        options["backbone"] = create(backbone, 0, options.pop("backbone_options", None), axis_name)
    if axis_name is not None and "axis_name" in inspect.signature(MODELS[name]).parameters:
        options["axis_name"] = axis_name
    return MODELS[name](classes=classes, **options)


def _hashable(value: Any) -> Any:
    """Tuples for lists, however deep: JSON has no tuples."""
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value
