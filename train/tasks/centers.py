r"""Objects as points: what a map of centers is to be, what is lost, and the boxes that it says (CenterNet).

Outputs are ``{"heat": [b, h, w, classes], "size": [b, h, w, 2], "offset": [b, h, w, 2]}``: logits of centers,
logarithms of width and height in cells, and where in its cell a center is, x and y in [0, 1]. A cell is
``image height / h`` pixels.

Reference: Zhou et al., Objects as points, 2019; sizes are learned as logarithms, so that small objects count as much.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

import jaxcomp as jc

OVERLAP = 0.7
"""Boxes whose center is off by less than what leaves so much overlap are not punished in full."""
LARGEST = 8.0
"""The logarithm of a size, in cells, beyond which none is believed."""


def cells(boxes: Array, shape: Sequence[int], size: Sequence[int]) -> tuple[Array, Array]:
    """Where boxes lie on a map.

    Args:
      boxes: ``[batch, n, 4]`` pixels.
      shape: height and width of the map.
      size: of the images.

    Returns:
      Centers ``[batch, n, 2]`` in cells, x and y, and sizes likewise.
    """
    scale = jnp.array([shape[1] / size[1], shape[0] / size[0]], jnp.float32)
    low, high = boxes[..., :2] * scale, boxes[..., 2:] * scale
    return (low + high) / 2, high - low


def radius(sizes: Array) -> Array:
    """How far, in cells, a center may be off for the boxes still to overlap by :data:`OVERLAP`.

    The least of three cases: one corner within and one outside, both within, both outside (CornerNet, section 3.2).

    Args:
      sizes: ``[..., 2]`` width and height.
    """
    total, product = sizes[..., 0] + sizes[..., 1], sizes[..., 0] * sizes[..., 1]
    cases = (
        (1.0, -total, product * (1 - OVERLAP) / (1 + OVERLAP)),
        (4.0, -2 * total, (1 - OVERLAP) * product),
        (4 * OVERLAP, 2 * OVERLAP * total, (OVERLAP - 1) * product),
    )
    roots = [
        (-b + (1 if number == 2 else -1) * jnp.sqrt(jnp.maximum(b**2 - 4 * a * c, 0))) / (2 * a)
        for number, (a, b, c) in enumerate(cases)
    ]
    return jnp.minimum(jnp.minimum(roots[0], roots[1]), roots[2])


def heat(centers: Array, sizes: Array, classes: Array, shape: Sequence[int], count: int) -> Array:
    """A Gaussian about each center's cell, of a third of its radius; where several reach, the largest.

    Args:
      centers: ``[batch, n, 2]`` in cells.
      sizes: likewise.
      classes: ``[batch, n]`` integers; below 0 for no object.
      shape: height and width of the map.
      count: of classes.

    Returns:
      ``[batch, h, w, count]`` in [0, 1]; 1 at the centers.
    """
    x, y = jnp.floor(centers[..., 0]), jnp.floor(centers[..., 1])
    spread = jnp.maximum((2 * jnp.floor(jnp.maximum(radius(sizes), 0)) + 1) / 6, 1e-3)[..., None]
    across = jnp.exp(-((jnp.arange(shape[1], dtype=jnp.float32) - x[..., None]) ** 2) / (2 * spread**2))
    down = jnp.exp(-((jnp.arange(shape[0], dtype=jnp.float32) - y[..., None]) ** 2) / (2 * spread**2))

    def largest(kind: Array) -> Array:
        of_kind = (classes == kind).astype(jnp.float32)[..., None, None]
        return jnp.max(of_kind * down[..., :, None] * across[..., None, :], axis=1)

    return jnp.stack([largest(jnp.int32(kind)) for kind in range(count)], axis=-1)


def focal(logits: Array, target: Array) -> Array:
    r"""Penalty-reduced focal loss, summed over a map: ``[batch]``.

    :math:`-(1-p)^2 \log p` where the target is 1, else :math:`-(1-y)^4 p^2 \log(1-p)`.

    Args:
      logits: ``[batch, h, w, classes]``.
      target: likewise, in [0, 1].
    """
    p, log_p, log_q = jax.nn.sigmoid(logits), jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    losses = jnp.where(target == 1, -((1 - p) ** 2) * log_p, -((1 - target) ** 4) * p**2 * log_q)
    return jnp.sum(losses, axis=(1, 2, 3))


def picked(values: Array, centers: Array) -> Array:
    """The values ``[batch, h, w, c]`` of a map in the cells of centers ``[batch, n, 2]``: ``[batch, n, c]``."""
    height, width = values.shape[1:3]
    x, y = (jnp.clip(jnp.floor(centers[..., i]).astype(jnp.int32), 0, (width, height)[i] - 1) for i in (0, 1))
    flat = values.reshape(len(values), height * width, -1)
    return jnp.take_along_axis(flat, (y * width + x)[..., None], axis=1)


def loss(outputs: Any, boxes: Array, classes: Array, size: Sequence[int]) -> Array:
    """Computes the loss of centers, sizes and offsets, an object: ``[batch]``.

    Args:
      outputs: of the network.
      boxes: ``[batch, n, 4]`` pixels.
      classes: ``[batch, n]`` int32; below 0 for no object.
      size: height and width of the images.
    """
    shape, count = outputs["heat"].shape[1:3], outputs["heat"].shape[-1]
    centers, sizes = cells(boxes, shape, size)
    there = (classes >= 0).astype(jnp.float32)
    objects = jnp.maximum(jnp.sum(there, axis=-1), 1)
    told = {name: picked(outputs[name].astype(jnp.float32), centers) for name in ("size", "offset")}
    meant = {"size": jnp.log(jnp.maximum(sizes, 1e-3)), "offset": centers - jnp.floor(centers)}
    off = sum(jnp.sum(jnp.abs(told[name] - meant[name]), axis=-1) for name in told)
    target = heat(centers, sizes, classes, shape, count)
    return (focal(outputs["heat"].astype(jnp.float32), target) + jnp.sum(off * there, axis=-1)) / objects


def soft(outputs: Any, targets: Any, objects: Array, temperature: float) -> Array:
    """Computes the loss against a teacher: divergence of centers, and sizes and offsets where it sees any: ``[batch]``.

    Args:
      outputs: of the student.
      targets: of the teacher.
      objects: ``[batch]``: how many an image has, by which centers are counted.
      temperature: of the centers.
    """
    divergence = jc.distill.binary_kl(outputs["heat"], targets["heat"], temperature=temperature)
    seen = jnp.max(jax.nn.sigmoid(targets["heat"]), axis=-1) > 0.1
    own, theirs = (jnp.concatenate([each["size"], each["offset"]], axis=-1) for each in (outputs, targets))
    off = jnp.sum(jnp.abs(own - jax.lax.stop_gradient(theirs)), axis=-1)
    return jnp.sum(divergence, axis=(1, 2)) / jnp.maximum(objects, 1) + jc.distill.per_position(off, where=seen)


def right(outputs: Any, boxes: Array, classes: Array, size: Sequence[int]) -> Array:
    """The share of the objects whose own class is the largest at their center: ``[batch]``."""
    logits = picked(outputs["heat"], cells(boxes, outputs["heat"].shape[1:3], size)[0])
    own = jnp.take_along_axis(logits, jnp.maximum(classes, 0)[..., None], axis=-1)[..., 0]
    there = classes >= 0
    good = (own >= jnp.max(logits, axis=-1)) & there
    # Where there is none, nothing was missed.
    return jnp.where(there.any(-1), jnp.sum(good, -1) / jnp.maximum(jnp.sum(there, -1), 1), 1.0)


def boxes(outputs: Any, size: Sequence[int]) -> tuple[Array, Array]:
    """The boxes that a map says: ``[batch, h w, 4]`` pixels, and their scores ``[batch, h w, classes]``.

    What is less than a neighbor of its class scores 0.
    """
    logits = outputs["heat"].astype(jnp.float32)
    batch, height, width, count = logits.shape
    around = jax.lax.reduce_window(logits, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")
    scores = jnp.where(logits < around, 0, jax.nn.sigmoid(logits))  # NaN stays
    corner = jnp.stack(jnp.meshgrid(jnp.arange(width), jnp.arange(height)), axis=-1).astype(jnp.float32)
    center = corner[None] + outputs["offset"].astype(jnp.float32)
    half = jnp.exp(jnp.clip(outputs["size"].astype(jnp.float32), -LARGEST, LARGEST)) / 2
    scale = jnp.array([size[1] / width, size[0] / height], jnp.float32)
    low, high = (center - half) * scale, (center + half) * scale
    edge = jnp.array([size[1], size[0]], jnp.float32)
    found = jnp.concatenate([jnp.clip(low, 0, edge), jnp.clip(high, 0, edge)], axis=-1)
    return found.reshape(batch, height * width, 4), scores.reshape(batch, height * width, count)
