"""The networks that the scripts train, by name: classifiers, and on their maps segmenters and detectors."""

import functools
import inspect
from typing import Any

from flax import linen as nn
from flax import nnx

from train.common.errors import UserError
from train.models import own
from train.models.alexnet import AlexNet
from train.models.centernet import CenterNet
from train.models.cnn import CNN
from train.models.convnext import ConvNeXt
from train.models.deeplab import DeepLab
from train.models.densenet import DenseNet
from train.models.efficientnet_lite import EfficientNetLite
from train.models.from_nnx import FromNNX
from train.models.ghostnet import GhostNet
from train.models.googlenet import GoogLeNet
from train.models.imagenet_resnet import ImageNetResNet
from train.models.lenet import LeNet5, LeNet300
from train.models.lstm import RowLSTM
from train.models.mixer import Mixer
from train.models.mobilenet_v1 import MobileNetV1
from train.models.mobilenet_v2 import MobileNetV2
from train.models.mobilenet_v3 import MobileNetV3
from train.models.mobilenet_v4 import MobileNetV4
from train.models.resnet import ResNet
from train.models.shufflenet_v2 import ShuffleNetV2
from train.models.ssd import SSD
from train.models.tiny import TinyResNet
from train.models.unet import UNet
from train.models.vgg import VGG
from train.models.vit import ViT
from train.models.wide_resnet import WideResNet

Kind = type[nn.Module] | type[nnx.Module]

BACKBONES: dict[str, Kind] = {
    "convnext": ConvNeXt,
    "densenet": DenseNet,
    "efficientnet_lite": EfficientNetLite,
    "ghostnet": GhostNet,
    "googlenet": GoogLeNet,
    "imagenet_resnet": ImageNetResNet,
    "mobilenet_v1": MobileNetV1,
    "mobilenet_v2": MobileNetV2,
    "mobilenet_v3": MobileNetV3,
    "mobilenet_v4": MobileNetV4,
    "resnet": ResNet,
    "shufflenet_v2": ShuffleNetV2,
    "vgg": VGG,
    "wide_resnet": WideResNet,
}
"""Classifiers that, made with 0 classes, give maps: what segmenters and detectors stand on."""

CLASSIFIERS: dict[str, Kind] = BACKBONES | {
    "alexnet": AlexNet,
    "cnn": CNN,
    "lenet300": LeNet300,
    "lenet5": LeNet5,
    "mixer": Mixer,
    "row_lstm": RowLSTM,
    "tiny_resnet": TinyResNet,
    "vit": ViT,
}
SEGMENTERS: dict[str, Kind] = {
    "deeplab": DeepLab,
    "unet": UNet,
}
DETECTORS: dict[str, Kind] = {
    "centernet": CenterNet,
    "ssd": SSD,
}
MODELS = CLASSIFIERS | SEGMENTERS | DETECTORS


def create(name: str, classes: int, options: dict[str, Any] | None = None, axis_name: str | None = None) -> Any:
    """Makes a network: ``model.apply(variables, images, train=..., valid=...)`` -> logits.

    Args:
      name: a key of ``MODELS``, or ``package.module:function`` (:mod:`train.models.own`).
      classes: number of outputs; of ``BACKBONES``, 0 for maps instead.
      options: the module's further attributes, such as ``{"depth": 56}``; of one that stands on a backbone, that one's
        name and options: ``{"backbone": "mobilenet_v2", "backbone_options": {"width": 0.35}}``.
      axis_name: the pmap axis over which batch norm takes its statistics.

    Raises:
      UserError: for an unknown model or option; the known ones are listed.
    """
    if ":" in name:
        return own.create(name, classes, options or {}, axis_name)
    if name not in MODELS:
        raise UserError(
            f"unknown model {name!r}; the models are: {', '.join(sorted(MODELS))}; one of your own is "
            "package.module:function"
        )
    given = {"self", "classes", "axis_name", "parent", "name", "shape", "rngs"}
    known = set(inspect.signature(MODELS[name].__init__).parameters) - given
    options = {key: _hashable(value) for key, value in (options or {}).items()}
    if unknown := set(options) - known - ({"backbone_options"} if "backbone" in known else set()):
        raise UserError(f"model {name!r} has no option {sorted(unknown)}; it has: {sorted(known) or 'none'}")
    if "backbone" in known:
        backbone = options.get("backbone", "mobilenet_v2")
        if backbone not in BACKBONES:
            raise UserError(f"{backbone!r} gives {name!r} no maps; the backbones are: {', '.join(sorted(BACKBONES))}")
        options["backbone"] = create(backbone, 0, options.pop("backbone_options", None), axis_name)
    kind: Any = MODELS[name]
    if issubclass(kind, nnx.Module):
        return FromNNX(functools.partial(kind, classes=classes, **options), axis_name)
    if axis_name is not None and "axis_name" in inspect.signature(kind.__init__).parameters:
        options["axis_name"] = axis_name
    return kind(classes=classes, **options)


def _hashable(value: Any) -> Any:
    """Tuples for lists, however deep: JSON has no tuples."""
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value
