"""The cost of an exact threshold, beside one pass over the same weights, a sort and a partition."""

import argparse
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcomp.prune.magnitude import magnitude_masks
from train.bench import timing

SPARSITIES = (0.5, 0.9, 0.98)
BASELINE = "compare"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The benchmark's own options."""
    parser.add_argument("--size", type=int, default=25_000_000, help="weights in all")
    parser.add_argument("--skip-sort", action="store_true", help="do not time jnp.sort, which takes seconds")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Times thresholds and passes in float32 and bfloat16, prints a table of each and writes ``threshold.json``."""
    result: dict[str, Any] = {"size": args.size, "rounds": args.rounds, "dtypes": {}}
    result["goal"] = f"at most 2.5 {BASELINE} passes and a constant, or 0.1 s"
    for dtype in (jnp.float32, jnp.bfloat16):
        weights = jax.random.normal(jax.random.key(0), (args.size,), dtype) * jnp.array(0.05, dtype)
        rows = timing.summarize(timing.interleave(variants(weights), args.rounds), BASELINE)
        if dtype == jnp.float32:
            rows += once(weights, rows, args.skip_sort)
        name = jnp.dtype(dtype).name
        timing.show(f"{args.size:,} weights in {name}", rows, BASELINE)
        result["dtypes"][name] = rows
        read = next(row for row in rows if row["variant"] == "read")
        rate = weights.nbytes / read["median_ms"] / 1e6
        result[f"floor_{name}"] = {"bytes": weights.nbytes, "gigabytes_a_second": rate, "ms": read["median_ms"]}
        print(f"floor: one read of {weights.nbytes:,} bytes at {rate:.1f} GB/s, {read['median_ms']:.1f} ms")
    print(f"written: {timing.write(args.out, 'threshold', result)}")
    return result


def variants(weights: jax.Array) -> dict[str, Callable[[], Any]]:
    """Thresholds at several sparsities and scopes, and passes that do less."""
    at = jnp.array(0.08, weights.dtype)
    layers = [jnp.asarray(part) for part in split_like_resnet50(weights)]
    timed = {
        "read": _jitted(lambda w, t: jnp.sum(w), weights, at),
        BASELINE: _jitted(lambda w, t: jnp.sum(jnp.abs(w) > t), weights, at),
        "count 8": _jitted(_count_eight, weights, at),
        "write mask": _jitted(lambda w, t: jnp.abs(w) > t, weights, at),
    }
    for sparsity in SPARSITIES:
        fraction = jnp.float32(sparsity)
        timed[f"keep_largest {sparsity}"] = _jitted(lambda w, s: magnitude_masks([w], s), weights, fraction)
    half = jnp.float32(0.9)
    timed[f"{len(layers)} arrays, global 0.9"] = _jitted(lambda w, s: magnitude_masks(w, s, "global"), layers, half)
    timed[f"{len(layers)} arrays, layer 0.9"] = _jitted(lambda w, s: magnitude_masks(w, s, "layer"), layers, half)
    return timed


def once(weights: jax.Array, rows: list[timing.Row], skip_sort: bool) -> list[timing.Row]:
    """Times once what takes seconds: a partition on the host, and a sort."""
    host = np.abs(np.asarray(weights))
    seconds = {"np.partition": np.array([timing.clocked(lambda: np.partition(host, host.size * 9 // 10))])}
    if not skip_sort:
        sort = jax.jit(lambda w: jnp.sort(jnp.abs(w))).lower(weights).compile()
        seconds["jnp.sort"] = np.array([timing.clocked(lambda: sort(weights))])
    base = next(row for row in rows if row["variant"] == BASELINE)
    baseline = np.array([[base["median_ms"], base["cpu_ms"]]]) / 1e3
    return timing.summarize({BASELINE: baseline} | seconds, BASELINE)[1:]


def resnet50_shapes() -> list[tuple[int, ...]]:
    """ResNet-50's kernels: convolutions ``[h, w, in, out]`` and a head."""
    shapes: list[tuple[int, ...]] = [(7, 7, 3, 64)]
    channels = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 * 2**stage
        for block in range(blocks):
            shapes += [(1, 1, channels, width), (3, 3, width, width), (1, 1, width, 4 * width)]
            shapes += [(1, 1, channels, 4 * width)] if block == 0 else []
            channels = 4 * width
    return [*shapes, (channels, 1000)]


def split_like_resnet50(weights: jax.Array) -> list[np.ndarray]:
    """54 arrays that share the weights as ResNet-50's kernels do.

    Example:
      >>> len(split_like_resnet50(jnp.zeros(2_550_286)))
      54
    """
    shapes = resnet50_shapes()
    host, at, parts = np.asarray(weights), 0, []
    scale = weights.size / sum(map(np.prod, shapes))
    for *lead, last in shapes:
        rows = max(1, int(np.prod(lead) * scale))
        parts.append(host[at : at + rows * last].reshape(-1, last))
        at += rows * last
    return parts


def _count_eight(weights: jax.Array, at: jax.Array) -> Any:
    hits = [(jnp.abs(weights) > at * i).astype(jnp.uint32) for i in range(8)]
    zeros = [jnp.uint32(0)] * len(hits)
    return lax.reduce(hits, zeros, lambda a, b: [x + y for x, y in zip(a, b, strict=True)], (0,))


def _jitted(function: Callable[..., Any], *args: Any) -> Callable[[], Any]:
    compiled = jax.jit(function)
    return lambda: compiled(*args)
