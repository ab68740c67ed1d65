"""The gain of integers: networks in float32, fake-quantized and in integers, side by side; time and bytes."""

import argparse
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import jaxcomp as jc
from train import models
from train.bench import timing

SHAPE = (32, 32, 3)
PAIRS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1))
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet20": lambda: models.create("resnet", 10, {"depth": 20}),
    "vgg": lambda: models.create("vgg", 10, {"depth": 13, "widths": (64, 128, 256, 512), "hidden": ()}),
    "mobilenet": lambda: models.create("mobilenet_v1", 10, {"blocks": PAIRS, "halvings": 2}),
}
SCHEMES = {
    "int8 static": jc.rewrite.Scheme(8),
    "int8 static, symmetric": jc.rewrite.Scheme(8, input_symmetric=True),
    "int8 dynamic": jc.rewrite.Scheme(8, inputs="dynamic", input_symmetric=True),
    "int8 weights": jc.rewrite.Scheme(8, inputs=None),
    "int4 weights": jc.rewrite.Scheme(4, inputs=None),
}
GOALS = {"resnet20": 1.3, "vgg": 2.5}
"""How many times faster than float32 int8 is to be at the largest batch."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The benchmark's own options."""
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS), help="what is timed")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 256], help="images in a batch")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Times every variant of every network at every batch size; prints tables and writes ``quant.json``."""
    result: dict[str, Any] = {"rounds": args.rounds, "goals": GOALS, "networks": {}}
    for name in args.networks:
        module = NETWORKS[name]()
        variables = dict(jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, *SHAPE))))
        variants, refused = quantized(module, variables)
        sizes = {kind: sum(leaf.nbytes for leaf in jax.tree.leaves(params)) for kind, (_, params) in variants.items()}
        own: dict[str, Any] = {"bytes": sizes, "refused": refused, "batches": {}}
        print(f"\n{name}, bytes: " + ", ".join(f"{kind} {size:,}" for kind, size in sizes.items()))
        print("".join(f"{kind}: {why}\n" for kind, why in refused.items()), end="")
        for size in args.batches:
            images = jnp.asarray(np.random.default_rng(1).normal(size=(size, *SHAPE)), jnp.float32)
            timed = {kind: _ready(function, params, images) for kind, (function, params) in variants.items()}
            rows = timing.summarize(timing.interleave(timed, args.rounds), "float32")
            timing.show(f"{name}, batch {size}: milliseconds a batch", rows, "float32")
            own["batches"][str(size)] = rows
        result["networks"][name] = own
        if name in GOALS:
            reached = {row["variant"]: 1 / row["ratio"] for row in own["batches"][str(max(args.batches))]}
            print(f"{name}: int8 {reached['int8 static, symmetric']:.2f}x as fast as float32; goal {GOALS[name]}x")
    print(f"written: {timing.write(args.out, 'quant', result)}")
    return result


def quantized(module: nn.Module, variables: Any) -> tuple[dict[str, tuple[Callable[..., Any], Any]], dict[str, str]]:
    """name -> (function, parameters); and what another library refuses, with its reason."""
    image = jnp.zeros((1, *SHAPE))
    data = [jnp.asarray(np.random.default_rng(2).normal(size=(64, *SHAPE)), jnp.float32)]
    function, params = jc.rewrite.fold_batch_norm(module.apply, variables, image)
    ranges = {kind: jc.rewrite.calibrate(function, params, data, scheme) for kind, scheme in SCHEMES.items()}
    fake = jc.rewrite.fake_quantize(function, params, image, ranges=ranges["int8 static"])
    variants: dict[str, tuple[Callable[..., Any], Any]] = {"float32": (function, params), "fake int8": fake}
    for kind, scheme in SCHEMES.items():
        variants[kind] = jc.rewrite.quantize(function, params, image, scheme=scheme, ranges=ranges[kind])
    others, refused = qwix_networks(module, variables, image)
    return variants | others, refused


def qwix_networks(
    module: nn.Module, variables: Any, image: jax.Array
) -> tuple[dict[str, tuple[Callable[..., Any], Any]], dict[str, str]]:
    """The same network by qwix, where that is installed: int8 dynamic, and what it refuses."""
    try:
        import qwix
    except ImportError:
        return {}, {"qwix": "not installed: pip install -e '.[peers]'"}
    made: dict[str, tuple[Callable[..., Any], Any]] = {}
    refused: dict[str, str] = {}
    kinds: dict[str, dict[str, Any]] = {
        "qwix int8": {"weight_qtype": "int8", "act_qtype": "int8"},
        "qwix int8 weights": {"weight_qtype": "int8"},
    }
    for kind, options in kinds.items():
        try:
            provider = qwix.PtqProvider([qwix.QuantizationRule(module_path=".*", **options)])
            model = qwix.quantize_model(module, provider)
            abstract = jax.eval_shape(model.init, jax.random.key(0), image)
            quantized = qwix.quantize_params(variables["params"], abstract["params"])
            held = {**variables, "params": quantized}
            jax.eval_shape(model.apply, held, image)
            made[kind] = (model.apply, held)
        except Exception as error:  # what it cannot do it says in many ways
            refused[kind] = f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
    return made, refused


def _ready(function: Callable[..., Any], params: Any, images: jax.Array) -> Callable[[], Any]:
    compiled, params = jax.jit(function), jax.device_put(params)
    return lambda: compiled(params, images)
