"""An artifact's description of its network, checked: by it the network is made again."""

import math
from collections.abc import Callable
from typing import Any

from train.common.errors import UserError
from train.tasks import TASKS


def described_model(path: str, metadata: dict[str, Any], own: str = "") -> dict[str, Any]:
    """An artifact's metadata on its model, every field of the right kind.

    Args:
      path: of the file, for messages.
      metadata: that it holds.
      own: the ``package.module:function`` that may be run for it: no file runs one by itself.

    Raises:
      UserError: for fields that are missing or cannot be; they are named with what they hold.
    """
    if missing := sorted(set(FIELDS) - {"image_size", "task"} - set(metadata)):
        raise UserError(f"{path} was not written by this project: its metadata lack {', '.join(missing)}")
    about = {"image_size": 0, "task": "classification", **metadata}
    about["image_size"] = 0 if about["image_size"] is None else about["image_size"]
    for field, (what, holds) in FIELDS.items():
        if not holds(about[field]):
            raise UserError(f"{path}: its metadata are not sound: {field} must be {what}, and is {about[field]!r:.200}")
    if len(about["mean"]) != len(about["std"]):
        raise UserError(f"{path}: its metadata are not sound: mean and std are of different lengths")
    if ":" in about["model"] and about["model"] != own:
        raise UserError(
            f"{path} was made by the function {about['model']}, which this would run: if it is yours, say so with "
            f"--model={about['model']}"
        )
    return about


def _whole(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _numbers(value: Any, above: float) -> bool:
    numbers = isinstance(value, (list, tuple)) and all(type(x) in (int, float) for x in value)
    return bool(value) and numbers and all(above < x < math.inf for x in value)


def _plain(value: Any) -> bool:
    """Whether an option is of JSON, its whole numbers of a size that a layer may have."""
    if isinstance(value, (list, tuple)):
        return len(value) < 1000 and all(map(_plain, value))
    if isinstance(value, dict):
        return len(value) < 1000 and all(isinstance(key, str) and _plain(own) for key, own in value.items())
    return isinstance(value, (str, bool, float)) or value is None or _whole(value, -(2**12), 2**12)


Check = tuple[str, Callable[[Any], bool]]
FIELDS: dict[str, Check] = {
    "task": (f"one of {', '.join(TASKS)}", lambda value: isinstance(value, str) and value in TASKS),
    "model": ("a model's name", lambda value: isinstance(value, str)),
    "options": (
        "a dict of its options",
        lambda value: isinstance(value, dict) and _plain(value),
    ),
    "classes": ("a number of classes", lambda value: _whole(value, 1, 2**24)),
    "mean": ("a list of finite numbers", lambda value: _numbers(value, -math.inf)),
    "std": ("a list of finite numbers above 1e-6", lambda value: _numbers(value, 1e-6)),
    "dataset": ("a data set's name", lambda value: isinstance(value, str) and bool(value)),
    "image_size": ("a side in pixels, or 0", lambda value: _whole(value, 0, 2**14)),
}
"""Fields that metadata need, and the kind of each."""
