"""The image classifiers that the scripts train, by name."""

import inspect
from typing import Any

from flax import linen as nn

from train.common.errors import UserError
from train.models.cnn import CNN
from train.models.lenet import LeNet5, LeNet300
from train.models.lstm import RowLSTM
from train.models.resnet import ResNet
from train.models.tiny import TinyResNet
from train.models.vit import ViT

MODELS: dict[str, type[nn.Module]] = {
    "cnn": CNN,
    "lenet300": LeNet300,
    "lenet5": LeNet5,
    "resnet": ResNet,
    "row_lstm": RowLSTM,
    "tiny_resnet": TinyResNet,
    "vit": ViT,
}


def create(name: str, classes: int, options: dict[str, Any] | None = None, axis_name: str | None = None) -> nn.Module:
    """Makes a classifier: ``model.apply(variables, images, train=..., valid=...)`` -> logits.

    Args:
      name: a key of ``MODELS``.
      classes: number of outputs.
      options: the module's further attributes, such as ``{"depth": 56}``.
      axis_name: the pmap axis over which batch norm takes its statistics.

    Raises:
      UserError: for an unknown model or option; the known ones are listed.
    """
    if name not in MODELS:
        raise UserError(f"unknown model {name!r}; the models are: {', '.join(sorted(MODELS))}")
    known = set(inspect.signature(MODELS[name]).parameters) - {"classes", "axis_name", "parent", "name"}
    options = {key: tuple(x) if isinstance(x, list) else x for key, x in (options or {}).items()}
    if unknown := set(options) - known:
        raise UserError(f"model {name!r} has no option {sorted(unknown)}; it has: {sorted(known) or 'none'}")
    if axis_name is not None and "axis_name" in inspect.signature(MODELS[name]).parameters:
        options["axis_name"] = axis_name
    return MODELS[name](classes=classes, **options)
