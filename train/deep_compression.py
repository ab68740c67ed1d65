"""The smallest file of a network trained on MNIST from scratch: pruned, cut, rounded to learned grids, coded.

    python -m train.deep_compression --model lenet300 [--data_dir DIR] [--sparsities 0.99 0.993] [--seeds 0 1 2]

A dense network is trained and becomes the teacher. Its weights are pruned by what the loss feels of them, from 90 % on
in a third of a run, the rest of which trains what is left; channels that died are cut, and the others trained on
learned grids, zeros staying zeros, and charged for the bits of their codes. The file holds the leaves of the parameters
alone: who reads it knows the model's name, and widths follow from shapes. Half of the training images, drawn in every
epoch, are moved by a pixel.

Every point is written when it is known, and a run that was stopped goes on with the next. ``--held_out`` is for
choosing settings; ``--check`` decodes all files of a folder in this process and compares.

Reference: Han, Mao and Dally, Deep compression, 2016.
"""

import argparse
import functools
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
from train.common import data, options, rated
from train.common.errors import UserError, exit_status
from train.common.published import claim, fixed
from train.common.scoring import score
from train.common.sparse_training import METHODS, MOVES, STEEP, Data, Knobs, moved, shifted, train
from train.common.step import Functions, network
from train.common.table import Table
from train.models.lenet import LeNet5, LeNet300
from train.models.strided import Strided

MODELS: dict[str, Callable[..., Any]] = {
    "lenet300": LeNet300,
    "lenet5": functools.partial(LeNet5, patches=True),
    "strided": Strided,
}
WIDTHS = {"lenet300": (300, 100), "lenet5": (20, 50, 500), "strided": (8, 16)}
PUBLISHED: dict[str, list[dict[str, Any]]] = {
    "lenet300": [
        {"method": "Deep Compression", "bytes": 27_000, "error": 0.0158},
        {"method": "EPR", "bytes": 8_560, "error": 0.019},
    ],
    "lenet5": [
        {"method": "Deep Compression", "bytes": 44_000, "error": 0.0074},
        {"method": "MIRACLE", "bytes": 1_520, "error": 0.0096},
        {"method": "MIRACLE", "bytes": 3_030, "error": 0.0069},
    ],
    "strided": [],
}
"""Han et al., 2016; Oktay et al., 2020; Havasi et al., Minimal random code learning, 2019."""
FREE = ("sparsities", "seeds", "check")  # what may change from one run in a folder to the next


class Bench(NamedTuple):
    """All that the runs of a command share."""

    args: argparse.Namespace
    moments: tuple[tuple[float, ...], tuple[float, ...]]
    classes: int
    learned: Data
    scored_on: data.Split

    @property
    def over_pixels(self) -> bool:
        """Whether the first layer is a matrix over pixels."""
        return bool(self.args.model == "lenet300")

    def model(self, widths: tuple[int, ...]) -> Functions:
        """The functions of the model at these widths, the same at each call."""
        return _functions(self.args.model, self.classes, tuple(widths), self.moments)

    def knobs(self, epochs: int, **others: Any) -> Knobs:
        """The settings of the command line."""
        count = len(self.learned.labels) // self.args.batch_size
        return Knobs(0.0, epochs * count, self.args.learning_rate, 0.0, **others)


@functools.cache
def _functions(name: str, classes: int, widths: tuple[int, ...], moments: Any) -> Functions:
    return network(MODELS[name](classes, widths=widths), *moments)


def prepared(args: argparse.Namespace) -> Bench:
    """The data, on the device."""
    dataset = data.load(args.dataset, args.data_dir).read_all()
    images, labels = dataset.train.images, dataset.train.labels
    if not 0 <= args.held_out < len(labels):
        raise UserError(f"--held_out must leave some of the {len(labels):,} training images, got {args.held_out}")
    cut = len(labels) - args.held_out
    scored_on = data.Split(images[cut:], labels[cut:]) if args.held_out else dataset.test
    learned = Data(jnp.asarray(images[:cut]), jnp.asarray(labels[:cut]), jnp.zeros((cut, dataset.classes)))
    return Bench(args, dataset.moments(), dataset.classes, learned, scored_on)


def dense(bench: Bench, seed: int) -> Any:
    """The parameters of the dense network of a seed, trained once."""
    path, widths = bench.args.workdir / f"dense-{seed}.jcz", tuple(bench.args.widths)
    model = bench.model(widths)
    fresh = model.init(jax.random.key(seed), bench.learned.images[:1])["params"]
    if not path.exists():
        how = {"model": model, "method": METHODS["masked"], "anew": shifted, "batch_size": bench.args.batch_size}
        knobs = bench.knobs(bench.args.dense_epochs)._replace(learning_rate=2e-3, weight_decay=1e-2)
        jc.pack.save(path, jax.device_get(train(fresh, knobs, bench.learned, seed=seed, **how)))
    return jc.pack.load(path, like=fresh)[0]


