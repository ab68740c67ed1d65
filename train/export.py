"""Exports an artifact for other runtimes: ``python -m train.export --artifact model.jcz --to litert onnx safetensors``.

Each file is written beside the artifact, and what runs is run: its outputs against ours over test images, and the time
that one image takes. The artifact's network takes pixels, 0 to 255, and so does the file.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxcomp as jc
from jaxcomp.core.files import write_atomically
from jaxcomp.core.tables import table
from train.common import options
from train.common.errors import UserError, exit_status
from train.evaluate import Opened, opened

Run = Callable[[np.ndarray], np.ndarray]
"""From an image ``[1, height, width, channels]`` uint8 to logits ``[1, classes]``."""


def to_litert(own: Opened, path: Path, calibration: int) -> tuple[dict[str, Any], Run]:
    """Writes a .tflite file; says what it holds, and how it is run."""
    example, batches = own.dataset.test.images[:1], _batches(own, calibration)
    report = jc.export.litert(path, own.model.infer, own.variables, example, batches=batches)
    print(report)
    from ai_edge_litert.interpreter import Interpreter  # of the same extra

    model = Interpreter(model_path=str(path), num_threads=1)
    model.allocate_tensors()
    (given,), (result,) = model.get_input_details(), model.get_output_details()

    def run(image: np.ndarray) -> np.ndarray:
        model.set_tensor(given["index"], image)
        model.invoke()
        return model.get_tensor(result["index"])

    return {"bytes": report.bytes, "float_products": len(report.float_products)}, run


def to_onnx(own: Opened, path: Path, calibration: int) -> tuple[dict[str, Any], Run]:
    """Writes an .onnx file; says what it holds, and how it is run."""
    example, batches = own.dataset.test.images[:1], _batches(own, calibration)
    report = jc.export.onnx(path, own.model.infer, own.variables, example, batches=batches)
    print(report)
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"{path} is written, and what runs it is not here: pip install onnxruntime") from error
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")  # else inputs are rounded, too
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()

    def run(image: np.ndarray) -> np.ndarray:
        return session.run(None, {given.name: image})[0]

    return {"bytes": report.bytes, "float_products": report.float_sites}, run


def _batches(own: Opened, calibration: int) -> list[np.ndarray]:
    images = own.dataset.train.images[:calibration]
    size = min(64, len(images))
    return [images[i : i + size] for i in range(0, len(images) - size + 1, size)]


def to_safetensors(own: Opened, path: Path, calibration: int) -> tuple[dict[str, Any], None]:
    """Writes a .safetensors file of the parameters, under PyTorch's names."""
    return {"bytes": jc.export.safetensors(path, own.variables, names=jc.export.torch_names(own.variables))}, None


FORMATS: dict[str, tuple[str, Callable[[Opened, Path, int], tuple[dict[str, Any], Run | None]]]] = {
    "litert": (".tflite", to_litert),
    "onnx": (".onnx", to_onnx),
    "safetensors": (".safetensors", to_safetensors),
}
"""The suffix of each, and what writes it."""


def compared(own: Opened, run: Run, count: int) -> dict[str, Any]:
    """A file's logits against ours, image by image, and the time of each; of one thread, and of as many as JAX has."""
    images, labels = own.dataset.test.images[:count], own.dataset.test.labels[:count]
    ours = jax.jit(own.model.infer)
    wanted = np.concatenate([np.asarray(ours(own.variables, image[None])) for image in images])
    times: list[float] = []
    found = np.concatenate([_timed(run, image[None], times) for image in images])
    own_times: list[float] = []
    for image in images[:200]:
        _timed(lambda image: np.asarray(ours(own.variables, image)), image[None], own_times)
    return {
        "images": len(images),
        "accuracy": float(np.mean(found.argmax(-1) == labels)),
        "our_accuracy": float(np.mean(wanted.argmax(-1) == labels)),
        "agreement": float(np.mean(found.argmax(-1) == wanted.argmax(-1))),
        "largest_difference": float(np.abs(found - wanted).max()),
        "mean_difference": float(np.abs(found - wanted).mean()),
        "milliseconds": 1e3 * statistics.median(times),
        "our_milliseconds": 1e3 * statistics.median(own_times),
    }


def _timed(run: Run, image: np.ndarray, times: list[float]) -> np.ndarray:
    start = time.perf_counter()
    result = run(image)
    times.append(time.perf_counter() - start)
    return result


def job(
    artifact: str, formats: Sequence[str], data_dir: str | None, calibration: int, count: int, model: str = ""
) -> dict[str, Any]:
    """Exports an artifact; returns a row for each format.

    Raises:
      UserError: as :func:`train.evaluate.opened`; for a task whose files are not compared, and for no image.
    """
    own = opened(artifact, data_dir, model)
    if own.task.name != "classification":
        raise UserError(f"{artifact} is for {own.task.name}: classifiers are what is exported and compared here")
    if calibration < 1 or count < 1:
        raise UserError(f"--calibration and --images must be at least 1, got {calibration} and {count}")
    rows = {}
    for name in formats:
        suffix, write = FORMATS[name]
        path = Path(artifact).with_suffix(suffix)
        said, run = write(own, path, calibration)
        rows[name] = {"file": path.name, **said, **({} if run is None else compared(own, run, count))}
    return rows


def shown(rows: dict[str, Any]) -> str:
    """The rows as a table."""
    columns = ["file", "bytes", "accuracy", "ours", "agreement", "largest difference", "ms", "ours, ms"]

    def cells(row: dict[str, Any]) -> list[str]:
        figures = [f"{row[key]:.2%}" if key in row else "" for key in ("accuracy", "our_accuracy", "agreement")]
        numbers = ("largest_difference", "milliseconds", "our_milliseconds")
        return [
            row["file"],
            f"{row['bytes']:,}",
            *figures,
            *(f"{row[key]:.3f}" if key in row else "" for key in numbers),
        ]

    return table(columns, [cells(row) for row in rows.values()])


def main() -> int:
    """Exports ``--artifact``; writes what was measured beside it, as ``export.json``."""
    parser = options.parser(__doc__)
    parser.add_argument("--artifact", required=True, help="the .jcz file")
    parser.add_argument("--to", nargs="+", choices=[*FORMATS], default=[*FORMATS], help="the formats")
    parser.add_argument("--images", type=int, default=1000, help="test images that are compared")
    parser.add_argument("--calibration", type=int, default=512, help="training images from which grids are measured")
    options.add(parser, data_dir=None, model="")
    args = parser.parse_args()

    def run() -> None:
        rows = job(args.artifact, args.to, args.data_dir, args.calibration, args.images, args.model)
        print(shown(rows))
        write_atomically(Path(args.artifact).with_name("export.json"), (json.dumps(rows, indent=2) + "\n").encode())

    return exit_status(run)


if __name__ == "__main__":
    sys.exit(main())
