"""Parts that figures share: a drawing without a display, its colors, panels and labels."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxcomp.core.errors import MissingExtraError

PAGE, PHONE = 11.1, 3.7  # inches between the margins of a report, on a screen of 1200 and of 390 pixels

# Okabe and Ito's palette, which most color-blind readers can tell apart.
BLUE, ORANGE, GREEN, PINK, SKY, YELLOW = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"
INK, SOFT, FAINT, GRAY = "#1c2330", "#5b6576", "#dfe3ea", "#b9c1ce"
SPARE = (GREEN, PINK, YELLOW, SKY)


def blank(width: float, height: float) -> Any:
    """Makes an empty ``matplotlib.figure.Figure`` of ``width`` by ``height`` inches, which no global state knows of.

    Raises:
      MissingExtraError: without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError('figures need matplotlib: pip install "jaxcomp[report]"') from error
    return Figure(figsize=(width, height), layout="constrained")


def grid(panels: int, columns: int, size: tuple[float, float], within: float) -> tuple[Any, list[Any]]:
    """Makes a drawing of panels, and returns it with its axes in reading order.

    Args:
      panels: how many.
      columns: so many beside each other at most.
      size: of a panel, inches; it may be as narrow as two thirds of that.
      within: the width of the drawing at most, inches: where there is less room, fewer panels stand in a line.
    """
    width, height = size
    columns = max(min(columns, panels, int(within / width * 1.5)), 1)
    lines = max(math.ceil(panels / columns), 1)
    drawing = blank(min(width * columns + 0.3, within), height * lines + 0.5)
    return drawing, [drawing.add_subplot(lines, columns, i + 1) for i in range(panels)]


def style(axes: Any, title: str, *, size: float = 10) -> None:
    """Gives a panel its title, and takes away what is not data.

    Args:
      axes: a panel of :func:`grid`.
      title: plain text.
      size: of the title, in points.
    """
    # A path may hold a $, which matplotlib would read as mathematics.
    axes.set_title(title, loc="left", fontsize=size, color=INK, fontweight="bold", parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(SOFT)
    axes.tick_params(labelsize=8, colors=SOFT, labelcolor=INK)
    axes.set_axisbelow(True)
    axes.grid(True, color=FAINT, linewidth=0.7)


def legend(drawing: Any, artists: Sequence[Any]) -> None:
    """Draws one legend above all panels, with each label once, in as many columns as fit.

    Args:
      drawing: of :func:`grid`.
      artists: matplotlib's, with labels; of those with one label the last shows how it looks.
    """
    handles = {str(artist.get_label()): artist for artist in artists}
    for columns in range(min(len(handles), 6), 0, -1):
        look = {"loc": "outside upper right", "ncols": columns, "frameon": False, "fontsize": 9, "labelcolor": INK}
        box = drawing.legend(handles.values(), handles, **look)
        for text in box.get_texts():
            text.set_parse_math(False)
        if columns == 1 or box.get_window_extent().width <= drawing.bbox.width:
            break
        box.remove()


def write(axes: Any, x: float, y: float, text: str, **layout: Any) -> None:
    """Writes a remark into a panel.

    Args:
      axes: of the panel.
      x, y: the place, in [0, 1] from its left lower corner.
      text: the remark.
      **layout: settings of matplotlib's ``Axes.text``.
    """
    axes.text(x, y, text, transform=axes.transAxes, fontsize=8, color=SOFT, parse_math=False, **layout)


def nothing(axes: Any) -> None:
    """Says so where there is nothing to draw."""
    axes.set(xticks=[], yticks=[])
    write(axes, 0.5, 0.5, "nothing to draw", ha="center", va="center")


def elide(path: str, length: int) -> str:
    """Shortens a ``path`` to its end, where it is longer than ``length`` characters.

    Example:
      >>> elide("Block_0/Conv_0/kernel", 12), elide("kernel", 12)
      ('…nv_0/kernel', 'kernel')
    """
    return path if len(path) <= length else "…" + path[1 - length :]


def is_float(values: Any) -> bool:
    """Returns whether an array holds floats, of NumPy or of JAX's own dtypes."""
    return jax.dtypes.issubdtype(getattr(values, "dtype", np.float64), np.floating)


def floats(values: Any) -> np.ndarray:
    """Flattens any floats to ``[n]`` float64.

    Example:
      >>> floats(np.ones((2, 2), np.float16))
      array([1., 1., 1., 1.])
    """
    return np.asarray(values).astype(np.float64).ravel()
