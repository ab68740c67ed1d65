"""Boxes ``[..., 4]`` as left, top, right and bottom: how far they overlap, and which are left of those that do."""

import functools

import jax
import jax.numpy as jnp
from jax import Array


def area(boxes: Array) -> Array:
    """``[..., 4]`` -> ``[...]``; 0 for what is turned inside out."""
    sides = jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    return sides[..., 0] * sides[..., 1]


def iou(a: Array, b: Array) -> Array:
    """Intersection over union of all pairs.

    Args:
      a: ``[n, 4]``.
      b: ``[m, 4]``.

    Returns:
      ``[n, m]``; 0 where both are empty.

    Example:
      >>> iou(jnp.array([[0.0, 0, 2, 2]]), jnp.array([[1.0, 0, 3, 2], [2, 2, 4, 4]])).round(3).tolist()
      [[0.3330000042915344, 0.0]]
    """
    corner, other = jnp.maximum(a[:, None, :2], b[None, :, :2]), jnp.minimum(a[:, None, 2:], b[None, :, 2:])
    both = area(jnp.concatenate([corner, other], axis=-1))
    union = area(a)[:, None] + area(b)[None] - both
    return jnp.where(union > 0, both / jnp.where(union > 0, union, 1), 0)


def nms(boxes: Array, scores: Array, classes: Array, *, keep: int, overlap: float = 0.5) -> tuple[Array, Array]:
    """Takes the best box, drops those of its class that overlap it, and again: greedy non-maximum suppression.

    Shapes are static: it runs inside jit and vmap.

    Args:
      boxes: ``[n, 4]``.
      scores: ``[n]``; those at -inf are no boxes.
      classes: ``[n]`` integers.
      keep: how many are taken at most.
      overlap: the intersection over union above which a box is dropped.

    Returns:
      ``[keep]`` int32 places of boxes, the best first, and ``[keep]`` bools: whether there was one.

    Example:
      >>> boxes = jnp.array([[0.0, 0, 4, 4], [0, 0, 4, 3], [9, 9, 12, 12]])
      >>> [x.tolist() for x in nms(boxes, jnp.array([0.5, 0.9, 0.4]), jnp.array([0, 0, 0]), keep=3)]
      [[1, 2, 0], [True, True, False]]
    """
    alike = (iou(boxes, boxes) > overlap) & (classes[:, None] == classes[None])

    def take(left: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
        best = jnp.argmax(left).astype(jnp.int32)
        there = left[best] > -jnp.inf
        left = jnp.where(alike[best] & there, -jnp.inf, left).at[best].set(-jnp.inf)
        return left, (best, there)

    _, (places, there) = jax.lax.scan(take, scores, None, length=keep)
    return jnp.where(there, places, 0), there


def detections(boxes: Array, scores: Array, *, keep: int, overlap: float, candidates: int) -> Array:
    """The best boxes of images, after non-maximum suppression.

    Args:
      boxes: ``[batch, n, 4]``.
      scores: ``[batch, n, classes]`` in [0, 1].
      keep: boxes of an image.
      overlap: of :func:`nms`.
      candidates: of the pairs of box and class, how many of the best are looked at.

    Returns:
      ``[batch, keep, 6]`` float32: left, top, right, bottom, class, score, the best first; a score of 0 is no box.
      NaN throughout where a score is NaN.
    """
    count, classes = scores.shape[1:]
    one = functools.partial(_detections, keep=keep, overlap=overlap, candidates=min(candidates, count * classes))
    found = jax.vmap(one)(boxes.astype(jnp.float32), scores.astype(jnp.float32))
    return jnp.where(jnp.isnan(scores).any(axis=(1, 2))[:, None, None], jnp.nan, found)


def _detections(boxes: Array, scores: Array, *, keep: int, overlap: float, candidates: int) -> Array:
    classes = scores.shape[-1]
    best, places = jax.lax.top_k(scores.reshape(-1), candidates)
    boxes, kinds = boxes[places // classes], (places % classes).astype(jnp.int32)
    chosen, there = nms(boxes, jnp.where(best > 0, best, -jnp.inf), kinds, keep=min(keep, candidates), overlap=overlap)
    columns = [boxes[chosen], kinds[chosen, None].astype(jnp.float32), best[chosen, None]]
    found = jnp.where(there[:, None], jnp.concatenate(columns, axis=-1), 0)
    return jnp.pad(found, ((0, keep - found.shape[0]), (0, 0)))
