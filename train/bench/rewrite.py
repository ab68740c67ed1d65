"""The gain of rewrites: a network whole, masked, shrunk, folded and both, side by side; and the time to plan them."""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxcomp as jc
from train import models
from train.bench import timing

SHAPE = (32, 32, 3)
WANTED = 0.8
"""The part of the ideal speed-up, the ratio of MACs, that the shrunk network is to reach at the largest batch."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The benchmark's own options."""
    parser.add_argument("--depth", type=int, default=56, help="of the CIFAR ResNet, 6n + 2")
    parser.add_argument("--macs", type=float, default=0.6, help="the fraction of multiply-accumulates that is left")
    parser.add_argument("--multiple", type=int, default=16, help="channels are kept in multiples of so many")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 256], help="images in a batch")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Times planning once and every network at every batch size; prints tables and writes ``rewrite.json``."""
    module = models.create("resnet", 10, {"depth": args.depth})
    variables = jax.device_get(_filled(module, np.random.default_rng(0)))
    networks, planning = rewritten(module.apply, variables, args.macs, args.multiple)
    result: dict[str, Any] = {
        "depth": args.depth,
        "multiple": args.multiple,
        "rounds": args.rounds,
        "planning": planning,
        "batches": {},
    }
    print("\n".join(f"{name}: {value:.3g}" for name, value in planning.items()))
    for size in args.batches:
        images = jnp.asarray(np.random.default_rng(1).normal(size=(size, *SHAPE)), jnp.float32)
        ready = {name: _ready(*network, images) for name, network in networks.items()}
        rows = timing.summarize(timing.interleave(ready, args.rounds), "whole")
        timing.show(f"ResNet-{args.depth}, batch {size}: milliseconds a batch", rows, "whole")
        gains = {row["variant"]: 1 / row["ratio"] for row in rows}
        share = gains["shrunk"] / planning["ideal speed-up"]
        print(f"shrunk: {gains['shrunk']:.2f}x faster of {planning['ideal speed-up']:.2f}x by MACs ({share:.0%})")
        result["batches"][str(size)] = {"rows": rows, "share_of_ideal": share, "goal": WANTED}
    print(f"written: {timing.write(args.out, 'rewrite', result)}")
    return result


def rewritten(
    apply_fn: Callable[..., Any], variables: Any, macs: float, multiple: int
) -> tuple[dict[str, tuple[Callable[..., Any], Any]], dict[str, float]]:
    """name -> (function, parameters), and the seconds that planning took beside a plain trace's."""
    image = jnp.zeros((1, *SHAPE))
    seconds = {"trace, s": _seconds(lambda: jax.make_jaxpr(apply_fn)(variables, image))}
    found: list[jc.trace.Groups] = []
    seconds["groups, s"] = _seconds(lambda: found.append(jc.trace.groups(apply_fn, variables, image)))
    groups = found[0]
    choice = jc.rewrite.choose(macs=macs, scope="global", maximum=0.9, multiple=multiple)
    keep = choice(groups, variables)
    small_fn, small = jc.rewrite.shrink(apply_fn, variables, image, keep=keep)
    seconds["trace of the shrunk function, s"] = _seconds(lambda: jax.make_jaxpr(small_fn)(small, image))
    folded_fn, folded = jc.rewrite.fold_batch_norm(apply_fn, variables, image)
    both_fn, both = jc.rewrite.fold_batch_norm(small_fn, small, image)
    networks: dict[str, tuple[Callable[..., Any], Any]] = {
        "whole": (apply_fn, variables),
        "masked": (apply_fn, jc.rewrite.mask(groups, variables, keep)),
        "folded": (folded_fn, folded),
        "shrunk": (small_fn, small),
        "shrunk, folded": (both_fn, both),
    }
    return networks, seconds | {"ideal speed-up": groups.macs() / groups.macs(keep)}


def _filled(module: Any, rng: np.random.Generator) -> Any:
    """Fresh variables whose norms are not trivial, so that folding has something to fold."""
    variables = dict(jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, *SHAPE))))
    stats = jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), leaf.dtype), variables)
    return variables | {"batch_stats": stats["batch_stats"]}


def _ready(function: Callable[..., Any], params: Any, images: jax.Array) -> Callable[[], Any]:
    compiled, params = jax.jit(function), jax.device_put(params)
    return lambda: compiled(params, images)


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
