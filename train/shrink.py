"""Cuts channels out of a published CIFAR ResNet and shows what each stage keeps of its accuracy.

    python -m train.shrink --weights resnet56.npz [--macs 0.5] [--steps 200] [--workdir DIR]

Stages: the network as published; cut, without any training; batch norm recalibrated; fine-tuned with the whole network
as the teacher. A run that was stopped goes on when the same command is given again.
"""

import argparse
import functools
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxcomp as jc
from train.common import options, report
from train.common.cutting import loss_gradients
from train.common.errors import UserError, exit_status
from train.common.progress import Progress
from train.common.published import (
    Published,
    add_options,
    add_training,
    batches,
    claim,
    distilled,
    fixed,
    load,
    recalibrated,
    reopen,
)
from train.common.scoring import score
from train.common.step import Batch, Functions, Variables, shrunk
from train.common.table import Table

NEED_GRADIENTS = ("taylor", "taylor_abs", "taylor_squared")


def gradients(of: str, model: Functions, variables: Variables, some: Iterator[Batch], seed: int) -> Iterator[Any]:
    """Yields gradients of the outputs in random directions, or of the mean cross-entropy; one tree a batch.

    In training mode, for batch norm then adapts to what is cut, as it will when it is recalibrated.
    """
    if of == "outputs":
        return jc.observe.output_gradients(_outputs(model), variables, ((batch,) for batch in some), seed)
    return loss_gradients(model, variables, some)


@functools.cache
def _outputs(model: Functions) -> Callable[..., jax.Array]:
    return lambda variables, batch: model.learn(variables, batch)[0]


def shrink(
    whole: Published, found: jc.trace.Groups, args: argparse.Namespace
) -> tuple[Functions, Variables, dict[str, np.ndarray]]:
    """Cuts in rounds: each ranks what the last one left, all channels together, and lets the others make up for it."""
    keep: dict[str, np.ndarray] = {}
    left = whole.variables
    with Progress("cutting", args.rounds) as progress:
        for number in range(1, args.rounds + 1):
            keep = _next_cut(whole, left, found, number, args)
            left = _refitted(whole, found, keep, args)
            progress.advance()
    small_model, small = shrunk(whole.model, left, whole.take(args, 1)[0], keep)
    return small_model, jax.device_get(small), keep


def _next_cut(
    whole: Published, left: Variables, found: jc.trace.Groups, number: int, args: argparse.Namespace
) -> dict[str, np.ndarray]:
    how: dict[str, Any] = {}
    if args.score in NEED_GRADIENTS:
        some = batches(whole.dataset.train, args.calibration_size, args.seed + number)
        some = itertools.islice(some, args.calibration)
        how["grads"] = gradients(args.gradients, whole.model, left, some, args.seed + number)
    choice = jc.rewrite.choose(
        score=args.score,
        macs=args.macs ** (number / args.rounds),
        scope="global",
        per=None if args.per == "channel" else args.per,
        maximum=args.maximum,
        combine=args.combine,
        **how,
    )
    return dict(choice(found, left))


def _refitted(
    whole: Published, found: jc.trace.Groups, keep: dict[str, np.ndarray], args: argparse.Namespace
) -> Variables:
    if not args.refit:
        return jc.rewrite.mask(found, whole.variables, keep)
    some = [(batch,) for batch in whole.take(args, args.refit, 1000)]
    return jc.posttrain.refit(_outputs(whole.model), whole.variables, some, found, keep, places=64)


class Cut(NamedTuple):
    """A network that was cut and recalibrated.

    Attributes:
      model: its functions.
      variables: its parameters and statistics.
      keep: which channels of each group are left.
    """

    model: Functions
    variables: Variables
    keep: dict[str, np.ndarray]


