"""The cost of compression in a training step: plain, pruned, fake-quantized, distilled, side by side."""

import argparse
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxcomp as jc
from train import models
from train.bench import timing
from train.common import optimizers
from train.common.distillation import soft_targets, taught
from train.common.parallel import DataParallel, data_parallel
from train.common.step import Objective, hard_loss, init_state, make_step, network, on_outputs

MODELS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "lenet5": ((28, 28, 1), {}),
    "resnet": ((32, 32, 3), {"depth": 20}),
}
EVERY = 10  # steps from one ranking of the weights to the next, as in the main job
SPARSITY = 0.95


def add_options(parser: argparse.ArgumentParser) -> None:
    """The benchmark's own options."""
    parser.add_argument("--batch", type=int, default=128, help="images in a batch")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="what is trained")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Times every variant on every model, prints a table of each and writes ``step-MODEL.json``."""
    results = {}
    for name in args.models:
        seconds = by_step(timing.interleave(variants(name, args.batch, args.rounds), EVERY * args.rounds))
        seconds["all without teacher"] = seconds["prune + fake + distil"] - seconds["teacher forward"]
        rows = timing.summarize(seconds, "plain")
        timing.show(f"{name}, batch {args.batch}: milliseconds a step", rows, "plain")
        goals = {"prune": 1.02, "prune + fake": 1.08}
        results[name] = {
            "batch": args.batch,
            "rounds": args.rounds,
            "steps_a_round": EVERY,
            "goals": goals,
            "rows": rows,
        }
        print(f"written: {timing.write(args.out, f'step-{name}', results[name])}", flush=True)
    return results


def by_step(seconds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Means over the steps of a round: one of them ranks the weights anew."""
    return {name: times.reshape(-1, EVERY, 2).mean(axis=1) for name, times in seconds.items()}


def recipes(steps: int) -> dict[str, jc.Compressor]:
    """The main job's recipe, part by part."""
    prune = jc.prune.magnitude(optax.polynomial_schedule(0.0, SPARSITY, 3, steps), scope="global")
    quantize = jc.quant.fake(bits=8, axis=-1)

    def kernels(*views: jc.Compressor) -> jc.Compressor:
        return jc.partition([(r"(.*/)?kernel", jc.chain(*views))])

    return {
        "plain": jc.identity(),
        "prune": kernels(jc.every(EVERY, prune)),
        "prune each step": kernels(prune),
        "fake": kernels(quantize),
        "prune + fake": kernels(jc.every(EVERY, prune), quantize),
    }


def variants(name: str, batch_size: int, rounds: int) -> dict[str, Callable[[], Any]]:
    """name -> a function that makes one training step, from the state that it left behind."""
    shape, options = MODELS[name]
    model = network(models.create(name, 10, options), (0.5,) * shape[-1], (0.25,) * shape[-1])
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch_size, *shape), dtype=np.uint8)
    teacher = model.init(jax.random.key(0), jnp.asarray(images[:1]))
    parallel = data_parallel("jit")
    batch = parallel.split({"image": images, "label": rng.integers(0, 10, batch_size, dtype=np.int32)})
    steps = EVERY * rounds
    losses: dict[str, tuple[jc.Compressor, Objective]] = {
        kind: (recipe, on_outputs(model, hard_loss)) for kind, recipe in recipes(steps).items()
    }
    losses["prune + fake + distil"] = (recipes(steps)["prune + fake"], taught(model, model, [soft_targets()]))

    def trainer(recipe: jc.Compressor, objective: Objective) -> Callable[[], Any]:
        optimizer = optimizers.make("adamw", 1e-3, steps, 1e-4)
        step = make_step(objective, recipe, optimizer, record_every=100)
        state = init_state(model.init(jax.random.key(1), jnp.asarray(images[:1])), recipe, optimizer)
        return _stepper(parallel, step, state, teacher, batch)

    forward = jax.jit(lambda variables, images: model.infer(variables, images))
    timed = {kind: trainer(*parts) for kind, parts in losses.items()}
    return timed | {"teacher forward": lambda: forward(teacher, batch["image"])}


def _stepper(parallel: DataParallel, step: Any, state: Any, frozen: Any, batch: Any) -> Callable[[], Any]:
    compiled, frozen, held = parallel.compile(step), parallel.put(frozen), [parallel.put(state)]

    def once() -> Any:
        held.append(compiled(held.pop(), frozen, batch))
        return held[0].step

    return once