def teacher(bench: Bench, seed: int) -> dict[str, float]:
    """The row of a dense network."""
    model = bench.model(tuple(bench.args.widths))
    return {"error": 1 - score(model, {"params": dense(bench, seed)}, bench.scored_on)["accuracy"]}


def taught(bench: Bench, seed: int) -> jax.Array:
    """``[moves, images, classes]``, the logits of a seed's dense network for all images by each of MOVES."""
    params, images = dense(bench, seed), bench.learned.images
    outputs, parts = jax.jit(bench.model(tuple(bench.args.widths)).infer), max(1, len(images) // 1000)

    def seen(number: int) -> jax.Array:
        own = moved(images, jnp.full(len(images), number))
        return jnp.concatenate([outputs({"params": params}, part) for part in jnp.array_split(own, parts)])

    return jnp.stack([seen(number) for number in range(len(MOVES))])


def pruned(bench: Bench, teach: Callable[..., Data], sparsity: float, seed: int) -> Any:
    """The dense network of a seed with so many zeros in its kernels, trained on; made once."""
    args, path, begun = bench.args, bench.args.workdir / f"pruned-{sparsity:g}-{seed}.jcz", dense(bench, seed)
    if not path.exists():
        how: dict[str, Any] = {"model": bench.model(tuple(args.widths)), "method": METHODS["steep"], "anew": teach}
        how |= {"distil": args.temperature, "batch_size": args.batch_size}
        knobs = bench.knobs(args.epochs)._replace(sparsity=sparsity, **STEEP)
        jc.pack.save(path, jax.device_get(train(begun, knobs, bench.learned, seed=seed, **how)))
    return jc.pack.load(path, like=begun)[0]


def point(bench: Bench, targets: Callable[[], jax.Array], sparsity: float, seed: int) -> dict[str, Any]:
    """Prunes, cuts, trains on grids, writes the file; what it came to."""
    args, began, images = bench.args, time.process_time(), bench.learned.images[:1]
    teach = functools.partial(shifted, targets=targets())
    small = rated.cut(bench.model(tuple(args.widths)), pruned(bench, teach, sparsity, seed), images)
    model = bench.model(rated.widths(small))
    knobs = bench.knobs(args.rounded, strength=args.strength, begin=-1.0, end=0.0)
    how = {"bits": args.bits, "distil": args.temperature, "batch_size": args.batch_size}
    net = _on_grids(bench, small, knobs, teach, seed=seed + 1000, model=model, **how)
    path = args.workdir / f"{sparsity:g}-{seed}.jcz"
    told = rated.write(path, model, net, args.bits, images, pixels=bench.over_pixels)
    return {**told, **scored(bench, path), "cpu_seconds": time.process_time() - began}


def _on_grids(bench: Bench, params: Any, knobs: Knobs, teach: Callable[..., Data], **how: Any) -> rated.Net:
    """Trains what is left; where pixels are read by a matrix, without those that are not read."""
    if not bench.over_pixels:
        return rated.trained(params, knobs, bench.learned, anew=teach, **how)
    pixels = rated.Pixels(params)
    anew = lambda learned, rng: pixels.images(teach(learned, rng))  # noqa: E731
    few = rated.trained(pixels.rows(params), knobs, bench.learned, anew=anew, **how)
    return rated.again(few, pixels.back(few.params, params), how["bits"])


def decoded(bench: Bench, path: Path) -> tuple[Functions, Any]:
    """A file's function and parameters: its leaves, and widths by their shapes."""
    found, _ = jc.pack.load(path)
    narrow = bench.model(tuple(bench.args.widths)).init(jax.random.key(0), bench.learned.images[:1])["params"]
    tree = jax.tree.structure(narrow)
    params = rated.Pixels.restored(found, tree) if bench.over_pixels else jax.tree.unflatten(tree, found)
    return bench.model(rated.widths(params)), params


def scored(bench: Bench, path: Path) -> dict[str, Any]:
    """The contents of a file, and the error of the network that it is decoded to."""
    model, params = decoded(bench, path)
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(params)]
    return {
        "bytes": path.stat().st_size,
        "widths": list(rated.widths(params)),
        "weights": sum(leaf.size for leaf in leaves),
        "nonzeros": int(sum(np.count_nonzero(leaf) for leaf in leaves)),
        "error": 1 - score(model, {"params": params}, bench.scored_on)["accuracy"],
    }


