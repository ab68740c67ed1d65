"""Scores an artefact on a test split: ``python -m train.evaluate --artifact model.jcz``. Prints one line of JSON."""

import argparse
import functools
import hashlib
import json
import sys
from typing import Any

import jax
import numpy as np

import jaxcomp as jc
from train import data, models
from train.errors import UserError, exit_status
from train.integers import IntegerClassifier, restored
from train.step import Classifier, Model, ShrunkClassifier, make_eval

Scored = Model | IntegerClassifier
"""What can be scored."""


@functools.lru_cache
def _compiled(model: Scored) -> Any:
    return jax.jit(make_eval(model))


def predictions(model: Scored, variables: Any, split: data.Split) -> np.ndarray:
    """The class predicted for each image of a split, in order: ``[n]`` int32."""
    evaluate = _compiled(model)
    # One batch shape compiles once: the last batch is padded, and what padding predicts is dropped.
    size = min(data.EVAL_BATCH, len(split))
    padded = (data.pad(batch, size) for batch in data.eval_batches(split, size))
    return np.concatenate([np.asarray(evaluate(variables, batch)) for batch in padded])[: len(split)]


def score(model: Scored, variables: Any, split: data.Split) -> dict[str, Any]:
    """Accuracy, and a digest of every prediction by which two runs are compared exactly."""
    predicted = predictions(model, variables, split)
    correct = int((predicted == split.labels).sum())
    digest = hashlib.sha256(predicted.astype("<i4").tobytes()).hexdigest()
    return {"accuracy": correct / len(split), "correct": correct, "examples": len(split), "predictions": digest}


def score_artifact(path: str, data_dir: str | None) -> dict[str, Any]:
    """Loads an artefact and scores it on the data set that its metadata names.

    Raises:
      ArtifactError: if the file is damaged or no artefact.
      UserError: if it does not say what model it is, or the data set is not there.
    """
    saved, metadata = jc.pack.load(path)
    if missing := {"model", "options", "classes", "mean", "std", "dataset"} - set(metadata):
        raise UserError(f"{path} was not written by this project: its metadata lack {', '.join(sorted(missing))}")
    module = models.create(metadata["model"], metadata["classes"], metadata["options"])
    model = Classifier(module, tuple(metadata["mean"]), tuple(metadata["std"]))
    dataset = data.load(metadata["dataset"], data_dir, metadata.get("image_size") or None)
    example = data.pad(next(data.eval_batches(dataset.test, 2)), 1)  # shapes alone: no value of it is read
    if "integers" in metadata:
        return score(restored(model, metadata["integers"], example["image"]), saved, dataset.test)
    if set(saved) != {"variables", "keep"}:
        return score(model, saved, dataset.test)
    batch = {name: jax.numpy.asarray(array) for name, array in example.items()}
    whole = jax.eval_shape(model.init, jax.random.key(0), batch["image"])
    small_model, _ = ShrunkClassifier.cut(model, whole, batch, saved["keep"])
    return score(small_model, saved["variables"], dataset.test)


def main() -> int:
    """Prints the score of ``--artifact``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artifact", required=True, help="the .jcz file")
    parser.add_argument("--data_dir", help="folder of prepared TFDS data (default: TFDS_DATA_DIR, or TFDS's own)")
    options = parser.parse_args()
    return exit_status(lambda: print(json.dumps(score_artifact(options.artifact, options.data_dir))))


if __name__ == "__main__":
    sys.exit(main())
