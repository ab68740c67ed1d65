"""The output of a job: a header, ``report.html`` in the run folder, and a table in the terminal."""

import datetime
import functools
import importlib.metadata
import itertools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

import jaxcomp as jc
from jaxcomp import measure
from jaxcomp.core.files import naming
from jaxcomp.core.paths import named_leaves
from train.common import mirror
from train.common.data import Dataset
from train.common.loop import Phase, read_metrics
from train.common.outcome import figures, sentence
from train.common.progress import watched
from train.common.workdir import whole_steps
from train.tasks.task import Picture


def header(workdir: Path, dataset: Dataset, parameters: Mapping[str, str], phases: list[Phase], mesh: str = "") -> None:
    """Says, on a terminal, what is about to run, on what, and where it goes on.

    Args:
      workdir: the run folder.
      dataset: what is learned.
      parameters: of each phase's model, in words.
      phases: in order.
      mesh: of devices, in words.
    """
    if not watched():
        return
    images = "x".join(map(str, dataset.train.images[:1].shape[1:]))
    counts = f"{len(dataset.train):,} images of {images} to learn from, {len(dataset.test):,} to score on"
    reached = {phase.name: max(whole_steps(workdir / "checkpoints" / phase.name), default=0) for phase in phases}
    begun = [name for name, step in reached.items() if step]
    goes_on = f"resuming at {begun[-1]} step {reached[begun[-1]]:,}" if begun else "new"
    lines = {"device": devices() + (f", mesh {mesh}" if mesh else ""), "data": f"{dataset.name}, {counts}"}
    lines |= {p.name: f"{parameters[p.name]}, {p.steps:,} steps of {p.batch_size} images" for p in phases}
    lines["workdir"] = f"{mirror.shown(str(workdir))} ({goes_on})"
    print(*(f"{name:<9}{text}" for name, text in lines.items()), sep="\n", file=sys.stderr)


def devices() -> str:
    """The devices, and the version of JAX."""
    found = jax.devices()
    return f"{len(found)} x {found[0].device_kind}, JAX {jax.__version__}"


def _made(what: str) -> str:
    """The line under a report's title: product, version, what, device and date."""
    try:
        version = importlib.metadata.version("jaxcomp")
    except importlib.metadata.PackageNotFoundError:  # a checkout that was not installed
        version = "(not installed)"
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"jaxcomp {version} · {what} · {devices()} · {date}"


def _figure(draw: Callable[..., Any], caption: str = "") -> measure.Block:
    """A drawing laid out for a screen and for a phone."""
    return measure.figure(draw(), narrow=draw(width=measure.PHONE), caption=caption)


def write(
    workdir: Path,
    summary: dict[str, Any],
    layers: jc.measure.Summary,
    *,
    before: Any,
    after: Any,
    config: dict[str, Any],
    pictures: Sequence[Picture],
    title: str,
) -> None:
    """Writes ``report.html``: key numbers, training curves, layers, weights before and after, answers, the final table.

    Args:
      workdir: the run folder; its ``metrics.jsonl`` is drawn.
      summary: as in ``summary.json``.
      layers: the compressed parameters, per layer.
      before: the teacher's parameters.
      after: the compressed student's.
      config: the job's configuration.
      pictures: of answers; those that name a file are written beside the report too.
      title: of the figure by which networks are compared.
    """
    kernels = [{p: x for p, x in named_leaves(tree).items() if x.ndim > 1} for tree in (before, after)]
    records = read_metrics(workdir / "metrics.jsonl")
    fields = ["loss", "accuracy", f"test_{summary['metric']}", "sparsity"]
    before_it, reached = figures(summary)
    student, teacher = config["student"]["model"], config["teacher"]["model"]
    size = f"{summary['compressed_bytes']:,} bytes of file, {summary['teacher_bytes']:,} of float32"
    blocks: list[measure.Block | str] = [
        _made(f"a {student} taught by a {teacher} on {summary['dataset']}, seed {summary['seed']}"),
        measure.tiles(
            [
                (f"teacher {title}", f"{before_it:.2%}", f"{summary['examples']:,} test images"),
                (f"compressed {title}", f"{reached:.2%}", _change(before_it, reached)),
                *_as_integers(summary, title, before_it),
                ("smaller", f"{summary['ratio']:.1f}x", size),
                ("sparsity", f"{summary['sparsity']:.1%}", "of the kernels' weights"),
            ]
        ),
        f"The {title} is that of model.jcz, loaded by a new process and scored on every test image; it equals the "
        "trained network's, prediction by prediction.",
        measure.heading("Training"),
        _figure(functools.partial(measure.training_curves, records, fields)),
        measure.heading("Layers"),
        _figure(functools.partial(measure.layer_sparsity, layers)),
        measure.summary_table(layers),
        measure.heading("Weights, teacher and compressed student"),
        _figure(functools.partial(measure.weight_histograms, *kernels)),
        *itertools.chain(*([measure.heading(each.heading), _figure(each.draw)] for each in pictures)),
        measure.heading("Result"),
        measure.table([{"": name, "value": value} for name, value in _result(summary, layers, title).items()]),
        measure.collapsible("Configuration", measure.code(json.dumps(config, indent=2, default=str))),
    ]
    for each in pictures:
        if each.file:
            with naming(workdir / each.file):
                each.draw().savefig(workdir / each.file, dpi=150)
    name = f"{summary['dataset']}: a {student}, {summary['ratio']:.1f}x smaller"
    measure.html_report(workdir / "report.html", name, blocks)


