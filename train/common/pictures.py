"""Encoded images as arrays: whole, the square in the middle, or a random part, decoded at the scale that it needs."""

import io
import math
from typing import Any

import numpy as np

from train.tasks.classification import squared

ASPECTS = (3 / 4, 4 / 3)
"""The ratio of random crops, width by height; Szegedy et al., Going deeper with convolutions, 2015."""
TRIES = 10


def decoded(encoded: Any, channels: int, least: tuple[int, int] | None = None) -> Any:
    """A PIL image of 1 or 3 channels, decoded to its end.

    Args:
      encoded: bytes of a file of an image, or ``[h, w, c]`` uint8 that something else has decoded.
      channels: 1 or 3.
      least: width and height, pixels: a JPEG is decoded at a half, a quarter or an eighth where that gives as many.

    Raises:
      Exception: whatever the decoder says of a file that is no image, or torn.
      ValueError: for more than 8 bits a channel, of which decoders would keep the lower 8.
    """
    from PIL import Image

    if isinstance(encoded, np.ndarray) and encoded.ndim == 3:
        return Image.fromarray(encoded.squeeze(-1) if encoded.shape[-1] == 1 else encoded)
    image = Image.open(io.BytesIO(encoded))
    if image.mode.startswith("I"):
        raise ValueError(f"its pixels are of mode {image.mode}: 8 bits a channel are needed")
    mode = "L" if channels == 1 else "RGB"
    if least is not None:
        image.draft(mode, least)  # does nothing to what is no JPEG
    return image if image.mode == mode else image.convert(mode)


def array(image: Any) -> np.ndarray:
    """``[h, w, c]`` uint8."""
    pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def square(encoded: Any, channels: int, size: int | None) -> np.ndarray:
    """The largest square in the middle, of a side; None: the image as it is."""
    return squared(array(decoded(encoded, channels)), size)


def part(encoded: Any, channels: int, size: int, least: float, rng: np.random.Generator) -> np.ndarray:
    """A random part, resized to a square: of an area uniform in ``[least, 1]`` of the image's and an aspect of ASPECTS.

    Args:
      encoded: of :func:`decoded`.
      channels: 1 or 3.
      size: side of what comes out, pixels.
      least: the smallest share of the area.
      rng: draws it.
    """
    from PIL import Image

    width, height = encoded.shape[1::-1] if isinstance(encoded, np.ndarray) else size_of(encoded)
    box = drawn_box(width, height, least, rng)
    scale = max(1, min(box[2] - box[0], box[3] - box[1]) / size)
    image = decoded(encoded, channels, (max(1, int(width / scale)), max(1, int(height / scale))))
    factors = (image.width / width, image.height / height) * 2  # 1 where it is decoded whole
    own = [round(side * factor) for side, factor in zip(box, factors, strict=True)]
    cut = image.crop((own[0], own[1], max(own[2], own[0] + 1), max(own[3], own[1] + 1)))
    return array(cut.resize((size, size), Image.Resampling.BILINEAR))


def size_of(encoded: Any) -> tuple[int, int]:
    """Width and height of an encoded image, of which nothing is decoded."""
    from PIL import Image

    return Image.open(io.BytesIO(encoded)).size


def drawn_box(width: int, height: int, least: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a random part, as torchvision's ``RandomResizedCrop`` draws it.

    Example:
      >>> left, top, right, bottom = drawn_box(100, 80, 0.5, np.random.default_rng(0))
      >>> 0 <= left < right <= 100 and 0 <= top < bottom <= 80
      True
    """
    for _ in range(TRIES):
        area = width * height * rng.uniform(least, 1)
        aspect = math.exp(rng.uniform(math.log(ASPECTS[0]), math.log(ASPECTS[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
            return left, top, left + w, top + h
    w = min(width, round(height * ASPECTS[1]))  # the middle, of the nearest aspect that there may be
    h = min(height, round(width / ASPECTS[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
