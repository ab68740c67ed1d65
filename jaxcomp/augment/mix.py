"""Mixtures of two images of a batch, and of their classes."""

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxcomp.augment.augmentation import Augmentation, Check, integers, parted, uniforms
from jaxcomp.augment.cutout import within
from jaxcomp.augment.labels import Labels, probabilities
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.leaves import wide
from jaxcomp.core.reproducible import rounded

STEPS = 4096
"""Shares are multiples of 1 / 4096, with which sums of 8-bit levels and of one-hot classes are exact in float32."""


def mixup(alpha: float = 1.0, *, classes: int | None = None) -> Augmentation:
    r"""Mixes each image with its neighbor: :math:`\lambda x + (1 - \lambda) x'`, and their classes alike.

    :math:`\lambda \sim \mathrm{Beta}(\alpha, \alpha)` is drawn for each image and rounded to a multiple of 1 / 4096.
    The images of places 0 and 1, 2 and 3, ... are neighbors, so that no device needs another's images; the last of an
    odd number stays alone. Batches should be in random order, and a view comes back with the same neighbor.

    Args:
      alpha: above 0. Published: 1 on CIFAR, 0.2 on ImageNet.
      classes: how many there are; needed of integer classes, which become ``[batch, classes]`` probabilities, float32.
        An image without a class (below 0) adds nothing to them. Outside of jit a class out of range is an error.

    Raises:
      ArgumentError: for an alpha that is not above 0; on calling, for classes that cannot be mixed, boxes and masks.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> images = jnp.array([0, 255], jnp.uint8).reshape(2, 1, 1, 1)
      >>> images, labels = mixup(classes=2)(jax.random.key(0), images, jnp.array([0, 1]))
      >>> images.ravel().tolist(), (255 * labels[:, 1]).round().tolist()
      ([40, 2], [40.0, 2.0])

    Reference: Zhang et al., mixup: Beyond empirical risk minimization, 2018.
    """

    def move(keys: Array, images: Array, labels: Labels) -> tuple[Array, Labels]:
        share = _shares(keys, alpha)
        kind = wide(images.dtype)
        mixed = _mixed(share, images.astype(kind))
        mixed = jnp.floor(mixed + 0.5) if images.dtype == jnp.uint8 else mixed
        return mixed.astype(images.dtype), _mixed_classes(share, labels, classes, "mixup")

    return Augmentation(f"mixup({alpha}, classes={classes})", move, _check("mixup", alpha, classes, masks=False))


def cutmix(alpha: float = 1.0, *, classes: int | None = None) -> Augmentation:
    r"""Pastes a rectangle of its neighbor into each image; classes are mixed by area.

    The rectangle has the image's proportions and :math:`1 - \lambda` of its area,
    :math:`\lambda \sim \mathrm{Beta}(\alpha, \alpha)`, about a random pixel; what the borders cut off does not count.
    Masks are pasted with their images. Who is whose neighbor is said at :func:`mixup`.

    Args:
      alpha: above 0. Published: 1.
      classes: of :func:`mixup`.

    Raises:
      ArgumentError: for an alpha that is not above 0; on calling, for classes that cannot be mixed, and boxes.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> images = jnp.array([[0], [255]], jnp.uint8) * jnp.ones((2, 4), jnp.uint8)
      >>> images, labels = cutmix(classes=2)(jax.random.key(0), images.reshape(2, 2, 2, 1), jnp.array([0, 1]))
      >>> images.reshape(2, 4).tolist(), labels.tolist()
      ([[255, 0, 0, 0], [0, 255, 255, 255]], [[0.75, 0.25], [0.25, 0.75]])

    Reference: Yun et al., CutMix: Regularization strategy to train strong classifiers with localizable features, 2019.
    """

    def move(keys: Array, images: Array, labels: Labels) -> tuple[Array, Labels]:
        height, width = images.shape[1:3]
        side = jnp.sqrt(1 - _shares(parted(keys, 0), alpha))
        tall, broad = (jnp.floor(side * n).astype(jnp.int32) for n in (height, width))
        down, right = uniforms(parted(keys, 1), 2)
        pasted = within(height, width, integers(down, height), integers(right, width), tall, broad)
        share = 1 - pasted.sum(axis=(1, 2)).astype(jnp.float32) / (height * width)
        found = _mixed_classes(share, labels, classes, "cutmix")
        if labels.masks is not None:
            found = found._replace(masks=jnp.where(pasted, _neighbors(labels.masks), labels.masks))
        return jnp.where(pasted[..., None], _neighbors(images), images), found

    return Augmentation(f"cutmix({alpha}, classes={classes})", move, _check("cutmix", alpha, classes, masks=True))


def _shares(keys: Array, alpha: float) -> Array:
    """``[batch]`` float32 of a beta distribution, multiples of 1 / STEPS."""
    table = jnp.asarray(below(alpha), jnp.float32)
    return jnp.searchsorted(table, uniforms(keys, 1)[0], side="right").astype(jnp.float32) / STEPS


def below(alpha: float) -> np.ndarray:
    """Tabulates how likely a share of Beta(alpha, alpha) is rounded to k or fewer steps: ``[STEPS]`` float, from k = 0.

    A table takes the place of rejection, which draws in a loop over the whole batch: devices would have to agree on its
    end. The density's pole at 0, of an alpha below 1, is gone in the variable ``x ** alpha``.

    Example:
      >>> float(below(1.0)[2047].round(4))
      0.4999
    """
    power = min(alpha, 1.0)
    places = np.linspace(0, 0.5**power, 2**16) ** (1 / power)
    density = ((4 * places if alpha > 1 else 1) * (1 - places)) ** (alpha - 1)
    halves = np.cumsum((density[1:] + density[:-1]) / 2)
    half = np.interp(
        ((np.arange(STEPS // 2) + 0.5) / STEPS) ** power, places**power, np.append(0, halves / halves[-1] / 2)
    )
    return np.concatenate([half, 1 - half[::-1]])


def _neighbors(x: Array) -> Array:
    """Places 0 and 1 exchanged, 2 and 3, ...; the last of an odd number stays."""
    pairs = len(x) // 2
    turned = x[: 2 * pairs].reshape(pairs, 2, *x.shape[1:])[:, ::-1].reshape(2 * pairs, *x.shape[1:])
    return jnp.concatenate([turned, x[2 * pairs :]]) if len(x) % 2 else turned


def _mixed(share: Array, x: Array) -> Array:
    share = share.astype(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
    other = _neighbors(x)
    return rounded(share * x) + rounded((1 - share) * other)


def _mixed_classes(share: Array, labels: Labels, classes: int | None, name: str) -> Labels:
    if labels.classes is None:
        return labels
    rows = probabilities(labels.classes, classes, name)
    return labels._replace(classes=_mixed(share, rows.astype(wide(rows.dtype))).astype(rows.dtype))


def _check(name: str, alpha: float, classes: int | None, *, masks: bool) -> Check:
    if not alpha > 0:
        raise ArgumentError(f"{name}: alpha must be above 0, got {alpha}")

    def check(images: Array, labels: Labels) -> None:
        refused = [part for part in ("boxes", *([] if masks else ["masks"])) if getattr(labels, part) is not None]
        if refused:
            raise ArgumentError(
                f"{name} cannot mix {' and '.join(refused)} of two images: leave it out of the sequence"
            )
        if labels.classes is not None and classes is not None:
            probabilities(labels.classes, classes, name)

    return check
