"""Error against sparsity of LeNets trained on MNIST from scratch, by every way to train a sparse network.

    python -m train.curves --model lenet300 [--data_dir DIR] [--methods cubic] [--sparsities 0.9 0.99] [--seeds 0 1]

Sparsity is the share of zeros in all kernels together. Nothing is chosen by the test error. Nothing is augmented, save
by "steep distilled, shifted" and its dense network: both learn from images half of which, drawn in every epoch, are
moved by a pixel.
Every point is written when it is known, and a run that was stopped goes on with the next.
"""

import argparse
import functools
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxcomp as jc
from jaxcomp.core.files import naming
from jaxcomp.measure import tradeoff_curves
from train.common import data, options
from train.common.errors import exit_status
from train.common.iterative import Rewind, prune_until
from train.common.published import claim, fixed
from train.common.scoring import score
from train.common.sparse_training import (
    KERNELS,
    METHODS,
    MOVES,
    STEEP,
    Data,
    Knobs,
    moved,
    shifted,
    sparsity_of,
    train,
)
from train.common.step import Functions, network
from train.common.table import Table
from train.models.lenet import LeNet5, LeNet300

MODELS: dict[str, Callable[[int], Any]] = {
    "lenet300": LeNet300,
    "lenet5": lambda classes: LeNet5(classes, patches=True),
}
PUBLISHED: dict[str, list[dict[str, Any]]] = {
    "lenet300": [
        {"method": "SNIP", "sparsity": 0.98, "error": 0.024},
        {"method": "sparse variational dropout", "sparsity": 0.985, "error": 0.0192},
        {"method": "DST", "sparsity": 0.975, "error": 0.0231},
    ],
    "lenet5": [{"method": "sparse variational dropout", "sparsity": 0.9964, "error": 0.0075}],
}
"""Lee et al., 2019; Molchanov et al., 2017; Liu et al., Dynamic sparse training, 2020."""
ITERATIVE: dict[str, Rewind] = {"lottery ticket": "weights", "learning-rate rewinding": "learning rate"}
DISTILLED = {"cubic distilled": "cubic", "steep distilled": "steep", "steep distilled, shifted": "steep"}
"""The method of :mod:`train.common.sparse_training` that each is."""
FROM_DENSE = (*ITERATIVE, *DISTILLED)
NAMES = ("cubic", "RigL", "STR", "L1", *FROM_DENSE)
FIRST_ROUNDS = (0.5, 0.75)
FREE = ("sparsities", "methods", "seeds")  # what may change from one run in a folder to the next


class Bench(NamedTuple):
    """All that the runs of a command share."""

    args: argparse.Namespace
    model: Functions
    learned: Data
    scored_on: data.Split

    def knobs(self, sparsity: float, **others: Any) -> Knobs:
        """The settings of the command line."""
        count = len(self.learned.labels) // self.args.batch_size
        rate, decay = self.args.learning_rate, self.args.weight_decay
        return Knobs(sparsity, self.args.epochs * count, rate, decay, **others)

    def train(self, params: Any, knobs: Knobs, method: str, seed: int, **how: Any) -> Any:
        """The view at the end of a run."""
        how = {"model": self.model, "method": METHODS[method], "batch_size": self.args.batch_size, **how}
        return jax.device_get(train(params, knobs, how.pop("learned", self.learned), seed=seed, **how))

    def fresh(self, seed: int) -> Any:
        """Parameters before training."""
        return self.model.init(jax.random.key(seed), self.learned.images[:1])["params"]

    def error(self, view: Any) -> float:
        """On the images that are scored on."""
        return 1 - score(self.model, {"params": view}, self.scored_on)["accuracy"]


def prepared(args: argparse.Namespace) -> Bench:
    """The data, on the device, and the model."""
    dataset = data.load(args.dataset, args.data_dir).read_all()
    model = network(MODELS[args.model](dataset.classes), *dataset.moments())
    images, labels = dataset.train.images, dataset.train.labels
    cut = len(labels) - args.held_out
    scored_on = data.Split(images[cut:], labels[cut:]) if args.held_out else dataset.test
    learned = Data(jnp.asarray(images[:cut]), jnp.asarray(labels[:cut]), jnp.zeros((cut, dataset.classes)))
    return Bench(args, model, learned, scored_on)


