"""Objects by anchors: which of them each anchor stands for, what is lost, and the boxes that they say (SSD).

Outputs are ``{"classes": [b, n, 1 + classes], "boxes": [b, n, 4], "anchors": [b, n, 4]}``: logits, the first of no
object; the object's box as an anchor sees it; and the anchors, left, top, right and bottom in pixels. A box is the
distance of the centers in sides of the anchor over 0.1, and the logarithms of the ratios of the sides over 0.2.

Reference: Liu et al., SSD: single shot multibox detector, 2016.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

import jaxcomp as jc
from train.tasks.boxes import iou

MATCH, NEGATIVES = 0.5, 3
"""The overlap from which an anchor stands for an object, and how many others count for each that does."""
CENTER, SIZE, LARGEST = 0.1, 0.2, 4.0


def _centers(boxes: Array) -> tuple[Array, Array]:
    low, high = boxes[..., :2], boxes[..., 2:]
    return (low + high) / 2, jnp.maximum(high - low, 1e-3)


def encoded(boxes: Array, anchors: Array) -> Array:
    """Boxes ``[..., 4]`` as their anchors see them."""
    (center, sides), (own, length) = _centers(boxes), _centers(anchors)
    return jnp.concatenate([(center - own) / length / CENTER, jnp.log(sides / length) / SIZE], axis=-1)


def decoded(values: Array, anchors: Array) -> Array:
    """The boxes that anchors see: what undoes :func:`encoded`."""
    own, length = _centers(anchors)
    center = own + values[..., :2] * CENTER * length
    half = length * jnp.exp(jnp.clip(values[..., 2:] * SIZE, -LARGEST, LARGEST)) / 2
    return jnp.concatenate([center - half, center + half], axis=-1)


def matched(anchors: Array, boxes: Array, classes: Array) -> tuple[Array, Array]:
    """Which object each anchor of an image stands for.

    That which it overlaps most, if by :data:`MATCH`; and each object has the anchor that overlaps it most.

    Args:
      anchors: ``[n, 4]``.
      boxes: ``[m, 4]``.
      classes: ``[m]`` int32; below 0 for no object.

    Returns:
      ``[n]`` int32 places of objects, and ``[n]`` bools: whether it stands for one.
    """
    overlaps = jnp.where(classes[None] >= 0, iou(anchors, boxes), -1.0)
    forced = (jnp.arange(len(anchors))[:, None] == jnp.argmax(overlaps, axis=0)[None]) & (classes[None] >= 0)
    overlaps = jnp.where(forced, 2 + overlaps, overlaps)
    return jnp.argmax(overlaps, axis=1).astype(jnp.int32), jnp.max(overlaps, axis=1) >= MATCH


def loss(outputs: Any, boxes: Array, classes: Array, size: Sequence[int]) -> Array:
    """Computes the loss of classes and, where there is an object, of boxes, an object: ``[batch]``.

    Of the anchors without one those count that are taken for one most, three for each with one.

    Args:
      outputs: of the network.
      boxes: ``[batch, n, 4]`` pixels.
      classes: ``[batch, n]`` int32; below 0 for no object.
      size: height and width of the images, which the anchors know.
    """
    del size
    places, there = jax.vmap(matched)(outputs["anchors"], boxes, classes)
    kinds = jnp.where(there, 1 + jnp.take_along_axis(classes, places, axis=1), 0)
    entropy = jc.distill.cross_entropy(outputs["classes"], kinds)
    objects = jnp.sum(there, axis=1, keepdims=True)
    order = jnp.argsort(jnp.argsort(jnp.where(there, -jnp.inf, entropy), axis=1, descending=True), axis=1)
    counts = there | (order < NEGATIVES * jnp.maximum(objects, 1))
    meant = encoded(jnp.take_along_axis(boxes, places[..., None], axis=1), outputs["anchors"])
    off = jnp.sum(optax.huber_loss(outputs["boxes"].astype(jnp.float32), meant), axis=-1)
    total = jnp.sum(jnp.where(counts, entropy, 0) + jnp.where(there, off, 0), axis=1)
    return total / jnp.maximum(objects[:, 0], 1)


def soft(outputs: Any, targets: Any, objects: Array, temperature: float) -> Array:
    """Computes the loss against a teacher: divergence of classes, and boxes where it sees an object: ``[batch]``."""
    del objects
    seen = jnp.argmax(targets["classes"], axis=-1) > 0
    divergence = jc.distill.per_position(jc.distill.kl(outputs["classes"], targets["classes"], temperature=temperature))
    off = jnp.sum(optax.huber_loss(outputs["boxes"], jax.lax.stop_gradient(targets["boxes"])), axis=-1)
    return divergence + jc.distill.per_position(off, where=seen)


def right(outputs: Any, boxes: Array, classes: Array, size: Sequence[int]) -> Array:
    """The share of the anchors that stand for an object and tell its class: ``[batch]``."""
    del size
    places, there = jax.vmap(matched)(outputs["anchors"], boxes, classes)
    good = (jnp.argmax(outputs["classes"], -1) == 1 + jnp.take_along_axis(classes, places, axis=1)) & there
    return jnp.where(there.any(1), jnp.sum(good, 1) / jnp.maximum(jnp.sum(there, 1), 1), 1.0)


def boxes(outputs: Any, size: Sequence[int]) -> tuple[Array, Array]:
    """The boxes that anchors say: ``[batch, n, 4]`` pixels, and their scores ``[batch, n, classes]``."""
    edge = jnp.array([size[1], size[0]], jnp.float32)
    found = decoded(outputs["boxes"].astype(jnp.float32), outputs["anchors"].astype(jnp.float32))
    inside = jnp.concatenate([jnp.clip(found[..., :2], 0, edge), jnp.clip(found[..., 2:], 0, edge)], axis=-1)
    return inside, jax.nn.softmax(outputs["classes"].astype(jnp.float32))[..., 1:]
