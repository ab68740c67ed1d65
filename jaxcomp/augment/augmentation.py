"""An augmentation: a pure function of a key, images and labels that draws for each image by a key of its own."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from jaxcomp.augment.labels import Labels, checked_labels
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.meshes import automatic, explicit_mesh, is_explicit
from jaxcomp.core.programs import compiled

Move = Callable[[Array, Array, Labels], tuple[Array, Labels]]
"""``(keys [batch], images, labels) -> (images, labels)``, of what has been checked."""

Check = Callable[[Array, Labels], None]

LONGEST, LARGEST = 2**13, 2**23
"""Pixels a side and in all, beyond which sources of 16 binary places, or sums of levels, would overflow 32 bits."""


class Augmentation:
    """A function ``(key, images, labels=None, *, indices=None) -> (images, labels)``; prints as the call that made it.

    An image's draws come from ``jax.random.fold_in(key, index)`` alone, so that it gets the same view in whatever
    order, batch and sharding it comes, and gets it again: by the key of an epoch and the image's number in the data
    set. The bits are those of Threefry, whatever ``jax_default_prng_impl`` is, as others depend on the batch.
    """

    def __init__(self, text: str, move: Move, check: Check = lambda images, labels: None) -> None:
        """Makes it of what it does.

        Args:
          text: as what it prints.
          move: its function.
          check: raises what cannot be told once arrays are traced.
        """
        self.text, self.move, self.check = text, move, check
        self._run = compiled(self._laid_out)

    def __repr__(self) -> str:
        return self.text

    def __call__(
        self, key: Array, images: Array, labels: Any = None, *, indices: Array | None = None
    ) -> tuple[Array, Any]:
        """Augments a batch, inside jit or not.

        Args:
          key: one key, from which each image's is folded.
          images: ``[batch, height, width, channels]``: uint8, or floating point in [0, 1].
          labels: classes ``[batch]`` or ``[batch, classes]``, :class:`jaxcomp.augment.Labels`, or None.
          indices: ``[batch]`` integers by which images are told apart; None: their places in the batch.

        Returns:
          Images, and labels of the kind that was given.

        Raises:
          ArgumentError: for arrays of other shapes or types.
        """
        images = _checked_images(images)
        given = checked_labels(labels, images)
        self.check(images, given)
        key, indices = _checked_key(key), _checked_indices(indices, images.shape[0])
        images, found = self._run(key, indices, images, given)
        return images, found if isinstance(labels, Labels) else found.classes

    def _laid_out(self, key: Array, indices: Array, images: Array, labels: Labels) -> tuple[Array, Labels]:
        def whole(*args: Any) -> tuple[Array, Labels]:
            return self.move(_image_keys(*args[:2]), *args[2:])

        args = key, indices, images, labels
        mesh = explicit_mesh(args)
        along = jax.typeof(images).sharding.spec[0] if is_explicit(images) else None
        return automatic(whole, *args, out=None if mesh is None else NamedSharding(mesh, PartitionSpec(along)))


def _image_keys(key: Array, indices: Array) -> Array:
    """Folds each image's index into a Threefry key: scalar ``key`` and ``indices [batch]`` give ``[batch]`` keys."""
    data = jax.random.key_data(key)[:2]  # those of other generators are longer, and draw by the batch
    key = jax.random.wrap_key_data(data, impl="threefry2x32")
    return jax.vmap(jax.random.fold_in, (None, 0))(key, indices)


def parted(keys: Array, part: int) -> Array:
    """Folds ``part``, the number of a part of an augmentation, into ``keys [batch]``: independent keys."""
    return jax.vmap(lambda key: jax.random.fold_in(key, part))(keys)


def uniforms(keys: Array, count: int) -> Array:
    """Draws ``count`` independent numbers in [0, 1) for each of ``keys [batch]``: ``[count, batch]`` float32."""
    return jax.vmap(lambda key: jax.random.uniform(key, (count,), jnp.float32))(keys).T


