"""What a finished job shows: ``report.html`` in the run folder, and a table in the terminal."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jaxcomp as jc
from jaxcomp import measure
from jaxcomp.core.paths import named_leaves
from train.common.loop import read_metrics
from train.results import sentence


def write(
    workdir: Path,
    summary: dict[str, Any],
    layers: jc.measure.Summary,
    *,
    before: Any,
    after: Any,
    config: dict[str, Any],
) -> None:
    """Writes ``report.html``: key numbers, training curves, layers, weights before and after, the final table.

    Args:
      workdir: the run folder; its ``metrics.jsonl`` is drawn.
      summary: as in ``summary.json``.
      layers: the compressed parameters, per layer.
      before: the teacher's parameters.
      after: the compressed student's.
      config: the job's configuration.
    """
    kernels = [{p: x for p, x in named_leaves(tree).items() if x.ndim > 1} for tree in (before, after)]
    records = read_metrics(workdir / "metrics.jsonl")
    fields = ["loss", "accuracy", "test_accuracy", "sparsity"]
    dropped = 100 * (summary["teacher_accuracy"] - summary["compressed_accuracy"])
    blocks: list[measure.Block | str] = [
        measure.tiles(
            [
                ("teacher accuracy", f"{summary['teacher_accuracy']:.2%}", f"{summary['teacher_bytes']:,} bytes"),
                ("compressed accuracy", f"{summary['compressed_accuracy']:.2%}", f"{dropped:+.2f} points lost"),
                ("smaller", f"{summary['ratio']:.1f}x", f"{summary['compressed_bytes']:,} bytes"),
                ("sparsity", f"{summary['sparsity']:.1%}", "of the kernels' weights"),
            ]
        ),
        "The accuracy is that of model.jcz, loaded by a new process and scored on every test image; it equals the "
        "trained network's, prediction by prediction.",
        measure.heading("Training"),
        measure.figure(measure.training_curves(records, fields)),
        measure.heading("Layers"),
        measure.figure(measure.layer_sparsity(layers)),
        measure.summary_table(layers),
        measure.heading("Weights, teacher and compressed student"),
        measure.figure(measure.weight_histograms(*kernels)),
        measure.heading("Result"),
        measure.table([{"": name.replace("_", " "), "value": value} for name, value in summary.items()]),
        measure.collapsible("Configuration", measure.code(json.dumps(config, indent=2, default=str))),
    ]
    measure.html_report(workdir / "report.html", f"{summary['dataset']}, seed {summary['seed']}", blocks)


def write_shrunk(
    workdir: Path, summary: dict[str, Any], found: jc.trace.Groups, keep: Mapping[str, Any], config: dict[str, Any]
) -> None:
    """Writes ``report.html`` of a run of :mod:`train.shrink`: each stage's accuracy, and what is left of each group."""
    first, last = summary["stages"][0], summary["stages"][-1]
    records = read_metrics(workdir / "metrics.jsonl")
    groups = [
        {
            "group": group.name,
            "channels": group.size,
            "left": int(sum(keep[group.name])),
            "share left": measure.Bar(float(sum(keep[group.name]) / group.size)),
        }
        for group in found
    ]
    stages = [{**row, "accuracy": f"{row['accuracy']:.2%}"} for row in summary["stages"]]
    blocks: list[measure.Block | str] = [
        measure.tiles(
            [
                ("accuracy", f"{last['accuracy']:.2%}", f"{first['accuracy']:.2%} as published"),
                ("fewer MACs", f"{summary['reduction']:.2f}x", f"{last['macs']:,}"),
                ("parameters", f"{last['parameters']:,}", f"of {first['parameters']:,}"),
            ]
        ),
        measure.heading("Stages"),
        measure.table(stages),
        *([measure.figure(measure.training_curves(records, ["loss", "test_accuracy"]))] if records else []),
        measure.heading("Channels"),
        "Channels of one group are cut together. What is not listed cannot be cut.",
        measure.table(groups),
        measure.collapsible("Configuration", measure.code(json.dumps(config, indent=2))),
    ]
    measure.html_report(
        workdir / "report.html", f"{Path(config['weights']).stem}, {summary['reduction']:.2f}x fewer MACs", blocks
    )


def show(summary: dict[str, Any], layers: jc.measure.Summary, workdir: Path) -> None:
    """Prints the result: tables on a terminal, one line elsewhere."""
    if not sys.stdout.isatty():
        print(sentence(summary, workdir))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{summary['dataset']}, seed {summary['seed']}, {summary['examples']:,} test images")
    for heading in ("", "accuracy", "bytes", "smaller", "sparsity"):
        table.add_column(heading, justify="left" if not heading else "right")
    table.add_row("teacher", f"{summary['teacher_accuracy']:.2%}", f"{summary['teacher_bytes']:,}", "1x", "")
    table.add_row(
        "model.jcz",
        f"{summary['compressed_accuracy']:.2%}",
        f"{summary['compressed_bytes']:,}",
        f"{summary['ratio']:.1f}x",
        f"{summary['sparsity']:.1%}",
    )
    console = Console()
    console.print(layers)
    console.print(table)
    console.print(f"{summary['wall_seconds']:.0f} s; report: {workdir / 'report.html'}")
