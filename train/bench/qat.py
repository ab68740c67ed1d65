"""The cost of rounding as integers in a training step: plain, fitted, averaged, learned and dynamic, side by side."""

import argparse
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxcomp as jc
from jaxcomp.rewrite import Scheme
from train import models
from train.bench import timing
from train.common.step import Batch, Functions, Variables, network

VARIANTS: dict[str, dict[str, Any]] = {
    "weights": {"scheme": Scheme(8, inputs=None), "weight_grids": "fit"},
    "frozen": {"scheme": Scheme(8), "weight_grids": "fit", "input_grids": "average"},
    "average": {"scheme": Scheme(8), "weight_grids": "fit", "input_grids": "average", "observe": True},
    "lsq": {"scheme": Scheme(8)},
    "lsq of inputs": {"scheme": Scheme(8), "weight_grids": "fit"},
    "dynamic": {"scheme": Scheme(8, inputs="dynamic"), "weight_grids": "fit"},
}
GOALS = {"average": 1.1, "frozen": 1.1}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The benchmark's own options."""
    parser.add_argument("--batch", type=int, default=128, help="images in a batch")
    parser.add_argument("--depth", type=int, default=20, help="of the ResNet")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="what is timed")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Times a step of every variant at w8a8, prints a table and writes ``qat.json``."""
    model, variables, batch = subject(args.depth, args.batch)
    timed = {"plain": stepper(lambda tree, batch: (model.learn(tree["params"], batch), {}), variables, batch)}
    for name in args.variants:
        options = dict(VARIANTS[name])
        observe = options.pop("observe", False)
        function, tree = jc.rewrite.qat(model.learn, variables, [batch], options.pop("scheme"), **options)
        timed[name] = stepper(function.observed if observe else _unobserved(function), tree, batch)
    rows = timing.summarize(timing.interleave(timed, args.rounds), "plain")
    timing.show(f"ResNet-{args.depth} at w8a8, batch {args.batch}: milliseconds a step", rows, "plain")
    result = {"batch": args.batch, "depth": args.depth, "rounds": args.rounds, "goals": GOALS, "rows": rows}
    print(f"written: {timing.write(args.out, 'qat', result)}", flush=True)
    return result


def subject(depth: int, batch_size: int) -> tuple[Functions, Variables, Batch]:
    """A ResNet with random weights, and a batch of random images."""
    model = network(models.create("resnet", 10, {"depth": depth}), (0.5,) * 3, (0.25,) * 3)
    rng = np.random.default_rng(0)
    batch = {
        "image": jnp.asarray(rng.integers(0, 256, (batch_size, 32, 32, 3), dtype=np.uint8)),
        "label": jnp.asarray(rng.integers(0, 10, batch_size, dtype=np.int32)),
        "valid": jnp.ones(batch_size),
    }
    return model, model.init(jax.random.key(0), batch["image"][:1]), batch


def _unobserved(function: jc.rewrite.QuantizedTraining) -> Callable[..., Any]:
    return lambda tree, batch: (function(tree, batch), tree["ranges"])


def stepper(function: Callable[..., Any], tree: Variables, batch: Batch) -> Callable[[], Any]:
    """A function that makes one step of SGD with momentum, from the state that it left behind."""
    whole = tree if "ranges" in tree else {"params": tree, "steps": {}, "ranges": {}}
    optimizer = optax.sgd(1e-3, momentum=0.9)

    def step(state: Any, batch: Batch) -> Any:
        trained, stats, ranges, opt_state = state

        def loss(trained: Any) -> Any:
            weights, steps = trained
            tree = {"params": {"params": weights, "batch_stats": stats}, "steps": steps, "ranges": ranges}
            (logits, new), moved = function(tree, batch)
            return jc.distill.cross_entropy(logits, batch["label"]).mean(), (new["batch_stats"], moved)

        grads, (new, moved) = jax.grad(loss, has_aux=True)(trained)
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(trained, updates), new, moved, opt_state

    trained = whole["params"]["params"], whole["steps"]
    state = trained, whole["params"]["batch_stats"], whole["ranges"], optimizer.init(trained)
    compiled = jax.jit(step, donate_argnums=0).lower(state, batch).compile()
    held = [jax.tree.map(jnp.copy, state)]

    def once() -> Any:
        held.append(compiled(held.pop(), batch))
        return held[0][0]

    return once
