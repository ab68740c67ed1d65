"""The main job on every kind of classifier, small, on scikit-learn's digits: accuracy before and after.

All but LeNet-5, which takes no images of 8x8.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from train.bench import timing
from train.common import outcome


class Small(NamedTuple):
    """A classifier for images of 8x8.

    Attributes:
      model: a key of ``train.models.CLASSIFIERS``.
      options: with which it is small.
    """

    model: str
    options: dict[str, Any]


RESIDUAL = {"blocks": (1, 1, 1), "width": 16, "halvings": 2}
STAGES = ((1, 16, 1, 1), (4, 24, 2, 2), (4, 32, 2, 2))
LITE = ((1, 3, 16, 1, 1), (4, 3, 24, 2, 2), (4, 5, 32, 2, 2))
MODULES = (((64, 96, 128, 16, 32, 32),), ((128, 128, 192, 32, 96, 64),))

NETWORKS = {
    "LeNet-300-100": Small("lenet300", {}),
    "CNN": Small("cnn", {}),
    "AlexNet": Small("alexnet", {"widths": (16, 32, 48, 32, 32), "hidden": 64, "stem": (3, 1)}),
    "VGG-11": Small("vgg", {"depth": 11, "widths": (16, 24, 32, 48, 48), "hidden": (64,), "halvings": 3}),
    "GoogLeNet": Small("googlenet", {"width": 0.25, "stages": MODULES, "halvings": 2}),
    "ResNet-8": Small("resnet", {"depth": 8}),
    "ResNet-8 (MLPerf Tiny)": Small("tiny_resnet", {}),
    "ResNet, basic": Small("imagenet_resnet", RESIDUAL | {"bottleneck": False}),
    "ResNet-D, bottleneck": Small("imagenet_resnet", RESIDUAL | {"variant": "d"}),
    "WRN-10-1": Small("wide_resnet", {"depth": 10, "factor": 1}),
    "DenseNet": Small("densenet", {"blocks": (3, 3), "growth": 12, "width": 16, "halvings": 1}),
    "MobileNetV1": Small("mobilenet_v1", {"width": 0.5, "blocks": ((64, 1), (128, 2), (128, 1)), "halvings": 1}),
    "MobileNetV2": Small("mobilenet_v2", {"stages": STAGES, "head": 96, "halvings": 2}),
    "MobileNetV3": Small(
        "mobilenet_v3",
        {"blocks": ((3, 32, 16, True, False, 1), (3, 64, 24, False, False, 2), (5, 72, 40, True, True, 2)),
         "head": 64, "halvings": 2},
    ),
    "MobileNetV4": Small(
        "mobilenet_v4",
        {"width": 0.5, "blocks": ((5, 5, 3, 96, 2), (0, 3, 2, 96, 1), (3, 0, 4, 96, 1)), "head": 96, "halvings": 2},
    ),
    "ShuffleNetV2": Small("shufflenet_v2", {"widths": (16, 32, 64, 96), "blocks": (2, 2), "halvings": 2}),
    "GhostNet": Small(
        "ghostnet",
        {"blocks": ((3, 32, 16, False, 1), (3, 64, 24, False, 2), (5, 72, 40, True, 2)), "head": 96, "halvings": 2},
    ),
    "EfficientNet-Lite": Small("efficientnet_lite", {"stages": LITE, "head": 96, "halvings": 2}),
    "ConvNeXt": Small("convnext", {"blocks": (2, 2), "widths": (24, 48), "patch": 1}),
    "ViT": Small("vit", {"patch": 2, "width": 48, "depth": 2, "heads": 3}),
    "MLP-Mixer": Small("mixer", {"patch": 2, "width": 48, "depth": 2, "hidden": (24, 96)}),
    "LSTM": Small("row_lstm", {"width": 64}),
}  # fmt: skip


def add_options(parser: argparse.ArgumentParser) -> None:
    """The benchmark's own options."""
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="what is trained")
    parser.add_argument("--epochs", nargs=2, type=float, default=[40.0, 100.0], help="of teachers and of students")
    parser.add_argument("--workdir", type=Path, default=Path("runs/classifiers"), help="of a folder for each network")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Runs the job for every network, goes on where it was stopped; prints a row each, writes ``classifiers.json``."""
    rows = []
    for name in args.networks:
        workdir = args.workdir / name.lower().replace(" ", "-").replace(",", "")
        subprocess.run(command(NETWORKS[name], workdir, *args.epochs), check=True, stdout=subprocess.DEVNULL)
        found = outcome.load(workdir)
        keys = ("teacher_accuracy", "compressed_accuracy", "teacher_bytes", "compressed_bytes", "sparsity")
        rows.append({"network": name, **NETWORKS[name]._asdict(), **{key: found[key] for key in keys}})
        before, after = (100 * found[key] for key in keys[:2])
        size = found["compressed_bytes"]
        print(
            f"{name}: {before:.2f} -> {after:.2f} %, {size:,} bytes, {found['teacher_bytes'] / size:.0f}x", flush=True
        )
    told = {"command": f"python -m train.bench classifiers --epochs {' '.join(f'{own:g}' for own in args.epochs)}"}
    result = told | {"rows": rows}
    print(f"written: {timing.write(args.out, 'classifiers', result)}")
    return result


def command(network: Small, workdir: Path, teacher: float, student: float) -> list[str]:
    """The main job's command: digits, their configuration, this network as teacher and as student."""
    options = json.dumps(network.options)
    fields = {"model": network.model, "options": options}
    both = [f"--config.{phase}.{key}={value}" for phase in ("teacher", "student") for key, value in fields.items()]
    epochs = [f"--config.teacher.epochs={teacher}", f"--config.student.epochs={student}"]
    start = [sys.executable, "-m", "train.compress", "--dataset=digits", f"--workdir={workdir}"]
    return [*start, *both, *epochs]
