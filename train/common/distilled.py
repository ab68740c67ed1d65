"""Ways to distill beside each other: means and gains over seeds, as a table and drawn."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from jaxcomp.measure import canvas

NO_METHODS = ("teacher", "start")


def means(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float, int]]:
    """``{method: (mean accuracy, deviation, seeds)}`` of the students, the best first."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if row["method"] not in NO_METHODS:
            found.setdefault(row["method"], []).append(row["accuracy"])
    summed = {
        name: (statistics.mean(own), statistics.stdev(own) if len(own) > 1 else 0.0, len(own))
        for name, own in found.items()
    }
    return dict(sorted(summed.items(), key=lambda item: -item[1][0]))


def told(summary: Mapping[str, Any]) -> str:
    """A Markdown table: mean and deviation over seeds, what each method gains over labels alone, in points, and what
    was left out.

    Example:
      >>> rows = [{"method": "alone", "accuracy": 0.9}, {"method": "dkd", "accuracy": 0.92}]
      >>> print(told({"rows": rows, "left_out": {"hint": "one of the networks has no feature maps"}}))
      | method | seeds | accuracy, % | gain, points |
      | --- | ---: | ---: | ---: |
      | dkd | 1 | 92.00 ± 0.00 | +2.00 |
      | alone | 1 | 90.00 ± 0.00 |  |
      | hint |  | left out: one of the networks has no feature maps |  |
    """
    found = means(summary["rows"])
    lines = ["| method | seeds | accuracy, % | gain, points |", "| --- | ---: | ---: | ---: |"]
    for name, (mean, spread, seeds) in found.items():
        gain = f"{100 * (mean - found['alone'][0]):+.2f}" if "alone" in found and name != "alone" else ""
        lines.append(f"| {name} | {seeds} | {100 * mean:.2f} ± {100 * spread:.2f} | {gain} |")
    left_out = {name: why for name, why in summary.get("left_out", {}).items() if name not in found}
    return "\n".join([*lines, *(f"| {name} |  | left out: {why} |  |" for name, why in left_out.items())])


def drawn(rows: Sequence[Mapping[str, Any]], *, width: float = canvas.PAGE / 2) -> Any:
    """The methods' accuracies, a point each and its deviation, beside the student alone."""
    found = means(rows)
    drawing = canvas.blank(width, 0.9 + 0.28 * max(1, len(found)))
    axes = drawing.add_subplot()
    for place, (name, (mean, spread, _)) in enumerate(reversed(found.items())):
        color = canvas.GRAY if name == "alone" else canvas.BLUE
        axes.errorbar(100 * mean, place, xerr=100 * spread, fmt="o", color=color, capsize=3)
    if "alone" in found:
        axes.axvline(100 * found["alone"][0], color=canvas.GRAY, linewidth=1, zorder=0)
    axes.set_yticks(range(len(found)), list(reversed(found)))
    canvas.style(axes, "test accuracy, %")
    return drawing
