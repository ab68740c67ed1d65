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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxcomp as jc
from train import evaluate
from train.common import data, finetune, report, sealed
from train.common.errors import UserError, exit_status
from train.common.finetune import distilled
from train.common.progress import Progress
from train.common.published import Published, add_options, batches, claim, fixed, load, recalibrated, reopen
from train.common.step import Batch, Classifier, Model, ShrunkClassifier, Variables

NEED_GRADIENTS = ("taylor", "taylor_abs", "taylor_squared")


def gradients(of: str, model: Classifier, variables: Variables, some: Iterator[Batch], seed: int) -> Iterator[Any]:
    """Of the outputs in random directions, or of the mean cross-entropy; one tree a batch, in training mode.

    In training mode, for batch norm then adapts to what is cut, as it will when it is recalibrated.
    """
    if of == "outputs":
        return jc.observe.output_gradients(_outputs(model), variables, ((batch,) for batch in some), seed)
    return (_loss_gradient(model, variables, batch) for batch in some)


@functools.cache
def _outputs(model: Classifier) -> Callable[..., jax.Array]:
    return lambda variables, batch: model.train_logits(variables, batch)[0]


@functools.partial(jax.jit, static_argnums=0)
def _loss_gradient(model: Classifier, variables: Variables, batch: Batch) -> Any:
    def loss(params: Any) -> jax.Array:
        logits = _outputs(model)({**variables, "params": params}, batch)
        return jnp.mean(jc.distill.cross_entropy(logits, batch["label"]))

    return {"params": jax.grad(loss)(variables["params"])}


def shrink(
    whole: Published, found: jc.trace.Groups, args: argparse.Namespace
) -> tuple[ShrunkClassifier, Variables, dict[str, np.ndarray]]:
    """Cuts in rounds: each ranks what the last one left, all channels together, and lets the others make up for it."""
    # A target that no ranking reaches is refused before anything is ranked.
    keep = dict(jc.rewrite.choose(score="l1", macs=args.macs, maximum=args.maximum)(found, whole.variables))
    left = whole.variables
    with Progress("cutting", args.rounds) as progress:
        for number in range(1, args.rounds + 1):
            keep = _next_cut(whole, left, found, number, args)
            left = _refitted(whole, found, keep, args)
            progress.advance()
    small_model, small = ShrunkClassifier.cut(whole.model, left, whole.take(args, 1)[0], keep)
    return small_model, jax.device_get(small), keep


