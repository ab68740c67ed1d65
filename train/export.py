"""Exports an artifact for other runtimes: ``python -m train.export --artifact model.jcz --to litert onnx safetensors``.

Each file is written beside the artifact and run by every runtime of it that is installed: its outputs against ours over
test images, and what a batch takes on one thread, beside the network in floating point (``--float``) there. The
artifact's network takes pixels, 0 to 255, and so does the file.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxcomp as jc
from jaxcomp.core.files import write_atomically
from jaxcomp.core.tables import table
from train.bench import timing
from train.common import options, runtimes
from train.common.errors import UserError, exit_status
from train.common.published import Published
from train.common.runtimes import Run, Runtime
from train.evaluate import Opened, opened

ROUNDS = {1: 50, 256: 5}
"""By the images of a batch: how often it is timed."""


def to_litert(own: Opened, path: Path, calibration: int, batch: int) -> int:
    """Writes a .tflite file for a batch; returns its bytes."""
    images = jax.ShapeDtypeStruct((batch, *own.dataset.test.images.shape[1:]), np.uint8)
    report = jc.export.litert(path, own.model.infer, own.variables, images, batches=_batches(own, calibration))
    print(report)
    return report.bytes


def to_onnx(own: Opened, path: Path, calibration: int, batch: int) -> int:
    """Writes an .onnx file that takes any batch; returns its bytes."""
    report = jc.export.onnx(
        path,
        own.model.infer,
        own.variables,
        own.dataset.test.images[:1],
        shapes="batch, ...",
        batches=_batches(own, calibration),
    )
    print(report)
    return report.bytes


def _batches(own: Opened, calibration: int) -> list[np.ndarray]:
    images = own.dataset.train.images[:calibration]
    size = min(64, len(images))
    return [images[i : i + size] for i in range(0, len(images) - size + 1, size)]


def to_safetensors(own: Opened, path: Path, calibration: int, batch: int) -> int:
    """Writes a .safetensors file of the parameters, under PyTorch's names; returns its bytes."""
    return jc.export.safetensors(path, own.variables, names=jc.export.torch_names(own.variables))


class Format(NamedTuple):
    """A kind of file.

    Attributes:
      suffix: of its name.
      write: what writes it, ``(artifact, path, calibration images, batch) -> bytes``.
      runtimes: those that run it.
      is_of_one_batch: whether another batch takes another file.
    """

    suffix: str
    write: Callable[[Opened, Path, int, int], int]
    runtimes: tuple[Runtime, ...] = ()
    is_of_one_batch: bool = False

    def written(self, own: Opened, path: Path, folder: Path, calibration: int, sizes: Iterable[int]) -> dict[int, Path]:
        """The files for batches of some sizes, the first of which is for the user."""
        first, *others = sizes
        self.write(own, path, calibration, first)
        files = {first: path}
        for size in others:
            files[size] = folder / f"{path.stem}-{size}{self.suffix}" if self.is_of_one_batch else path
            if self.is_of_one_batch:
                self.write(own, files[size], calibration, size)
        return files


FORMATS = {
    "litert": Format(".tflite", to_litert, (runtimes.LITERT, runtimes.OPENVINO), True),
    "onnx": Format(".onnx", to_onnx, (runtimes.ONNX_RUNTIME, runtimes.OPENVINO)),
    "safetensors": Format(".safetensors", to_safetensors),
}


def answers(run: Run, images: np.ndarray, batch: int) -> np.ndarray:
    """Logits ``[n, classes]`` of images, batch by batch; the last is filled up."""
    padded = np.concatenate([images, np.zeros((-len(images) % batch, *images.shape[1:]), images.dtype)])
    rows = [np.asarray(run(padded[i : i + batch])) for i in range(0, len(padded), batch)]
    return np.concatenate(rows)[: len(images)]


