"""The cost of pruning a layer with a weight update, from a small convolution to a large matmul."""

import argparse
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxcomp.core import quadratic
from jaxcomp.prune import reconstruct
from jaxcomp.prune.obc import obc
from jaxcomp.prune.sparsegpt import sparsegpt
from train.bench import timing

LAYERS = ("144x16", "288x32", "576x64", "1152x128", "2304x256", "4608x512", "4096x4096")
"""Reduction x outputs: the 3 x 3 convolutions of CIFAR and ImageNet ResNets, and a square matmul."""
SPARSITY = 0.8


def add_options(parser: argparse.ArgumentParser) -> None:
    """The benchmark's own options."""
    parser.add_argument("--layers", nargs="+", default=LAYERS, help="reduction x outputs")
    parser.add_argument("--obc-up-to", type=int, default=1152, help="the largest reduction at which OBC is timed")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Times every method on every layer, prints a table of each and writes ``reconstruct.json``."""
    result: dict[str, Any] = {"rounds": args.rounds, "sparsity": SPARSITY, "layers": {}}
    for name in args.layers:
        size, out = map(int, name.split("x"))
        weight, moment = layer(size, out)
        keep = round((1 - SPARSITY) * weight.size)
        variants: dict[str, Callable[[], Any]] = {
            "product": functools.partial(jnp.matmul, moment, weight, precision="highest"),
            "SparseGPT": functools.partial(sparsegpt, weight, moment, keep),
        }
        if size <= args.obc_up_to:
            variants["OBC"] = functools.partial(obc, weight, moment, keep)
        rows = timing.summarize(timing.interleave(variants, args.rounds), "product")
        timing.show(f"{size} inputs, {out} outputs", rows, "product")
        result["layers"][name] = {"errors": errors(weight, moment, keep, "OBC" in variants), "rows": rows}
    print(f"written: {timing.write(args.out, 'reconstruct', result)}")
    return result


def layer(size: int, out: int) -> tuple[jax.Array, jax.Array]:
    """Weights, and the damped moment of inputs of which neighbors are alike."""
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], (2 * size, size))
    x = jax.nn.relu(x + jnp.roll(x, 1, axis=1))
    moment = jnp.matmul(x.T, x)[None]
    return jax.random.normal(keys[1], (1, size, out)), quadratic.damped(moment)


def errors(weight: jax.Array, moment: jax.Array, keep: int, exact: bool) -> dict[str, float]:
    """The relative squared error of each method's outputs."""
    whole = quadratic.output_error(weight, jnp.zeros_like(weight), moment)
    mask = reconstruct.keep_of_layer(jnp.abs(weight), keep)
    found = {"magnitude": jnp.where(mask, weight, 0), "SparseGPT": sparsegpt(weight, moment, keep)[1]}
    if exact:
        found["OBC"] = obc(weight, moment, keep)[1]
    return {name: float(quadratic.output_error(weight, new, moment) / whole) for name, new in found.items()}
