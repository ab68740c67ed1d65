"""PP-OCR: where a page has lines of text, and what they say (PyPI ``rapidocr``, Apache-2.0).

Pages are rendered, in fonts that matplotlib ships. Boxes are read off the detector's map by a simpler rule than
PaddleOCR's own (upright boxes), the same for the original and for what is made of it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from train.packaged import runtimes
from train.packaged.prose import sentences
from train.packaged.subject import Folders, Part, Run, Subject, of_pypi
from train.readers import onnx_file

SIDE, LINES, WIDEST = 480, 10, 22
"""A page's pixels, its lines, and the letters that a line has at most."""
HEIGHT, WIDTH, AT_ONCE = 48, 480, 12
"""What lines are scaled to, and how many are read together."""
SEEN, SURE, WIDER = 0.3, 0.5, 1.6
"""A pixel's least probability, a box's least mean, and how far it reaches beyond its pixels, as PaddleOCR has it."""
FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSerif",
    "DejaVuSansMono",
    "DejaVuSerif-Bold",
    "STIXGeneral",
    "DejaVuSans-Oblique",
)


class Line(NamedTuple):
    """A line that was found.

    Attributes:
      box: left, top, right, bottom.
      text: what it says.
    """

    box: tuple[int, int, int, int]
    text: str


def load(folders: Folders) -> Subject:
    """Both networks, 4 pages for calibration and 50 of 10 lines that are held out."""
    detector, reader = (
        of_pypi("rapidocr", f"models/PP-OCRv6_{name}_small.onnx", "rapidocr") for name in ("det", "rec")
    )
    known, others = pages(4, held_out=False), pages(50, held_out=True)
    letters = alphabet(reader)
    find, read = runtimes.onnx(detector), runtimes.onnx(reader)
    crops = [crop(page, line.box) for page in known for line in _found(find, page)]
    lines = [np.stack(crops[at : at + 8]) for at in range(0, len(crops) - 7, 8)]
    network, other = onnx_file.read(detector), onnx_file.read(reader)
    pixels = [scaled(page)[None] for page in known]
    # All that is read is read surely: of such probabilities no error is felt until it is too large.
    how: dict[str, Any] = {"setting": "rate1e-9", "bits": 8, "each_output": True, "counts": None}
    parts = {
        "detection": Part(detector, network, network.params, find, pixels, **how),
        "recognition": Part(reader, other, other.params, read, lines, **how),
    }

    def answers(runs: Mapping[str, Run]) -> list[list[Line]]:
        return [_read(runs["recognition"], letters, page, _found(runs["detection"], page)) for page in others]

    return Subject(parts, answers, compared, lambda path, ours, theirs: drawn(path, others[:2], ours, theirs))


def compared(ours: list[list[Line]], theirs: list[list[Line]]) -> dict[str, float]:
    """The share of the original's lines that are found and read alike; how many it found, and how many more we do."""
    pairs = [
        (line, mine) for own, other in zip(ours, theirs, strict=True) for line in other for mine in [_same(line, own)]
    ]
    alike = [mine is not None and mine.text == line.text for line, mine in pairs]
    more = sum(map(len, ours)) - sum(mine is not None for _, mine in pairs)
    return {"score": float(np.mean(alike)), "lines": len(alike), "more": more}


def _same(line: Line, others: list[Line]) -> Line | None:
    """The line at the same place: that which has its middle inside."""
    middle = (line.box[1] + line.box[3]) / 2
    return next(
        (
            each
            for each in others
            if each.box[1] < middle < each.box[3] and each.box[0] < line.box[2] and line.box[0] < each.box[2]
        ),
        None,
    )


def alphabet(path: Path) -> list[str]:
    """What the reader's classes stand for: nothing, the letters that its file names, a space."""
    import onnx  # as it was read

    told = {each.key: each.value for each in onnx.load(path).metadata_props}
    return ["", *told["character"].splitlines(), " "]


def pages(count: int, *, held_out: bool) -> list[np.ndarray]:
    """Pages ``[side, side, 3]`` uint8 of lines in several fonts, sizes and colors, with some blur and noise."""
    random = np.random.default_rng(held_out)
    words = " ".join(sentences(held_out=held_out)).split()
    start, found = 0, list[np.ndarray]()
    for _ in range(count):
        dark, light = random.integers(0, 90, 3), random.integers(180, 256, 3)
        paper, ink = (light, dark) if random.random() < 0.8 else (dark, light)
        page = Image.new("RGB", (SIDE, SIDE), tuple(map(int, paper)))
        draw, font = ImageDraw.Draw(page), _font(FONTS[random.integers(len(FONTS))], int(random.integers(18, 29)))
        for number in range(LINES):
            line = words[start % len(words)][:WIDEST]
            while len(line) + 1 + len(words[(start + 1) % len(words)]) <= WIDEST:
                start += 1
                line += " " + words[start % len(words)]
            start += 1
            draw.text((int(random.integers(8, 60)), 8 + number * 47), line, font=font, fill=tuple(map(int, ink)))
        pixels = ndimage.gaussian_filter(np.asarray(page, np.float32), (random.uniform(0, 0.7),) * 2 + (0,))
        found.append(np.clip(pixels + random.normal(0, random.uniform(0, 8), pixels.shape), 0, 255).astype(np.uint8))
    return found


