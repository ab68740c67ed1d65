"""Flow of the solution procedure: how the channels of one layer go with those of another."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxcomp.core.arrays import check_arrays
from jaxcomp.core.errors import ArgumentError
from jaxcomp.distill.inputs import counted, feature_pair


def fsp(student: tuple[Array, Array], teacher: tuple[Array, Array], *, where: Any = None) -> Array:
    r"""Compares the products of two layers' channels, per example.

    :math:`\mathrm{mean}_{mn} (G^s_{mn} - G^t_{mn})^2` with :math:`G_{mn} = \mathrm{mean}_i\, x_{im} y_{in}` over the
    positions i of the first layer's x and the second's y. The paper sums over m and n. No gradient reaches the
    teacher. Computed in float32 or better.

    Args:
      student: features of two layers, ``[batch, ..., m]`` and ``[batch, ..., n]``, at the same positions: pool the
        larger one.
      teacher: likewise, of the same m and n, at positions of its own.
      where: ``[batch]`` bools; examples at False have a loss of 0. None: all count.

    Returns:
      ``[batch]``. Tian et al. (2020) weigh it by 50.

    Raises:
      ArgumentError: for shapes that do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> ones = jnp.ones((1, 2, 2, 3)), jnp.ones((1, 2, 2, 5))
      >>> fsp(ones, (2 * ones[0], ones[1])).tolist()
      [1.0]

    Reference: Yim et al., A gift from knowledge distillation, 2017.
    """
    for name, layers in (("student", student), ("teacher", teacher)):
        if not isinstance(layers, tuple | list) or len(layers) != 2:
            raise ArgumentError(f"{name} must be the features of two layers, a pair of arrays, got {layers!r:.40}")
        first, second = layers
        check_arrays(**{f"{name}[0]": first, f"{name}[1]": second})
        if first.ndim < 3 or first.shape[:-1] != second.shape[:-1]:
            raise ArgumentError(
                f"the {name}'s two layers must have one batch and the same positions, got {first.shape} and "
                f"{second.shape}: pool the larger one"
            )
    pairs = [feature_pair(s, t, where, alike="batch") for s, t in zip(student, teacher, strict=True)]
    ours, theirs = (_products(first, second) for first, second in zip(*pairs, strict=True))
    if ours.shape != theirs.shape:
        raise ArgumentError(
            f"student and teacher layers must have the same channels, got {ours.shape[1:]} and {theirs.shape[1:]}: "
            "jc.distill.connect makes one from the other"
        )
    return counted(jnp.mean((ours - theirs) ** 2, axis=(1, 2)), where)


def _products(first: Array, second: Array) -> Array:
    x, y = (z.reshape(z.shape[0], -1, z.shape[-1]) for z in (first, second))
    return jnp.einsum("bim,bin->bmn", x, y) / x.shape[1]