class Ours(NamedTuple):
    """What a file is compared with.

    Attributes:
      run: the artifact's function, compiled.
      images, labels: of the test set.
      logits: its answers.
    """

    run: Run
    images: np.ndarray
    labels: np.ndarray
    logits: np.ndarray

    @classmethod
    def of(cls, own: Opened, count: int, batch: int) -> "Ours":
        """Computes the answers to so many test images."""
        compiled = jax.jit(own.model.infer)
        run = lambda images: np.asarray(compiled(own.variables, images))  # noqa: E731
        images, labels = own.dataset.test.images[:count], own.dataset.test.labels[:count]
        return cls(run, images, labels, answers(run, images, batch))


def compared(ours: Ours, run: Run, batch: int) -> dict[str, Any]:
    """The answers of a file, opened for so many images at once, beside ours."""
    found, wanted = answers(run, ours.images, batch), ours.logits
    return {
        "images": len(ours.images),
        "accuracy": float(np.mean(found.argmax(-1) == ours.labels)),
        "our_accuracy": float(np.mean(wanted.argmax(-1) == ours.labels)),
        "agreement": float(np.mean(found.argmax(-1) == wanted.argmax(-1))),
        "largest_difference": float(np.abs(found - wanted).max()),
        "mean_difference": float(np.abs(found - wanted).mean()),
    }


def timed(ours: Ours, runtime: Runtime, path: Path, beside: Path | None, rounds: int, batch: int) -> list[timing.Row]:
    """What a batch takes: the file, the one in floating point beside it, and the artifact in JAX, in turn."""
    images = np.resize(ours.images, (batch, *ours.images.shape[1:]))
    runs = {"file": runtime.opened(path, batch).run, "ours": ours.run}
    runs |= {"float": runtime.opened(beside, batch).run} if beside else {}
    each = {name: lambda run=run: run(images) for name, run in runs.items()}
    return timing.summarize(timing.interleave(each, rounds), "float" if beside else "file")


def in_floats(own: Opened, weights: Path) -> Opened:
    """The network before quantization, its batch norms folded, on the same images."""
    whole = Published.read(weights, own.dataset)
    infer, variables = jc.rewrite.fold_batch_norm(whole.model.infer, whole.variables, own.dataset.test.images[:1])
    return own._replace(model=own.model._replace(infer=infer), variables=variables)


def job(
    artifact: str,
    formats: Sequence[str],
    data_dir: str | None,
    calibration: int,
    count: int,
    model: str = "",
    weights: Path | None = None,
    rounds: dict[int, int] = ROUNDS,
) -> list[dict[str, Any]]:
    """Exports an artifact; returns a row for each file and runtime.

    Raises:
      UserError: as :func:`train.evaluate.opened`; for a task whose files are not compared, and for no image.
    """
    own = opened(artifact, data_dir, model)
    if own.task.name != "classification":
        raise UserError(f"{artifact} is for {own.task.name}: classifiers are what is exported and compared here")
    if calibration < 1 or count < 1:
        raise UserError(f"--calibration and --images must be at least 1, got {calibration} and {count}")
    rows = list[dict[str, Any]]()
    ours = Ours.of(own, count, max(rounds)) if any(FORMATS[name].runtimes for name in formats) else None
    name, floats = "/".join(Path(artifact).with_suffix("").parts[-2:]), in_floats(own, weights) if weights else None
    for kind in map(FORMATS.__getitem__, formats):
        with tempfile.TemporaryDirectory() as folder:
            path, sizes = Path(artifact).with_suffix(kind.suffix), [*rounds] if kind.runtimes else [1]
            files = kind.written(own, path, Path(folder), calibration, sizes)
            about = {"artifact": name, "file": path.name, "bytes": path.stat().st_size}
            beside = {}
            if floats and kind.runtimes:
                whole = Path(folder, f"float{kind.suffix}")
                beside = kind.written(floats, whole, Path(folder), calibration, sizes)
                about["float_bytes"] = whole.stat().st_size
            rows += [about] if ours is None or not kind.runtimes else [
                about | {"runtime": str(runtime)} | measured(ours, runtime, files, beside, rounds)
                for runtime in _here(path, kind)
            ]  # fmt: skip
    return rows


