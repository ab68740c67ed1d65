"""Curves of a compression run: metrics against steps, accuracy against size; drawn without a display."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxcomp.core.errors import ArgumentError
from jaxcomp.measure import canvas

PHASES = {"teacher": canvas.BLUE, "student": canvas.ORANGE}


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
      fields: to draw. Those named ``accuracy`` or ``sparsity``, or ending so (``test_accuracy``), are
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
    colors = PHASES | {phase: canvas.SPARE[i % len(canvas.SPARE)] for i, phase in enumerate(others)}
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
      fields: to draw, fractions too.
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
    palette = (canvas.BLUE, canvas.ORANGE, *canvas.SPARE, canvas.INK)
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
    """Axes by logarithms: a horizontal one of the part that is left, a vertical one of the part that is lost."""
    limits = axes.get_xlim()[0], 1 - max(0.8 * (1 - most), 5e-5)
    axes.set_xscale("function", functions=(lambda v: -np.log(np.maximum(1 - v, 1e-6)), lambda v: 1 - np.exp(-v)))
    axes.set_xlim(*limits)
    axes.set_xticks([tick for tick in _TICKS if limits[0] <= tick <= limits[1]])
    axes.set_yscale("log")
    bottom, top = axes.get_ylim()
    ticks = [value * 10.0**power for power in range(-5, 1) for value in (1, 1.5, 2, 3, 5, 7)]
    axes.set_yticks([tick for tick in ticks if bottom <= tick <= top])
    axes.minorticks_off()
