"""Compiles a bottleneck of 256 channels, and what ``shrink`` makes of it, for a TPU v5e; prints JSON.

Run in a process of its own, by ``tests.tpu.compiler``.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import topologies

import jaxcomp as jc
from tests.tpu.hlo import aliases, cycles

CHANNELS = 256
DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def _norm() -> dict[str, Any]:
    return {name: _bf16(CHANNELS) for name in ("scale", "bias", "mean", "var")}


def _bf16(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.bfloat16)


IMAGES = _bf16(32, 14, 14, 128)
PARAMS = {
    "reduce": {"kernel": _bf16(1, 1, 128, CHANNELS), "norm": _norm()},
    "middle": {"kernel": _bf16(3, 3, CHANNELS, CHANNELS), "norm": _norm()},
    "expand": {"kernel": _bf16(1, 1, CHANNELS, 128)},
}


def bottleneck(params: Any, x: jax.Array) -> jax.Array:
    """Convolution, norm, relu, twice; convolution."""
    for layer in ("reduce", "middle"):
        norm = params[layer]["norm"]
        x = jax.lax.conv_general_dilated(x, params[layer]["kernel"], (1, 1), "SAME", dimension_numbers=DIMENSIONS)
        x = (x - norm["mean"]) * jax.lax.rsqrt(norm["var"] + 1e-3) * norm["scale"] + norm["bias"]
        x = jax.nn.relu(x)
    return jax.lax.conv_general_dilated(x, params["expand"]["kernel"], (1, 1), "SAME", dimension_numbers=DIMENSIONS)


def shrunk(channels: int) -> tuple[Callable[..., Any], Any]:
    """The bottleneck with that many channels inside."""
    keep = {f"{layer}/kernel": np.arange(CHANNELS) < channels for layer in ("reduce", "middle")}
    return jc.rewrite.shrink(bottleneck, PARAMS, IMAGES, keep=keep)


def exported(function: Callable[..., Any], shapes: Any) -> tuple[jc.export.Program, Any]:
    """The function as it comes back from a file, made for any batch size and three platforms, and its parameters."""
    params = jax.tree.map(lambda p: np.ones(p.shape, p.dtype), shapes)
    with tempfile.TemporaryDirectory() as folder:
        jc.export.save(f"{folder}/m.jcz", function, params, IMAGES, shapes="batch, ...")
        return jc.export.load(f"{folder}/m.jcz")


def step_of(function: Callable[..., Any], params: Any) -> tuple[Callable[..., Any], tuple[Any, Any]]:
    """A step of training with momentum, and the shapes of its arguments."""
    optimizer = optax.sgd(0.1, momentum=0.9)

    def step(train: Any, x: jax.Array) -> Any:
        params, state = train
        grads = jax.grad(lambda p: jnp.mean(function(p, x) ** 2))(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step, ((params, jax.eval_shape(optimizer.init, params)), _bf16(8, *IMAGES.shape[1:]))


def main() -> None:
    """Compiles everything and prints one line of JSON."""
    topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:1x1", chips_per_host_bounds=(1, 1, 1))
    chip = jax.sharding.SingleDeviceSharding(topology.devices[0])

    def compiled(function: Callable[..., Any], *shapes: Any, **settings: Any) -> str:
        placed = jax.jit(function, in_shardings=chip, out_shardings=chip, **settings)
        return placed.lower(*shapes).compile().as_text()

    result: dict[str, Any] = {"kind": topology.devices[0].device_kind}
    result["cycles"] = {"dense": cycles(compiled(bottleneck, PARAMS, IMAGES))}
    for channels in (250, 192, 128):
        function, small = shrunk(channels)
        result["cycles"][channels] = cycles(compiled(function, small, IMAGES))
    result["cycles"]["exported"] = cycles(compiled(*exported(*shrunk(128)), IMAGES))
    step, shapes = step_of(*shrunk(128))
    text = compiled(step, *shapes, donate_argnums=0)
    result["step"] = {"aliases": aliases(text), "donated": len(jax.tree.leaves(shapes[0]))}
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
