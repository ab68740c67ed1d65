"""Compiles the main job's training step for four TPU v5e chips, and prints what the compiler made of it as JSON.

Run in a process of its own: the compiler, which needs no TPU, aborts when it fails, and reads its environment once.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import jaxcomp as jc
from jaxcomp.core.threshold import keep_largest
from tests.tpu.hlo import aliases, collectives
from train import models
from train.common import optimizers, parallel, phases
from train.common.distillation import soft_targets, taught
from train.common.parallel import AXIS, PARTS, MeshParallel
from train.common.step import TrainState, init_state, make_step, network
from train.configs import digits


def training_step(kind: str, axis: str | None) -> tuple[Callable[..., TrainState], tuple[TrainState, Any, Any]]:
    """The main job's step on a small network, and the shapes of its arguments.

    Args:
      kind: ``"plain"``: without compression; ``"views"``: masks and fake quantization whose states stand;
        ``"whole"``: the main job's recipe.
      axis: of pmap, or None.
    """
    config, options = digits.get_config(), {"widths": (8, 16)}
    recipe = jc.identity() if kind == "plain" else phases.make_recipe(config, 100)
    if kind == "views":
        recipe = recipe._replace(update=lambda params, state, step, **extra: state)
    optimizer = optimizers.make("adamw", 1e-3, 100, config.weight_decay)
    student = network(models.create("cnn", 10, options, axis_name=axis), (0.5,), (0.5,))
    teacher = network(models.create("cnn", 10, options), (0.5,), (0.5,))
    objective = taught(student, teacher, [soft_targets()])
    step = make_step(objective, recipe, optimizer, record_every=10, axis=axis)

    def arguments() -> tuple[TrainState, Any, Any]:
        images = jnp.zeros((32, 8, 8, 1), jnp.uint8)
        variables = teacher.init(jax.random.key(0), images)
        batch = {"image": images, "label": jnp.zeros(32, jnp.int32), "valid": jnp.ones(32)}
        return init_state(variables, recipe, optimizer), variables, batch

    return step, jax.eval_shape(arguments)


def report(compiled: Any, arguments: tuple[Any, ...]) -> dict[str, Any]:
    """What the tests ask of a compiled program, whose first argument is donated."""
    text = compiled.as_text()
    return {
        "collectives": collectives(text),
        "aliases": aliases(text),
        "donated": len(jax.tree.leaves(arguments[0])),
    }


def with_jit(kind: str, mesh: Mesh) -> dict[str, Any]:
    """The step as ``train.common.parallel`` runs it: parameters replicated, the batch split."""
    step, shapes = training_step(kind, None)
    return report(MeshParallel(mesh).compile(step).lower(*shapes).compile(), shapes)


def in_parts(kind: str, devices: list[Any], data: int) -> dict[str, Any]:
    """The step on a mesh of ``data`` times the rest: batches over all, states and the teacher in parts over these."""
    mesh = Mesh(np.array(devices).reshape(data, -1), (AXIS, PARTS), axis_types=(AxisType.Auto,) * 2)
    step, (state, frozen, batch) = training_step(kind, None)
    spread = MeshParallel(mesh)
    laid = jax.tree.map(
        lambda x, own: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=own), frozen, spread.layouts(frozen)
    )
    return report(spread.compile(step, state).lower(state, laid, batch).compile(), (state, frozen, batch))


def with_pmap(kind: str, devices: list[Any]) -> dict[str, Any]:
    """The step under pmap: a leading axis of devices on everything, the batch divided."""
    step, (state, frozen, batch) = training_step(kind, AXIS)
    each = jax.tree.map(lambda x: jax.ShapeDtypeStruct((len(devices), *x.shape), x.dtype), (state, frozen))
    parts = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((len(devices), x.shape[0] // len(devices), *x.shape[1:]), x.dtype), batch
    )
    compiled = jax.pmap(step, axis_name=AXIS, donate_argnums=0, devices=devices).lower(*each, parts).compile()
    return report(compiled, (state, frozen, batch))


def sharded_threshold(mesh: Mesh) -> dict[str, Any]:
    """The ranking of two arrays together, one of them large enough to be sampled elsewhere, split over the mesh."""
    parts = NamedSharding(mesh, PartitionSpec(AXIS))
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1024, 512), (3, 3, 16, 64))]
    shardings = [parts, NamedSharding(mesh, PartitionSpec(None, None, None, AXIS))]
    rank = jax.jit(
        lambda values: keep_largest(values, [1000], [0, 0]), in_shardings=(shardings,), out_shardings=shardings
    )
    return report(rank.lower(shapes).compile(), (shapes,))


def main() -> None:
    """Compiles everything and prints one line of JSON."""
    topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2", chips_per_host_bounds=(2, 2, 1))
    devices = list(topology.devices)
    mesh = Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))
    result: dict[str, Any] = {"chips": len(devices), "kind": devices[0].device_kind, "host": jax.device_count()}
    for kind in ("plain", "views", "whole"):
        result[f"jit {kind}"] = with_jit(kind, mesh)
    for kind in ("plain", "whole"):
        result[f"pmap {kind}"] = with_pmap(kind, devices)
    parallel.SMALL = 64  # so that a small network is in parts
    whole_slice = topologies.get_topology_desc(
        platform="tpu", topology_name="v5e:4x4", chips_per_host_bounds=(2, 2, 1)
    ).devices
    for kind in ("plain", "whole"):
        result[f"fsdp {kind}"] = in_parts(kind, devices, 1)
        result[f"fsdp16 {kind}"] = in_parts(kind, list(whole_slice), 2)
    result["threshold"] = sharded_threshold(mesh)
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