def integers(uniform: Array, count: Any) -> Array:
    """Turns uniform numbers into integers from 0 to ``count - 1``.

    Args:
      uniform: ``[batch]`` float32 in [0, 1).
      count: at most 2^23; an int, or ``[batch]`` int32.

    Returns:
      ``[batch]`` int32.

    Example:
      >>> integers(jnp.array([0.0, 0.5, 0.99]), 4).tolist()
      [0, 2, 3]
    """
    count = jnp.asarray(count, jnp.int32)
    drawn = jnp.floor(uniform * count.astype(jnp.float32)).astype(jnp.int32)
    return jnp.minimum(drawn, count - 1)  # where the product was rounded up


def _checked_images(images: Any) -> Array:
    """Converts a batch of images to an array and checks it: ``[batch, height, width, channels]``.

    Raises:
      ArgumentError: for another rank or type, for no pixels, and for more than 2^13 a side or 2^23 in all.
    """
    images = jnp.asarray(images)
    if images.ndim != 4 or not (images.dtype == jnp.uint8 or jnp.issubdtype(images.dtype, jnp.floating)):
        raise ArgumentError(
            "images must be uint8, or floating point in [0, 1], of shape [batch, height, width, channels], "
            f"got {images.dtype} of shape {images.shape}" + (": add an axis, image[None]" if images.ndim == 3 else "")
        )
    height, width = images.shape[1:3]
    if not images.size or max(height, width) > LONGEST or height * width > LARGEST:
        raise ArgumentError(
            f"images must hold one pixel or more, up to {LONGEST} a side and {LARGEST} in all, got shape {images.shape}"
        )
    return images


def checked_channels(images: Array, name: str) -> None:
    """Refuses images that are neither gray nor RGB.

    Args:
      images: ``[batch, height, width, channels]``.
      name: the augmentation, for the error.

    Raises:
      ArgumentError: for other than 1 or 3 channels.
    """
    if images.shape[-1] not in (1, 3):
        raise ArgumentError(f"{name} takes images of 1 channel or of 3 (red, green, blue), got {images.shape[-1]}")


def _checked_key(key: Any) -> Array:
    key = jnp.asarray(key)
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        if key.dtype != jnp.uint32 or key.shape not in ((2,), (4,)):
            raise ArgumentError(f"key must be a random key, jax.random.key(0), got {key.dtype} of shape {key.shape}")
        key = jax.random.wrap_key_data(key[:2], impl="threefry2x32")
    if key.shape:
        raise ArgumentError(f"key must be one key, from which each image's is folded, got keys of shape {key.shape}")
    return key


def _checked_indices(indices: Any, batch: int) -> Array:
    if indices is None:
        return jnp.arange(batch, dtype=jnp.int32)
    indices = jnp.asarray(indices)
    if indices.shape != (batch,) or not jnp.issubdtype(indices.dtype, jnp.integer):
        raise ArgumentError(
            f"indices must be integers of shape [{batch}], one an image, got {indices.dtype} of shape {indices.shape}"
        )
    return indices


def checked_probability(name: str, value: float) -> float:
    """Returns ``value`` if it is a probability; ``name`` is the argument's, for the error.

    Raises:
      ArgumentError: if it is not in [0, 1].
    """
    if not 0 <= value <= 1:
        raise ArgumentError(f"{name} must be a probability in [0, 1], got {value}")
    return value


def checked_augmentations(name: str, given: Sequence[Any]) -> None:
    """Refuses ``given`` arguments that are no augmentations; ``name`` is the function's, for the error.

    Raises:
      ArgumentError: with what came.
    """
    for n, each in enumerate(given):
        if not isinstance(each, Augmentation):
            raise ArgumentError(
                f"{name}: argument {n} must be an augmentation, like jc.augment.flip(), got {each!r:.80}"
                + (": call it" if callable(each) else "")
            )
