"""Prunes a published CIFAR ResNet round by round, until the target is met or its accuracy falls below a floor.

    python -m train.prune --weights resnet20.npz --target 0.9 --floor 0.90 [--data_dir DIR] [--workdir DIR]

Each round prunes a share of what is left of the kernels' weights by magnitude, trains with the whole network as the
teacher, averages batch norm anew and scores the test images. ``model.jcz`` is the best network: the sparsest that holds
the floor. A run that was stopped goes on when the same command is given again.
"""

import argparse
import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import optax
from ml_collections import ConfigDict

import jaxcomp as jc
from jaxcomp.core.files import write_atomically
from train import config as command_line
from train import data, evaluate
from train.calibration import FLIP, SHIFT, add_options, batches, recalibrated
from train.errors import UserError, exit_status
from train.loop import Phase, fit
from train.models.pretrained import MEAN, STD, load_resnet
from train.parallel import data_parallel
from train.step import Classifier, Variables, distillation_loss, init_state, make_step
from train.until import Rewind, Round, geometric, prune_until

REWIND: dict[str, Rewind] = {"none": None, "weights": "weights", "learning_rate": "learning rate"}
REASONS = {"target": "the target is met", "enough": "it is small enough", "floor": "the next is below the floor"}
LAST_RATE = 0.1  # of the learning rate at its peak: where a schedule that is not rewound goes on


class Published(NamedTuple):
    """A published network, and what it learns."""

    model: Classifier
    variables: Variables
    dataset: data.Dataset
    args: argparse.Namespace

    def recipe(self, sparsity: float) -> jc.Compressor:
        """What a round prunes."""
        pruner = jc.prune.prune(sparsity, distribution=self.args.distribution)
        return jc.partition([(".*/kernel", pruner)])

    def tune(self, variables: Variables, masks: Any, number: int, rewound: bool) -> Variables:
        """Distils the whole network into what a round left; the masks stand."""
        args = self.args
        if args.steps:
            recipe = self.recipe(0.0)._replace(update=lambda params, state, step, **extra: state)
            rate = optax.warmup_cosine_decay_schedule(0.0, args.learning_rate, max(1, args.steps // 20), args.steps)
            momentum = optax.sgd(rate if rewound else LAST_RATE * args.learning_rate, momentum=0.9, nesterov=True)
            optimizer = optax.chain(optax.add_decayed_weights(args.weight_decay), momentum)
            loss = distillation_loss(self.model, args.temperature, args.alpha)
            every = max(1, min(args.record_every, args.steps))
            step = make_step(self.model, recipe, optimizer, loss, record_every=every)
            start = init_state(variables, recipe, optimizer)._replace(compressor=masks)
            phase = Phase(f"round-{number}", args.steps, every, args.batch_size, args.seed + number, SHIFT, FLIP)
            parallel = data_parallel("jit")
            state, _ = fit(phase, step, start, self.variables, self.dataset, parallel, args.workdir, lambda state: {})
            variables = {"params": recipe.apply(state.params, state.compressor), **state.stats}
        some = itertools.islice(batches(self.dataset.train, args.batch_size, args.seed), args.recalibration)
        return recalibrated(self.model, variables, some)

    def score(self, variables: Variables) -> float:
        """Its accuracy on the test images."""
        return evaluate.score(self.model, variables, self.dataset.test)["accuracy"]


def job(args: argparse.Namespace) -> dict[str, Any]:
    """Prunes until there is a reason to end; returns the table."""
    began = time.monotonic()
    asked = geometric(args.target, args.share)
    if args.rewind == "weights" and args.early is None:
        raise UserError("--rewind weights needs --early FILE: the network as it was early in its training")
    module, variables, options = load_resnet(args.weights)
    early = None if args.early is None else load_resnet(args.early).variables
    dataset = data.load(args.dataset, args.data_dir)
    whole = Published(Classifier(module, MEAN, STD), variables, dataset, args)
    settings = {name: str(value) for name, value in vars(args).items() if name not in ("floor", "bytes")}
    command_line.claim(args.workdir, ConfigDict(settings | {"workdir": ""}))
    about = {"model": "resnet", "options": options, "classes": module.classes, "mean": MEAN, "std": STD}
    about |= {"dataset": args.dataset}

    def save(one: Round) -> int:
        metadata = {**about, "asked": one.asked, "accuracy": one.score}
        return jc.pack.save(args.workdir / "model.jcz", one.variables, metadata=metadata)

    def show(one: Round) -> None:
        held = "" if one.score >= args.floor else f"  below {args.floor:.2%}"
        print(f"{one.asked:>8.2%} pruned  {one.score:>7.2%}{held}", flush=True)

    outcome = prune_until(
        variables,
        whole.recipe,
        whole.tune,
        whole.score,
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
    write_atomically(args.workdir / "summary.json", json.dumps(summary, indent=2).encode())
    print(
        f"best: {outcome.best.asked:.2%} pruned, {outcome.best.score:.2%}, {size:,} bytes in "
        f"{args.workdir / 'model.jcz'}; {REASONS[outcome.why]}; {summary['seconds']:.0f} s"
    )
    return summary


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add_options(parser)
    add("--target", type=float, default=0.9, help="the fraction of zeros in kernels at which it ends")
    add("--bytes", type=int, help="the size of model.jcz at which it ends earlier")
    add("--floor", type=float, default=0.9, help="the accuracy below which it ends")
    add("--share", type=float, default=0.4, help="of the weights that are left, the fraction that a round prunes")
    add("--distribution", default="global", choices=["global", "uniform", "erk", "lamp"], help="of zeros over layers")
    add("--rewind", default="learning_rate", choices=list(REWIND), help="what is turned back after pruning")
    add("--early", type=Path, help="the network early in its training, to which weights are rewound")
    add("--steps", type=int, default=200, help="of training, a round; 0: batch norm alone is averaged anew")
    add("--learning_rate", type=float, default=0.02, help="of training, at its peak")
    add("--weight_decay", type=float, default=1e-4, help="of training")
    add("--temperature", type=float, default=4.0, help="of the teacher's softened outputs")
    add("--alpha", type=float, default=0.9, help="weight of the teacher's outputs beside the labels")
    add("--recalibration", type=int, default=32, help="batches over which batch norm is averaged anew")
    add("--record_every", type=int, default=50, help="steps from one record and checkpoint to the next")
    add("--workdir", type=Path, default=Path("runs/prune"), help="run folder")
    return parser.parse_args(argv)


def main() -> int:
    """Runs the job of the command line; writes ``model.jcz`` and ``summary.json``."""
    args = parse()
    return exit_status(lambda: job(args))


if __name__ == "__main__":
    sys.exit(main())
