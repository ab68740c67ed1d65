"""MediaPipe's BlazeFace of full range: where faces are (npm ``@mediapipe/face_detection``, Apache-2.0)."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw

from train.packaged import photographs, runtimes
from train.packaged.subject import Folders, Part, Run, Subject
from train.readers import litert_file
from train.tasks import boxes

SIDE, CELLS = 192, 48
SURE, SAME, CANDIDATES = 0.6, 0.3, 64
"""A face's least score, the overlap from which two boxes are of one face, and how many boxes are looked at."""

SOFT, FINER = 2.0, 4.0
"""What logits are divided by where errors of scores are felt, and how much more those of boxes count."""


def load(folders: Folders) -> Subject:
    """The network, 64 composed scenes for calibration and 36 photographs that are held out."""
    path = folders.of_npm("@mediapipe/face_detection", "face_detection_full_range.tflite")
    network = litert_file.read(path)
    known = scaled(photographs.scenes(64, SIDE))
    others = photographs.held_out(folders, SIDE)

    def answers(runs: Mapping[str, Run]) -> list[np.ndarray]:
        return [found(*runs["faces"](scaled(image)[None])) for image in others]

    batches = [*known.reshape(8, 8, SIDE, SIDE, 3)]
    # Channels of depthwise convolutions differ widely.
    how: dict[str, Any] = {"bits": 8, "each_output": True, "counts": counted}
    part = Part(path, network, network.params, runtimes.litert(path), batches, "bytes300000", **how)
    return Subject({"faces": part}, answers, compared, lambda path, ours, theirs: drawn(path, ours, theirs, others))


def scaled(pixels: np.ndarray) -> np.ndarray:
    """Bytes as the network takes them, -1 to 1."""
    return pixels.astype(np.float32) / 127.5 - 1


def counted(results: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Scores, and boxes in parts of their size, as far as there is a face: most cells have none.

    Args:
      results: boxes and logits, as of :func:`found`.
    """
    regressed, scores = results
    sure, size = jax.nn.sigmoid(scores), jnp.abs(regressed[..., 2:4]).mean(-1, keepdims=True)
    parts = jax.lax.stop_gradient(sure / jnp.maximum(size, 1)) * regressed
    return jax.nn.sigmoid(scores / SOFT), FINER * parts


def compared(ours: list[np.ndarray], theirs: list[np.ndarray]) -> dict[str, float]:
    """The share of the original's faces where a box of ours overlaps by 0.95; the mean overlap, the least; numbers."""
    overlaps = [float(_overlaps(own, other).max()) for own, group in zip(ours, theirs, strict=True) for other in group]
    more = sum(map(len, ours)) - sum(each > 0.5 for each in overlaps)
    figures = {"mean": float(np.mean(overlaps)), "least": float(np.min(overlaps)), "faces": len(overlaps), "more": more}
    return {"score": float(np.mean(np.asarray(overlaps) >= 0.95)), **figures}


def found(regressed: Any, scores: Any) -> np.ndarray:
    """Faces ``[n, 4]`` in pixels, the surest first: boxes of one face are averaged by their scores.

    Args:
      regressed: ``[1, cells * cells, 16]``: center, width and height in pixels from the cell's middle, then keypoints.
      scores: ``[1, cells * cells, 1]``: logits.
    """
    sure = 1 / (1 + np.exp(-np.clip(np.asarray(scores, np.float64).ravel(), -100, 100)))
    best = np.argsort(-sure)[:CANDIDATES]
    cells = (np.stack([best % CELLS, best // CELLS], axis=1) + 0.5) * SIDE / CELLS
    own = np.asarray(regressed, np.float64)[0, best, :4]
    middle, half = cells + own[:, :2], own[:, 2:] / 2
    places, weights = np.hstack([middle - half, middle + half]), sure[best]
    alike, left, faces = np.asarray(_iou(places, places)) > SAME, weights >= SURE, list[np.ndarray]()
    while left.any():
        first = np.argmax(left)  # the surest: candidates are in order
        group = (alike[first] | (np.arange(len(left)) == first)) & left
        faces.append(np.average(places[group], axis=0, weights=weights[group]))
        left &= ~group
    return np.asarray(faces).reshape(-1, 4)


@functools.cache
def _compiled() -> Any:
    return jax.jit(boxes.iou)


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(_compiled()(a.astype(np.float32), b.astype(np.float32)))


def _overlaps(faces: np.ndarray, face: np.ndarray) -> np.ndarray:
    """The overlap of each of some faces with one; one program for any number of them."""
    padded = np.zeros((CANDIDATES, 4))
    padded[: len(faces)] = faces
    return _iou(padded, np.broadcast_to(face, (CANDIDATES, 4)))[:, 0]


def drawn(path: Path, ours: list[np.ndarray], theirs: list[np.ndarray], images: np.ndarray) -> None:
    """The photographs with the original's boxes in red and ours in green."""
    rows = []
    for image, own, other in zip(images[::6], ours[::6], theirs[::6], strict=True):
        picture = Image.fromarray(image).resize((2 * SIDE, 2 * SIDE))
        draw = ImageDraw.Draw(picture)
        for faces, color in ((other, "red"), (own, "lime")):
            for face in faces:
                draw.rectangle([float(2 * n) for n in face], outline=color)
        rows.append(np.asarray(picture))
    Image.fromarray(np.vstack([np.hstack(rows[:3]), np.hstack(rows[3:])])).save(path)
