"""Prunes a published CIFAR ResNet in one shot, by every method, without training.

    python -m train.oneshot --weights resnet20.npz [--data_dir DIR] [--sparsities 0.5 0.8] [--methods ...]

Pruned are the kernels of all convolutions and of the last layer; sparsity is the share of zeros in them together. Each
network is scored as it is (raw) and with batch norm recalibrated. Calibration images are training images, augmented as
in training. Every point is written when it is known, and a run that was stopped goes on with the next.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jaxcomp as jc
from jaxcomp.core.files import naming
from jaxcomp.measure import tradeoff_curves
from train.common import sealed
from train.common.errors import exit_status
from train.common.published import add_held_out, add_options, load, recalibrated, reopen, resumed
from train.common.step import Classifier, Variables

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


def information(model: Classifier, variables: Variables, some: Iterable[Any]) -> dict[str, Any]:
    """What the logits feel of each weight: the sum of their squared derivatives.

    Not the loss's: on images that a network has learnt by heart it has almost no gradient.
    """
    return jc.observe.fisher_diagonal(
        jc.observe.output_gradients(model.logits, variables, ((b["image"],) for b in some))
    )


def job(args: argparse.Namespace) -> dict[str, Any]:
    """Scores every method at every sparsity; returns the table."""
    reopen(args, *FREE)
    whole = load(args)
    model, variables = whole.model, whole.variables
    path, summary = resumed(args, *FREE)

    def scored(variables: Variables) -> dict[str, float]:
        fresh = recalibrated(model, variables, whole.take(args, args.recalibration, 2))
        return {"accuracy": whole.accuracy(variables), "recalibrated": whole.accuracy(fresh)}

    if "dense" not in summary:
        summary["dense"] = scored(variables)
    images = [batch["image"] for batch in whole.take(args, args.calibration)]
    fisher = None
    print("{:<18}{:>9}  {:>7}  {:>12}  {:>7}".format("method", "sparsity", "raw", "recalibrated", "seconds"))
    known = {(row["method"], row["asked"]) for row in summary["rows"]}
    for name, sparsity in itertools.product(args.methods, args.sparsities):
        if (name, sparsity) in known:
            continue
        fisher = fisher or information(model, variables, whole.take(args, args.fisher, 1))
        began = time.monotonic()
        options = METHODS[name] | {"fisher": fisher, "places": args.places or None, "damping": args.damping}
        options |= {"maximum": args.maximum}
        sparse = jc.posttrain.sparsify(model.logits, variables, images, sparsity, **options)
        seconds = time.monotonic() - began
        row = {"method": name, "asked": sparsity, "sparsity": sparse.report.sparsity, "seconds": seconds}
        summary["rows"].append(row | scored(sparse.params))
        sealed.write(path, summary)
        print(_line(summary["rows"][-1]), flush=True)
    return summary


def _line(row: dict[str, Any]) -> str:
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add_options(parser)
    add("--sparsities", type=float, nargs="+", default=[0.5, 0.7, 0.8, 0.9], help="fractions of zeros")
    add("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), help="what to compare")
    add("--calibration", type=int, default=8, help="batches on which layers are pruned")
    add("--places", type=int, default=64, help="pixels of each convolution's result that count; 0: all")
    add("--damping", type=float, default=0.01, help="of the layers' second moments")
    add("--maximum", type=float, default=0.95, help="sparsity that global distribution exceeds in no layer")
    add("--fisher", type=int, default=16, help="batches on which the weight of each layer is found")
    add("--recalibration", type=int, default=32, help="batches over which batch norm is recalibrated")
    add_held_out(parser)
    add("--workdir", type=Path, default=Path("runs/oneshot"), help="run folder")
    return parser.parse_args(argv)


def main() -> int:
    """Runs the job of the command line; writes ``summary.json`` and ``accuracy.png``."""
    args = parse()
    return exit_status(lambda: draw(job(args), args.workdir / "accuracy.png"))


if __name__ == "__main__":
    sys.exit(main())
