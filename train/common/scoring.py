"""Scores of a network on a split of images, answer by answer."""

import functools
import hashlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from train.common import data
from train.common.step import Functions, make_eval
from train.tasks.classification import CLASSIFICATION
from train.tasks.task import Outputs, Task


@functools.lru_cache
def _compiled(infer: Callable[..., Outputs], task: Task) -> Any:
    return jax.jit(make_eval(infer, task))


def predictions(model: Functions, variables: Any, split: data.Split, task: Task = CLASSIFICATION) -> np.ndarray:
    """The answer for each image of a split, in order: of a classifier the class, ``[n]`` int32, -1 where it is NaN."""
    evaluate = _compiled(model.infer, task)
    # One batch shape compiles once: the last batch is padded, and what padding predicts is dropped.
    size = data.eval_size(split)
    padded = (data.pad(batch, size)["image"] for batch in data.eval_batches(split, size))
    return np.concatenate([np.asarray(evaluate(variables, images)) for images in padded])[: len(split)]


def score(model: Functions, variables: Any, split: data.Split, task: Task = CLASSIFICATION) -> dict[str, Any]:
    """The task's figures, how many images have no answer (an output is NaN), which counts as wrong, and a digest of
    every answer by which two runs are compared exactly."""
    return scored(predictions(model, variables, split, task), split, task)


def scored(predicted: np.ndarray, split: data.Split, task: Task = CLASSIFICATION) -> dict[str, Any]:
    """As :func:`score`, of answers that are known."""
    digest = hashlib.sha256(predicted.astype(predicted.dtype.newbyteorder("<")).tobytes()).hexdigest()
    return {**task.score(predicted, split.labels), "examples": len(split), "predictions": digest}