def measured(
    ours: Ours, runtime: Runtime, files: dict[int, Path], beside: dict[int, Path], rounds: dict[int, int]
) -> dict[str, Any]:
    """What a runtime makes of the files for some batches: its answers and times, or why it refuses them."""
    batch = max(rounds)
    try:
        engine = runtime.opened(files[batch], batch)
        times = {
            f"{size}": timed(ours, runtime, files[size], beside.get(size), turns, size)
            for size, turns in rounds.items()
        }
    except UserError as error:  # a runtime has its own limits: others may run the file
        print(error)
        return {"refused": [line for line in str(error).splitlines() if line][-1]}
    floats = sum(count for kind, count in engine.products.items() if kind in ("float32", "f32"))
    products = {"products": dict(engine.products), "products_in_floats": floats}
    return {**products, **compared(ours, engine.run, batch), "times": times}


def _here(path: Path, kind: Format) -> list[Runtime]:
    """The runtimes of a format that are installed."""
    missing = [each for each in kind.runtimes if not each.is_here]
    if missing:
        said = ", ".join(f"{each.title} (pip install {each.package})" for each in missing)
        print(f"{path} is not run by what is not here: {said}")
    if len(missing) == len(kind.runtimes):
        raise UserError(f"{path} is written, and what runs it is not here: pip install {kind.runtimes[0].package}")
    return [each for each in kind.runtimes if each.is_here]


def shown(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a table; times are the processor's, in milliseconds."""
    columns = [
        "file",
        "runtime",
        "bytes",
        "accuracy",
        "ours",
        "alike",
        "furthest",
        "in floats",
        "batch",
        "ms",
        "of float",
    ]
    lines = []
    for row in rows:
        about = [row["file"], row.get("runtime", ""), f"{row['bytes']:,}"]
        about += [f"{row[key]:.2%}" if key in row else "" for key in ("accuracy", "our_accuracy", "agreement")]
        about += [f"{row[key]:.3f}" if key in row else "" for key in ("largest_difference",)]
        about += [f"{row.get('products_in_floats', '')}"]
        if "refused" in row:
            about[3] = "refused"
        for batch, times in (row.get("times") or {"": []}).items():
            own = {each["variant"]: each for each in times}
            cells = [f"{own['file']['cpu_ms']:.2f}"] if own else [""]
            cells += [f"{own['file']['cpu_ratio']:.2f}x"] if "float" in own else [""]
            lines.append([*about, batch, *cells])
            about = [""] * len(about)
    return table(columns, lines)


def merged(path: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A file of rows with these in it, in the place of those of the same artifacts and formats.

    Raises:
      UserError: if there is a file of something else.
    """
    try:
        old = json.loads(path.read_text())["rows"] if path.exists() else []
        made = {(row["artifact"], row["file"]) for row in rows}
        kept = [row for row in old if (row["artifact"], row["file"]) not in made]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} holds no rows of this script: move it away, or give another --out") from error
    return {"machine": timing.machine("train.export"), "rows": [*kept, *rows]}


def main() -> int:
    """Exports ``--artifact``; writes what was measured beside it, as ``export.json``."""
    parser = options.parser(__doc__)
    add = parser.add_argument
    add("--artifact", required=True, help="the .jcz file")
    add("--to", nargs="+", choices=[*FORMATS], default=[*FORMATS], help="the formats")
    add("--images", type=int, default=1000, help="test images that are compared")
    add("--calibration", type=int, default=512, help="training images from which grids are measured")
    add("--float", type=Path, help="the network before it was quantized, .npz or .jcz, whose files are timed beside")
    add("--out", type=Path, help="JSON file of rows; those of other artifacts in it stay; export.json by the artifact")
    options.add(parser, data_dir=None, model="")
    args = parser.parse_args()

    def run() -> None:
        rows = job(args.artifact, args.to, args.data_dir, args.calibration, args.images, args.model, args.float)
        print(shown(rows))
        path = args.out or Path(args.artifact).with_name("export.json")
        write_atomically(path, (json.dumps(timing.rounded(merged(path, rows)), indent=1) + "\n").encode())

    return exit_status(run)


if __name__ == "__main__":
    sys.exit(main())