def cut(whole: Published, found: jc.trace.Groups, args: argparse.Namespace, stage: Callable[[str, Cut], Any]) -> Cut:
    """Cuts and recalibrates, or loads what an earlier run with the same settings left of that."""
    path = args.workdir / "cut.jcz"
    if path.exists():
        saved, _ = jc.pack.load(path)
        small_model, _ = shrunk(whole.model, whole.variables, whole.take(args, 1)[0], saved["keep"])
        return Cut(small_model, saved["variables"], saved["keep"])
    one = Cut(*shrink(whole, found, args))
    stage("one shot", one)
    one = one._replace(variables=recalibrated(one.model, one.variables, whole.take(args, args.recalibration, 2)))
    jc.pack.save(path, {"variables": one.variables, "keep": one.keep})
    return one


def line(row: Mapping[str, Any]) -> str:
    """A stage's row as it is printed."""
    sizes = f"{row['macs'] / 1e6:7.2f} M MACs  {row['parameters']:>9,} parameters"
    return f"{row['stage']:<14} {row['accuracy']:7.2%}  {sizes}"


def job(args: argparse.Namespace) -> None:
    """Runs all stages; prints what each of them scores, and leaves it in the run folder."""
    began = time.monotonic()
    if not 0 < args.macs <= 1 or args.rounds < 1:
        raise UserError(f"--macs must be in (0, 1] and --rounds at least 1, got {args.macs} and {args.rounds}")
    reopen(args)
    whole = load(args)
    test = whole.dataset.test
    found = jc.trace.groups(whole.model.infer, whole.variables, test.images[:1])
    # A target that no ranking reaches is refused before anything is ranked, and before the folder is taken.
    jc.rewrite.choose(score="l1", macs=args.macs, maximum=args.maximum)(found, whole.variables)
    claim(args)
    table = Table(args.workdir, line, name="stages")

    def stage(name: str, one: Cut) -> None:
        size = sum(leaf.size for leaf in jax.tree.leaves(one.variables["params"]))
        about = {"macs": found.macs(one.keep), "parameters": size}
        table.row(lambda: {"accuracy": score(one.model, one.variables, test)["accuracy"], **about}, stage=name)

    stage("published", Cut(whole.model, whole.variables, {}))
    one = cut(whole, found, args, stage)
    stage("recalibrated", one)
    if args.steps:
        small = distilled(whole, one.model, one.variables, args, name="finetune", later=1)
        # a short run's averages lag behind its weights
        small = recalibrated(one.model, small, whole.take(args, args.recalibration, 2))
        one = one._replace(variables=small)
        stage("fine-tuned", one)
    path = args.workdir / "model.jcz"
    size = jc.rewrite.save(path, one.model.infer, one.variables, metadata=whole.about)
    reduction, seconds = found.macs() / found.macs(one.keep), time.monotonic() - began
    summary = table.write(reduction=reduction, bytes=size, seconds=seconds)
    report.write_shrunk(args.workdir, summary, found, one.keep, fixed(args))
    print(f"{reduction:.2f}x fewer MACs; {size:,} bytes; {seconds:.0f} s; see {args.workdir / 'report.html'}")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = options.parser(__doc__)
    add = parser.add_argument
    add_options(parser, workdir="runs/shrink")
    add("--macs", type=float, default=0.5, help="the fraction of multiply-accumulates that may be left")
    add("--rounds", type=int, default=3, help="in which it is cut, each ranking anew what the last one left")
    add("--score", default="taylor_squared", help="what ranks the channels: a score of jaxcomp.rewrite.importance")
    add("--gradients", default="outputs", choices=["outputs", "loss"], help="whose gradients the score takes")
    add(
        "--per", default="macs", choices=["channel", "macs", "bytes"], help="what a channel is ranked by the score over"
    )
    add("--combine", default="joint", help="how the members of a group are combined")
    options.add(parser, maximum=0.9, calibration=12, recalibration=64)
    add("--calibration_size", type=int, default=64, help="images in a batch of --calibration, of which a round has all")
    add("--refit", type=int, default=4, help="batches on which, each round, layers are refitted; 0: they are not")
    add_training(parser, learning_rate=0.002, weight_decay=5e-4, every=100)
    return parser.parse_args(argv)


def main() -> int:
    """Runs the job of the command line and writes ``summary.json``."""
    args = parse()
    return exit_status(lambda: job(args))


if __name__ == "__main__":
    sys.exit(main())
