"""Drawings of answers: images with boxes or masks, a column an image, a row the truth, before and after compression."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxcomp.measure import canvas

COLORS = (
    canvas.ORANGE, canvas.SKY, canvas.GREEN, canvas.YELLOW, canvas.BLUE, canvas.PINK,
    "#9A8A00", "#8C564B", "#7F7F7F", "#17BECF", "#BCBD22", "#9467BD",
)  # fmt: skip
ROWS = ("labels", "before", "after")
SURE = 0.3
"""Boxes of a lower score are not drawn."""


def _panels(images: np.ndarray, width: float) -> tuple[Any, np.ndarray, int]:
    """A drawing of three rows, as many images beside each other as there is room for."""
    shown = max(1, min(len(images), 6 if width > 2 * canvas.PHONE else 3))
    side = width / (shown + 0.25)
    high = side * images.shape[1] / images.shape[2]
    drawing = canvas.blank(width, 3 * high + 0.45)
    axes = np.asarray(drawing.subplots(3, shown, squeeze=False))
    for row, name in zip(axes, ROWS, strict=True):
        for image, panel in zip(images, row, strict=False):
            gray = image.shape[-1] == 1
            panel.imshow(image[..., 0] if gray else image, cmap="gray" if gray else None, vmin=0, vmax=255)
            panel.set(xticks=[], yticks=[], autoscale_on=False)  # what juts out moves nothing
            panel.spines[:].set_visible(False)
        row[0].set_ylabel(name, fontsize=9, color=canvas.INK)
    return drawing, axes, shown


def boxes(
    images: np.ndarray, labels: np.ndarray, before: np.ndarray, after: np.ndarray, *, width: float = canvas.PAGE
) -> Any:
    """Draws boxes with their class and score.

    Args:
      images: ``[n, h, w, c]`` uint8.
      labels: ``[n, m, 5]``: left, top, right, bottom, class; -1 for no object.
      before: ``[n, k, 6]``: with a score, 0 for no box.
      after: likewise.
      width: inches.
    """
    drawing, axes, shown = _panels(images, width)
    known = [own[own[:, 4] >= 0] for own in labels[:shown]]
    rows = [known, *([own[own[:, 5] >= SURE] for own in each[:shown]] for each in (before, after))]
    for row, answers in zip(axes, rows, strict=True):
        for panel, answer in zip(row, answers, strict=False):
            for left, top, right, bottom, kind, *score in answer:
                color = COLORS[int(kind) % len(COLORS)]
                corners = [left, right, right, left, left], [top, top, bottom, bottom, top]
                panel.plot(*(np.array(each) - 0.5 for each in corners), color=color, linewidth=1.2)
                said = f"{int(kind)}" + "".join(f" {value:.2f}"[:5].replace(" 0.", " .") for value in score)
                look = {"facecolor": color, "edgecolor": "none", "pad": 0.6}
                place = {"va": "top", "clip_on": True, "fontsize": 5.5, "color": "#ffffff"}
                panel.text(max(left, 0), max(top, 0), said, bbox=look, parse_math=False, **place)
    return drawing


def masks(
    images: np.ndarray, labels: np.ndarray, before: np.ndarray, after: np.ndarray, *, width: float = canvas.PAGE
) -> Any:
    """Draws the classes of pixels over the images; class 0 is left as it is.

    Args:
      images: ``[n, h, w, c]`` uint8.
      labels: ``[n, h, w]``; 255 for no class, below 0 for no answer.
      before: likewise.
      after: likewise.
      width: inches.
    """
    drawing, axes, shown = _panels(images, width)
    for row, answers in zip(axes, (labels, before, after), strict=True):
        for panel, answer in zip(row, answers[:shown], strict=False):
            panel.imshow(_painted(answer), interpolation="nearest")
    return drawing


def _painted(classes: np.ndarray) -> np.ndarray:
    """``[h, w]`` -> ``[h, w, 4]`` in [0, 1]: a color a class, nothing for the background and for none."""
    kinds = np.where((classes < 0) | (classes == 255), 0, classes).astype(np.int64)
    table = np.array([[0.0] * 4, *([*_rgb(color), 0.75] for color in COLORS)])
    return table[np.where(kinds > 0, 1 + (kinds - 1) % len(COLORS), 0)]


def _rgb(color: str) -> Sequence[float]:
    return [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
