"""Makes small files of a published CIFAR ResNet without training, and scores each as another process loads it.

    python -m train.small_files --weights resnet20.npz [--data_dir DIR] [--settings bytes64000 rate3e-5 k16]

A setting is what the file may take, ``bytes64000``; what a bit is worth in a layer's squared results, ``rate3e-5``; or
how many values each layer shares, ``k16``. Batch norm is folded, layers have one scale each (``jc.posttrain``'s
``round_weights`` by a rate, or ``share``), biases have 8 bits. What layers and outputs are worth is measured by
gradients of the results, without labels. Calibration images are training images, augmented as in training. Every point
is written when it is known, and a run that was stopped goes on with the next.

    python -m train.small_files --weights resnet20.npz --settings rate1e-6 rate2e-6 --held_out 5000 --limits 64000

With ``--held_out`` a setting is judged by how far its answers are from the float network's on training images kept from
all else; of those that a limit of bytes leaves, the nearest alone is scored on the test set.
"""

import argparse
import functools
import sys
import time
from collections.abc import Container, Iterable, Mapping
from typing import Any

from jaxcomp.core.files import write_atomically
from train.common import data, options
from train.common.errors import UserError, exit_status
from train.common.published import add_options, claim, load, reopen
from train.common.scoring import score, score_in_new_process
from train.common.small import Setting, Smaller
from train.common.table import Table

FREE = ("settings", "limits")
SETTINGS = ("bytes100000", "bytes64000", "bytes45000", "bytes35000", "k16", "k8", "k4")


def job(args: argparse.Namespace) -> dict[str, Any]:
    """Makes and scores every file; returns the table."""
    settings = {name: Setting.of(name) for name in args.settings}
    if args.limits and not args.held_out:
        raise UserError("--limits chooses among settings by images that --held_out keeps: give --held_out 5000")
    reopen(args, *FREE)
    whole = load(args)
    claim(args, *FREE)
    points = Table(args.workdir, line)
    test = data.load(args.dataset, args.data_dir).test
    dense = points.fact("dense", lambda: score(whole.model, whole.variables, test)["accuracy"])
    print(f"float: {dense:.2%}", flush=True)
    images = [batch["image"] for batch in whole.take(args, args.calibration)]
    model, options = whole.model.infer, {"damping": args.damping, "places": args.places or None}
    smaller = Smaller(model, whole.variables, images, whole.about, **options)

    def point(name: str, setting: Setting) -> dict[str, Any]:
        began, path = time.process_time(), args.workdir / f"{name}.jcz"
        small = smaller(setting, path)
        seconds = time.process_time() - began
        write_atomically(args.workdir / f"{name}.txt", f"{small.report}\n".encode())
        found = {"bytes": path.stat().st_size, "cpu_seconds": seconds}
        return {**found, **({"lost": smaller.lost(small, whole.dataset.test)} if args.held_out else tested(name))}

    def tested(name: str) -> dict[str, Any]:
        accuracy = score_in_new_process(args.workdir / f"{name}.jcz", args.data_dir)["accuracy"]
        return {"accuracy": accuracy, "drop": dense - accuracy}

    def chosen(limit: int) -> dict[str, Any]:
        best = nearest(points.rows, settings, limit)
        return {**best, **tested(best["setting"])}

    for name, setting in settings.items():
        points.row(functools.partial(point, name, setting), setting=name)
    for limit in args.limits:
        points.row(functools.partial(chosen, limit), limit=limit, of=sorted(settings))
    return points.summary


def nearest(rows: Iterable[Mapping[str, Any]], settings: Container[str], limit: int) -> Mapping[str, Any]:
    """The row of these settings whose file, of those within so many bytes, is nearest the float network.

    Raises:
      UserError: if there is none.

    Example:
      >>> rows = [{"setting": name, "bytes": size, "lost": 1 / size} for name, size in (("k4", 50), ("k8", 90))]
      >>> [nearest(rows, settings, 100)["setting"] for settings in (["k4"], ["k4", "k8"])]
      ['k4', 'k8']
    """
    asked = [row for row in rows if "limit" not in row and row["setting"] in settings and row["bytes"] <= limit]
    if not asked:
        raise UserError(f"--limits: no setting's file takes {limit:,} bytes or fewer: give smaller ones")
    return min(asked, key=lambda row: row["lost"])


def line(row: Mapping[str, Any]) -> str:
    """A file's row as it is printed."""
    found = f"{row['setting']:<14}{row['bytes']:>11,} bytes{row['cpu_seconds']:>6.0f} s"
    found += f"{row['lost']:>9.4f} nats from the float network's" if "lost" in row else ""
    return found + (f"{row['accuracy']:>8.2%}{100 * row['drop']:>7.2f} points lost" if "drop" in row else "")


def table(summary: dict[str, Any]) -> str:
    """A line a file that was tested; Markdown. Drops are in points, seconds of a processor.

    Example:
      >>> row = {"setting": "k8", "accuracy": 0.91, "drop": 0.0073, "bytes": 90_000, "cpu_seconds": 9.0}
      >>> print(*table({"rows": [row]}).splitlines()[2:])
      | k8 | 91.00 % | 0.73 | 90,000 | 9 s |
    """
    lines = [["setting", "accuracy", "drop", "bytes", "CPU"], ["---", *["---:"] * 4]]
    for row in (row for row in summary["rows"] if "drop" in row):
        cells = [f"{100 * row['accuracy']:.2f} %", f"{100 * row['drop']:.2f}", f"{row['bytes']:,}"]
        lines.append([row["setting"], *cells, f"{row['cpu_seconds']:.0f} s"])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = options.parser(__doc__)
    add_options(parser, workdir="runs/small", held_out=True)
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), help="bytes64000, rate3e-5, k16")
    parser.add_argument("--limits", nargs="+", type=int, default=[], help="bytes, of which the best setting is tested")
    options.add(parser, calibration=4, places=256, damping=0.01)
    return parser.parse_args(argv)


def main() -> int:
    """Runs the job of the command line; writes ``summary.json``, and of each setting the file and its report."""
    args = parse()
    return exit_status(lambda: print(table(job(args))))


if __name__ == "__main__":
    sys.exit(main())
