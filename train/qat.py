"""Trains a published CIFAR ResNet to compute in few bits, and shows what each stage keeps of its accuracy.

    python -m train.qat --weights resnet20.npz --bits 4 --input_bits 4 [--steps 200] [--data_dir DIR] [--workdir DIR]

Stages: the network as published; rounded, on grids calibrated on training images; trained with learned step sizes, the
whole network as the teacher; and the integer network, whose int8 products are summed in int32. The first and the last
layer have 8 bits. A run that was stopped goes on when the same command is given again.
"""

import argparse
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

import jaxcomp as jc
from train.common import data, options
from train.common.errors import exit_status
from train.common.published import (
    Published,
    add_options,
    add_training,
    claim,
    distilled,
    load,
    recalibrated,
    reopen,
)
from train.common.rounding import Grids, as_tree, kernels, rounded
from train.common.scoring import score
from train.common.step import Functions, Variables
from train.common.table import Table

BATCH_NORM = ("live", "frozen", "folded")


def trained(whole: Published, model: Functions, variables: Variables, args: argparse.Namespace) -> Variables:
    """The variables after training, with batch statistics averaged anew if they were live."""
    after = jax.device_get(distilled(whole, model, variables, args, name="qat", later=1, kernels=kernels))
    if args.batch_norm != "live" or not args.recalibration:
        return after
    # a short run's averages lag behind its weights
    return recalibrated(model, after, whole.take(args, args.recalibration, 2))


def job(args: argparse.Namespace) -> dict[str, Any]:
    """Runs all stages; prints what each of them scores, and leaves it in the run folder."""
    began = time.monotonic()
    reopen(args)
    whole = load(args)
    test = whole.dataset.test
    claim(args)
    table = Table(args.workdir, lambda row: line(row, table.rows[0]), name="stages")

    def stage(name: str, model: Functions, variables: Variables) -> None:
        table.row(lambda: scored(model, variables, test), stage=name)

    stage("published", whole.model, whole.variables)
    grids = Grids(args.bits, args.input_bits, args.end_bits, args.affine, args.method, args.batch_norm)
    functions, start, infer = rounded(whole.model, whole.variables, whole.take(args, args.calibration), grids)
    stage("rounded", functions, start)
    after = trained(whole, functions, start, args) if args.steps else start
    stage("trained", functions, after)
    integers, packed = infer.quantized(as_tree(after), test.images[:1])
    deployed = Functions(integers)
    stage("integers", deployed, packed)
    size = jc.rewrite.save(args.workdir / "model.jcz", integers, packed, metadata=whole.about)
    same = agreement(functions, after, deployed, packed, test)
    summary = table.write(bytes=size, **same, seconds=time.monotonic() - began)
    print(integers.report)
    print(
        f"{size:,} bytes in {args.workdir / 'model.jcz'}; the integers' logits are within "
        f"{summary['logits_distance']:.1e} of those trained; {summary['seconds']:.0f} s"
    )
    return summary


def scored(model: Functions, variables: Variables, test: data.Split) -> dict[str, Any]:
    """The fields of a stage's row."""
    found = score(model, variables, test)
    return {name: found[name] for name in ("accuracy", "predictions")}


def line(row: Mapping[str, Any], first: Mapping[str, Any]) -> str:
    """A stage's row as it is printed, beside the network as published."""
    drop = 100 * (first["accuracy"] - row["accuracy"])
    return f"{row['stage']:<12} {row['accuracy']:7.2%}  {drop:+6.2f} points lost"


def agreement(
    trained: Functions, after: Variables, deployed: Functions, packed: Variables, test: data.Split
) -> dict[str, float]:
    """How far the integer network's logits are from those of the trained one, relative to the largest."""
    images = test.images[:128]
    one, other = (
        np.asarray(jax.jit(m.infer)(v, images), np.float64) for m, v in ((trained, after), (deployed, packed))
    )
    return {"logits_distance": float(np.abs(one - other).max() / np.abs(one).max())}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = options.parser(__doc__)
    add = parser.add_argument
    add_options(parser, workdir="runs/qat")
    add("--bits", type=int, default=4, help="of weights, 1 to 8")
    add("--affine", action="store_true", help="weights with a zero point a channel: of 2 bits four levels, not three")
    add("--input_bits", type=int, default=4, help="of what layers read, 1 to 8")
    add("--end_bits", type=int, default=8, help="of both in the first and in the last layer")
    add("--method", default="lsq", choices=["lsq", "pact"], help="whose gradients train the grids")
    add(
        "--batch_norm",
        default="live",
        choices=BATCH_NORM,
        help="live: with each batch's statistics, averaged anew at the end; frozen: with its running ones; folded: "
        "into the kernels (both need a fifth of the learning rate)",
    )
    options.add(parser, calibration=4, recalibration=32)
    add_training(parser, learning_rate=0.01, weight_decay=1e-4, every=50)
    return parser.parse_args(argv)


def main() -> int:
    """Runs the job of the command line; writes ``model.jcz`` and ``summary.json``."""
    args = parse()
    return exit_status(lambda: job(args))


if __name__ == "__main__":
    sys.exit(main())
