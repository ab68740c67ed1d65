"""Compiles a step of distillation with hints, tapped and by hand, for four TPU v5e chips; prints JSON.

Run in a process of its own, by ``tests.tpu.compiler``.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import jaxcomp as jc
from tests.tpu.hlo import collectives, cycles

BATCH, SIZE, CHANNELS, LAYERS = 64, 14, 128, 2
DIMENSIONS = ("NHWC", "HWIO", "NHWC")
HINT = BATCH * SIZE * SIZE * CHANNELS * 2
"""Bytes of a value that is tapped, on all chips together."""

Values = dict[str, jax.Array]


def _bf16(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.bfloat16)


def shapes(width: int) -> Any:
    """The parameters of a network of that many channels inside of its layers."""
    layer = {"in": _bf16(1, 1, CHANNELS, width), "out": _bf16(3, 3, width, CHANNELS), "bias": _bf16(CHANNELS)}
    return {**{f"layer{i}": layer for i in range(LAYERS)}, "head": _bf16(CHANNELS, 128)}


def network(params: Any, x: jax.Array) -> jax.Array:
    """Blocks of two convolutions about a shortcut, remade in the backward pass; a head."""
    return by_hand(params, x)[0]


def by_hand(params: Any, x: jax.Array) -> tuple[jax.Array, Values]:
    """The same, which returns what the first block gives beside the logits."""

    @jax.checkpoint
    def block(p: Any, x: jax.Array) -> jax.Array:
        conv = lambda x, w: jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=DIMENSIONS)  # noqa: E731
        return jax.nn.relu(x + conv(jax.nn.relu(conv(x, p["in"])), p["out"]) + p["bias"])

    values = {}
    for i in range(LAYERS):
        values[f"layer{i}"] = x = block(params[f"layer{i}"], x)
    return x.mean((1, 2)) @ params["head"], {"hint": values["layer0"]}


def without(params: Any, x: jax.Array) -> tuple[jax.Array, Values]:
    """No hint."""
    return network(params, x), {}


def step_of(student: Callable[..., Any], teacher: Callable[..., Any]) -> Callable[..., Any]:
    """A step of distillation from the logits, and from what else the networks return."""

    def loss(params: Any, frozen: Any, x: jax.Array) -> jax.Array:
        logits, mine = student(params, x)
        soft, theirs = jax.lax.stop_gradient(teacher(frozen, x))
        gaps = [jnp.mean((mine[name] - theirs[name]).astype(jnp.float32) ** 2) for name in mine]
        return jc.distill.kl(logits, soft, temperature=4.0).mean() + sum(gaps, jnp.float32(0))

    def step(params: Any, state: Any, frozen: Any, x: jax.Array) -> Any:
        updates, state = OPTIMIZER.update(jax.grad(loss)(params, frozen, x), state, params)
        return optax.apply_updates(params, updates), state

    return step


OPTIMIZER = optax.sgd(0.1, momentum=0.9)


def main() -> None:
    """Compiles everything and prints one line of JSON."""
    topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2", chips_per_host_bounds=(2, 2, 1))
    mesh = Mesh(np.array(list(topology.devices)), ("x",), axis_types=(AxisType.Auto,))
    whole, split = (NamedSharding(mesh, PartitionSpec(*names)) for names in ((), ("x",)))
    images, (small, large) = _bf16(BATCH, SIZE, SIZE, CHANNELS), map(shapes, (128, 256))
    tap = lambda params: jc.trace.tap(network, params, images, at={"hint": "layer0:activated"})  # noqa: E731
    pairs = {"tapped": (tap(small), tap(large)), "by hand": (by_hand, by_hand), "without": (without, without)}
    result: dict[str, Any] = {"kind": topology.devices[0].device_kind, "hint": HINT // len(topology.devices)}
    for name, pair in pairs.items():
        placed = jax.jit(
            step_of(*pair), in_shardings=(whole, whole, whole, split), out_shardings=whole, donate_argnums=(0, 1)
        )
        compiled = placed.lower(small, jax.eval_shape(OPTIMIZER.init, small), large, images).compile()
        memory, text = compiled.memory_analysis(), compiled.as_text()
        result[name] = {
            "collectives": collectives(text),
            "temporary": memory.temp_size_in_bytes,
            "output": memory.output_size_in_bytes,
            "code": memory.generated_code_size_in_bytes,
            "cycles": cycles(text),
        }
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
