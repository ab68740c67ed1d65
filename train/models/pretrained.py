"""Published weights of CIFAR ResNets, as variables of ours."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import linen as nn

from train.common.errors import UserError
from train.models import MODELS

Arrays = dict[str, np.ndarray]

HOW_TO_EXPORT = """Weights are an .npz of a checkpoint's arrays under their own names. They are not read from PyTorch's
own files, which are programs as much as data. Of the CIFAR ResNets with option-A shortcuts (depth 6n+2; of
github.com/akamaster/pytorch_resnet_cifar10, or trained by the same code) one is made, where PyTorch is, by

    import numpy, torch
    state = torch.load("resnet20.th", map_location="cpu", weights_only=True)["state_dict"]
    numpy.savez("resnet20.npz", **{name: array.numpy() for name, array in state.items()})

and of the ResNet-8 of MLPerf Tiny (github.com/mlcommons/tiny), where Keras is, by

    import keras, numpy
    model = keras.models.load_model("pretrainedResnet.h5", compile=False)
    numpy.savez("resnet8.npz", **{v.path.replace("/", "."): v.numpy() for v in model.weights})
"""


class Pretrained(NamedTuple):
    """A trained network.

    Attributes:
      name: of its model, a key of ``train.models.MODELS``.
      module: the Flax module.
      variables: ``{"params": ..., "batch_stats": ...}``, NumPy arrays.
      classes: its outputs.
      options: what else the module was made with, such as ``{"depth": 20, "width": 16}``.
      mean, std: ``[channels]``, by which its images are normalized; of pixels in [0, 1].
    """

    name: str
    module: nn.Module
    variables: dict[str, Any]
    classes: int
    options: dict[str, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def load(path: str | Path) -> Pretrained:
    """Reads a published CIFAR ResNet from an ``.npz`` of the names that its framework gave; by them it is known.

    =====================  =============================================================================================
    ``conv1.weight``, ...  PyTorch's, kernels ``[out, in, h, w]``: a ResNet-(6n+2) with option-A shortcuts, whose images
                           are normalized as ImageNet's
    ``conv2d.kernel``, ... Keras's, kernels ``[h, w, in, out]``: the ResNet-8 of MLPerf Tiny; its images are 0 to 255
    =====================  =============================================================================================

    Args:
      path: the file; float32. Depth and width are read off the names and shapes.

    Raises:
      UserError: if the file is not there or holds something else.

    Reference: He et al., Deep residual learning for image recognition, 2016, section 4.2; Y. Idelbayev, Proper ResNet
    implementation for CIFAR10/CIFAR100 in PyTorch (its weights); Banbury et al., MLPerf Tiny Benchmark, 2021.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            # PyTorch's DataParallel puts "module." before each name.
            arrays = {name.removeprefix("module."): file[name] for name in file.files}
        if others := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
            raise ValueError(f"it holds {others[0]}, as PyTorch's own files do")
    # EOFError: an empty file; TypeError: an .npy, which holds one array.
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: weights need to be an .npz of plain arrays ({error}).\n{HOW_TO_EXPORT}") from error
    kind, read = ("the ResNet-8 of MLPerf Tiny", _tiny) if "conv2d.kernel" in arrays else (OPTION_A, _option_a)
    try:
        found = read(arrays)
    except KeyError as error:
        raise UserError(f"{path}: is not {kind}: it lacks {error}") from error
    if arrays:
        raise UserError(f"{path}: is not {kind}: it also holds {', '.join(sorted(arrays))}")
    return found


OPTION_A = "a CIFAR ResNet with option-A shortcuts"


def _option_a(arrays: Arrays) -> Pretrained:
    """Takes what it reads out of ``arrays``."""

    def conv(name: str) -> Arrays:
        return {"kernel": np.transpose(arrays.pop(f"{name}.weight"), (2, 3, 1, 0))}

    def norm(name: str) -> tuple[Arrays, Arrays]:
        arrays.pop(f"{name}.num_batches_tracked", None)
        return _norm(arrays, name, ("weight", "bias", "running_mean", "running_var"))

    blocks = sorted({tuple(map(int, name[5:].split(".")[:2])) for name in arrays if name.startswith("layer")})
    dense = {"kernel": arrays.pop("linear.weight").T, "bias": arrays.pop("linear.bias")}
    params: dict[str, Any] = {"Conv_0": conv("conv1"), "Dense_0": dense}
    stats: dict[str, Any] = {}
    params["BatchNorm_0"], stats["BatchNorm_0"] = norm("bn1")
    for i, (stage, block) in enumerate(blocks):
        layers = [(f"layer{stage}.{block}.conv{j}", f"layer{stage}.{block}.bn{j}") for j in (1, 2)]
        params[f"Block_{i}"], stats[f"Block_{i}"] = _block(layers, conv, norm)
    options = {"depth": 2 * len(blocks) + 2, "width": len(params["Conv_0"]["kernel"][0, 0, 0])}
    imagenet = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return _made("resnet", params, stats, options, *imagenet)


def _tiny(arrays: Arrays) -> Pretrained:
    """Takes what it reads out of ``arrays``."""

    def layer(name: str) -> Arrays:
        return {"kernel": arrays.pop(f"{name}.kernel"), "bias": arrays.pop(f"{name}.bias")}

    def conv(number: int) -> Arrays:
        return layer(f"conv2d_{number}" if number else "conv2d")

    def norm(number: int) -> tuple[Arrays, Arrays]:
        name = f"batch_normalization_{number}" if number else "batch_normalization"
        return _norm(arrays, name, ("gamma", "beta", "moving_mean", "moving_variance"))

    params: dict[str, Any] = {"Conv_0": conv(0), "Dense_0": layer("dense")}
    stats: dict[str, Any] = {}
    params["BatchNorm_0"], stats["BatchNorm_0"] = norm(0)
    for i, first in enumerate((1, 3, 6)):  # shortcuts, from the second block on, are convolutions 5 and 8
        norms = (2 * i + 1, 2 * i + 2)
        own, stats[f"TinyBlock_{i}"] = _block(list(zip((first, first + 1), norms, strict=True)), conv, norm)
        params[f"TinyBlock_{i}"] = own | ({"Conv_2": conv(first + 2)} if i else {})
    options = {"width": len(params["Conv_0"]["bias"])}
    return _made("tiny_resnet", params, stats, options, (0.0,) * 3, (1 / 255,) * 3)


def _made(name: str, params: Any, stats: Any, options: dict[str, int], *moments: tuple[float, ...]) -> Pretrained:
    classes = len(params["Dense_0"]["bias"])
    variables = {"params": params, "batch_stats": stats}
    return Pretrained(name, MODELS[name](classes=classes, **options), variables, classes, options, *moments)


def _norm(arrays: Arrays, name: str, parts: tuple[str, ...]) -> tuple[Arrays, Arrays]:
    scale, bias, mean, var = (arrays.pop(f"{name}.{part}") for part in parts)
    return {"scale": scale, "bias": bias}, {"mean": mean, "var": var}


def _block(
    layers: list[tuple[Any, Any]], conv: Callable[[Any], Arrays], norm: Callable[[Any], tuple[Arrays, Arrays]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters and statistics of convolutions, each with its batch norm."""
    params: dict[str, Any] = {}
    stats: dict[str, Any] = {}
    for j, (kernel, statistics) in enumerate(layers):
        params[f"Conv_{j}"] = conv(kernel)
        params[f"BatchNorm_{j}"], stats[f"BatchNorm_{j}"] = norm(statistics)
    return params, stats