def dense(bench: Bench, seed: int, name: str = "dense") -> dict[str, Any]:
    """``dense``, or ``dense, shifted``, of a seed, at its end and after its first epoch; trained once."""
    path = bench.args.workdir / f"{name.replace(', ', '-')}-{seed}.jcz"
    if not path.exists():
        early: list[Any] = []
        keep = lambda number, params: early.append(jax.device_get(params)) if number == 1 else None  # noqa: E731
        how = {"anew": shifted} if name.endswith("shifted") else {}
        began = time.monotonic()
        params = bench.train(bench.fresh(seed), bench.knobs(0.0), "masked", seed, each=keep, **how)
        seconds = time.monotonic() - began
        jc.pack.save(path, {"early": early[0], "end": params}, metadata={"seconds": seconds})
    saved, about = jc.pack.load(path)
    return {**saved, **about}


def dense_end(bench: Bench, seed: int, name: str = "dense") -> Any:
    """The parameters of a dense network at its end."""
    return dense(bench, seed, name)["end"]


def begins(method: str) -> str:
    """The dense network that a method begins with."""
    return "dense, shifted" if method.endswith("shifted") else "dense"


def distilled(bench: Bench, method: str, sparsity: float, seed: int) -> Any:
    """The view that a method makes of the dense network, which is its teacher as well."""
    args = bench.args
    end = {"params": dense_end(bench, seed, begins(method))}
    outputs = jax.jit(bench.model.infer)

    def taught(images: Any) -> Any:
        parts = np.array_split(np.asarray(images), max(1, len(images) // 1000))
        return jnp.concatenate([outputs(end, part) for part in parts])

    knobs = bench.knobs(sparsity)
    own = STEEP if DISTILLED[method] == "steep" else {"end": args.distilled_end}
    knobs = knobs._replace(steps=args.longer * knobs.steps, **own)
    temperature = 2.0 if DISTILLED[method] == "steep" else 4.0
    learned, how = bench.learned, dict[str, Any](distil=temperature)
    if begins(method) == "dense":
        learned = learned._replace(targets=taught(learned.images))
    else:  # the teacher sees each image once by every move, not once an epoch
        chosen = jnp.zeros(len(learned.labels), jnp.int32)
        targets = jnp.stack([taught(moved(learned.images, chosen + number)) for number in range(len(MOVES))])
        how["anew"] = functools.partial(shifted, targets=targets)
    return bench.train(end["params"], knobs, DISTILLED[method], seed, learned=learned, **how)


def scratch(bench: Bench, method: str, sparsity: float, seed: int) -> Any:
    """The view that a method makes of fresh parameters."""
    strength = {"STR": bench.args.threshold_pace, "L1": bench.args.l1}.get(method, 0.0)
    return bench.train(bench.fresh(seed), bench.knobs(sparsity, strength=strength), method, seed)


def iterate(bench: Bench, method: str, seed: int, record: Callable[[float, Callable[[], Any]], None]) -> None:
    """Prunes, rewinds and trains again, round by round; each round that is asked for is a point."""
    wanted = set(bench.args.sparsities)
    asked = sorted(wanted | {early for early in FIRST_ROUNDS if early < min(wanted)})
    begun = dense(bench, seed)
    epoch = len(bench.learned.labels) // bench.args.batch_size

    def tune(variables: Any, masks: Any, number: int, rewound: bool) -> Any:
        assert rewound
        knobs = bench.knobs(0.0, first=epoch if bench.args.epochs > 1 else 0)
        order = seed + 1000 * number
        return {"params": bench.train(variables["params"], knobs, "masked", order, masks=masks)}

    prune_until(
        {"params": begun["end"]},
        lambda sparsity: jc.partition([(KERNELS, jc.prune.magnitude(sparsity, scope="global"))]),
        tune,
        lambda variables: 1 - bench.error(variables["params"]),
        asked=asked,
        rewind=ITERATIVE[method],
        early={"params": begun["early"]},
        folder=bench.args.workdir / f"{method.replace(' ', '-')}-{seed}",
        seen=lambda one: record(one.asked, lambda: one.variables["params"]) if one.asked in wanted else None,
    )


def job(args: argparse.Namespace) -> dict[str, Any]:
    """Trains every point that is not known yet; returns the table."""
    claim(args, *FREE)
    points = Table(args.workdir, line)
    points.fact("settings", lambda: fixed(args, *FREE))
    began = time.monotonic()

    def record(method: str, seed: int, asked: float, make: Callable[[], Any]) -> None:
        nonlocal began

        def measured() -> dict[str, float]:
            view = make()
            reached = {"sparsity": float(sparsity_of(view)), "error": bench.error(view)}
            return {**reached, "seconds": time.monotonic() - began}

        points.row(measured, method=method, asked=asked, seed=seed)
        began = time.monotonic()

    bench = prepared(args)
    for seed, method in itertools.product(args.seeds, args.methods):
        missing = [asked for asked in args.sparsities if not points.known(method=method, asked=asked, seed=seed)]
        if method in FROM_DENSE:
            record(begins(method), seed, 0.0, functools.partial(dense_end, bench, seed, begins(method)))
        if missing and method in ITERATIVE:
            iterate(bench, method, seed, functools.partial(record, method, seed))
            continue
        make = distilled if method in DISTILLED else scratch
        for asked in args.sparsities:
            record(method, seed, asked, functools.partial(make, bench, method, asked, seed))
    return points.summary


def line(row: Mapping[str, Any]) -> str:
    """A point's row as it is printed."""
    reached = f"{row['asked']:>8.2%}  {row['sparsity']:>8.2%}  {row['error']:>7.2%}"
    return f"{row['method']:<24}{reached}  seed {row['seed']}  {row['seconds']:>6.0f} s"


def table(rows: list[dict[str, Any]]) -> str:
    """Mean error and, of several seeds, its sample deviation: a line a method, a column a sparsity; Markdown.

    Where another sparsity was reached than asked for, it stands beside.

    Example:
      >>> rows = [{"method": "cubic", "asked": 0.9, "sparsity": 0.9, "error": error} for error in (0.02, 0.022)]
      >>> rows.append({"method": "STR", "asked": 0.9, "sparsity": 0.85, "error": 0.01})
      >>> print(*table(rows).splitlines()[2:], sep=chr(10))
      | cubic | 2.10 ± 0.14 |
      | STR | 1.00 (at 85 %) |
    """
    asked = sorted({row["asked"] for row in rows})
    lines = [["method", *(f"{100 * sparsity:.6g} %" for sparsity in asked)], ["---", *["---:"] * len(asked)]]
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [[row for row in rows if (row["method"], row["asked"]) == (method, sparsity)] for sparsity in asked]
        lines.append([method, *map(_cell, own, asked)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(rows: list[dict[str, Any]], asked: float) -> str:
    if not rows:
        return ""
    errors = [100 * row["error"] for row in rows]
    reached = statistics.mean(row["sparsity"] for row in rows)
    spread = f" ± {statistics.stdev(errors):.2f}" if len(errors) > 1 else ""
    apart = abs(reached - asked) > 0.1 * (1 - asked)
    return f"{statistics.mean(errors):.2f}{spread}" + (f" (at {100 * reached:.4g} %)" if apart else "")


def show(summary: dict[str, Any], model: str, workdir: Path) -> None:
    """Prints the table and writes the figure."""
    print(table(summary["rows"]))
    rows = [row for row in summary["rows"] if row["asked"]]
    drawing = tradeoff_curves(
        rows, "sparsity", ["error"], "method", repeats="asked", marks=PUBLISHED[model], near_one=True
    )
    with naming(workdir / "error.png"):
        drawing.savefig(workdir / "error.png", dpi=150)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = options.parser(__doc__)
    add = parser.add_argument
    add("--model", required=True, choices=list(MODELS), help="what is trained")
    options.add(parser, dataset="mnist", data_dir=None, workdir=None, held_out=0)
    add("--methods", nargs="+", default=list(NAMES), choices=list(NAMES), metavar="METHOD", help="of %(choices)s")
    add("--sparsities", type=float, nargs="+", default=[0.9, 0.95, 0.98, 0.99, 0.997], help="fractions of zeros")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of parameters and the order of images")
    add("--epochs", type=int, default=10, help="of a run, and of each round of an iterative one")
    add("--longer", type=int, default=3, help="times as many epochs when distilled from the dense network")
    options.add(parser, batch_size=128, learning_rate=2e-3, weight_decay=1e-2)
    add("--distilled_end", type=float, default=0.6, help="cubic distilled: the fraction of a run until masks stand")
    add("--threshold_pace", type=float, default=40.0, help="STR: the decay of thresholds, in a run")
    add("--l1", type=float, default=0.2, help="L1: strength, beside Adam's normalized gradients")
    args = parser.parse_args(argv)
    args.workdir = args.workdir or Path(f"runs/curves-{args.model}")
    return args


def main() -> int:
    """Runs the job of the command line; writes ``summary.json`` and ``error.png``."""
    args = parse()
    return exit_status(lambda: show(job(args), args.model, args.workdir))


if __name__ == "__main__":
    sys.exit(main())
