"""Views of training images: functions of jc.augment, named in a configuration and called in the step, on the device.

What belongs to places in an image, boxes and masks, moves with it.
"""

import ast
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxcomp import augment
from jaxcomp.errors import ArgumentError
from train.common import data
from train.common.errors import UserError
from train.tasks.classification import CLASSIFICATION
from train.tasks.task import Task

Views = Callable[[jax.Array, dict[str, jax.Array]], dict[str, jax.Array]]
"""``(step, batch) -> batch``, of other images and, where they are mixed, probabilities as labels."""

NAMES = [name for name in augment.__all__ if name.islower() and name not in ("sequence", "normalize")]
"""Augmentations that can be named: images stay uint8, and the model normalizes them."""


def read(text: str, dataset: data.Dataset, option: str = "--config.augment") -> augment.Augmentation | None:
    """The augmentation that a configuration names, as ``"flip(), rand_augment(2, 9)"``; None of an empty text.

    Mixtures are told the number of classes.

    Args:
      text: the calls.
      dataset: whose images and labels it has to take.
      option: by which the text was given.

    Raises:
      UserError: for what is no such list of calls, or takes no such arguments or images.
    """
    if not text.strip():
        return None
    try:
        calls = ast.parse(f"({text.strip().rstrip(',')},)", mode="eval").body
        assert isinstance(calls, ast.Tuple)
        view = augment.sequence(*(_called(call, dataset.classes) for call in calls.elts))
        own = {"image": dataset.train.images[:1], "label": dataset.train.labels[:1]}
        batch = {name: jax.ShapeDtypeStruct((2, *x.shape[1:]), x.dtype) for name, x in own.items()}
        batch |= {"valid": jax.ShapeDtypeStruct((2,), jnp.float32), "index": jax.ShapeDtypeStruct((2,), jnp.int32)}
        images = batch["image"]
        found = jax.eval_shape(in_step(view, 0, 1, dataset.task), jnp.int32(0), batch)["image"]
    except (SyntaxError, ValueError, TypeError, AssertionError, ArgumentError) as error:
        raise UserError(
            f"{option} must be calls of jc.augment's {', '.join(NAMES)}, like 'flip(), cutout(4)', "
            f"got {text!r}: {error}"
        ) from error
    if found.shape != images.shape:
        raise UserError(f"{option} must keep the images' size {images.shape[1:]}, got {found.shape[1:]}")
    return view


def _called(call: ast.expr, classes: int) -> augment.Augmentation:
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.func.id not in NAMES:
        raise ValueError(f"{ast.unparse(call)} is none of these calls")
    maker: Callable[..., augment.Augmentation] = getattr(augment, call.func.id)
    own = [_called(each, classes) if isinstance(each, ast.Call) else ast.literal_eval(each) for each in call.args]
    given: dict[str, Any] = {word.arg or "**": ast.literal_eval(word.value) for word in call.keywords}
    if "classes" in inspect.signature(maker).parameters:
        given.setdefault("classes", classes)
    return maker(*own, **given)


def moves(text: str, shift: int, flip: bool) -> str:
    """The views of ``shift`` and ``flip`` for a task whose answers belong to places, before what else is named."""
    parts = [f"pad_crop({shift})"] * (shift > 0) + ["flip()"] * flip + [text] * bool(text.strip())
    return ", ".join(parts)


def mixes(view: augment.Augmentation, dataset: data.Dataset) -> bool:
    """Whether an augmentation makes probabilities of labels: of images that are mixed."""
    images = jax.ShapeDtypeStruct((2, *dataset.train.images[:1].shape[1:]), jnp.uint8)
    return jax.eval_shape(view.__call__, jax.random.key(0), images, jax.ShapeDtypeStruct((2,), jnp.int32))[1].ndim > 1


def smoothed(seen: Views | None, amount: float, classes: int) -> Views:
    """Batches whose labels are spread: ``(1 - amount) label + amount / classes``, after what else is done to them.

    Args:
      seen: what else is done; None: nothing.
      amount: in [0, 1).
      classes: of the labels.

    Reference: Szegedy et al., Rethinking the Inception architecture, 2016, section 7.
    """

    def of_batch(step: jax.Array, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        batch = batch if seen is None else seen(step, batch)
        labels = batch["label"]
        whole = labels if labels.ndim > 1 else jax.nn.one_hot(labels, classes, dtype=jnp.float32)
        return {**batch, "label": (1 - amount) * whole + amount / classes}

    return of_batch


def key_of(seed: int, number: jax.Array) -> jax.Array:
    """The key from which each image's is folded, of the view of a number."""
    return jax.random.fold_in(jax.random.key(seed), number)


def in_step(
    view: augment.Augmentation, seed: int, per_epoch: int, task: Task = CLASSIFICATION, count: int | None = None
) -> Views:
    """Views of batches: an image's belongs to the seed, the epoch and the image's number in the data set.

    Args:
      view: what is done to images.
      seed: of the phase.
      per_epoch: its steps an epoch.
      task: knows which labels move.
      count: views of an image, which begin again after so many epochs; None: every epoch has its own.
    """

    def of_batch(step: jax.Array, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        epoch = step // per_epoch
        key = key_of(seed, epoch if count is None else epoch % count)
        images, labels = view(key, batch["image"], task.moving(batch), indices=batch["index"])
        return {**batch, "image": images, "label": task.moved(labels, batch)}

    return of_batch
