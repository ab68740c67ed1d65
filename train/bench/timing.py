"""Times variants side by side: interleaved rounds, medians and quartiles, ratios to a baseline of the same run."""

import datetime
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxcomp.core.files import write_atomically

Row = dict[str, Any]


def interleave(variants: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, np.ndarray]:
    """Runs every variant once a round, after one run that compiles it.

    A machine that slows down slows all variants alike; the order turns round by round, so that none always follows
    the same one.

    Args:
      variants: name -> what to time. What it returns is waited for.
      rounds: how often each is timed.

    Returns:
      name -> ``[rounds, 2]``: seconds by the clock, and seconds of this process on all cores. The second is the
      steadier one where others use the machine too.
    """
    names = list(variants)
    for name in names:
        jax.block_until_ready(variants[name]())
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            seconds[name].append(clocked(variants[name]))
    return {name: np.array(times) for name, times in seconds.items()}


def clocked(function: Callable[[], Any]) -> tuple[float, float]:
    """Seconds by the clock, and of this process, of one call."""
    began, busy = time.perf_counter(), time.process_time()
    jax.block_until_ready(function())
    return time.perf_counter() - began, time.process_time() - busy


def summarize(seconds: Mapping[str, np.ndarray], baseline: str) -> list[Row]:
    """One row a variant: its quartiles in milliseconds, and how many times the baseline it takes.

    ``ratio`` is the ratio of the medians, ``ratio_quartiles`` those of the ratios within each round; the processor's
    time, ``cpu``, has its own ratio.

    Example:
      >>> twice = np.array([[1.0, 1.0], [2.0, 2.0]])
      >>> summarize({"plain": twice / 2, "twice": twice}, "plain")[1]["ratio"]
      2.0
    """
    rows, (base, base_cpu) = [], seconds[baseline].T
    for name, (clock, cpu) in ((name, times.T) for name, times in seconds.items()):
        rows.append(
            {
                "variant": name,
                "median_ms": 1e3 * float(np.median(clock)),
                "quartiles_ms": _quartiles(1e3 * clock),
                "ratio": float(np.median(clock) / np.median(base)),
                "ratio_quartiles": _quartiles(clock / base),
                "cpu_ms": 1e3 * float(np.median(cpu)),
                "cpu_ratio": float(np.median(cpu) / np.median(base_cpu)),
            }
        )
    return rows


def _quartiles(numbers: np.ndarray) -> list[float]:
    return np.quantile(numbers, [0.25, 0.75]).tolist()


def machine(module: str = "train.bench") -> dict[str, Any]:
    """Where, when and by which command the numbers came about."""
    device = jax.devices()[0]
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join([f"python -m {module}", *sys.argv[1:]]),
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "jax": jax.__version__,
        "platform": device.platform,
        "device": device.device_kind,
        "devices": jax.device_count(),
    }


def write(folder: Path, name: str, result: dict[str, Any]) -> Path:
    """Writes ``NAME.json``, the machine included."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    write_atomically(path, (json.dumps({"machine": machine()} | rounded(result), indent=1) + "\n").encode())
    return path


def rounded(tree: Any) -> Any:
    """Floats to four significant digits: no benchmark knows more."""
    if isinstance(tree, float):
        return float(f"{tree:.4g}")
    if isinstance(tree, dict):
        return {key: rounded(value) for key, value in tree.items()}
    return [rounded(value) for value in tree] if isinstance(tree, list | tuple) else tree


def show(title: str, rows: list[Row], baseline: str) -> None:
    """Prints a table: drawn on a terminal, plain text elsewhere."""
    headings = ["", "median ms", "quartiles", f"x {baseline}", "quartiles", "cpu ms", f"cpu x {baseline}"]
    cells = [
        [
            row["variant"],
            f"{row['median_ms']:.2f}",
            "{:.2f} - {:.2f}".format(*row["quartiles_ms"]),
            f"{row['ratio']:.3f}",
            "{:.3f} - {:.3f}".format(*row["ratio_quartiles"]),
            f"{row['cpu_ms']:.2f}",
            f"{row['cpu_ratio']:.3f}",
        ]
        for row in rows
    ]
    table(title, headings, cells)


def table(title: str, headings: list[str], cells: list[list[str]]) -> None:
    """Prints a table, its first column to the left: drawn on a terminal, plain text elsewhere."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(title=title)
        for heading in headings:
            table.add_column(heading, justify="right" if heading else "left")
        for line in cells:
            table.add_row(*line)
        Console().print(table)
        return
    print(f"\n{title}")
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    for line in [headings, *cells]:
        first, *others = (cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join([line[0].ljust(len(first)), *others]), flush=True)
