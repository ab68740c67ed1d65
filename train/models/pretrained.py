"""Published weights of the CIFAR ResNets, as variables of ours."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from train.errors import UserError
from train.models.resnet import ResNet

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of pixels in [0, 1], per channel, by which the published networks normalise: those of ImageNet."""


class Pretrained(NamedTuple):
    """A trained network.

    Attributes:
      module: the Flax module.
      variables: ``{"params": ..., "batch_stats": ...}``, NumPy arrays.
      options: what the module was made with, ``{"depth": ..., "width": ...}``.
    """

    module: ResNet
    variables: dict[str, Any]
    options: dict[str, int]


def load_resnet(path: str | Path) -> Pretrained:
    """Reads a CIFAR ResNet with option-A shortcuts from an ``.npz`` of PyTorch's names and layout.

    Kernels turn from ``[out, in, h, w]`` to ``[h, w, in, out]``; depth and width are read off the names and shapes.

    Args:
      path: the file, with ``conv1.weight``, ``bn1.*``, ``layer1.0.conv1.weight``, ..., ``linear.*``, float32.

    Raises:
      UserError: if the file is not there or holds something else.

    Reference: He et al., Deep residual learning for image recognition, 2016, section 4.2; Y. Idelbayev, Proper ResNet
    implementation for CIFAR10/CIFAR100 in PyTorch (the weights).
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: weights need to be an .npz of plain arrays ({error})") from error
    blocks = sorted({tuple(map(int, name[5:].split(".")[:2])) for name in arrays if name.startswith("layer")})
    try:
        params, stats = _trees(arrays, blocks)
    except KeyError as error:
        raise UserError(f"{path}: is no CIFAR ResNet with option-A shortcuts: it lacks {error}") from error
    if arrays:
        raise UserError(
            f"{path}: is no CIFAR ResNet with option-A shortcuts: it also holds {', '.join(sorted(arrays))}"
        )
    options = {"depth": 2 * len(blocks) + 2, "width": len(params["Conv_0"]["kernel"][0, 0, 0])}
    module = ResNet(classes=len(params["Dense_0"]["bias"]), **options)
    return Pretrained(module, {"params": params, "batch_stats": stats}, options)


def _trees(arrays: dict[str, np.ndarray], blocks: list[tuple[int, ...]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters and statistics; takes what it reads out of ``arrays``."""

    def conv(name: str) -> dict[str, np.ndarray]:
        return {"kernel": np.transpose(arrays.pop(f"{name}.weight"), (2, 3, 1, 0))}

    def norm(name: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        arrays.pop(f"{name}.num_batches_tracked", None)
        params = {"scale": arrays.pop(f"{name}.weight"), "bias": arrays.pop(f"{name}.bias")}
        return params, {"mean": arrays.pop(f"{name}.running_mean"), "var": arrays.pop(f"{name}.running_var")}

    dense = {"kernel": arrays.pop("linear.weight").T, "bias": arrays.pop("linear.bias")}
    params: dict[str, Any] = {"Conv_0": conv("conv1"), "Dense_0": dense}
    stats: dict[str, Any] = {}
    params["BatchNorm_0"], stats["BatchNorm_0"] = norm("bn1")
    for i, (stage, block) in enumerate(blocks):
        own, its = params.setdefault(f"Block_{i}", {}), stats.setdefault(f"Block_{i}", {})
        for j in (0, 1):
            own[f"Conv_{j}"] = conv(f"layer{stage}.{block}.conv{j + 1}")
            own[f"BatchNorm_{j}"], its[f"BatchNorm_{j}"] = norm(f"layer{stage}.{block}.bn{j + 1}")
    return params, stats