def _result(summary: dict[str, Any], layers: jc.measure.Summary, title: str) -> dict[str, Any]:
    """The last table's rows: each number with what it is, and its unit."""
    digest, figure = summary["predictions"], figures(summary)
    return {
        f"teacher {title}": f"{figure[0]:.2%}",
        f"compressed {title}": f"{figure[1]:.2%}",
        **_others(summary),
        "test images": f"{summary['examples']:,}",
        "teacher, bytes of float32": f"{summary['teacher_bytes']:,}",
        "compressed, bytes of codes and positions": f"{layers.total.coded_bytes:,}",
        "compressed, bytes of the file model.jcz": f"{summary['compressed_bytes']:,}",
        "the file is smaller than float32": f"{summary['ratio']:.1f}x",
        "sparsity of kernels": f"{summary['sparsity']:.2%}",
        "teacher, MACs an image": f"{summary['teacher_macs']:,}",
        "compressed, MACs an image (masks skip none)": f"{summary['compressed_macs']:,}",
        "seconds of training": f"{summary['train_seconds']:,.0f}",
        "seconds in all": f"{summary['wall_seconds']:,.0f}",
        "predictions, SHA-256": measure.Titled(f"{digest[:12]}…", digest),
    }


def _as_integers(summary: dict[str, Any], title: str, before: float) -> list[tuple[str, str, str]]:
    """The tile of the network that computes in integers, if one was made."""
    if (found := summary.get(f"integers_{summary['metric']}")) is None:
        return []
    detail = f"{_change(before, found)}, {summary['integers_bytes']:,} bytes"
    return [(f"in integers, {title}", f"{found:.2%}", detail)]


def _others(summary: dict[str, Any]) -> dict[str, str]:
    """Further figures of the task, the teacher's and the compressed network's; a list is one of classes."""
    pairs = {name.removeprefix("teacher_"): value for name, value in summary.items() if name.startswith("teacher_")}
    known = {summary["metric"], "bytes", "macs"}

    def said(value: Any) -> str:
        return ", ".join("none" if v is None else f"{v:.2%}" for v in (value if isinstance(value, list) else [value]))

    rows = {name: (value, summary[f"compressed_{name}"]) for name, value in pairs.items() if name not in known}
    return {f"{name}, teacher's and compressed": " / ".join(map(said, pair)) for name, pair in rows.items()}


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
    curves = ["loss", "test_accuracy"]
    stages = [{**row, "accuracy": f"{row['accuracy']:.2%}"} for row in summary["stages"]]
    blocks: list[measure.Block | str] = [
        _made(f"{Path(config['weights']).stem} on {config['dataset']}, seed {config['seed']}"),
        measure.tiles(
            [
                ("accuracy", f"{last['accuracy']:.2%}", f"{first['accuracy']:.2%} as published"),
                ("fewer MACs", f"{summary['reduction']:.2f}x", f"{last['macs']:,}"),
                ("parameters", f"{last['parameters']:,}", f"of {first['parameters']:,}"),
            ]
        ),
        measure.heading("Stages"),
        measure.table(stages),
        *([_figure(functools.partial(measure.training_curves, records, curves))] if records else []),
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
    for heading in ("", summary["metric"], "bytes", "smaller", "sparsity"):
        table.add_column(heading, justify="left" if not heading else "right")
    teacher, coded, file = summary["teacher_bytes"], layers.total.coded_bytes, summary["compressed_bytes"]
    accuracies = [f"{figure:.2%}" for figure in figures(summary)]
    table.add_row("teacher, float32", accuracies[0], f"{teacher:,}", "1x", "")
    table.add_row("codes and positions", accuracies[1], f"{coded:,}", f"{teacher / coded:.1f}x", "")
    table.add_row(
        "the file model.jcz", accuracies[1], f"{file:,}", f"{teacher / file:.1f}x", f"{summary['sparsity']:.1%}"
    )
    console = Console()
    console.print(layers)
    console.print(table)
    console.print(f"{summary['wall_seconds']:.0f} s; report: {mirror.shown(str(workdir / 'report.html'))}")


def _change(before: float, after: float) -> str:
    """What a figure lost or gained.

    Example:
      >>> _change(0.98, 0.9783), _change(0.9, 0.91)
      ('0.17 points lost', '1.00 points gained')
    """
    lost = 100 * (before - after)
    return f"{abs(lost):.2f} points {'gained' if lost < 0 else 'lost'}"
