"""Models have the published numbers of parameters and of multiply-accumulates; by shapes alone, nothing is computed."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest

import jaxcomp as jc
from train import models


class Published(NamedTuple):
    """A model as published.

    Attributes:
      parameters: how many; a float is what a paper rounds.
      macs: multiply-accumulates for one image, of layers that read parameters; None: nobody publishes them.
    """

    model: str
    options: dict[str, Any]
    parameters: float
    macs: float | None = None
    shape: tuple[int, ...] = (224, 224, 3)
    classes: int = 1000


GRAY, CIFAR, PIXELS = ((28, 28, 1), 10), ((32, 32, 3), 10), ((64, 64, 3), 1)
BASE = {"patch": 16, "width": 768, "depth": 12}

PUBLISHED = {
    # Caffe's LeNets: Han et al., Learning both weights and connections, 2015, have 267 K and 431 K.
    "LeNet-300-100": Published("lenet300", {}, 266_610, 0.2662e6, *GRAY),
    "LeNet-5": Published("lenet5", {}, 431_080, 2.293e6, *GRAY),
    "LSTM": Published("row_lstm", {}, 4 * 128 * (28 + 128 + 1) + 1290, 28 * 4.0 * 128 * (28 + 128) + 1280, *GRAY),
    "ResNet-20": Published("resnet", {"depth": 20}, 269_722, 40.55e6, *CIFAR),  # akamaster/pytorch_resnet_cifar10
    "WRN-28-10": Published("wide_resnet", {"depth": 28, "factor": 10}, 36_479_194, 5.24e9, *CIFAR),  # timm's, PyTorch's
    # torchvision.models, whose table of weights has parameters and GFLOPS (multiply-accumulates).
    "AlexNet": Published("alexnet", {}, 61_100_840, 0.714e9),
    "VGG-11-BN": Published("vgg", {"depth": 11}, 132_868_840, 7.609e9),
    "VGG-13-BN": Published("vgg", {"depth": 13}, 133_053_736, 11.308e9),
    "VGG-16-BN": Published("vgg", {}, 138_365_992, 15.470e9),
    "VGG-19-BN": Published("vgg", {"depth": 19}, 143_678_248, 19.632e9),
    "GoogLeNet": Published("googlenet", {}, 6_624_904, 1.498e9),
    "GoogLeNet, auxiliary heads": Published("googlenet", {"auxiliary": True}, 13_004_888, 1.498e9),
    "ResNet-18": Published("imagenet_resnet", {"blocks": (2, 2, 2, 2), "bottleneck": False}, 11_689_512, 1.814e9),
    "ResNet-34": Published("imagenet_resnet", {"bottleneck": False}, 21_797_672, 3.664e9),
    "ResNet-50": Published("imagenet_resnet", {}, 25_557_032, 4.089e9),
    "ResNet-152": Published("imagenet_resnet", {"blocks": (3, 8, 36, 3)}, 60_192_808, 11.514e9),
    "DenseNet-121": Published("densenet", {}, 7_978_856, 2.834e9),
    "MobileNetV2": Published("mobilenet_v2", {}, 3_504_872, 0.301e9),
    "MobileNetV3-Large": Published("mobilenet_v3", {}, 5_483_032, 0.217e9),
    "MobileNetV3-Small": Published("mobilenet_v3", {"size": "small"}, 2_542_856, 0.0565e9),
    "ShuffleNetV2-1.0": Published("shufflenet_v2", {}, 2_278_604, 0.145e9),
    "ConvNeXt-T": Published("convnext", {}, 28_589_128, 4.456e9),
    # It counts 17.56 G, 0.71 G of them products within attention, which read no parameters.
    "ViT-B/16": Published("vit", BASE | {"heads": 12}, 86_567_656, 16.85e9),
    # timm's tables (results/model_metadata-in1k.csv) and the papers'.
    "ResNet-50-D": Published("imagenet_resnet", {"variant": "d"}, 25_576_264, 4.35e9),
    "MobileNetV1": Published("mobilenet_v1", {}, 4_231_976, 569e6),  # Howard et al., 2017, table 4: 569 M, 4.2 M
    "MobileNetV4-Conv-S": Published("mobilenet_v4", {}, 3_774_024, 0.186e9),  # Qin et al., 2024: 3.8 M, 0.2 G
    "GhostNet-1.0": Published("ghostnet", {}, 5.2e6, 141e6),  # Han et al., 2020, table 7
    "EfficientNet-Lite0": Published("efficientnet_lite", {}, 4_652_008, 0.385e9),  # TensorFlow's, which counts 407 M
    "EfficientNet-Lite4": Published("efficientnet_lite", {"width": 1.4, "depth": 1.8}, 13_006_568),
    "Mixer-B/16": Published("mixer", BASE | {"hidden": (384, 3072)}, 59_880_472, 12.6e9),
    "DeiT-B, distilled": Published("vit", BASE | {"heads": 12, "distilled": True}, 87_338_192),
    # github.com/milesial/Pytorch-UNet, of transposed convolutions.
    "U-Net": Published("unet", {"widths": (64, 128, 256, 512, 1024), "attention": False}, 31_037_633, None, *PIXELS),
}

PAGE = Path(__file__).parents[3] / "docs" / "guides" / "models.md"


def lines() -> list[str]:
    """The rows of the page's table."""

    def told(number: float | None) -> str:
        if number is None or isinstance(number, int):
            return "" if number is None else f"{number:,}"
        unit, name = (1e9, "G") if number >= 1e9 else (1e6, "M")
        return f"{number / unit:,.3g} {name}"

    rows = PUBLISHED.items()
    return [f"| {name} | `{own.model}` | {told(own.parameters)} | {told(own.macs)} |" for name, own in rows]


def test_the_page_has_these_numbers() -> None:
    rows = PAGE.read_text().partition("| network | model |")[2].splitlines()[2:]
    assert rows == lines()


QUICK = {"LeNet-5", "LSTM", "AlexNet", "ResNet-50", "WRN-28-10", "MobileNetV4-Conv-S", "ViT-B/16", "U-Net"}
ALL = [pytest.param(name, marks=() if name in QUICK else pytest.mark.exhaustive) for name in PUBLISHED]


@pytest.mark.parametrize("name", ALL)
def test_parameters_and_macs_are_as_many_as_published(name: str) -> None:
    model, options, count, macs, shape, classes = PUBLISHED[name]
    module = models.create(model, classes, options)
    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), image)
    own = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
    assert own == (count if isinstance(count, int) else pytest.approx(count, rel=0.01))
    if macs is not None:
        assert jc.trace.sites(module.apply, variables, image).macs == pytest.approx(macs, rel=0.006)
