"""MediaPipe's selfie segmentation: which pixels are a person's (npm ``@mediapipe/selfie_segmentation``, Apache-2.0)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from train.packaged import photographs, runtimes
from train.packaged.subject import Folders, Part, Run, Subject
from train.readers import litert_file

SIDE = 256
SOFT = 4.0
"""What logits are divided by, that a pixel which is all but sure still counts."""


def load(folders: Folders) -> Subject:
    """The network, 48 composed scenes for calibration and 36 photographs that are held out."""
    path = folders.of_npm("@mediapipe/selfie_segmentation", "selfie_segmentation.tflite")
    network = litert_file.read(path)
    known = photographs.scenes(48, SIDE).astype(np.float32) / 255
    others = photographs.held_out(folders, SIDE)

    def answers(runs: Mapping[str, Run]) -> np.ndarray:
        return np.concatenate([np.asarray(runs["selfie"](image[None].astype(np.float32) / 255)) for image in others])

    batches = [*known.reshape(6, 8, SIDE, SIDE, 3)]
    # Channels of depthwise convolutions differ widely.
    how: dict[str, Any] = {"bits": 8, "each_output": True, "counts": softened}
    part = Part(path, network, network.params, runtimes.litert(path), batches, "bytes90000", **how)
    return Subject({"selfie": part}, answers, compared, lambda path, ours, theirs: drawn(path, ours, theirs, others))


def softened(chances: jax.Array) -> jax.Array:
    """Chances as they would be with smaller logits.

    Example:
      >>> [round(float(x), 2) for x in softened(jnp.array([0.5, 0.999, 1.0]))]
      [0.5, 0.85, 0.98]
    """
    sure = 1 - jnp.finfo(chances.dtype).eps
    return jax.nn.sigmoid(jax.scipy.special.logit(jnp.clip(chances, 1 - sure, sure)) / SOFT)


def compared(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    """The mean over photographs of the masks' intersection over union, the least, and of how many photographs.

    Where the original sees less than one pixel in a hundred there is no person to find: these are not counted.
    """
    own, other = (each.reshape(len(each), -1) > 0.5 for each in (ours, theirs))
    there = other.mean(axis=1) > 0.01
    overlap = (own & other).sum(axis=1)[there] / (own | other).sum(axis=1)[there]
    return {"score": float(overlap.mean()), "least": float(overlap.min()), "photographs": int(there.sum())}


def drawn(path: Path, ours: np.ndarray, theirs: np.ndarray, images: np.ndarray) -> None:
    """The photographs; people as the original sees them, red; as ours does, green; where both do, white."""
    rows = []
    for image, own, other in zip(images[::6], ours[::6], theirs[::6], strict=True):
        masks = np.stack([other[..., 0], own[..., 0], np.minimum(own, other)[..., 0]], axis=-1) > 0.5
        rows.append(np.hstack([image, (255 * masks).astype(np.uint8)]))
    half = len(rows) // 2
    Image.fromarray(np.hstack([np.vstack(rows[:half]), np.vstack(rows[half:])])).save(path)
