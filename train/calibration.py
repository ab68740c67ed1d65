"""What scripts on published networks share: options, images as they were trained on, batch norm averaged anew."""

import argparse
import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

import jaxcomp as jc
from train import data
from train.step import Model, Variables

SHIFT, FLIP = 4, True  # black borders, mirror images: other images would move the batch statistics


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that say which network, and on which images."""
    add = parser.add_argument
    add("--weights", required=True, type=Path, help="a published CIFAR ResNet, .npz with PyTorch's names")
    add("--dataset", default="cifar10", help="its data set")
    add("--data_dir", help="folder of prepared TFDS data (default: TFDS_DATA_DIR, or TFDS's own)")
    add("--batch_size", type=int, default=128, help="images in a batch")
    add("--seed", type=int, default=0, help="of the order and augmentation of images")


def batches(split: data.Split, size: int, seed: int) -> Iterator[Any]:
    """Training batches without end, augmented as the published networks' were."""
    for step in itertools.count():
        yield data.pad(data.train_batch(split, step, size, seed, shift=SHIFT, flip=FLIP), 1)


def recalibrated(model: Model, variables: Variables, some: Iterator[Any]) -> Variables:
    """The variables with batch statistics averaged over batches."""
    params = {"params": variables["params"]}
    stats = {name: tree for name, tree in variables.items() if name != "params"}
    fresh = jc.rewrite.recalibrate(_update(model), stats, ((params, batch) for batch in some))
    return jax.device_get(params | fresh)


@functools.lru_cache
def _update(model: Model) -> Callable[[Any, Any], Any]:
    """One function for all parameters of a model, so that it is compiled once."""
    return lambda stats, given: model.train_logits({**given[0], **stats}, given[1])[1]
