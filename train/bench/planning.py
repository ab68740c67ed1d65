"""The cost of planning: finding a network's groups, shrinking it, tracing the result, beside its plain trace."""

import argparse
import gc
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import jaxcomp as jc
from train.bench import timing
from train.bench.networks import ResNet50, ViTB16, abstract

NETWORKS: dict[str, nn.Module] = {"ResNet-50": ResNet50(), "ViT-B/16": ViTB16()}
IMAGE = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
GOALS = {"groups, s": 0.5, "trace of the shrunk / trace": 2.0}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The benchmark's own options."""
    parser.add_argument("--fraction", type=float, default=0.5, help="of the channels of every group, what is cut")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Times every stage on every network, on shapes alone; prints a table of each and writes ``planning.json``."""
    result: dict[str, Any] = {"rounds": args.rounds, "fraction": args.fraction, "goals": GOALS, "networks": {}}
    for name, module in NETWORKS.items():
        variables = abstract(module, IMAGE)
        turns = [_stages(module, variables, args.fraction) for _ in range(args.rounds + 1)][1:]
        seconds = {stage: np.array([turn[stage] for turn in turns]) for stage in turns[0]}
        rows = timing.summarize(seconds, "trace")
        timing.show(f"{name}: milliseconds of planning", rows, "trace")
        result["networks"][name] = {"groups": len(jc.trace.groups(module.apply, variables, IMAGE)), "rows": rows}
    print(f"written: {timing.write(args.out, 'planning', result)}")
    return result


def _stages(module: nn.Module, variables: Any, fraction: float) -> dict[str, tuple[float, float]]:
    """Seconds of each stage, one after the other, each on a function that JAX has not traced before."""
    held: list[Any] = []
    seconds: dict[str, tuple[float, float]] = {}

    def clock(stage: str, work: Callable[[Callable[..., Any]], Any]) -> None:
        gc.collect()  # no stage pays for the garbage of another
        seconds[stage] = timing.clocked(lambda: held.append(work(lambda variables, x: module.apply(variables, x))))

    clock("trace", lambda function: jax.make_jaxpr(function)(variables, IMAGE))
    clock("groups", lambda function: jc.trace.groups(function, variables, IMAGE))
    keep = {group.name: np.arange(group.size) >= fraction * (group.size - 1) for group in held[-1]}
    clock("shrink", lambda function: jc.rewrite.shrink(function, variables, IMAGE, keep=keep))
    new, small = held[-1]
    other = jax.ShapeDtypeStruct((2, *IMAGE.shape[1:]), IMAGE.dtype)  # a batch size that is planned anew
    clock("trace of the shrunk", lambda _: jax.make_jaxpr(new)(small, other))
    return seconds
