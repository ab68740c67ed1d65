"""Trains a published CIFAR ResNet to compute in few bits, and shows what each stage keeps of its accuracy.

    python -m train.qat --weights resnet20.npz --bits 4 --input_bits 4 [--steps 200] [--data_dir DIR] [--workdir DIR]

Stages: the network as published; rounded, on grids calibrated on training images; trained with learned step sizes, the
whole network as the teacher; and the integer network, whose int8 products are summed in int32. The first and the last
layer have 8 bits. A run that was stopped goes on when the same command is given again.
"""

import argparse
import itertools
import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

import jaxcomp as jc
from jaxcomp.core.files import write_atomically
from jaxcomp.core.paths import path_string
from train import config as command_line
from train import data, evaluate
from train.calibration import FLIP, SHIFT, add_options, batches, recalibrated
from train.errors import UserError, exit_status
from train.loop import Phase, fit
from train.models.pretrained import MEAN, STD, load_resnet
from train.parallel import data_parallel
from train.step import (
    Batch,
    Classifier,
    Model,
    QuantizedClassifier,
    Variables,
    distillation_loss,
    init_state,
    make_step,
)

BATCH_NORM = ("live", "frozen", "folded")


def scheme(model: Classifier, variables: Variables, images: Any, args: argparse.Namespace) -> list[tuple[str, Any]]:
    """The asked bits, and those of the ends for the first and the last layer."""
    first, last = jc.rewrite.ends(model.logits, variables, images)
    ends = jc.rewrite.Scheme(args.end_bits, input_bits=args.end_bits)
    return [(re.escape(path), ends) for path in first + last] + [
        (".*", jc.rewrite.Scheme(args.bits, input_bits=args.input_bits))
    ]


def rounded(
    model: Classifier, variables: Variables, dataset: data.Dataset, args: argparse.Namespace
) -> tuple[QuantizedClassifier, Variables, jc.rewrite.QuantizedTraining]:
    """The network with rounded weights and inputs, to be trained, and its variables: weights and steps in "params"."""
    some = list(itertools.islice(batches(dataset.train, args.batch_size, args.seed), args.calibration))
    images, rules = [batch["image"] for batch in some], scheme(model, variables, some[0]["image"], args)
    options: dict[str, Any] = {"scheme": rules, "weights": args.method, "inputs": args.method}
    if args.batch_norm == "live":  # calibrated as it is trained
        learn, tree = jc.rewrite.qat(model.train_logits, variables, some, **options)
        infer = learn.on(model.logits)
        functions = QuantizedClassifier(
            lambda variables, images: infer(as_tree(variables), images),
            lambda variables, batch: learn(as_tree(variables), batch),
        )
    else:
        function: Any = model.logits
        if args.batch_norm == "folded":
            function, variables = jc.rewrite.fold_batch_norm(function, variables, images[0])
        infer, tree = jc.rewrite.qat(function, variables, images, **options)

        def at_rest(variables: Variables, batch: Batch) -> tuple[jax.Array, Variables]:
            stats = {name: own for name, own in variables.items() if name != "params"}
            return infer(as_tree(variables), batch["image"]), stats

        functions = QuantizedClassifier(lambda variables, images: infer(as_tree(variables), images), at_rest)
    own = {"weights": tree["params"]["params"], "steps": tree["steps"]}
    return functions, {**tree["params"], "params": own}, infer


def as_tree(variables: Variables) -> dict[str, Any]:
    """Variables as :func:`jaxcomp.rewrite.qat` has them, of those whose parameters hold weights and steps."""
    own = variables["params"]
    return {"params": {**variables, "params": own["weights"]}, "steps": own["steps"], "ranges": {}}


def trained(
    model: QuantizedClassifier,
    variables: Variables,
    teacher: tuple[Classifier, Variables],
    dataset: data.Dataset,
    args: argparse.Namespace,
) -> Variables:
    """The variables after ``--steps`` of distillation from the whole network and from the labels."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, args.learning_rate, max(1, args.steps // 20), args.steps)
    optimizer = optax.chain(
        optax.add_decayed_weights(args.weight_decay, mask=kernels), optax.sgd(schedule, momentum=0.9, nesterov=True)
    )
    loss = distillation_loss(teacher[0], args.temperature, args.alpha)
    every = max(1, min(args.record_every, args.steps))
    step = make_step(model, jc.identity(), optimizer, loss, record_every=every)
    start = init_state(variables, jc.identity(), optimizer)
    phase = Phase("qat", args.steps, every, args.batch_size, args.seed + 1, SHIFT, FLIP)
    subset = data.Split(dataset.test.images[: args.record_test], dataset.test.labels[: args.record_test])

    def score(state: Any) -> dict[str, float]:
        now = {"params": state.params, **state.stats}
        return {"test_accuracy": evaluate.score(model, now, subset)["accuracy"]}

    state, _ = fit(phase, step, start, teacher[1], dataset, data_parallel("jit"), args.workdir, score)
    variables = jax.device_get({"params": state.params, **state.stats})
    if args.batch_norm != "live" or not args.recalibration:
        return variables
    some = itertools.islice(batches(dataset.train, args.batch_size, args.seed + 2), args.recalibration)
    return recalibrated(model, variables, some)  # a short run's averages lag behind its weights


def kernels(trained: Any) -> Any:
    """Which of the trained numbers decay: weights of layers, not their steps, nor norms."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf.ndim > 1 and "steps" not in path_string(path).split("/"), trained
    )


