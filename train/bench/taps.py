"""The cost of taps: a tapped network beside one that returns the same values by hand, and beside the untapped."""

import argparse
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import jaxcomp as jc
from train.bench import timing
from train.bench.networks import ResNet50, ViTB16, filled
from train.models.imagenet_resnet import ImageNetResNet, Residual
from train.models.layers import ConvNorm, Mode
from train.models.vit import Encoder, ViT

GOAL = 1.02
"""Times what the values cost by hand."""


class ResNet50ByHand(ImageNetResNet):
    """The network, edited: it returns what each of its stages gives, and the features."""

    @nn.compact
    def __call__(self, images: jax.Array) -> Any:
        """``[batch, 224, 224, 3]`` -> logits, values."""
        values: list[jax.Array] = []
        x = nn.max_pool(ConvNorm(64, 7, 2)(images, Mode()), (3, 3), (2, 2), padding="SAME")
        for stage, blocks in enumerate(self.blocks):
            for block in range(blocks):
                x = Residual(64 * 2**stage, 2 if stage and not block else 1)(x, Mode())
                values.append(x)
        features = x.mean((1, 2))
        kept = {f"Residual_{i}": values[i] for i in STAGES}
        return nn.Dense(self.classes)(features), kept | {"Dense_0:input": features}


class ViTB16ByHand(ViT):
    """The network, edited: it returns what some of its blocks give, and what the head reads."""

    @nn.compact
    def __call__(self, images: jax.Array) -> Any:
        """``[batch, 224, 224, 3]`` -> logits, values."""
        width, sides = self.width, (self.patch, self.patch)
        x = nn.Conv(width, sides, sides, padding="VALID", name="embedding")(images)
        x = x.reshape(x.shape[0], -1, width)
        token = self.param("class_token", nn.initializers.zeros, (1, 1, width))
        x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, width)), x], axis=1)
        x = x + self.param("positions", nn.initializers.normal(0.02), (1, *x.shape[1:]))
        values: dict[str, jax.Array] = {}
        for block in range(self.depth):
            x = Encoder(self.heads, 4 * width)(x)
            values |= {f"Encoder_{block}": x} if block in BLOCKS else {}
        features = nn.LayerNorm(epsilon=1e-6)(x[:, :1])[:, 0]
        return nn.Dense(self.classes, name="head")(features), values | {"head:input": features}


STAGES, BLOCKS = (2, 6, 12, 15), (2, 5, 8, 11)
NETWORKS: dict[str, tuple[nn.Module, nn.Module, list[str]]] = {
    "ResNet-50": (ResNet50(), ResNet50ByHand(1000), [*(f"Residual_{i}" for i in STAGES), "Dense_0:input"]),
    "ViT-B/16": (ViTB16(), ViTB16ByHand(1000, 16, 768, 12, 12), [*(f"Encoder_{i}" for i in BLOCKS), "head:input"]),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The benchmark's own options."""
    parser.add_argument("--batch", type=int, default=2, help="images in a batch")
    parser.add_argument("--size", type=int, default=224, help="of the images, pixels a side")
    parser.add_argument("--gradients", action="store_true", help="times the gradient through the values too")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Times every network and what it takes to compile; prints tables and writes ``taps.json``."""
    result: dict[str, Any] = {"rounds": args.rounds, "batch": args.batch, "size": args.size, "goal": GOAL}
    result["networks"] = {}
    for name, (network, by_hand, at) in NETWORKS.items():
        images = jnp.asarray(np.random.default_rng(1).normal(size=(args.batch, args.size, args.size, 3)), jnp.float32)
        params = filled(network, images)
        planned, tapped = _clocked(functools.partial(jc.trace.tap, network.apply, params, images, at=at))
        functions = {"by hand": by_hand.apply, "tapped": tapped, "untapped": network.apply}
        print(f"\n{name}: planned in {planned:.2f} s of processor time")
        forward = _timed(name, functions, params, images, args)
        own = result["networks"][name] = {"planned_cpu_s": planned, "forward": forward}
        if args.gradients:
            own["gradients"] = _timed(f"{name}, gradients", _through(functions), params, images, args)
    print(f"written: {timing.write(args.out, 'taps', result)}")
    return result


def _through(functions: Mapping[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """The gradients of a loss on everything that each function returns."""

    def of(function: Callable[..., Any]) -> Callable[..., Any]:
        def loss(params: Any, x: jax.Array) -> jax.Array:
            return sum((jnp.mean(each**2) for each in jax.tree.leaves(function(params, x))), jnp.float32(0))

        return jax.grad(loss)

    return {name: of(function) for name, function in functions.items()}


def _timed(
    title: str, functions: Mapping[str, Callable[..., Any]], params: Any, images: jax.Array, args: argparse.Namespace
) -> dict[str, Any]:
    """The rows of a table, what tracing and compiling take, the programs' sizes, and whether results are the same."""
    seconds, programs = dict[str, dict[str, float]](), dict[str, Any]()
    for name, function in functions.items():
        traced, lowered = _clocked(functools.partial(jax.jit(_anew(function)).lower, params, images))
        compiled, programs[name] = _clocked(functools.partial(_compiled, lowered))
        seconds[name] = {"trace": traced, "compile": compiled}
    ready = {name: functools.partial(program, params, images) for name, program in programs.items()}
    outs = {name: jax.tree.leaves(call()) for name, call in ready.items()}
    same = all(np.array_equal(a, b) for a, b in zip(outs["tapped"], outs["by hand"], strict=True))
    rows = timing.summarize(timing.interleave(ready, args.rounds), "by hand")
    timing.show(f"{title}, batch {args.batch}: milliseconds", rows, "by hand")
    counts = {name: program.as_text().count(" = ") for name, program in programs.items()}
    for name, own in seconds.items():
        told = f"{counts[name]:,} instructions, traced in {own['trace']:.2f} s of processor time"
        print(f"{name}: {told}, compiled in {own['compile']:.2f}")
    print(f"tapped and by hand: {'the same bits' if same else 'not the same bits'}")
    return {"rows": rows, "cpu_s": seconds, "instructions": counts, "same_bits": same}


def _compiled(lowered: Any) -> Any:
    """A program that no cache holds."""
    cached = getattr(jax.config, "jax_enable_compilation_cache")  # noqa: B009
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        return lowered.compile()
    finally:
        jax.config.update("jax_enable_compilation_cache", cached)


def _anew(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that JAX has not traced before."""
    return lambda params, x: function(params, x)


def _clocked(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of this process, on all cores, and what came of them."""
    began = time.process_time()
    made = work()
    return time.process_time() - began, made