def job(args: argparse.Namespace) -> dict[str, Any]:
    """Measures every point that is not known yet; returns the table."""
    claim(args, *FREE)
    points = Table(args.workdir, line)
    points.fact("settings", lambda: fixed(args, *FREE))
    bench = prepared(args)
    if args.check:
        check(bench, points.rows)
        return points.summary
    for seed in args.seeds:
        points.row(functools.partial(teacher, bench, seed), sparsity=0.0, seed=seed)
        targets = functools.cache(functools.partial(taught, bench, seed))
        for sparsity in args.sparsities:
            points.row(functools.partial(point, bench, targets, sparsity, seed), sparsity=sparsity, seed=seed)
    return points.summary


def check(bench: Bench, rows: list[dict[str, Any]]) -> None:
    """Decodes every file anew.

    Raises:
      UserError: if one is not of the bytes and the error that its row has.
    """
    for row in (row for row in rows if row["sparsity"]):
        path = bench.args.workdir / f"{row['sparsity']:g}-{row['seed']}.jcz"
        found = scored(bench, path)
        if any(row[name] != value for name, value in found.items()):
            raise UserError(f"{path} gives {found}, and its row has {row}")
        print(f"{path}: {found['bytes']:,} bytes, {found['error']:.2%} as before")


def line(row: Mapping[str, Any]) -> str:
    """A point's row as it is printed."""
    if not row["sparsity"]:
        return f"dense              {row['error']:>7.2%}  seed {row['seed']}"
    size = f"{row['bytes']:>7,} B  {row['error']:>7.2%}"
    cut = "-".join(map(str, row["widths"]))
    return f"{row['sparsity']:<8.4g}{size}  seed {row['seed']}  {cut}, {row['nonzeros']:,} nonzeros"


def table(rows: list[dict[str, Any]]) -> str:
    """Bytes and error at each sparsity, Markdown: means and, of several seeds, sample deviations.

    Example:
      >>> rows = [{"sparsity": 0.993, "bytes": 900 + 2 * seed, "error": 0.01 + seed / 1000} for seed in (0, 1)]
      >>> print(table(rows).splitlines()[-1])
      | 99.3 | 901 ± 1 | 1.05 ± 0.07 |
    """
    lines = [["zeros, %", "bytes", "error, %"], ["---:", "---:", "---:"]]
    for sparsity in sorted({row["sparsity"] for row in rows if row["sparsity"]}):
        own = [row for row in rows if row["sparsity"] == sparsity]
        sizes, errors = [row["bytes"] for row in own], [100 * row["error"] for row in own]
        lines.append([f"{100 * sparsity:.4g}", spread(sizes, ",.0f"), spread(errors, ".2f")])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def spread(values: list[float], form: str) -> str:
    """Mean and, of several, sample deviation."""
    mean = f"{statistics.fmean(values):{form}}"
    return f"{mean} ± {statistics.stdev(values):{form}}" if len(values) > 1 else mean


def show(summary: dict[str, Any], model: str, workdir: Path) -> None:
    """Prints the table and writes the figure."""
    rows = [{**row, "method": "ours"} for row in summary["rows"] if row["sparsity"]]
    if not rows:
        return
    print(table(rows))
    drawing = tradeoff_curves(
        rows, "bytes", ["error"], "method", repeats="sparsity", marks=PUBLISHED[model], logarithmic=True
    )
    with naming(workdir / "error.png"):
        drawing.savefig(workdir / "error.png", dpi=150)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = options.parser(__doc__)
    add = parser.add_argument
    add("--model", required=True, choices=list(MODELS), help="what is trained")
    add("--widths", type=int, nargs="+", help="channels of its layers but the last to begin with; else the published")
    options.add(parser, dataset="mnist", data_dir=None, workdir=None, held_out=0)
    add("--sparsities", type=float, nargs="+", default=[0.99], help="fractions of zeros in all kernels together")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of parameters and the order of images")
    add("--bits", type=int, default=4, help="of a code at most, in two's complement without its least")
    add("--strength", type=float, default=1e-6, help="charge for a bit, beside the mean cross-entropy")
    add("--dense_epochs", type=int, default=15, help="of the dense network")
    add("--epochs", type=int, default=40, help="of pruning, and of training what is left")
    add("--rounded", type=int, default=15, help="epochs on grids")
    options.add(parser, batch_size=128, learning_rate=1e-3, temperature=2.0)
    add("--check", action="store_true", help="decode the files that are there, and compare")
    args = parser.parse_args(argv)
    args.workdir = args.workdir or Path(f"runs/deep_compression-{args.model}")
    args.widths = args.widths or list(WIDTHS[args.model])
    if len(args.widths) != len(WIDTHS[args.model]):
        parser.error(f"--widths: {args.model} has {len(WIDTHS[args.model])} layers before the last")
    return args


def main() -> int:
    """Runs the job of the command line; writes ``summary.json`` and ``error.png``."""
    args = parse()
    return exit_status(lambda: show(job(args), args.model, args.workdir))


if __name__ == "__main__":
    sys.exit(main())