class Stages:
    """The stages of a run, each scored once: ``summary.json`` keeps those that an earlier run has scored."""

    def __init__(self, path: Path, test: data.Split) -> None:
        """Goes on where the file ends."""
        self.path, self._test = path, test
        self.rows: list[dict[str, Any]] = json.loads(path.read_text())["stages"] if path.exists() else []

    def score(self, name: str, model: Model, variables: Callable[[], Variables]) -> dict[str, Any]:
        """Scores a stage, prints it and writes it down."""
        found = [row for row in self.rows if row["stage"] == name]
        if not found:
            scored = evaluate.score(model, variables(), self._test)
            self.rows.append({"stage": name, "accuracy": scored["accuracy"], "predictions": scored["predictions"]})
            write_atomically(self.path, json.dumps({"stages": self.rows}, indent=2).encode())
        row = (found or self.rows)[-1]
        drop = 100 * (self.rows[0]["accuracy"] - row["accuracy"])
        print(f"{name:<12} {row['accuracy']:7.2%}  {drop:+6.2f} points lost", flush=True)
        return row


def job(args: argparse.Namespace) -> dict[str, Any]:
    """Runs all stages; prints what each of them scores, and leaves it in the run folder."""
    began = time.monotonic()
    if args.batch_norm not in BATCH_NORM:
        raise UserError(f"--batch_norm must be one of {', '.join(BATCH_NORM)}, got {args.batch_norm}")
    module, variables, options = load_resnet(args.weights)
    model, dataset = Classifier(module, MEAN, STD), data.load(args.dataset, args.data_dir)
    settings = {name: str(value) for name, value in vars(args).items()}
    command_line.claim(args.workdir, ConfigDict(settings | {"workdir": ""}))
    stages = Stages(args.workdir / "summary.json", dataset.test)
    stages.score("published", model, lambda: variables)
    functions, start, infer = rounded(model, variables, dataset, args)
    stages.score("rounded", functions, lambda: start)
    after = trained(functions, start, (model, variables), dataset, args) if args.steps else start
    stages.score("trained", functions, lambda: after)
    integers, packed = infer.quantized(as_tree(after), dataset.test.images[:1])
    whole = QuantizedClassifier(integers, functions.learn)
    stages.score("integers", whole, lambda: packed)
    about = {"model": "resnet", "options": options, "classes": module.classes, "mean": MEAN, "std": STD}
    about |= {"dataset": args.dataset, "bits": args.bits, "input_bits": args.input_bits, "end_bits": args.end_bits}
    size = jc.pack.save(args.workdir / "model.jcz", packed, metadata=about)
    same = agreement(functions, after, whole, packed, dataset.test)
    summary = {"stages": stages.rows, "bytes": size, **same, "seconds": time.monotonic() - began}
    write_atomically(stages.path, json.dumps(summary, indent=2).encode())
    print(integers.report)
    print(
        f"{size:,} bytes in {args.workdir / 'model.jcz'}; the integers' logits are within "
        f"{summary['logits_distance']:.1e} of those trained; {summary['seconds']:.0f} s"
    )
    return summary


def agreement(
    trained: QuantizedClassifier, after: Variables, whole: QuantizedClassifier, packed: Variables, test: data.Split
) -> dict[str, float]:
    """How far the integer network's logits are from those of the trained one, relative to the largest."""
    images = test.images[:128]
    one, other = (np.asarray(jax.jit(m.logits)(v, images), np.float64) for m, v in ((trained, after), (whole, packed)))
    return {"logits_distance": float(np.abs(one - other).max() / np.abs(one).max())}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add_options(parser)
    add("--bits", type=int, default=4, help="of weights, 1 to 8")
    add("--input_bits", type=int, default=4, help="of what layers read, 1 to 8")
    add("--end_bits", type=int, default=8, help="of both in the first and in the last layer")
    add("--method", default="lsq", choices=["lsq", "pact"], help="whose gradients train the grids")
    add(
        "--batch_norm",
        default="frozen",
        choices=BATCH_NORM,
        help="live: with each batch's statistics; frozen: with its running ones, as deployed; folded: into the kernels",
    )
    add("--calibration", type=int, default=4, help="batches on which grids begin")
    add("--recalibration", type=int, default=32, help="batches over which live batch norm is averaged anew at the end")
    add("--steps", type=int, default=200, help="of training; 0: none")
    add("--learning_rate", type=float, default=0.01, help="of training, at its peak")
    add("--weight_decay", type=float, default=1e-4, help="of training, of kernels")
    add("--temperature", type=float, default=4.0, help="of the teacher's softened outputs")
    add("--alpha", type=float, default=0.9, help="weight of the teacher's outputs beside the labels")
    add("--record_every", type=int, default=50, help="steps from one record and checkpoint to the next")
    add("--record_test", type=int, default=1000, help="test images that records are scored on")
    add("--workdir", type=Path, default=Path("runs/qat"), help="run folder")
    return parser.parse_args(argv)


def main() -> int:
    """Runs the job of the command line; writes ``model.jcz`` and ``summary.json``."""
    args = parse()
    return exit_status(lambda: job(args))


if __name__ == "__main__":
    sys.exit(main())