def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    path = of_pypi("matplotlib", f"mpl-data/fonts/ttf/{name}.ttf", "matplotlib")
    return ImageFont.truetype(str(path), size)


def scaled(pixels: np.ndarray) -> np.ndarray:
    """``[height, width, 3]`` uint8 as the networks take it: channels first, -1 to 1."""
    return (pixels.astype(np.float32) / 127.5 - 1).transpose(2, 0, 1)


def crop(page: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """A line, scaled to the height of all; gray behind it, as PaddleOCR pads."""
    left, top, right, bottom = box
    width = min(max(round((right - left) * HEIGHT / (bottom - top)), 1), WIDTH)
    line = Image.fromarray(page[top:bottom, left:right]).resize((width, HEIGHT), Image.Resampling.BILINEAR)
    wide = np.zeros((3, HEIGHT, WIDTH), np.float32)
    wide[:, :, :width] = scaled(np.asarray(line))
    return wide


def boxes(seen: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Of a map of probabilities upright boxes, from the top down: of each connected patch, widened.

    Example:
      >>> seen = np.zeros((20, 40)); seen[5:11, 10:30] = 0.9
      >>> boxes(seen)
      [(6, 1, 34, 15)]
    """
    found, places = list[tuple[int, int, int, int]](), ndimage.label(seen > SEEN)[0]
    for rows, columns in ndimage.find_objects(places):
        if seen[rows, columns].mean() < SURE or min(rows.stop - rows.start, columns.stop - columns.start) < 3:
            continue
        height, width = rows.stop - rows.start, columns.stop - columns.start
        more = round(height * width * WIDER / (2 * (height + width)))
        bounds = (columns.start - more, rows.start - more, columns.stop + more, rows.stop + more)
        left, top, right, bottom = np.clip(bounds, 0, [*seen.shape[::-1]] * 2).tolist()
        found.append((left, top, right, bottom))
    return sorted(found, key=lambda box: (box[1], box[0]))


def _found(find: Run, page: np.ndarray) -> list[Line]:
    return [Line(box, "") for box in boxes(np.asarray(find(scaled(page)[None]))[0, 0])]


def _read(read: Run, letters: list[str], page: np.ndarray, lines: list[Line]) -> list[Line]:
    """The lines with what they say; always as many are read at once, so that one program does."""
    texts = list[str]()
    for at in range(0, len(lines), AT_ONCE):
        batch = np.zeros((AT_ONCE, 3, HEIGHT, WIDTH), np.float32)
        for place, line in enumerate(lines[at : at + AT_ONCE]):
            batch[place] = crop(page, line.box)
        texts += [spelled(each, letters) for each in np.asarray(read(batch))]
    return [line._replace(text=text) for line, text in zip(lines, texts, strict=False)]


def spelled(chances: np.ndarray, letters: list[str]) -> str:
    """What chances ``[steps, letters]`` spell: the likeliest of each step, once as long as it stays; 0 is nothing.

    Example:
      >>> spelled(np.eye(3)[[1, 1, 0, 1, 2, 0]], ["", "a", "b"])
      'aab'
    """
    best = chances.argmax(-1)
    return "".join(letters[now] for now, before in zip(best, [0, *best[:-1]], strict=True) if now not in (0, before))


def drawn(path: Path, pages: list[np.ndarray], ours: list[list[Line]], theirs: list[list[Line]]) -> None:
    """The first pages with the original's boxes in red and ours in green, and beside them what was read."""
    rows = []
    for page, own, other in zip(pages, ours, theirs, strict=False):
        both = Image.new("RGB", (3 * SIDE, SIDE), "white")
        both.paste(Image.fromarray(page), (0, 0))
        draw = ImageDraw.Draw(both)
        for lines, color, shift in ((other, "red", 0), (own, "green", 1)):
            for line in lines:
                draw.rectangle([n + shift for n in line.box], outline=color)
                draw.text(((1 + shift) * SIDE + 10, line.box[1]), line.text, font=_font("DejaVuSans", 18), fill=color)
        rows.append(np.asarray(both))
    Image.fromarray(np.vstack(rows)).save(path)
