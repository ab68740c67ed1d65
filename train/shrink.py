"""Cuts channels out of a published CIFAR ResNet and shows what each stage keeps of its accuracy.

    python -m train.shrink --weights resnet56.npz [--macs 0.5] [--score taylor] [--steps 200] [--workdir DIR]

Stages: the network as published; cut, in one shot; batch norm recalibrated; fine-tuned with the whole network as the
teacher. A run that was stopped goes on when the same command is given again.
"""

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator
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
from train import data, evaluate
from train.errors import UserError
from train.loop import Phase, Stopped, fit
from train.models.pretrained import MEAN, STD, load_resnet
from train.parallel import data_parallel
from train.step import Batch, Classifier, Variables, distillation_loss, init_state, make_step

SHIFT, FLIP = 4, True  # how the published networks were trained: black borders, mirror images
NEED_GRADIENTS = ("taylor", "taylor_abs", "taylor_squared")


class ShrunkClassifier(NamedTuple):
    """What :class:`train.step.Classifier` is for a module, for functions of which channels were cut.

    Attributes:
      infer: ``(variables, images) -> logits``.
      learn: ``(variables, batch) -> (logits, new statistics)``.
    """

    infer: jc.rewrite.Shrunk
    learn: jc.rewrite.Shrunk

    def logits(self, variables: Variables, images: jax.Array) -> jax.Array:
        """``[batch, height, width, channels]`` uint8 -> ``[batch, classes]``."""
        return self.infer(variables, images)

    def train_logits(self, variables: Variables, batch: Batch) -> tuple[jax.Array, Variables]:
        """Logits of a training batch, and the variables that its statistics change."""
        return self.learn(variables, batch)


def batches(dataset: data.Dataset, size: int, seed: int) -> Iterator[Any]:
    """Training batches without end, augmented as the published networks' were."""
    for step in itertools.count():
        yield data.pad(data.train_batch(dataset.train, step, size, seed, shift=SHIFT, flip=FLIP), 1)


def gradients(model: Classifier, variables: Variables, some: Iterator[Batch]) -> Iterator[Any]:
    """Of the mean cross-entropy, one tree a batch, in inference mode."""

    @jax.jit
    def grad(variables: Variables, batch: Batch) -> Any:
        def loss(params: Any) -> jax.Array:
            logits = model.logits({**variables, "params": params}, batch["image"])
            return jnp.mean(jc.distill.cross_entropy(logits, batch["label"]))

        return {"params": jax.grad(loss)(variables["params"])}

    return (grad(variables, batch) for batch in some)


def shrink(
    model: Classifier, variables: Variables, dataset: data.Dataset, args: argparse.Namespace
) -> tuple[ShrunkClassifier, Variables, jc.trace.Groups, dict[str, np.ndarray]]:
    """Ranks all channels together and cuts until the target is met, in inference and in training alike."""
    some = next(batches(dataset, args.batch_size, args.seed))
    found = jc.trace.groups(model.logits, variables, some["image"][:1])
    options: dict[str, Any] = {}
    if args.score in NEED_GRADIENTS:
        wanted = itertools.islice(batches(dataset, args.batch_size, args.seed), args.calibration)
        options["grads"] = gradients(model, variables, wanted)
    choice = jc.rewrite.choose(
        score=args.score, macs=args.macs, scope="global", maximum=args.maximum, combine=args.combine, **options
    )
    keep = dict(choice(found, variables))
    infer, small = jc.rewrite.shrink(model.logits, variables, some["image"][:1], keep=keep)
    learn, _ = jc.rewrite.shrink(model.train_logits, variables, some, keep=keep)
    return ShrunkClassifier(infer, learn), jax.device_get(small), found, keep


def recalibrated(model: ShrunkClassifier, variables: Variables, some: Iterator[Batch]) -> Variables:
    """The variables with batch statistics averaged over batches."""
    params = {"params": variables["params"]}
    stats = {name: tree for name, tree in variables.items() if name != "params"}
    fresh = jc.rewrite.recalibrate(lambda now, batch: model.train_logits({**params, **now}, batch)[1], stats, some)
    return params | fresh