def _next_cut(
    whole: Published, left: Variables, found: jc.trace.Groups, number: int, args: argparse.Namespace
) -> dict[str, np.ndarray]:
    options: dict[str, Any] = {}
    if args.score in NEED_GRADIENTS:
        some = batches(whole.dataset.train, args.calibration_size, args.seed + number)
        some = itertools.islice(some, args.calibration)
        options["grads"] = gradients(args.gradients, whole.model, left, some, args.seed + number)
    choice = jc.rewrite.choose(
        score=args.score,
        macs=args.macs ** (number / args.rounds),
        scope="global",
        per=None if args.per == "channel" else args.per,
        maximum=args.maximum,
        combine=args.combine,
        **options,
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
    """A network that was cut.

    Attributes:
      model: its functions.
      variables: its parameters and statistics.
      keep: which channels of each group are left.
      stages: what each stage scored.
    """

    model: ShrunkClassifier
    variables: Variables
    keep: dict[str, np.ndarray]
    stages: list[dict[str, Any]]


def scored(
    name: str, model: Model, variables: Variables, test: data.Split, macs: int, stages: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The stages with one more, which is scored and printed."""
    accuracy = evaluate.score(model, variables, test)["accuracy"]
    size = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    print(f"{name:<14} {accuracy:7.2%}  {macs / 1e6:7.2f} M MACs  {size:>9,} parameters", flush=True)
    return [*stages, {"stage": name, "accuracy": accuracy, "macs": macs, "parameters": size}]


def cut(whole: Published, found: jc.trace.Groups, args: argparse.Namespace) -> Cut:
    """Cuts and recalibrates, or loads what an earlier run with the same settings left of that."""
    path = args.workdir / "cut.jcz"
    if path.exists():
        claim(args)
        saved, earlier = jc.pack.load(path)
        small_model, _ = ShrunkClassifier.cut(whole.model, whole.variables, whole.take(args, 1)[0], saved["keep"])
        return Cut(small_model, saved["variables"], saved["keep"], earlier["stages"])
    test = whole.dataset.test
    stages = scored("published", whole.model, whole.variables, test, found.macs(), [])
    small_model, small, keep = shrink(whole, found, args)
    claim(args)  # once nothing more can be refused
    stages = scored("one shot", small_model, small, test, found.macs(keep), stages)
    small = recalibrated(small_model, small, whole.take(args, args.recalibration, 2))
    stages = scored("recalibrated", small_model, small, test, found.macs(keep), stages)
    jc.pack.save(path, {"variables": small, "keep": keep}, metadata={"stages": stages})
    return Cut(small_model, small, keep, stages)


def job(args: argparse.Namespace) -> None:
    """Runs all stages; prints what each of them scores, and leaves it in the run folder."""
    began = time.monotonic()
    if not 0 < args.macs <= 1 or args.rounds < 1:
        raise UserError(f"--macs must be in (0, 1] and --rounds at least 1, got {args.macs} and {args.rounds}")
    reopen(args)
    whole = load(args)
    test = whole.dataset.test
    found = jc.trace.groups(whole.model.logits, whole.variables, test.images[:1])
    small_model, small, keep, stages = cut(whole, found, args)
    if args.steps:
        small = distilled(whole, small_model, small, args, name="finetune", later=1)
        # a short run's averages lag behind its weights
        small = recalibrated(small_model, small, whole.take(args, args.recalibration, 2))
        stages = scored("fine-tuned", small_model, small, test, found.macs(keep), stages)
    path = args.workdir / "model.jcz"
    size = jc.pack.save(path, {"variables": small, "keep": keep}, metadata=whole.about)
    seconds, reduction = time.monotonic() - began, found.macs() / found.macs(keep)
    summary = {"stages": stages, "reduction": reduction, "bytes": size, "seconds": seconds}
    sealed.write(args.workdir / "summary.json", summary)
    report.write_shrunk(args.workdir, summary, found, keep, fixed(args))
    print(f"{reduction:.2f}x fewer MACs; {size:,} bytes; {seconds:.0f} s; see {args.workdir / 'report.html'}")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add_options(parser)
    add("--macs", type=float, default=0.5, help="the fraction of multiply-accumulates that may be left")
    add("--rounds", type=int, default=3, help="in which it is cut, each ranking anew what the last one left")
    add("--score", default="taylor_squared", help="what ranks the channels: a score of jaxcomp.rewrite.importance")
    add("--gradients", default="outputs", choices=["outputs", "loss"], help="whose gradients the score takes")
    add(
        "--per", default="macs", choices=["channel", "macs", "bytes"], help="what a channel is ranked by the score over"
    )
    add("--combine", default="joint", help="how the members of a group are combined")
    add("--maximum", type=float, default=0.9, help="the fraction of any one group that is cut at most")
    add("--calibration", type=int, default=12, help="batches a round whose gradients rank the channels")
    add("--calibration_size", type=int, default=64, help="images in each of them")
    add("--refit", type=int, default=4, help="batches on which, each round, layers are refitted; 0: they are not")
    add("--recalibration", type=int, default=64, help="batches over which batch norm is recalibrated")
    finetune.add_options(parser, learning_rate=0.002, weight_decay=5e-4, record_every=100, what="fine-tuning")
    add("--workdir", type=Path, default=Path("runs/shrink"), help="run folder")
    return parser.parse_args()


def main() -> int:
    """Runs the job of the command line and writes ``summary.json``."""
    args = parse()
    return exit_status(lambda: job(args))


if __name__ == "__main__":
    sys.exit(main())
