"""Quantizes a published CIFAR ResNet after training, at several bits, and scores the integer networks.

    python -m train.quantize --weights resnet20.npz [--data_dir DIR] [--settings w8a8 w4 w4a8 w4a4 w3a8 w2]

A setting is the bits of weights and, after ``a``, of what they are multiplied by (without it, in floating point); then
``d`` for dynamic ranges: ``w8a8d``. The first and the last layer have 8 bits. ``mixed60000a8`` gives each layer's
weights the bits that lose least within so many bytes of a file: what each choice loses is measured by layer, and drawn.
Calibration images are training images, augmented as in training. Every point is written when it is known, and a run
that was stopped goes on with the next.
"""

import argparse
import dataclasses
import functools
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jaxcomp as jc
from jaxcomp.core.files import naming, write_atomically
from train.common import options
from train.common.errors import UserError, exit_status
from train.common.published import Published, add_options, claim, load, reopen
from train.common.scoring import score
from train.common.step import Functions
from train.common.table import Table

FREE = ("settings",)  # what may change from one run in a folder to the next
SETTINGS = ("w8a8", "w8a8d", "w4", "w4a8", "w4a4", "w3", "w3a8", "w2")
PEERS: dict[str, dict[str, tuple[str, float]]] = {
    "resnet20": {
        "w8a8": ("qwix 0.1.8", 0.9175),
        "w8a8d": ("qwix 0.1.8", 0.9180),
        "w4": ("Brevitas, GPTQ", 0.9118),
        "w4a8": ("Brevitas, GPTQ", 0.9122),
        "w4a4": ("Brevitas, GPTQ", 0.9031),
        "w3": ("Brevitas, GPTQ", 0.8488),
        "w3a8": ("Brevitas, GPTQ", 0.8500),
        "w2": ("Brevitas, GPTQ", 0.1663),
    },
    "resnet56": {"w8a8": ("NNCF and OpenVINO", 0.9345), "w4": ("Brevitas, GPTQ", 0.9309)},
    "resnet8": {"w8a8": ("LiteRT", 0.8699)},
}
"""Accuracies of peers on the CIFAR-10 test set, by the name that the file begins with; one run each.

They were run on the same files, Brevitas with bias correction and a stem of 8 bits; LiteRT's is the file that MLPerf
Tiny publishes.
"""


CHOICES = (2, 3, 4, 5, 6, 8)
"""Bits among which mixed precision chooses."""


class Setting(NamedTuple):
    """A setting: the bits of weights and inputs.

    Attributes:
      bits: of weights; None: each layer's own.
      input_bits: of what they are multiplied by; None: in floating point.
      inputs: of which the ranges are ``"static"`` or ``"dynamic"``.
      bytes: of all weights with bits of their own, in a file before entropy coding.
    """

    bits: int | None
    input_bits: int | None
    inputs: str
    bytes: int | None = None

    @classmethod
    def of(cls, name: str) -> "Setting":
        """By its name.

        Raises:
          UserError: if it is none.

        Example:
          >>> Setting.of("w4a8d")
          Setting(bits=4, input_bits=8, inputs='dynamic', bytes=None)
        """
        found = re.fullmatch(r"(?:w([1-8])|mixed([0-9]+))(?:a([1-8])(d?))?", name)
        if found is None or (found[2] and found[4]):
            raise UserError(
                f"a setting is like w4, w4a8 or w4a8d, 1 to 8 bits each, or mixed60000a8 (bytes, bits); got {name!r}"
            )
        bits, size, input_bits, dynamic = found.groups()
        numbers = [int(number) if number else None for number in (bits, input_bits, size)]
        return cls(numbers[0], numbers[1], "dynamic" if dynamic else "static", numbers[2])


def quantized(whole: Published, images: list[Any], args: argparse.Namespace, setting: Setting, rules: Any) -> Any:
    """The network at a setting, or by the rules of mixed precision."""
    inputs: Any = setting.inputs if setting.input_bits else None
    fit = jc.quant.mse() if args.method == "nearest" and setting.bits in range(2, 8) else None
    scheme = jc.rewrite.Scheme(setting.bits or 8, inputs=inputs, input_bits=setting.input_bits or 8, fit=fit)
    return jc.posttrain.ptq(
        whole.model.infer,
        whole.variables,
        images,
        rules or scheme,
        method=args.method,
        biases=not args.keep_biases,
        damping=args.damping,
        places=args.places or None,
    )


def measured(whole: Published, images: list[Any], input_bits: int | None) -> jc.search.Sensitivity:
    """The harm of each choice of bits for each layer's weights, batch norm folded: the divergence of logits."""
    function, folded = jc.rewrite.fold_batch_norm(whole.model.infer, whole.variables, images[0])
    fine = jc.rewrite.Scheme(fit=jc.quant.mse(), inputs="static" if input_bits else None, input_bits=input_bits or 8)
    return jc.search.sensitivity(function, folded, images, {str(bits): fine._replace(bits=bits) for bits in CHOICES})


