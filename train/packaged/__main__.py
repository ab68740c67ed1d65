"""Makes small files of networks that public packages ship, without training, and judges them by what they are for.

    python -m train.packaged [--networks voice text selfie faces] [--npm node_modules] [--settings bytes90000 ...]

For each network: the package's file is read as a function of JAX and compared with its own runtime, is made small
(``jc.posttrain``, ``jc.pack``), loaded again, and set to work on held-out data beside the original. Packages are found
where they are installed, and what is missing is said with the command that installs it:

    pip install --no-deps silero-vad rapidocr scikit-image onnxruntime 'jaxcomp[onnx,litert]'
    npm install @mediapipe/selfie_segmentation @mediapipe/face_detection @vladmandic/face-api

A setting, of each file of a network in turn, is what the file may take, ``bytes90000``, or what a bit is worth,
``rate3e-7``. Every file and row is written when it is known, and a run that was stopped goes on with the next.
"""

import argparse
import functools
import importlib
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxcomp as jc
from jaxcomp.core.files import write_atomically
from train.common import options
from train.common.errors import exit_status
from train.common.published import claim
from train.common.small import Setting, Smaller
from train.common.table import Table
from train.packaged import prose
from train.packaged.subject import Folders, Part, Run, Subject

NETWORKS = ("voice", "text", "selfie", "faces")
SPEAK = ("voice", "text")
"""Those that are judged by sentences."""
FREE = ("networks", "settings", "npm")


def job(args: argparse.Namespace) -> dict[str, Any]:
    """Reads, compares, makes small and judges every network; returns the table."""
    for name in args.settings or ():
        Setting.of(name)
    claim(args, *FREE)
    rows = Table(args.workdir, line)
    for name in args.networks:
        of = {"sentences": prose.digest()} if name in SPEAK else {}
        rows.row(functools.partial(judged, name, args, of.values()), network=name, settings=args.settings, **of)
    return rows.summary


def judged(name: str, args: argparse.Namespace, of: Iterable[str]) -> dict[str, Any]:
    """A network's row; its files are of the data ``of`` which it is made."""
    began = time.process_time()
    subject: Subject = importlib.import_module(f"train.packaged.{name}").load(Folders(args.npm))
    theirs = subject.answers({part: own.original for part, own in subject.parts.items()})
    whole = {part: ran(own.function, own.params) for part, own in subject.parts.items()}
    read = subject.compared(subject.answers(whole), theirs)
    furthest = {part: difference(whole[part], own) for part, own in subject.parts.items()}
    runs, sizes, settings = dict[str, Run](), dict[str, int](), dict[str, str]()
    for number, (part, own) in enumerate(subject.parts.items()):
        settings[part] = args.settings[number % len(args.settings)] if args.settings else own.setting
        path = args.workdir / f"{'-'.join([part, settings[part], *of])}.jcz"
        runs[part], sizes[part] = made(own, settings[part], path, args.damping), path.stat().st_size
    ours = subject.answers(runs)
    if subject.drawn is not None:
        subject.drawn(args.workdir / f"{name}.png", ours, theirs)
    files = {part: own.path.stat().st_size for part, own in subject.parts.items()}
    return {
        "files": {part: own.path.name for part, own in subject.parts.items()},
        "made_with": settings,
        "largest_difference": furthest,
        "read": read,
        **subject.compared(ours, theirs),
        "original_bytes": files,
        "compressed_bytes": sizes,
        "ratio": sum(files.values()) / sum(sizes.values()),
        "cpu_seconds": time.process_time() - began,
    }


def made(part: Part, setting: str, path: Path, damping: float) -> Run:
    """Writes the small file, if it is not there yet, and gives the function that it holds."""
    about = {"made_of": part.path.name}
    names = "places", "bits", "each_output", "counts"
    how: dict[str, Any] = {name: getattr(part, name) for name in names}
    report = path.with_suffix(".txt")
    if not report.exists():  # it is written last: what a run that was stopped has made is there
        smaller = Smaller(part.function, part.params, part.batches, about, damping=damping, others=16, **how)
        small = smaller(Setting.of(setting), path)
        write_atomically(report, f"{small.report}\n".encode())
    shapes, batch = jax.eval_shape(lambda: part.params), part.batches[0]
    return ran(*jc.rewrite.load(path, part.function, shapes, *(batch if isinstance(batch, tuple) else (batch,))))


def ran(function: Callable[..., Any], params: Any) -> Run:
    """A function of its inputs alone, compiled."""
    compiled = jax.jit(function)
    return lambda *inputs: compiled(params, *inputs)


def difference(run: Run, part: Part) -> float:
    """The largest difference of a function from the original on a batch, as a part of the original's largest number."""
    pairs = zip(jax.tree.leaves(run(part.batches[0])), jax.tree.leaves(part.original(part.batches[0])), strict=True)
    return max(float(np.abs(np.asarray(a) - b).max() / np.abs(b).max()) for a, b in pairs)


def line(row: Mapping[str, Any]) -> str:
    """A row as it is printed."""
    size, old = (sum(row[f"{which}_bytes"].values()) for which in ("compressed", "original"))
    figures = f"{row['score']:>8.2%} as the original ({row['read']['score']:.2%} when read)"
    return f"{row['network']:<8}{figures}{old:>12,} ->{size:>10,} bytes{row['cpu_seconds']:>6.0f} s"


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = options.parser(__doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="which")
    parser.add_argument("--npm", type=Path, default=Path("node_modules"), help="folder that npm has installed into")
    parser.add_argument("--settings", nargs="+", help="of each file of a network in turn; by default those that fit")
    options.add(parser, workdir=Path("runs/packaged"), damping=0.01)
    return parser.parse_args(argv)


def main() -> int:
    """Runs the job of the command line; writes ``summary.json``, the files, and a report and a picture of each."""
    args = parse()
    return exit_status(lambda: job(args))


if __name__ == "__main__":
    sys.exit(main())
