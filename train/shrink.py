"""Cuts channels out of a published CIFAR ResNet and shows what each stage keeps of its accuracy.

    python -m train.shrink --weights resnet56.npz [--macs 0.5] [--steps 200] [--workdir DIR]

Stages: the network as published; cut, without any training; batch norm recalibrated; fine-tuned with the whole network
as the teacher. A run that was stopped goes on when the same command is given again.
"""

import argparse
import functools
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

import jaxcomp as jc
from jaxcomp.core.files import write_atomically
from train import config as command_line
from train import data, evaluate, report
from train.calibration import FLIP, SHIFT, add_options, batches, recalibrated
from train.errors import UserError, exit_status
from train.loop import Phase, fit
from train.models.pretrained import MEAN, STD, load_resnet
from train.parallel import data_parallel
from train.progress import Progress
from train.step import Batch, Classifier, Model, ShrunkClassifier, Variables, distillation_loss, init_state, make_step

NEED_GRADIENTS = ("taylor", "taylor_abs", "taylor_squared")


def gradients(of: str, model: Classifier, variables: Variables, some: Iterator[Batch], seed: int) -> Iterator[Any]:
    """Of the outputs in random directions, or of the mean cross-entropy; one tree a batch, in training mode.

    In training mode, for batch norm then adapts to what is cut, as it will when it is recalibrated.
    """
    if of == "outputs":
        return jc.rewrite.output_gradients(_outputs(model), variables, ((batch,) for batch in some), seed)
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
    model: Classifier, variables: Variables, dataset: data.Dataset, found: jc.trace.Groups, args: argparse.Namespace
) -> tuple[ShrunkClassifier, Variables, dict[str, np.ndarray]]:
    """Cuts in rounds: each ranks what the last one left, all channels together, and lets the others make up for it."""
    some = next(batches(dataset.train, args.batch_size, args.seed))
    # A target that no ranking reaches is refused before anything is ranked.
    keep = dict(jc.rewrite.choose(score="l1", macs=args.macs, maximum=args.maximum)(found, variables))
    left = variables
    with Progress("cutting", args.rounds) as progress:
        for number in range(1, args.rounds + 1):
            keep = _next_cut(model, left, found, dataset, number, args)
            left = _refitted(model, variables, found, dataset, keep, args)
            progress.advance()
    small_model, small = ShrunkClassifier.cut(model, left, some, keep)
    return small_model, jax.device_get(small), keep


def _next_cut(
    model: Classifier,
    left: Variables,
    found: jc.trace.Groups,
    dataset: data.Dataset,
    number: int,
    args: argparse.Namespace,
) -> dict[str, np.ndarray]:
    options: dict[str, Any] = {}
    if args.score in NEED_GRADIENTS:
        some = itertools.islice(batches(dataset.train, args.calibration_size, args.seed + number), args.calibration)
        options["grads"] = gradients(args.gradients, model, left, some, args.seed + number)
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
    model: Classifier,
    variables: Variables,
    found: jc.trace.Groups,
    dataset: data.Dataset,
    keep: dict[str, np.ndarray],
    args: argparse.Namespace,
) -> Variables:
    if not args.refit:
        return jc.rewrite.mask(found, variables, keep)
    some = [
        (batch,) for batch in itertools.islice(batches(dataset.train, args.batch_size, args.seed + 1000), args.refit)
    ]
    return jc.rewrite.refit(found, _outputs(model), variables, some, keep, places=64)