def allocated(found: jc.search.Sensitivity, budget: int) -> Any:
    """The rules that lose least within so many bytes of weights in a file, before entropy coding.

    How far grids reach is left to the rounding on data: the fit that they were measured with goes by weights alone.

    Raises:
      UserError: if the fewest bits take more.
    """
    try:
        weights = dataclasses.replace(found, size_of=None)  # alone: of the whole file no table has told so far
        rules = jc.search.allocate(weights, file_bytes=budget)
    except jc.errors.JaxcompError as error:
        raise UserError(str(error)) from error
    return {path: scheme and scheme._replace(fit=None) for path, scheme in rules.items()}


def job(args: argparse.Namespace) -> dict[str, Any]:
    """Scores every setting; returns the table."""
    settings = {name: Setting.of(name) for name in args.settings}
    reopen(args, *FREE)
    whole = load(args)
    claim(args, *FREE)
    points = Table(args.workdir, line)
    dense = points.fact("dense", lambda: whole.accuracy(whole.variables))
    print(f"float: {dense:.2%}")
    peers = {} if args.held_out or args.dataset != "cifar10" else PEERS.get(args.weights.stem.split("_")[0], {})
    images = [batch["image"] for batch in whole.take(args, args.calibration)]

    @functools.cache
    def layers(input_bits: int | None) -> jc.search.Sensitivity:
        found = measured(whole, images, input_bits)
        show(found, args.workdir / f"sensitivity-{input_bits or 'float'}")
        return found

    def point(name: str, setting: Setting) -> dict[str, Any]:
        began = time.monotonic()
        rules = None if setting.bytes is None else allocated(layers(setting.input_bits), setting.bytes)
        new = quantized(whole, images, args, setting, rules)
        seconds = time.monotonic() - began
        accuracy = score(Functions(new.apply_fn), new.params, whole.dataset.test)["accuracy"]
        size = jc.rewrite.save(args.workdir / f"{name}.jcz", new.apply_fn, new.params, metadata=whole.about)
        write_atomically(args.workdir / f"{name}.txt", f"{new.report}\n".encode())
        peer, reached = peers.get(name, ("", None))
        row = {"accuracy": accuracy, "drop": dense - accuracy, "seconds": seconds, "bytes": size}
        return {**row, "peer": peer, "peer_accuracy": reached}

    for name, setting in settings.items():
        points.row(functools.partial(point, name, setting), setting=name)
    return points.summary


def line(row: Mapping[str, Any]) -> str:
    """A setting's row as it is printed."""
    lost = f"{100 * row['drop']:>7.2f} points lost"
    return f"{row['setting']:<14}{row['accuracy']:>8.2%}{lost}{row['bytes']:>11,} bytes{row['seconds']:>6.0f} s"


def show(found: jc.search.Sensitivity, path: Path) -> None:
    """Writes what layers lose, as a table and drawn."""
    write_atomically(path.with_suffix(".txt"), f"{found}\n".encode())
    drawing, path = jc.measure.layer_sensitivity(found.rows), path.with_suffix(".png")
    with naming(path):
        drawing.savefig(path, dpi=150)


def table(summary: dict[str, Any]) -> str:
    """A line a setting; Markdown. Drops are in points.

    Example:
      >>> row = {"setting": "w4", "accuracy": 0.91, "drop": 0.0073, "bytes": 150_000, "seconds": 9.0}
      >>> print(*table({"rows": [row | {"peer": "Brevitas", "peer_accuracy": 0.9}]}).splitlines()[2:])
      | w4 | 91.00 % | 0.73 | 150,000 | 9 s | 90.00 % (Brevitas) |
    """
    lines = [["setting", "accuracy", "drop", "bytes", "time", "a peer"], ["---", *["---:"] * 5]]
    for row in summary["rows"]:
        peer = f"{100 * row['peer_accuracy']:.2f} % ({row['peer']})" if row["peer"] else ""
        cells = [f"{100 * row['accuracy']:.2f} %", f"{100 * row['drop']:.2f}", f"{row['bytes']:,}"]
        lines.append([row["setting"], *cells, f"{row['seconds']:.0f} s", peer])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = options.parser(__doc__)
    add = parser.add_argument
    add_options(parser, workdir="runs/quantize", held_out=True)
    add("--settings", nargs="+", default=list(SETTINGS), help="bits of weights and inputs: w4, w4a8d; mixed60000a8")
    add("--method", default="gptq", choices=["gptq", "adaround", "nearest"], help="how weights are rounded")
    add("--keep_biases", action="store_true", help="do not correct biases")
    options.add(parser, calibration=4, places=256, damping=0.01)
    return parser.parse_args(argv)


def main() -> int:
    """Runs the job of the command line; writes ``summary.json``, and of each setting the network and its report."""
    args = parse()
    return exit_status(lambda: print(table(job(args))))


if __name__ == "__main__":
    sys.exit(main())
