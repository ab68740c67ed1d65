"""Prunes a published CIFAR ResNet in one shot, by every method, without training.

    python -m train.oneshot --weights resnet20.npz [--data_dir DIR] [--sparsities 0.5 0.8] [--methods ...]

Pruned are the kernels of all convolutions and of the last layer; sparsity is the share of zeros in them together. Each
network is scored as it is (raw) and with batch norm recalibrated. Calibration images are training images, augmented as
in training. Every point is written when it is known, and a run that was stopped goes on with the next.
"""

import argparse
import functools
import itertools
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jaxcomp as jc
from jaxcomp.core.files import naming
from jaxcomp.measure import tradeoff_curves
from train.common import options
from train.common.errors import exit_status
from train.common.published import add_options, claim, load, recalibrated, reopen
from train.common.step import Functions, Variables
from train.common.table import Table

FREE = ("sparsities", "methods")  # what may change from one run in a folder to the next

METHODS: dict[str, dict[str, Any]] = {
    "magnitude": {"method": "magnitude"},
    "magnitude ERK": {"method": "magnitude", "distribution": "erk"},
    "magnitude global": {"method": "magnitude", "distribution": "global"},
    "Wanda": {"method": "wanda"},
    "WoodFisher global": {"method": "woodfisher", "distribution": "global"},
    "SparseGPT": {"method": "sparsegpt"},
    "SparseGPT global": {"method": "sparsegpt", "distribution": "global"},
    "OBC": {"method": "obc"},
    "OBC global": {"method": "obc", "distribution": "global"},
}


def information(model: Functions, variables: Variables, some: Iterable[Any]) -> dict[str, Any]:
    """Measures the logits' sensitivity to each weight: the sum of their squared derivatives.

    Not the loss's: on images that a network has learned by heart it has almost no gradient.
    """
    return jc.observe.fisher_diagonal(
        jc.observe.output_gradients(model.infer, variables, ((b["image"],) for b in some))
    )


def job(args: argparse.Namespace) -> dict[str, Any]:
    """Scores every method at every sparsity; returns the table."""
    reopen(args, *FREE)
    whole = load(args)
    model, variables = whole.model, whole.variables
    claim(args, *FREE)
    points = Table(args.workdir, line)

    def scored(variables: Variables) -> dict[str, float]:
        fresh = recalibrated(model, variables, whole.take(args, args.recalibration, 2))
        return {"accuracy": whole.accuracy(variables), "recalibrated": whole.accuracy(fresh)}

    points.fact("dense", lambda: scored(variables))
    images = [batch["image"] for batch in whole.take(args, args.calibration)]

    @functools.cache
    def fisher() -> dict[str, Any]:
        return information(model, variables, whole.take(args, args.fisher, 1))

    def point(name: str, sparsity: float) -> dict[str, Any]:
        how = {**METHODS[name], "fisher": fisher(), "places": args.places or None, "damping": args.damping}
        began = time.monotonic()
        sparse = jc.posttrain.sparsify(model.infer, variables, images, sparsity, maximum=args.maximum, **how)
        seconds = time.monotonic() - began
        return {"sparsity": sparse.report.sparsity, "seconds": seconds, **scored(sparse.params)}

    print("{:<18}{:>9}  {:>7}  {:>12}  {:>7}".format("method", "sparsity", "raw", "recalibrated", "seconds"))
    for name, sparsity in itertools.product(args.methods, args.sparsities):
        points.row(functools.partial(point, name, sparsity), method=name, asked=sparsity)
    return points.summary


def line(row: Mapping[str, Any]) -> str:
    """A point's row as it is printed."""
    numbers = f"{row['sparsity']:>9.2%}  {row['accuracy']:>7.2%}  {row['recalibrated']:>12.2%}  {row['seconds']:>7.0f}"
    return f"{row['method']:<18}{numbers}"


def draw(summary: dict[str, Any], path: Path) -> None:
    """Writes the figure: accuracy against sparsity, a panel raw and one recalibrated, a line a method."""
    fields = ("accuracy", "recalibrated")
    drawing = tradeoff_curves(summary["rows"], "sparsity", fields, line="method")
    with naming(path):
        drawing.savefig(path, dpi=150)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = options.parser(__doc__)
    add = parser.add_argument
    add_options(parser, workdir="runs/oneshot", held_out=True)
    add("--sparsities", type=float, nargs="+", default=[0.5, 0.7, 0.8, 0.9], help="fractions of zeros")
    add("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), metavar="METHOD", help="of %(choices)s")
    options.add(parser, calibration=8, recalibration=32, places=64, damping=0.01, maximum=0.95)
    add("--fisher", type=int, default=16, help="batches on which the weight of each layer is found")
    return parser.parse_args(argv)


def main() -> int:
    """Runs the job of the command line; writes ``summary.json`` and ``accuracy.png``."""
    args = parse()
    return exit_status(lambda: draw(job(args), args.workdir / "accuracy.png"))


if __name__ == "__main__":
    sys.exit(main())
