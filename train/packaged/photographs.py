"""Photographs of people: composed of those that scikit-image ships, to calibrate by; others, to be judged on.

Held out are the photographs of the npm package ``@vladmandic/face-api`` (MIT), whole, mirrored and in parts.
"""

import numpy as np
from PIL import Image

from train.packaged.subject import Folders, of_pypi

BACKGROUNDS = ("coffee.png", "chelsea.png", "rocket.jpg", "motorcycle_left.png", "brick.png", "grass.png")
HELD_OUT = "@vladmandic/face-api"


def scenes(count: int, side: int, seed: int = 0) -> np.ndarray:
    """Squares ``[count, side, side, 3]`` uint8: the astronaut, near and far, and faces, before other pictures."""
    random = np.random.default_rng(seed)
    person = _shipped("astronaut.png")
    faces = np.load(of_pypi("skimage", "data/lfw_subset.npy", "scikit-image"))[:100]  # then come pictures of none
    found = []
    for number in range(count):
        scene = _square(_shipped(BACKGROUNDS[random.integers(len(BACKGROUNDS))]), side)
        size = int(side * random.uniform(0.5, 1.5))
        own = _varied(person, random).resize((size, size), Image.Resampling.BILINEAR)
        scene.paste(
            own, (int(random.uniform(-0.3, 0.3) * side) + (side - size) // 2, side - int(size * random.uniform(0.7, 1)))
        )
        for _ in range(random.integers(0, 4) if number % 2 else 0):
            face = Image.fromarray((255 * faces[random.integers(len(faces))]).astype(np.uint8)).convert("RGB")
            wide = int(random.uniform(0.12, 0.3) * side)
            scene.paste(
                face.resize((wide, wide)), (int(random.integers(side - wide)), int(random.integers(side - wide)))
            )
        pixels = np.array(scene)
        if number % 3 == 0:  # a wide picture, black above and below
            bar = int(random.uniform(0.05, 0.2) * side)
            pixels[:bar], pixels[side - bar :] = 0, 0
        found.append(pixels)
    return np.stack(found)


def held_out(folders: Folders, side: int) -> np.ndarray:
    """Squares ``[36, side, side, 3]`` uint8: six photographs, each whole, mirrored, and its four corners."""
    found = []
    for number in range(1, 7):
        whole = Image.open(folders.of_npm(HELD_OUT, f"demo/sample{number}.jpg")).convert("RGB")
        width, height = whole.size
        found += [_fitted(whole, side), _fitted(whole.transpose(Image.Transpose.FLIP_LEFT_RIGHT), side)]
        for left in (0, 0.4 * width):
            for top in (0, 0.4 * height):
                found.append(
                    _fitted(whole.crop((int(left), int(top), int(left + 0.6 * width), int(top + 0.6 * height))), side)
                )
    return np.stack([np.asarray(each) for each in found])


def _shipped(name: str) -> Image.Image:
    return Image.open(of_pypi("skimage", f"data/{name}", "scikit-image")).convert("RGB")


def _varied(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    """Mirrored or not, in another light."""
    pixels = np.asarray(picture, np.float32)[:, :: random.choice([1, -1])] / 255
    light = pixels ** random.uniform(0.6, 2.2) * random.uniform(0.8, 1.1, 3)
    return Image.fromarray((255 * np.clip(light, 0, 1)).astype(np.uint8))


def _square(picture: Image.Image, side: int) -> Image.Image:
    width, height = picture.size
    most = min(width, height)
    left, top = (width - most) // 2, (height - most) // 2
    return picture.crop((left, top, left + most, top + most)).resize((side, side), Image.Resampling.BILINEAR)


def _fitted(picture: Image.Image, side: int) -> Image.Image:
    """The whole picture, black around it."""
    scale = side / max(picture.size)
    width, height = (round(n * scale) for n in picture.size)
    square = Image.new("RGB", (side, side))
    square.paste(
        picture.resize((width, height), Image.Resampling.BILINEAR), ((side - width) // 2, (side - height) // 2)
    )
    return square
