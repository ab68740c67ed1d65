"""Views of training images: functions of jc.augment, named in a configuration and called in the step, on the device."""

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

Views = Callable[[jax.Array, dict[str, jax.Array]], dict[str, jax.Array]]
"""``(step, batch) -> batch``, of other images and, where they are mixed, probabilities as labels."""

NAMES = [name for name in augment.__all__ if name.islower() and name not in ("sequence", "normalize")]
"""What can be named: images stay uint8, and the model normalizes them."""


def read(text: str, dataset: data.Dataset) -> augment.Augmentation | None:
    """The augmentation that a configuration names, as ``"flip(), rand_augment(2, 9)"``; None of an empty text.

    Mixtures are told the number of classes.

    Raises:
      UserError: for what is no such list of calls, or takes no such arguments or images.
    """
    if not text.strip():
        return None
    try:
        calls = ast.parse(f"({text.strip().rstrip(',')},)", mode="eval").body
        assert isinstance(calls, ast.Tuple)
        view = augment.sequence(*(_called(call, dataset.classes) for call in calls.elts))
        images = jax.ShapeDtypeStruct((2, *dataset.train.images[:1].shape[1:]), jnp.uint8)
        labels = jax.ShapeDtypeStruct((2,), jnp.int32)
        found, _ = jax.eval_shape(view.__call__, jax.random.key(0), images, labels)
    except (SyntaxError, ValueError, TypeError, AssertionError, ArgumentError) as error:
        raise UserError(
            f"--config.augment must be calls of jc.augment's {', '.join(NAMES)}, like 'flip(), cutout(4)', "
            f"got {text!r}: {error}"
        ) from error
    if found.shape != images.shape:
        raise UserError(f"--config.augment must keep the images' size {images.shape[1:]}, got {found.shape[1:]}")
    return view


def _called(call: ast.expr, classes: int) -> augment.Augmentation:
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.func.id not in NAMES:
        raise ValueError(f"{ast.unparse(call)} is none of these calls")
    maker: Callable[..., augment.Augmentation] = getattr(augment, call.func.id)
    given: dict[str, Any] = {word.arg or "**": ast.literal_eval(word.value) for word in call.keywords}
    if "classes" in inspect.signature(maker).parameters:
        given.setdefault("classes", classes)
    return maker(*map(ast.literal_eval, call.args), **given)


def in_step(view: augment.Augmentation, seed: int, per_epoch: int) -> Views:
    """Views of batches: an image's belongs to the seed, the epoch and the image's number in the data set.

    Args:
      view: what is done to images.
      seed: of the phase.
      per_epoch: its steps an epoch.
    """

    def of_batch(step: jax.Array, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        key = jax.random.fold_in(jax.random.key(seed), step // per_epoch)
        labels = jnp.where(batch["valid"] > 0, batch["label"], -1)  # padding adds no class to its neighbor
        images, labels = view(key, batch["image"], labels, indices=batch["index"])
        return {**batch, "image": images, "label": labels}

    return of_batch
