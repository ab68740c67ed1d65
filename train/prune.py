"""Prunes a published CIFAR ResNet round by round, until the target is met or its accuracy falls below a floor.

    python -m train.prune --weights resnet20.npz --target 0.9 --floor 0.90 [--data_dir DIR] [--workdir DIR]

Each round prunes a share of what is left of the kernels' weights by magnitude, trains ``--steps`` with the whole
network as the teacher, averages batch norm anew and scores the test images. ``model.jcz`` is the best network: the
sparsest that holds the floor. A run that was stopped goes on when the same command is given again.
"""

import argparse
import functools
import sys
import time
from pathlib import Path
from typing import Any

import jaxcomp as jc
from train.common import options, sealed
from train.common.errors import UserError, exit_status
from train.common.iterative import Rewind, Round, geometric, prune_until
from train.common.published import Published, add_options, add_training, claim, distilled, load, recalibrated, reopen
from train.common.step import Variables

REWIND: dict[str, Rewind] = {"none": None, "weights": "weights", "learning_rate": "learning rate"}
REASONS = {"target": "the target is met", "enough": "it is small enough", "floor": "the next is below the floor"}
FREE = ("floor", "bytes")  # what may change from one run in a folder to the next
LAST_RATE = 0.1  # of the learning rate at its peak: where a schedule that is not rewound goes on


def recipe(sparsity: float, args: argparse.Namespace) -> jc.Compressor:
    """The pruning of a round."""
    return jc.partition([(".*/kernel", jc.prune.prune(sparsity, distribution=args.distribution))])


def tuned(
    whole: Published, args: argparse.Namespace, variables: Variables, masks: Any, number: int, rewound: bool
) -> Variables:
    """Distills the whole network into what a round left; the masks stand."""
    if args.steps:
        stands = recipe(0.0, args)._replace(update=lambda params, state, step, **extra: state)
        rate = None if rewound else LAST_RATE * args.learning_rate
        how = {"name": f"round-{number}", "later": number, "rate": rate, "recipe": stands, "masks": masks}
        variables = distilled(whole, whole.model, variables, args, **how)
    return recalibrated(whole.model, variables, whole.take(args, args.recalibration))


def job(args: argparse.Namespace) -> dict[str, Any]:
    """Prunes until there is a reason to end; returns the table."""
    began = time.monotonic()
    asked = geometric(args.target, args.share)
    if args.rewind == "weights" and args.early is None:
        raise UserError("--rewind weights needs --early FILE: the network as it was early in its training")
    reopen(args, *FREE)
    whole = load(args)
    early = None if args.early is None else Published.read(args.early, whole.dataset).variables
    claim(args, *FREE)

    def save(one: Round) -> int:
        metadata = {**whole.about, "asked": one.asked, "accuracy": one.score}
        return jc.pack.save(args.workdir / "model.jcz", one.variables, metadata=metadata)

    def show(one: Round) -> None:
        held = "" if one.score >= args.floor else f"  below {args.floor:.2%}"
        print(f"{one.asked:>8.2%} pruned  {one.score:>7.2%}{held}", flush=True)

    outcome = prune_until(
        whole.variables,
        lambda sparsity: recipe(sparsity, args),
        functools.partial(tuned, whole, args),
        whole.accuracy,
        asked=asked,
        floor=args.floor,
        enough=lambda one: args.bytes is not None and save(one) <= args.bytes,
        rewind=REWIND[args.rewind],
        early=early,
        folder=args.workdir / "rounds",
        seen=show,
    )
    size = save(outcome.best)
    summary = {"rounds": outcome.rounds, "why": outcome.why, "bytes": size, "seconds": time.monotonic() - began}
    summary |= {"sparsity": outcome.best.asked, "accuracy": outcome.best.score}
    sealed.write(args.workdir / "summary.json", summary)
    print(
        f"best: {outcome.best.asked:.2%} pruned, {outcome.best.score:.2%}, {size:,} bytes in "
        f"{args.workdir / 'model.jcz'}; {REASONS[outcome.why]}; {summary['seconds']:.0f} s"
    )
    return summary


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = options.parser(__doc__)
    add = parser.add_argument
    add_options(parser, workdir="runs/prune")
    add("--target", type=float, default=0.9, help="the fraction of zeros in kernels at which it ends")
    add("--bytes", type=int, help="the size of model.jcz at which it ends earlier")
    add("--floor", type=float, default=0.9, help="the accuracy below which it ends")
    add("--share", type=float, default=0.4, help="of the weights that are left, the fraction that a round prunes")
    add("--distribution", default="global", choices=["global", "uniform", "erk", "lamp"], help="of zeros over layers")
    add("--rewind", default="learning_rate", choices=list(REWIND), help="what is turned back after pruning")
    add("--early", type=Path, help="the network early in its training, to which weights are rewound")
    add_training(parser, learning_rate=0.02, weight_decay=1e-4, every=50)
    options.add(parser, recalibration=32)
    return parser.parse_args(argv)


def main() -> int:
    """Runs the job of the command line; writes ``model.jcz`` and ``summary.json``."""
    args = parse()
    return exit_status(lambda: job(args))


if __name__ == "__main__":
    sys.exit(main())