def finetuned(
    model: ShrunkClassifier,
    variables: Variables,
    teacher: tuple[Classifier, Variables],
    dataset: data.Dataset,
    args: argparse.Namespace,
) -> Variables:
    """The variables after ``--steps`` of distillation from the whole network and from the labels."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, args.learning_rate, max(1, args.steps // 20), args.steps)
    decay = optax.add_decayed_weights(5e-4, mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params))
    optimizer = optax.chain(decay, optax.sgd(schedule, momentum=0.9, nesterov=True))
    loss = distillation_loss(teacher[0], args.temperature, args.alpha)
    every = max(1, min(args.record_every, args.steps))
    step = make_step(model, jc.identity(), optimizer, loss, record_every=every)
    start = init_state(variables, jc.identity(), optimizer)
    phase = Phase("finetune", args.steps, every, args.batch_size, args.seed + 1, SHIFT, FLIP)
    subset = data.Split(dataset.test.images[: args.record_test], dataset.test.labels[: args.record_test])

    def score(state: Any) -> dict[str, float]:
        now = {"params": state.params, **state.stats}
        return {"test_accuracy": evaluate.score(model, now, subset)["accuracy"]}

    state, _ = fit(phase, step, start, teacher[1], dataset, data_parallel("jit"), args.workdir, score)
    return {"params": state.params, **state.stats}


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


def cut(
    model: Classifier,
    variables: Variables,
    dataset: data.Dataset,
    found: jc.trace.Groups,
    args: argparse.Namespace,
    settings: ConfigDict,
) -> Cut:
    """Cuts and recalibrates, or loads what an earlier run with the same settings left of that."""
    path = args.workdir / "cut.jcz"
    if path.exists():
        command_line.claim(args.workdir, settings)
        saved, earlier = jc.pack.load(path)
        example = next(batches(dataset.train, args.batch_size, args.seed))
        small_model, _ = ShrunkClassifier.cut(model, variables, example, saved["keep"])
        return Cut(small_model, saved["variables"], saved["keep"], earlier["stages"])
    stages = scored("published", model, variables, dataset.test, found.macs(), [])
    small_model, small, keep = shrink(model, variables, dataset, found, args)
    command_line.claim(args.workdir, settings)  # once nothing more can be refused
    stages = scored("one shot", small_model, small, dataset.test, found.macs(keep), stages)
    some = itertools.islice(batches(dataset.train, args.batch_size, args.seed + 2), args.recalibration)
    small = recalibrated(small_model, small, some)
    stages = scored("recalibrated", small_model, small, dataset.test, found.macs(keep), stages)
    jc.pack.save(path, {"variables": small, "keep": keep}, metadata={"stages": stages})
    return Cut(small_model, small, keep, stages)


def job(args: argparse.Namespace) -> None:
    """Runs all stages; prints what each of them scores, and leaves it in the run folder."""
    began = time.monotonic()
    if not 0 < args.macs <= 1 or args.rounds < 1:
        raise UserError(f"--macs must be in (0, 1] and --rounds at least 1, got {args.macs} and {args.rounds}")
    module, variables, options = load_resnet(args.weights)
    model, dataset = Classifier(module, MEAN, STD), data.load(args.dataset, args.data_dir)
    found = jc.trace.groups(model.logits, variables, dataset.test.images[:1])
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
    settings["workdir"] = ""
    small_model, small, keep, stages = cut(model, variables, dataset, found, args, ConfigDict(settings))
    if args.steps:
        small = finetuned(small_model, small, (model, variables), dataset, args)
        some = itertools.islice(batches(dataset.train, args.batch_size, args.seed + 2), args.recalibration)
        small = recalibrated(small_model, small, some)  # a short run's averages lag behind its weights
        stages = scored("fine-tuned", small_model, small, dataset.test, found.macs(keep), stages)
    about = {"model": "resnet", "options": options, "classes": module.classes, "mean": MEAN, "std": STD}
    size = jc.pack.save(
        args.workdir / "model.jcz", {"variables": small, "keep": keep}, metadata={**about, "dataset": args.dataset}
    )
    seconds, reduction = time.monotonic() - began, found.macs() / found.macs(keep)
    summary = {"stages": stages, "reduction": reduction, "bytes": size, "seconds": seconds}
    write_atomically(args.workdir / "summary.json", json.dumps(summary, indent=2).encode())
    report.write_shrunk(args.workdir, summary, found, keep, settings)
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
    add("--steps", type=int, default=200, help="of fine-tuning; 0: none")
    add("--learning_rate", type=float, default=0.002, help="of fine-tuning, at its peak")
    add("--temperature", type=float, default=4.0, help="of the teacher's softened outputs")
    add("--alpha", type=float, default=0.9, help="weight of the teacher's outputs beside the labels")
    add("--record_every", type=int, default=100, help="steps from one record and checkpoint to the next")
    add("--record_test", type=int, default=1000, help="test images that records are scored on")
    add("--workdir", type=Path, default=Path("runs/shrink"), help="run folder")
    return parser.parse_args()


def main() -> int:
    """Runs the job of the command line and writes ``summary.json``."""
    args = parse()
    return exit_status(lambda: job(args))


if __name__ == "__main__":
    sys.exit(main())
