"""What a network gets right on a split of images, prediction by prediction."""

import functools
import hashlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from train.common import data
from train.common.step import Functions, make_eval


@functools.lru_cache
def _compiled(infer: Callable[..., jax.Array]) -> Any:
    return jax.jit(make_eval(infer))


def predictions(model: Functions, variables: Any, split: data.Split) -> np.ndarray:
    """The class predicted for each image of a split, in order, -1 where a logit is NaN: ``[n]`` int32."""
    evaluate = _compiled(model.infer)
    # One batch shape compiles once: the last batch is padded, and what padding predicts is dropped.
    size = min(data.EVAL_BATCH, len(split))
    padded = (data.pad(batch, size)["image"] for batch in data.eval_batches(split, size))
    return np.concatenate([np.asarray(evaluate(variables, images)) for images in padded])[: len(split)]


def score(model: Functions, variables: Any, split: data.Split) -> dict[str, Any]:
    """Accuracy, how many images have no answer (a logit is NaN), which counts as wrong, and a digest of every
    prediction by which two runs are compared exactly."""
    predicted = predictions(model, variables, split)
    correct = int((predicted == split.labels).sum())
    digest = hashlib.sha256(predicted.astype("<i4").tobytes()).hexdigest()
    undefined = int((predicted < 0).sum())
    counts = {"correct": correct, "undefined": undefined, "examples": len(split)}
    return {"accuracy": correct / len(split), **counts, "predictions": digest}
