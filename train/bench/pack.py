"""Files: bytes beside zlib, lzma and the entropy of the values; seconds and memory of saving and loading."""

import argparse
import gc
import lzma
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxcomp as jc
from jaxcomp.core.paths import named_leaves
from train import models
from train.bench import timing
from train.bench.networks import ResNet50, filled
from train.bench.scale import peak

SHARE = 1 << 22
"""Values on which other coders are tried: lzma takes seconds a megabyte."""


def _matrices() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    rows = rng.lognormal(sigma=0.5, size=(12, 2048, 1)).astype(np.float32)
    return {f"Dense_{i}": rng.standard_normal((2048, 4096), np.float32) * rows[i] / 45 for i in range(12)}


TREES: dict[str, Callable[[], Any]] = {
    "ResNet-20": lambda: filled(models.create("resnet", 10, {"depth": 20}), jnp.zeros((1, 32, 32, 3)))["params"],
    "ResNet-50 (25 M)": lambda: filled(ResNet50(), jnp.zeros((1, 224, 224, 3)))["params"],
    "matrices (100 M)": _matrices,
}
_FAKE = {bits: jc.quant.fake(bits, axis=-1) for bits in (2, 4, 8)}
RECIPES = {
    "8 bits": _FAKE[8],
    "4 bits": _FAKE[4],
    "2 bits": _FAKE[2],
    "4 bits, 80 % zeros": jc.chain(jc.prune.magnitude(0.8), _FAKE[4]),
    "float32, 80 % zeros": jc.prune.magnitude(0.8),
}
KERNELS = ".*(kernel|Dense_[0-9]+)"
GOALS = {"of ideal": 1.01, "MB/s": 20, "memory": 2}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The benchmark's own options."""
    parser.add_argument("--trees", nargs="+", default=list(TREES), choices=list(TREES), help="what is saved")
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES), help="how compressed")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Saves every tree under every recipe by both coders; prints a table a tree and writes ``pack.json``."""
    result: dict[str, Any] = {"goals": GOALS, "trees": {}}
    for tree in args.trees:
        params, rows = TREES[tree](), {}
        for name in args.recipes:
            rows[name] = measured(params, RECIPES[name])
            print(f"{tree}, {name}: {rows[name]}", flush=True)
            gc.collect()
        result["trees"][tree] = rows
        _show(tree, rows)
        print(f"written: {timing.write(args.out, 'pack', result)}")
    return result


def measured(params: Any, recipe: jc.Compressor) -> dict[str, Any]:
    """Bytes, seconds and memory of one tree's files, and what others take of the same values."""
    whole = jc.partition([(KERNELS, recipe)])
    state = jax.jit(whole.init)(params)
    view, notes = jax.block_until_ready(jax.jit(whole.apply)(params, state)), whole.describe(params, state, 0)
    dense = sum(leaf.nbytes for leaf in jax.tree.leaves(view))
    row: dict[str, Any] = {"float32": dense}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.jcz"
        for coder in ("deflate", "range"):
            row[coder] = _timed(path, view, notes, coder, dense)
        contents = jc.pack.inspect(path, measured=True)
    row["ideal"] = contents.overhead + sum(t.ideal or 0 for t in contents.tensors)
    codes = _codes(view, notes)
    return row | {"entropy": _order0(codes)} | {f"{name} x": size for name, size in _others(view, codes).items()}


def _timed(path: Path, view: Any, notes: Any, coder: str, dense: int) -> dict[str, Any]:
    """Bytes of a file; MB of float32 a second, by the clock and by the processor; memory beside the tree, in trees."""
    found: dict[str, Any] = {}

    def save() -> None:
        found["bytes"] = jc.pack.save(path, view, notes=notes, coder=coder)

    for name, call in (("save", save), ("load", lambda: jc.pack.load(path)[0])):
        before = peak(reset=True)
        seconds, busy = timing.clocked(call)
        more = (peak() - before) / dense - (name == "load")  # the tree that is loaded is no overhead
        found |= {f"{name} MB/s": dense / 1e6 / seconds, f"{name} MB/cpu s": dense / 1e6 / busy, f"{name} memory": more}
    return found


def _codes(view: Any, notes: Any) -> dict[str, np.ndarray]:
    """By path, what lies on a grid as its steps, a byte each; the rest as it is."""
    found = {}
    for path, leaf in named_leaves(view).items():
        grid, values = notes[path].grid if path in notes else None, np.asarray(leaf)
        found[path] = values if grid is None else np.rint(values / np.asarray(grid.scale)).astype(np.int8)
    return found


def _order0(codes: dict[str, np.ndarray]) -> float:
    """Bytes by the frequencies of each tensor's codes, which a reader does not know; what is no code whole."""
    total = 0.0
    for own in codes.values():
        if own.dtype == np.int8:
            counts = np.bincount(own.reshape(-1).astype(np.int64) + 128)
            counts = counts[counts > 0]
            total -= float((counts * np.log2(counts / own.size)).sum()) / 8
        else:
            total += own.nbytes
    return total


def _others(view: Any, codes: dict[str, np.ndarray]) -> dict[str, float]:
    """How many times smaller zlib and lzma make the first values, as they are and as codes of a byte."""
    raws = {
        "": np.concatenate([np.asarray(leaf).reshape(-1)[:SHARE] for leaf in jax.tree.leaves(view)])[:SHARE].tobytes(),
        " of codes": b"".join(own.reshape(-1)[:SHARE].tobytes() for own in codes.values()),
    }
    size = {"": len(raws[""]), " of codes": sum(4 * min(own.size, SHARE) for own in codes.values())}
    found = {f"zlib{kind}": size[kind] / len(zlib.compress(raw, 9)) for kind, raw in raws.items()}
    return found | {f"lzma{kind}": size[kind] / len(lzma.compress(raw)) for kind, raw in raws.items()}


def _show(tree: str, rows: dict[str, Any]) -> None:
    headings = ["", "float32 MB", "deflate x", "range x", "entropy x", "zlib x", "lzma x", "zlib codes", "lzma codes",
                "of ideal", "save MB/s", "cpu", "load MB/s", "cpu", "save mem", "load mem"]  # fmt: skip
    cells = []
    for name, row in rows.items():
        dense, ranged = row["float32"], row["range"]
        times = [dense / row["deflate"]["bytes"], dense / ranged["bytes"], dense / row["entropy"]]
        times += [row[f"{other} x"] for other in ("zlib", "lzma", "zlib of codes", "lzma of codes")]
        speeds = [ranged[f"{call} {unit}"] for call in ("save", "load") for unit in ("MB/s", "MB/cpu s")]
        memory = [f"{ranged[f'{call} memory']:.2f}" for call in ("save", "load")]
        cells.append([name, f"{dense / 1e6:.1f}", *(f"{x:.2f}" for x in times), f"{ranged['bytes'] / row['ideal']:.4f}",
                      *(f"{speed:.0f}" for speed in speeds), *memory])  # fmt: skip
    timing.table(f"{tree}: how many times smaller, and what it takes", headings, cells)
