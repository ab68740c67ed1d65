"""Pictures like photographs, and sets of them on disk."""

import io
from pathlib import Path

import numpy as np
from PIL import Image


def picture(number: int, width: int, height: int, gray: bool = False) -> Image.Image:
    """A smooth picture, another for each number."""
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 256, (4, 5) if gray else (4, 5, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(number: int, width: int = 40, height: int = 30, suffix: str = "jpeg", gray: bool = False) -> bytes:
    """The file of a picture."""
    file = io.BytesIO()
    picture(number, width, height, gray).save(file, suffix, **({"quality": 95} if suffix == "jpeg" else {}))
    return file.getvalue()


def class_folders(root: Path, counts: dict[str, int], suffix: str = "png") -> list[bytes]:
    """``{"train/cat": 3}`` images in folders; gives the files in the order of their names."""
    files = []
    for folder, count in sorted(counts.items()):
        (root / folder).mkdir(parents=True)
        for number in range(count):
            files.append(encoded(len(files), 20 + number, 16, suffix))
            (root / folder / f"{number:03}.{suffix}").write_bytes(files[-1])
    return files
