"""The cost of a mask update on trees of real size: in compare passes, against a sort-based mask, and in memory."""

import argparse
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxcomp as jc
from train.bench import timing
from train.bench.threshold import resnet50_shapes

SPARSITY = 0.9
BASELINE = "compare"
SORTED = "argsort"
GOALS = {"compare passes": 2.5, "argsort over global": 100.0, "memory over parameters": 1.3}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The benchmark's own options."""
    parser.add_argument("--models", nargs="+", default=["resnet50", "vit-b"], choices=["resnet50", "vit-b"])
    parser.add_argument("--scale", type=float, default=1.0, help="the fraction of each model's width, for a quick look")
    parser.add_argument("--skip-sort", action="store_true", help="do not time argsort, which takes many seconds")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Times mask updates tree by tree, prints a table of each and writes ``prune.json``."""
    result: dict[str, Any] = {
        "sparsity": SPARSITY,
        "rounds": args.rounds,
        "scale": args.scale,
        "goals": GOALS,
        "trees": {},
    }
    for model in args.models:
        params = tree(model, args.scale)
        rows, memory = measured(params, args.rounds, args.skip_sort)
        size = sum(leaf.size for leaf in jax.tree.leaves(params))
        timing.show(f"{model}: {len(params)} kernels, {size:,} weights", rows, BASELINE)
        print("\n".join(f"{name}: {over:.3f} x the parameters" for name, over in memory.items()))
        result["trees"][model] = {
            "weights": size,
            "kernels": len(params),
            "rows": rows,
            "memory_over_parameters": memory,
        }
    print(f"written: {timing.write(args.out, 'prune', result)}")
    return result


def tree(model: str, scale: float) -> dict[str, jax.Array]:
    """Normal weights in the shapes of a model's kernels, ``{path: float32}``."""
    shapes = resnet50_shapes() if model == "resnet50" else vit_b_shapes()
    shapes = [(*shape[:-2], *(max(1, round(size * scale)) for size in shape[-2:])) for shape in shapes]
    keys = jax.random.split(jax.random.key(0), len(shapes))
    draw = jax.jit(lambda key, shape: 0.05 * jax.random.normal(key, shape), static_argnums=1)
    return {f"{i:03}/kernel": draw(key, shape) for i, (key, shape) in enumerate(zip(keys, shapes, strict=True))}


def vit_b_shapes() -> list[tuple[int, ...]]:
    """The kernels of a ViT-B/16 on 224 x 224 pixels: patches, twelve blocks, a head; 86 million weights.

    Example:
      >>> sum(map(np.prod, vit_b_shapes())).item()
      86292480
    """
    block: list[tuple[int, ...]] = [(768, 2304), (768, 768), (768, 3072), (3072, 768)]
    return [(16, 16, 3, 768), *block * 12, (768, 1000)]


def measured(params: dict[str, jax.Array], rounds: int, skip_sort: bool) -> tuple[list[timing.Row], dict[str, float]]:
    """Rows of times, and the temporary and new memory of each update over the parameters' bytes."""
    pruners = variants()
    shapes = {name: jax.eval_shape(pruner.init, params) for name, pruner in pruners.items()}
    states = {name: jax.tree.map(lambda own: jnp.ones(own.shape, own.dtype), tree) for name, tree in shapes.items()}
    timed: dict[str, Callable[[], Any]] = {BASELINE: _ready(_compare, params)}
    memory, size = {}, sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    for name, pruner in pruners.items():
        update = jax.jit(pruner.update).lower(params, states[name], jnp.int32(1)).compile()
        timed[name] = functools.partial(update, params, states[name], jnp.int32(1))
        analysis: Any = update.memory_analysis()
        memory[name] = 1 + (analysis.temp_size_in_bytes + analysis.output_size_in_bytes) / size
    seconds = timing.interleave(timed, rounds)
    if not skip_sort:  # once: it takes up to a minute
        by_sort = jax.jit(_sorted_mask).lower(params).compile()
        seconds[SORTED] = np.array([timing.clocked(lambda: by_sort(params))])
    rows = timing.summarize(seconds, BASELINE)
    return rows, memory


def variants() -> dict[str, jc.Compressor]:
    """The pruners: each scope, each pattern. Constant schedules, so that counts are traced as in training."""
    at = lambda step: jnp.float32(SPARSITY) + 0 * step  # noqa: E731
    half = lambda step: jnp.float32(0.5) + 0 * step  # noqa: E731
    return {
        "magnitude, layer": jc.prune.magnitude(at),
        "magnitude, global": jc.prune.magnitude(at, scope="global"),
        "magnitude, erk": jc.prune.prune(at, distribution="erk"),
        "blocks (8, 128), global": jc.prune.prune(at, pattern=jc.prune.blocks((8, 128)), distribution="global"),
        "2:4": jc.prune.prune(half, pattern=jc.prune.nm(2, 4)),
        "2:4, once": jc.prune.prune(0.5, pattern=jc.prune.nm(2, 4)),
    }


def _compare(params: dict[str, jax.Array]) -> Any:
    """One compare pass over everything, the floor of any threshold."""
    return [jnp.sum(jnp.abs(leaf) > 0.08) for leaf in params.values()]


def _sorted_mask(params: dict[str, jax.Array]) -> Any:
    """A global mask as by ranks: argsort of all magnitudes."""
    flat = jnp.concatenate([jnp.abs(leaf).ravel() for leaf in params.values()])
    pruned = round(SPARSITY * flat.size)
    mask = jnp.ones(flat.size, bool).at[jnp.argsort(flat)[:pruned]].set(False)
    return jnp.split(mask, np.cumsum([leaf.size for leaf in params.values()])[:-1])


def _ready(function: Callable[..., Any], params: Any) -> Callable[[], Any]:
    compiled = jax.jit(function).lower(params).compile()
    return lambda: compiled(params)
