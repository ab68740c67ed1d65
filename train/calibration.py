"""Calibration of published networks: training images as they were trained on, and batch norm averaged anew."""

import itertools
from collections.abc import Iterator
from typing import Any

import jax

import jaxcomp as jc
from train import data
from train.step import Model, Variables

SHIFT, FLIP = 4, True  # black borders, mirror images: other images would move the batch statistics


def batches(split: data.Split, size: int, seed: int) -> Iterator[Any]:
    """Training batches without end, augmented as the published networks' were."""
    for step in itertools.count():
        yield data.pad(data.train_batch(split, step, size, seed, shift=SHIFT, flip=FLIP), 1)


def recalibrated(model: Model, variables: Variables, some: Iterator[Any]) -> Variables:
    """The variables with batch statistics averaged over batches."""
    params = {"params": variables["params"]}
    stats = {name: tree for name, tree in variables.items() if name != "params"}
    fresh = jc.rewrite.recalibrate(lambda now, batch: model.train_logits({**params, **now}, batch)[1], stats, some)
    return jax.device_get(params | fresh)
