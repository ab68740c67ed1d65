"""Figures of a compressed network, drawn without a display: layers, classes, histograms."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxcomp.core.arrays import check_values
from jaxcomp.core.errors import ArgumentError
from jaxcomp.measure import canvas
from jaxcomp.measure.summary import Summary
from jaxcomp.measure.text import percent

BINS = 60


def layer_sparsity(summary: Summary, *, width: float = canvas.PAGE) -> Any:
    """Draws the sparsity of each layer as a bar, with a tick at the one asked for.

    Args:
      summary: its rows that were asked to be sparse are drawn; all of them if none was.
      width: of the drawing, inches.

    Returns:
      A ``matplotlib.figure.Figure`` that grows with the number of layers.

    Raises:
      MissingExtraError: without matplotlib.

    Example:
      >>> from jaxcomp.measure import summary
      >>> len(layer_sparsity(summary({"a": np.eye(3), "b": np.ones(2)})).axes[0].patches)
      2
    """
    rows = [row for row in summary.rows if row.asked is not None] or list(summary.rows)
    drawing = canvas.blank(width, 1.0 + 0.25 * max(len(rows), 2))
    axes = drawing.add_subplot()
    canvas.style(axes, "sparsity by layer")
    if not rows:
        canvas.nothing(axes)
        return drawing
    drawn = [axes.barh(range(len(rows)), [r.sparsity for r in rows], 0.62, color=canvas.SKY, label="reached")]
    asked = [(row.asked, i) for i, row in enumerate(rows) if row.asked is not None]
    if asked:
        x, y = zip(*asked, strict=True)
        look = {"s": 110, "color": canvas.ORANGE, "marker": "|", "linewidths": 2, "zorder": 3}
        drawn.append(axes.scatter(x, y, label="asked", **look))
    canvas.legend(drawing, drawn)
    labels = [canvas.elide(row.path, _letters(width)) for row in rows]
    axes.set_yticks(range(len(rows)), labels, parse_math=False)
    for i, row in enumerate(rows):
        share = percent(row.sparsity, 1)
        axes.text(1.01, i, share, transform=axes.get_yaxis_transform(), va="center", fontsize=8, color=canvas.INK)
    axes.set(xlim=(0, 1), ylim=(len(rows) - 0.4, -0.6))
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
    axes.grid(False, axis="y")
    return drawing


def _letters(width: float) -> int:
    """How many letters of a path a drawing has room for, beside what it draws."""
    return max(12, int(4.5 * width))


def class_confusion(labels: np.ndarray, predicted: np.ndarray, classes: int, *, width: float = canvas.PAGE) -> Any:
    """Draws how often each class was taken for each other, as counts.

    Args:
      labels: ``[n]`` integers, the classes; those below 0, which are no class, are left out.
      predicted: ``[n]`` integers, what they were taken for; likewise.
      classes: how many there are.
      width: inches at most.

    Returns:
      A ``matplotlib.figure.Figure``: a row a class, a column a prediction; what is right is not colored.

    Raises:
      ArgumentError: for shapes that differ, or integers of more classes.
      MissingExtraError: without matplotlib.

    Example:
      >>> drawing = class_confusion(np.array([0, 1, 1]), np.array([0, 1, 0]), 2)
      >>> [text.get_text() for text in drawing.axes[0].texts]
      ['1', '1', '1']
    """
    check_values({"labels": labels, "predicted": predicted}, "class_confusion")
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    if labels.shape != predicted.shape or max(labels.max(initial=-1), predicted.max(initial=-1)) >= classes:
        raise ArgumentError(
            f"labels and predicted must have one shape and be below {classes} classes, got shapes {labels.shape} and "
            f"{predicted.shape}, up to {labels.max(initial=-1)} and {predicted.max(initial=-1)}"
        )
    labels, predicted = (each[(labels >= 0) & (predicted >= 0)] for each in (labels, predicted))
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (labels, predicted), 1)
    side = min(width, 1.5 + 0.36 * classes)
    size = min(8, 20 * side / classes)
    drawing = canvas.blank(side, side)
    axes = drawing.add_subplot()
    canvas.style(axes, "what classes are taken for")
    axes.grid(False)
    wrong = np.where(np.eye(classes, dtype=bool), 0, counts)
    for i, j in np.argwhere(counts):
        # Filled squares of vectors: an image would be a resource that the page's policy refuses.
        share = 0.15 + 0.75 * wrong[i, j] / max(wrong.max(), 1) if i != j else 0.0
        x, y = j + np.array([-0.5, 0.5, 0.5, -0.5]), i + np.array([-0.5, -0.5, 0.5, 0.5])
        axes.fill(x, y, canvas.ORANGE, alpha=share)
        axes.text(j, i, f"{counts[i, j]}", ha="center", va="center", fontsize=size, color=canvas.INK)
    axes.set(xlim=(-0.5, classes - 0.5), ylim=(classes - 0.5, -0.5), xticks=range(classes), yticks=range(classes))
    axes.set_xlabel("predicted", fontsize=8, color=canvas.SOFT)
    axes.set_ylabel("class", fontsize=8, color=canvas.SOFT)
    return drawing


def layer_sensitivity(
    rows: Sequence[Any], *, harm: str = "KL divergence of the outputs, nats", width: float = canvas.PAGE
) -> Any:
    """Draws what each layer loses by each choice, on a logarithmic axis: a line of marks a layer, a color a choice.

    The layer that loses most stands first. A harm that is infinite or NaN is drawn beyond all others, and named.

    Args:
      rows: ``jaxcomp.search.sensitivity(...).rows``, or whatever has ``path``, ``option`` and ``harm``.
      harm: the title of the axis: what was measured, and its unit.
      width: of the drawing, inches.

    Returns:
      A ``matplotlib.figure.Figure`` that grows with the number of layers.

    Raises:
      ArgumentError: if there is no row.
      MissingExtraError: without matplotlib.

    Example:
      >>> from types import SimpleNamespace as Row
      >>> rows = [Row(path="conv", option="4", harm=0.1), Row(path="conv", option="8", harm=0.0)]
      >>> len(layer_sensitivity(rows).axes[0].collections)
      2
    """
    if not rows:
        raise ArgumentError("layer_sensitivity needs at least one row to draw")
    worst: dict[str, float] = {}
    for row in rows:
        worst[row.path] = max(worst.get(row.path, 0.0), row.harm if math.isfinite(row.harm) else math.inf)
    paths, options = sorted(worst, key=worst.__getitem__, reverse=True), list(dict.fromkeys(row.option for row in rows))
    drawing = canvas.blank(width, 1.2 + 0.25 * max(len(paths), 2))
    axes = drawing.add_subplot()
    canvas.style(axes, "harm by layer, largest first")
    axes.set_xlabel(harm, fontsize=8, color=canvas.SOFT)
    finite = [row.harm for row in rows if math.isfinite(row.harm)]
    least = min((harm for harm in finite if harm > 0), default=1.0) / 2
    most = 10 * max([*finite, least])
    palette, drawn = (canvas.BLUE, canvas.ORANGE, *canvas.SPARE, canvas.INK), []
    for i, option in enumerate(options):
        own = [row for row in rows if row.option == option]
        places = [paths.index(row.path) for row in own]
        x = [max(row.harm, least) if math.isfinite(row.harm) else most for row in own]
        drawn.append(axes.scatter(x, places, s=26, color=palette[i % len(palette)], label=str(option), zorder=3))
    for place in {paths.index(row.path) for row in rows if not math.isfinite(row.harm)}:
        axes.annotate("not finite", (most, place), xytext=(6, 0), textcoords="offset points", va="center")
    canvas.legend(drawing, drawn)
    axes.set_yticks(range(len(paths)), [canvas.elide(path, _letters(width)) for path in paths], parse_math=False)
    axes.set(ylim=(len(paths) - 0.4, -0.6), xscale="log")
    return drawing


def weight_histograms(before: Mapping[str, Any], after: Mapping[str, Any], *, width: float = canvas.PAGE) -> Any:
    """Draws how the values of each parameter are distributed before and after compression.

    Counts are on a log axis. Zeros of ``after`` are not drawn as a bar but written as a share, since they
    would dwarf all else.

    Args:
      before: arrays of any shape, by path (``named_leaves(params)``); those that hold no floats are left out.
      after: arrays of the same paths; a path that only one of both holds is drawn with that one alone.
      width: inches at most.

    Returns:
      A ``matplotlib.figure.Figure`` with a panel a path, four in a line where there is room.

    Raises:
      MissingExtraError: without matplotlib.

    Example:
      >>> w = np.linspace(-1, 1, 50)
      >>> drawing = weight_histograms({"conv/kernel": w}, {"conv/kernel": np.where(abs(w) < 0.5, 0, w)})
      >>> drawing.axes[0].texts[0].get_text()
      '48.0% zero'
    """
    check_values({"before": before, "after": after}, "weight_histograms")
    before, after = ({p: w for p, w in side.items() if canvas.is_float(w)} for side in (before, after))
    paths = list(dict.fromkeys([*before, *after]))
    drawing, panels = canvas.grid(max(len(paths), 1), 4, (2.7, 1.8), width)
    if not paths:
        canvas.nothing(panels[0])
    for axes, path in zip(panels, paths, strict=False):
        canvas.style(axes, canvas.elide(path, 30 if width > 6 else 20), size=8)
        _histogram(axes, before.get(path), after.get(path))
    canvas.legend(drawing, [patch for axes in panels for patch in axes.patches])
    return drawing


def _histogram(axes: Any, before: Any, after: Any) -> None:
    curves = {"before": before, "after": after}
    values = {name: canvas.floats(array) for name, array in curves.items() if array is not None}
    finite = {name: array[np.isfinite(array)] for name, array in values.items()}
    lost = sum(array.size for array in values.values()) - sum(array.size for array in finite.values())
    remarks = [f"{lost:,} not finite"] if lost else []
    zeros = np.count_nonzero(values.get("after", np.ones(1)) == 0)
    if zeros:
        remarks.insert(0, f"{percent(zeros / values['after'].size, 1)} zero")
        finite["after"] = finite["after"][finite["after"] != 0]
    _stairs(axes, finite)
    canvas.write(axes, 0.98, 0.96, "\n".join(remarks), ha="right", va="top")


def _stairs(axes: Any, finite: Mapping[str, np.ndarray]) -> None:
    pooled = np.concatenate([*finite.values(), np.zeros(0)])
    if not pooled.size:
        axes.set(xticks=[], yticks=[])
        return
    low, high = pooled.min(), pooled.max()
    largest = max(abs(low), abs(high))
    if high - low <= 1e-9 * largest or largest == 0:
        # Values that are all alike still need a bin of some width.
        low, high = low - 0.5 * (largest or 1), high + 0.5 * (largest or 1)
    edges = np.linspace(low, high, BINS + 1)
    axes.set_yscale("log")
    axes.minorticks_off()
    colors = {"before": canvas.GRAY, "after": canvas.ORANGE}
    for name, array in finite.items():
        # The axis starts at half a count, so that a single weight is still seen.
        counts = np.maximum(np.histogram(array, edges)[0], 0.5)
        fill = name == "before"
        axes.stairs(counts, edges, baseline=0.5, fill=fill, color=colors[name], linewidth=1, label=name)
    # Room for the remark above the highest bar.
    axes.set_ylim(0.5, 8 * axes.dataLim.y1)
    axes.locator_params(axis="x", nbins=4)
