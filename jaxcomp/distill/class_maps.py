"""Teachers of other classes: logits of one set of classes as logits of another."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.logits import log_total
from jaxcomp.distill.inputs import check_logits, check_temperature, real_type


def map_classes(logits: Array, to: Sequence[int], classes: int, *, temperature: float = 1.0) -> Array:
    r"""Shows logits as those of other classes, of which each has the probabilities of all that are mapped to it.

    :math:`z'_d = T \log \sum_{c:\,to(c) = d} \exp(z_c / T)`, so that softmax over T of the result sums that of the
    logits. Give it the loss's temperature. Works on either side: show a teacher of 1000 breeds as one of cats and
    dogs, or a student of fine classes as a coarse teacher's. Differentiable.

    Args:
      logits: ``[..., classes before]``.
      to: the new class of each; -1 for one that has none, and is left out.
      classes: how many there are then. One to which none is mapped is ruled out: -inf.
      temperature: above 0.

    Returns:
      ``[..., classes]``, float32 or better.

    Raises:
      ArgumentError: for a map that has not an entry a class, or entries out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> teacher = jnp.log(jnp.array([0.2, 0.3, 0.5]))
      >>> [round(p, 3) for p in jax.nn.softmax(map_classes(teacher, [0, 1, 1], 2)).tolist()]
      [0.2, 0.8]
    """
    check_temperature(temperature)
    check_logits(logits)
    place = np.asarray(to)
    if place.shape != logits.shape[-1:] or not np.issubdtype(place.dtype, np.integer):
        raise ArgumentError(f"to must hold one integer for each of {logits.shape[-1]} classes, got shape {place.shape}")
    if place.size and (place.max() >= classes or place.min() < -1):
        raise ArgumentError(f"to must map to classes in [0, {classes}), or to -1, got {place.min()} to {place.max()}")
    sources, filled = _table(place, classes)
    softened = jnp.asarray(logits).astype(real_type(logits)) / temperature
    filled = np.broadcast_to(filled, (*logits.shape[:-1], *filled.shape))  # else ranks would be promoted
    grouped = jnp.where(filled, jnp.take(softened, sources, axis=-1), -jnp.inf)
    return temperature * log_total(grouped)[..., 0]


def _table(place: Any, classes: int) -> tuple[Any, Any]:
    """``[classes, most]``: the classes that are mapped to each, filled up with 0, and where it is not filled up."""
    groups = [np.flatnonzero(place == i) for i in range(classes)]
    most = max([len(group) for group in groups], default=0) or 1
    sources, filled = np.zeros((classes, most), np.int32), np.zeros((classes, most), bool)
    for row, group in enumerate(groups):
        sources[row, : len(group)] = group
        filled[row, : len(group)] = True
    return sources, filled
