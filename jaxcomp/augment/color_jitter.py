"""Random brightness, contrast, saturation and hue."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from jaxcomp.augment import color
from jaxcomp.augment.augmentation import Augmentation, checked_channels, uniforms
from jaxcomp.augment.labels import Labels
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.leaves import wide


def color_jitter(
    brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0, hue: float = 0.0
) -> Augmentation:
    """Changes brightness, contrast, saturation and hue at random, in this order.

    Factors of the first three are uniform in ``[max(0, 1 - x), 1 + x]``: Pillow's enhancements. The hue is turned by a
    uniform share of the circle in ``[-hue, hue]``. (torchvision shuffles the order; here one program does for all.)
    Images of one channel have neither saturation nor hue.

    Args:
      brightness, contrast, saturation: 0 or more; 0 leaves it alone. Published for SimCLR: 0.8, 0.8, 0.8.
      hue: in [0, 0.5]. Published for SimCLR: 0.2.

    Raises:
      ArgumentError: for what is out of range; on calling, for images of other than 1 or 3 channels.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> images = jnp.full((2, 1, 1, 1), 100, jnp.uint8)
      >>> color_jitter(brightness=0.5)(jax.random.key(0), images)[0].ravel().tolist()
      [134, 50]

    Reference: Howard, Some improvements on deep convolutional neural network based image classification, 2013.
    """
    strengths = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
    for name, value in strengths.items():
        if not 0 <= value < float("inf"):
            raise ArgumentError(f"color_jitter: {name} must be 0 or more, got {value}")
    if not 0 <= hue <= 0.5:
        raise ArgumentError(f"color_jitter: hue must be a share of the circle in [0, 0.5], got {hue}")

    def move(keys: Array, images: Array, labels: Labels) -> tuple[Array, Labels]:
        *drawn, turn = uniforms(keys, 4)
        others: dict[str, Callable[[Array], Array]] = {
            "brightness": jnp.zeros_like,
            "contrast": color.mean_gray,
            "saturation": color.gray,
        }
        for uniform, (name, strength) in zip(drawn, strengths.items(), strict=True):
            if strength:
                least = max(0.0, 1 - strength)
                images = color.blend(others[name](images), images, least + (1 + strength - least) * uniform)
        return turned(images, hue * (2 * turn - 1)) if hue and images.shape[-1] == 3 else images, labels

    def check(images: Array, labels: Labels) -> None:
        checked_channels(images, "color_jitter")

    values = ", ".join(f"{name}={value}" for name, value in {**strengths, "hue": hue}.items() if value)
    return Augmentation(f"color_jitter({values})", move, check)


def turned(images: Array, turn: Array) -> Array:
    """Turns the hues of ``images`` ``[batch, h, w, 3]``; saturation and value of the HSV cone stay.

    Args:
      images: RGB, uint8 or floating point.
      turn: ``[batch]``, shares of the circle.
    """
    top = color.white(images)
    kind = wide(images.dtype)
    x = images.astype(kind) / top
    value, low = x.max(axis=-1), x.min(axis=-1)
    spread = value - low
    red, green, blue = x[..., 0], x[..., 1], x[..., 2]
    unit = jnp.where(spread > 0, spread, 1)
    sixth = jnp.where(
        value == red,
        (green - blue) / unit,
        jnp.where(value == green, 2 + (blue - red) / unit, 4 + (red - green) / unit),
    )
    sixth = sixth + 6 * turn.astype(kind)[:, None, None]
    # Each channel is the value less the spread times how far the hue is from it: Smith's cone, without cases.
    offset = jnp.array([5, 3, 1], kind)[None, None, None]
    far = jnp.mod(offset + sixth[..., None], 6)
    x = value[..., None] - spread[..., None] * jnp.clip(jnp.minimum(far, 4 - far), 0, 1)
    found = (jnp.floor(x * top + 0.5) if images.dtype == jnp.uint8 else jnp.clip(x, 0, 1)).astype(images.dtype)
    return jnp.where((turn == 0)[:, None, None, None], images, found)
