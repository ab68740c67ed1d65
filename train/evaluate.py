"""Scores an artifact on a test split: ``python -m train.evaluate --artifact model.jcz``. Prints one line of JSON."""

import json
import sys
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxcomp as jc
from jaxcomp.core.paths import named_leaves
from train import models
from train.common import data, options
from train.common.described import described_model
from train.common.errors import UserError, exit_status, first_line
from train.common.scoring import score
from train.common.step import Functions, Variables, network
from train.tasks import TASKS
from train.tasks.task import Task


class Opened(NamedTuple):
    """An artifact as what it computes, and what it is scored on.

    Attributes:
      model: its functions.
      variables: what they take.
      dataset: that its metadata name.
      task: likewise.
    """

    model: Functions
    variables: Variables
    dataset: data.Dataset
    task: Task


def score_artifact(path: str, data_dir: str | None, model: str = "") -> dict[str, Any]:
    """Loads an artifact and scores it on the data set that its metadata names.

    Raises:
      As :func:`opened`; UserError: if outputs are NaN.
    """
    own = opened(path, data_dir, model)
    try:
        scored = score(own.model, own.variables, own.dataset.test, own.task)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # whatever says that parameters, shapes and options do not go together
        raise _unfit(path, error) from error
    if scored["undefined"]:
        raise UserError(f"{path}: the outputs for {scored['undefined']:,} images are NaN: it cannot be scored")
    return scored


def opened(path: str, data_dir: str | None, model: str = "") -> Opened:
    """Loads an artifact and the data set that its metadata names.

    Raises:
      ArtifactError: if the file is damaged or no artifact.
      UserError: if its metadata do not say what model it is, or say what cannot be, if it does not hold the parameters
        of that model, if a number in it is not finite, or if the data set is not there.
    """
    saved, metadata = jc.pack.load(path)
    about = described_model(path, metadata, model)
    if broken := not_finite(saved):
        raise UserError(f"{path}: {', '.join(broken[:6])}: NaN or infinity, which no score stands for")
    try:
        module = models.create(about["model"], about["classes"], about["options"])
    except UserError as error:
        raise UserError(f"{path}: its metadata name a model that cannot be made: {error}") from error
    functions = network(module, tuple(about["mean"]), tuple(about["std"]))
    task = TASKS[about["task"]]
    dataset = data.load(about["dataset"], data_dir, about["image_size"] or None, task)
    if dataset.classes != about["classes"]:
        raise UserError(f"{path} tells {about['classes']} classes apart, and {dataset.name!r} has {dataset.classes}")
    channels = dataset.test.images[:1].shape[-1]
    if channels > 1 and len(about["mean"]) not in (1, channels):  # gray images are read as colored ones
        raise UserError(f"{path} has a mean of {len(about['mean'])} channels, and {dataset.name!r} has {channels}")
    try:
        return Opened(*_restored(path, functions, saved, dataset.test), dataset, task)
    except (UserError, MemoryError):
        raise
    except Exception as error:
        raise _unfit(path, error) from error


def _unfit(path: str, error: Exception) -> UserError:
    return UserError(f"{path}: its metadata do not fit what it holds ({first_line(error)})")


def not_finite(variables: Any) -> list[str]:
    """The paths of floating-point leaves that hold NaN or infinity."""
    found = named_leaves(variables).items()
    floats = {path: np.asarray(x) for path, x in found if jax.numpy.issubdtype(np.asarray(x).dtype, np.inexact)}
    return [path for path, x in floats.items() if not np.isfinite(x.astype(np.float32)).all()]


def _restored(path: str, model: Functions, saved: Any, test: data.Split) -> tuple[Functions, Variables]:
    """The functions of an artifact and its variables: a model's own, or what rewrites made of it."""
    images = jax.ShapeDtypeStruct((1, *test.images.shape[1:]), test.images.dtype)
    whole = jax.eval_shape(model.init, jax.random.key(0), images)
    if jc.pack.inspect(path).rewrites:
        infer, variables = jc.rewrite.load(path, model.infer, whole, images)
        return Functions(infer), variables
    _check_shapes(path, saved, whole)
    return model, saved


def _check_shapes(path: str, saved: Any, needed: Any) -> None:
    held, wanted = ({name: np.shape(x) for name, x in named_leaves(tree).items()} for tree in (saved, needed))
    for name in sorted(held.keys() | wanted.keys()):
        if held.get(name) != wanted.get(name):
            own, other = (shapes.get(name, "missing") for shapes in (held, wanted))
            raise UserError(
                f"{path}: its metadata do not fit what it holds: {name} is {own} in the file, and {other} in the model"
            )


def main() -> int:
    """Prints the score of ``--artifact``."""
    parser = options.parser(__doc__)
    parser.add_argument("--artifact", required=True, help="the .jcz file")
    options.add(parser, data_dir=None, model="")
    args = parser.parse_args()
    return exit_status(lambda: print(json.dumps(score_artifact(args.artifact, args.data_dir, args.model))))


if __name__ == "__main__":
    sys.exit(main())