def finetuned(
    model: ShrunkClassifier,
    variables: Variables,
    teacher: tuple[Classifier, Variables],
    dataset: data.Dataset,
    args: argparse.Namespace,
    workdir: Path,
) -> Variables:
    """The variables after ``--steps`` of distillation from the whole network and from the labels."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, args.learning_rate, max(1, args.steps // 20), args.steps)
    decay = optax.add_decayed_weights(5e-4, mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params))
    optimizer = optax.chain(decay, optax.sgd(schedule, momentum=0.9, nesterov=True))
    loss = distillation_loss(teacher[0], args.temperature, args.alpha)
    every = max(1, min(args.record_every, args.steps))
    step = make_step(model, jc.identity(), optimizer, loss, record_every=every)  # type: ignore[arg-type]
    start = init_state(variables, jc.identity(), optimizer)
    phase = Phase("finetune", args.steps, every, args.batch_size, args.seed + 1, SHIFT, FLIP)
    subset = data.Split(dataset.test.images[: args.record_test], dataset.test.labels[: args.record_test])

    def score(state: Any) -> dict[str, float]:
        now = {"params": state.params, **state.stats}
        return {"test_accuracy": evaluate.score(model, now, subset)["accuracy"]}  # type: ignore[arg-type]

    state, _ = fit(phase, step, start, teacher[1], dataset, data_parallel("jit"), workdir, score)
    return {"params": state.params, **state.stats}


def job(args: argparse.Namespace) -> dict[str, Any]:
    """Runs all stages; returns what each of them scored."""
    began = time.monotonic()
    module, variables, options = load_resnet(args.weights)
    model = Classifier(module, MEAN, STD)
    dataset = data.load(args.dataset, args.data_dir)
    stages: list[dict[str, Any]] = []

    def stage(name: str, model: Any, variables: Variables, macs: int) -> None:
        accuracy = evaluate.score(model, variables, dataset.test)["accuracy"]
        size = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
        stages.append({"stage": name, "accuracy": accuracy, "macs": macs, "parameters": size})
        print(f"{name:<14} {accuracy:7.2%}  {macs / 1e6:7.2f} M MACs  {size:>9,} parameters", flush=True)

    whole = jc.trace.sites(model.logits, variables, dataset.test.images[:1]).macs
    stage("published", model, variables, whole)
    small_model, small, found, keep = shrink(model, variables, dataset, args)
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
    command_line.claim(args.workdir, ConfigDict(settings | {"workdir": ""}))  # once nothing more can be refused
    macs = found.macs(keep)
    stage("one shot", small_model, small, macs)
    some = itertools.islice(batches(dataset, args.batch_size, args.seed + 2), args.recalibration)
    small = recalibrated(small_model, small, some)
    stage("recalibrated", small_model, small, macs)
    if args.steps:
        small = finetuned(small_model, small, (model, variables), dataset, args, args.workdir)
        stage("fine-tuned", small_model, small, macs)
    size = jc.pack.save(
        args.workdir / "model.jcz",
        {"variables": jax.device_get(small), "keep": keep},
        metadata={"model": "resnet", "options": options, "classes": module.classes, "mean": MEAN, "std": STD},
    )
    print(f"{whole / macs:.2f}x fewer MACs; {time.monotonic() - began:.0f} s; {size:,} bytes in model.jcz")
    return {"stages": stages, "reduction": whole / macs, "bytes": size}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--weights", required=True, type=Path, help="a published CIFAR ResNet, .npz with PyTorch's names")
    add("--dataset", default="cifar10", help="its data set")
    add("--data_dir", help="folder of prepared TFDS data (default: TFDS_DATA_DIR, or TFDS's own)")
    add("--macs", type=float, default=0.5, help="the fraction of multiply-accumulates that may be left")
    add("--score", default="taylor", help="what ranks the channels: a score of jaxcomp.rewrite.importance")
    add("--combine", default="joint", help="how the members of a group are combined")
    add("--maximum", type=float, default=0.9, help="the fraction of any one group that is cut at most")
    add("--calibration", type=int, default=16, help="batches whose gradients rank the channels")
    add("--recalibration", type=int, default=64, help="batches over which batch norm is recalibrated")
    add("--steps", type=int, default=200, help="of fine-tuning; 0: none")
    add("--batch_size", type=int, default=128, help="images in a batch")
    add("--learning_rate", type=float, default=0.02, help="of fine-tuning, at its peak")
    add("--temperature", type=float, default=4.0, help="of the teacher's softened outputs")
    add("--alpha", type=float, default=0.9, help="weight of the teacher's outputs beside the labels")
    add("--record_every", type=int, default=100, help="steps from one record and checkpoint to the next")
    add("--record_test", type=int, default=1000, help="test images that records are scored on")
    add("--seed", type=int, default=0, help="of the order and augmentation of images")
    add("--workdir", type=Path, default=Path("runs/shrink"), help="run folder")
    return parser.parse_args()


def main() -> int:
    """Runs the job of the command line and writes ``summary.json``."""
    args = parse()
    try:
        summary = job(args)
        write_atomically(args.workdir / "summary.json", json.dumps(summary, indent=2).encode())
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return 143
    except (UserError, jc.JaxcompError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
