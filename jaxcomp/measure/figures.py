"""Figures of a compression run, drawn without a display: curves, layers, histograms."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxcomp.core.errors import ArgumentError
from jaxcomp.measure import canvas
from jaxcomp.measure.summary import Summary
from jaxcomp.measure.text import percent

PHASES = {"teacher": canvas.BLUE, "student": canvas.ORANGE}
SPARE = (canvas.GREEN, canvas.PINK, canvas.YELLOW, canvas.SKY)
BINS = 60


def training_curves(
    records: Sequence[Mapping[str, Any]],
    fields: Sequence[str] = ("loss", "accuracy", "sparsity"),
    *,
    width: float = canvas.PAGE,
) -> Any:
    """Draws metrics against the step, one panel a field, one line a phase.

    Args:
      records: as read from a ``metrics.jsonl``: each has ``step``, may have ``phase`` (else ``train``), and
        holds the fields that were measured then. A value that is None or not finite leaves a gap.
      fields: what to draw. Those named ``accuracy`` or ``sparsity``, or ending so (``test_accuracy``), are
        fractions and drawn in percent; others that span a factor of 50 are drawn on a log axis.
      width: inches at most; ``jaxcomp.measure.PHONE`` for a phone.

    Returns:
      A ``matplotlib.figure.Figure``; a phase has one color in all panels, and ``teacher`` and
      ``student`` have theirs in all figures.

    Raises:
      ArgumentError: if there is no field to draw.
      MissingExtraError: without matplotlib.

    Example:
      >>> drawing = training_curves([{"phase": "teacher", "step": 1, "loss": 2.3}], ["loss"])
      >>> drawing.axes[0].get_title(loc="left")
      'loss'
    """
    if not fields:
        raise ArgumentError("training_curves needs at least one field to draw, as 'loss'")
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        if record.get("step") is not None:
            lines.setdefault(str(record.get("phase", "train")), []).append(record)
    others = [phase for phase in lines if phase not in PHASES]
    colors = PHASES | {phase: SPARE[i % len(SPARE)] for i, phase in enumerate(others)}
    drawing, panels = canvas.grid(len(fields), 2 if len(fields) in (2, 4) else 3, (3.6, 2.6), width)
    for axes, field in zip(panels, fields, strict=True):
        canvas.style(axes, field.replace("_", " "))
        for phase, measured in lines.items():
            _curve(axes, field, measured, phase, colors[phase])
        _scale(axes, field)
    canvas.legend(drawing, [line for axes in panels for line in axes.lines])
    return drawing


def _curve(axes: Any, field: str, records: Sequence[Mapping[str, Any]], phase: str, color: str) -> None:
    points = sorted(((r["step"], r[field]) for r in records if field in r), key=lambda point: point[0])
    values = np.array([np.nan if value is None else float(value) for _, value in points])
    values[~np.isfinite(values)] = np.nan
    seen = np.count_nonzero(np.isfinite(values))
    if seen:
        steps = [step for step, _ in points]
        # A lone value between gaps would be no line at all.
        marker = "o" if seen < 25 else None
        axes.plot(steps, values, color=color, label=phase, linewidth=1.6, marker=marker, markersize=3)


def _scale(axes: Any, field: str) -> None:
    if not axes.lines:
        return canvas.nothing(axes)
    axes.set_xlabel("step", fontsize=8, color=canvas.SOFT)
    values = np.concatenate([line.get_ydata() for line in axes.lines])
    low, high = np.nanmin(values), np.nanmax(values)
    if field.split("_")[-1] in ("accuracy", "sparsity", "iou", "map50"):
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
    elif low > 0 and high > 50 * low:
        axes.set_yscale("log")
    if field == "sparsity":
        axes.set_ylim(-0.02, 1.02)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axes.locator_params(axis="x", nbins=5)


def tradeoff_curves(
    rows: Sequence[Mapping[str, Any]],
    x: str,
    fields: Sequence[str],
    line: str,
    *,
    repeats: str | None = None,
    marks: Sequence[Mapping[str, Any]] = (),
    near_one: bool = False,
    logarithmic: bool = False,
    width: float = canvas.PAGE,
) -> Any:
    """Draws what is lost against what is saved: one panel a field, one line a method.

    Args:
      rows: measurements, each a mapping of names to numbers.
      x: the field of the horizontal axis, a fraction.
      fields: those that are drawn, fractions too.
      line: the field that says to which line a row belongs.
      repeats: the field that repeated runs of one point have in common: their means are drawn, with bars of one sample
        deviation.
      marks: further points, of others: rows with ``x``, a name under ``line`` and some of the fields.
      near_one: spread the axis towards 1, as the logarithm of what is left, and the others by theirs.
      logarithmic: ``x`` is no fraction but a number, bytes say, by its logarithm.
      width: inches at most.

    Returns:
      A ``matplotlib.figure.Figure``; a line has one look in all panels.

    Raises:
      ArgumentError: if there is no row.
      MissingExtraError: without matplotlib.

    Example:
      >>> rows = [{"method": "magnitude", "sparsity": s, "accuracy": 1 - s**2} for s in (0.5, 0.9)]
      >>> len(tradeoff_curves(rows, "sparsity", ["accuracy"], line="method").axes[0].lines)
      1
    """
    if not rows:
        raise ArgumentError("tradeoff_curves needs at least one row to draw")
    names = list(dict.fromkeys(str(row[line]) for row in rows))
    palette = (canvas.BLUE, canvas.ORANGE, *SPARE, canvas.INK)
    drawing, panels = canvas.grid(len(fields), 2, (5.2, 3.8) if len(fields) > 1 else (7.2, 4.6), width)
    drawn = []
    for axes, field in zip(panels, fields, strict=True):
        canvas.style(axes, field)
        for i, name in enumerate(names):
            points = _points([row for row in rows if str(row[line]) == name], x, field, repeats)
            look = {"color": palette[i % len(palette)], "linestyle": "-" if i < len(palette) else "--"}
            drawn += axes.plot(*points[:, :2].T, label=name, linewidth=1.6, marker="o", markersize=3, **look)
            if np.any(points[:, 2] > 0):
                axes.errorbar(*points.T, fmt="none", ecolor=look["color"], elinewidth=1, capsize=2)
        for i, mark in enumerate(mark for mark in marks if field in mark):
            axes.scatter([mark[x]], [mark[field]], s=60, color=canvas.INK, marker="*", zorder=3)
            beside = {
                "textcoords": "offset points",
                "xytext": (5, -10 if i % 2 else 4),
                "fontsize": 7,
                "color": canvas.INK,
            }
            axes.annotate(str(mark[line]), (mark[x], mark[field]), **beside, parse_math=False)
        axes.set_xlabel(x, fontsize=8, color=canvas.SOFT)
        if near_one:
            _spread_towards_one(axes, max(float(row[x]) for row in (*rows, *marks)))
        for axis in (axes.yaxis,) if logarithmic else (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda value, _: f"{100 * value:.6g}%")
        if logarithmic:
            _by_logarithm(axes)
    canvas.legend(drawing, drawn)
    return drawing


def _by_logarithm(axes: Any) -> None:
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    ticks = [digit * 10.0**power for power in range(-9, 15) for digit in (1, 2, 5)]
    axes.set_xticks([tick for tick in ticks if low <= tick <= high])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")
    axes.minorticks_off()


def _points(rows: Sequence[Mapping[str, Any]], x: str, field: str, repeats: str | None) -> np.ndarray:
    """Points of a line, ``[n, 3]``: where, how much, and the deviation among repeated runs."""
    groups: dict[Any, list[tuple[float, float]]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(i if repeats is None else row[repeats], []).append((float(row[x]), float(row[field])))
    runs = [np.array(group) for group in groups.values()]
    points = [(*run.mean(axis=0), run[:, 1].std(ddof=1) if len(run) > 1 else 0.0) for run in runs]
    return np.array(sorted(points))


_TICKS = (0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9998, 0.9999)


def _spread_towards_one(axes: Any, most: float) -> None:
    """A horizontal axis by the logarithm of what is left, and a vertical one by that of what is lost."""
    limits = axes.get_xlim()[0], 1 - max(0.8 * (1 - most), 5e-5)
    axes.set_xscale("function", functions=(lambda v: -np.log(np.maximum(1 - v, 1e-6)), lambda v: 1 - np.exp(-v)))
    axes.set_xlim(*limits)
    axes.set_xticks([tick for tick in _TICKS if limits[0] <= tick <= limits[1]])
    axes.set_yscale("log")
    bottom, top = axes.get_ylim()
    ticks = [value * 10.0**power for power in range(-5, 1) for value in (1, 1.5, 2, 3, 5, 7)]
    axes.set_yticks([tick for tick in ticks if bottom <= tick <= top])
    axes.minorticks_off()


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
      labels: ``[n]`` integers, the classes.
      predicted: ``[n]`` integers, what they were taken for; those below 0, which are no class, are left out.
      classes: how many there are.
      width: inches at most.

    Returns:
      A ``matplotlib.figure.Figure``: a row a class, a column a prediction; what is right is not colored.

    Raises:
      MissingExtraError: without matplotlib.

    Example:
      >>> drawing = class_confusion(np.array([0, 1, 1]), np.array([0, 1, 0]), 2)
      >>> [text.get_text() for text in drawing.axes[0].texts]
      ['1', '1', '1']
    """
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (labels[predicted >= 0], predicted[predicted >= 0]), 1)
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
    palette, drawn = (canvas.BLUE, canvas.ORANGE, *SPARE, canvas.INK), []
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
    colors = {"before": canvas.GREY, "after": canvas.ORANGE}
    for name, array in finite.items():
        # The axis starts at half a count, so that a single weight is still seen.
        counts = np.maximum(np.histogram(array, edges)[0], 0.5)
        fill = name == "before"
        axes.stairs(counts, edges, baseline=0.5, fill=fill, color=colors[name], linewidth=1, label=name)
    # Room for the remark above the highest bar.
    axes.set_ylim(0.5, 8 * axes.dataLim.y1)
    axes.locator_params(axis="x", nbins=4)
