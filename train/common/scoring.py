"""Scores of a network on a split of images, answer by answer."""

import functools
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from train.common import data, mirror
from train.common.errors import UserError
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


def score_in_new_process(artifact: Path, data_dir: str | None, model: str = "") -> dict[str, Any]:
    """Scores a file in a fresh interpreter, which has only the file and, of a model of one's own, its name.

    Args:
      artifact: the file.
      data_dir: folder of prepared data sets; None: the default one.
      model: that it was made with; only a ``package.module:function`` has to be told.

    Raises:
      UserError: if it fails; its last words are shown.
    """
    command = [sys.executable, "-m", "train.evaluate", f"--artifact={artifact.absolute()}"]
    command += [f"--model={model}"] if ":" in model else []
    command += [f"--data_dir={mirror.absolute(data_dir)}"] if data_dir else []
    root, known = Path(__file__).parent.parent.parent, os.environ.get("PYTHONPATH", "")
    path = os.pathsep.join([str(Path.cwd()), *filter(None, [known])])  # models of one's own are found from here
    # This process holds the accelerator, so the other one computes on the CPU.
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    done = subprocess.run(command, env=env, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{artifact} could not be scored in a new process:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
