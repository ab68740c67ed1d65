"""The cost of augmentation beside the training step that it feeds: ResNet-20 on images of 32x32."""

import argparse
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxcomp import augment
from train.bench import step, timing

BASELINE = "ResNet-20 step"
NETWORK = "resnet"
GOAL = 0.05
CLASSES = 10


def add_options(parser: argparse.ArgumentParser) -> None:
    """The benchmark's own options."""
    parser.add_argument("--batch", type=int, default=128, help="images in a batch")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Times every augmentation and the step in turn, prints a table and writes ``augment.json``."""
    seconds = timing.interleave(variants(args.batch, args.rounds), args.rounds)
    rows = timing.summarize(seconds, BASELINE)
    timing.show(f"augmentation of {args.batch} images of 32x32x3", rows, BASELINE)
    result = {"batch": args.batch, "rounds": args.rounds, "goal": GOAL, "rows": rows}
    print(f"written: {timing.write(args.out, 'augment', result)}", flush=True)
    return result


def augmentations() -> dict[str, augment.Augmentation]:
    """Each by itself, and the usual recipes of CIFAR."""
    usual = augment.pad_crop(4), augment.flip()
    return {
        "flip": usual[1],
        "pad_crop": usual[0],
        "random_resized_crop": augment.random_resized_crop(),
        "cutout": augment.cutout(16),
        "random_erasing": augment.random_erasing(),
        "color_jitter": augment.color_jitter(0.8, 0.8, 0.8, 0.2),
        "mixup": augment.mixup(classes=CLASSES),
        "cutmix": augment.cutmix(classes=CLASSES),
        "rand_augment": augment.rand_augment(),
        "trivial_augment": augment.trivial_augment(),
        "pad_crop, flip": augment.sequence(*usual),
        "pad_crop, flip, rand_augment, cutout, mixup": augment.sequence(
            *usual, augment.rand_augment(), augment.cutout(16), augment.mixup(classes=CLASSES)
        ),
    }


def variants(batch: int, rounds: int) -> dict[str, Callable[[], Any]]:
    """name -> a function that trains a step, or augments a batch."""
    rng = np.random.default_rng(0)
    images = jax.device_put(rng.integers(0, 256, (batch, 32, 32, 3), dtype=np.uint8))
    labels = jax.device_put(rng.integers(0, CLASSES, batch, dtype=np.int32))
    key = jax.random.key(0)
    views = {name: jax.jit(view.__call__) for name, view in augmentations().items()}
    timed = {name: lambda view=view: view(key, images, labels) for name, view in views.items()}
    return {BASELINE: step.variants(NETWORK, batch, rounds)["plain"], **timed}
