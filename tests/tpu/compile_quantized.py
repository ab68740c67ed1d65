"""Compiles a small ResNet of 256 channels in bfloat16, and what ``quantize`` makes of it, for a TPU v5e; prints JSON.

Run in a process of its own, by ``tests.tpu.compiler``.
"""

import json
import re
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies

import jaxcomp as jc
from tests.tpu.hlo import cycles

CHANNELS = 256
DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def _bf16(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.bfloat16)


IMAGES = _bf16(64, 14, 14, 128)
PARAMS = {
    "widen": _bf16(1, 1, 128, CHANNELS),
    "first": _bf16(3, 3, CHANNELS, CHANNELS),
    "second": _bf16(3, 3, CHANNELS, CHANNELS),
    "bias": _bf16(CHANNELS),
    "head": _bf16(CHANNELS, 128),
}
SCHEMES = {
    "static": jc.rewrite.Scheme(8),
    "static, symmetric": jc.rewrite.Scheme(8, input_symmetric=True),
    "dynamic": jc.rewrite.Scheme(8, inputs="dynamic", input_symmetric=True),
}


def network(params: Any, x: jax.Array) -> jax.Array:
    """A pointwise convolution, a residual block of two others, a head."""

    def conv(name: str, x: jax.Array) -> jax.Array:
        y = jax.lax.conv_general_dilated(x, params[name], (1, 1), "SAME", dimension_numbers=DIMENSIONS)
        return y + params["bias"]

    x = jax.nn.relu(conv("widen", x))
    x = jax.nn.relu(x + conv("second", jax.nn.relu(conv("first", x))))
    return x.mean((1, 2)) @ params["head"]


def main() -> None:
    """Compiles everything and prints one line of JSON."""
    topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:1x1", chips_per_host_bounds=(1, 1, 1))
    chip = jax.sharding.SingleDeviceSharding(topology.devices[0])

    def compiled(function: Callable[..., Any], *shapes: Any) -> str:
        return jax.jit(function, in_shardings=chip, out_shardings=chip).lower(*shapes).compile().as_text()

    result: dict[str, Any] = {"kind": topology.devices[0].device_kind}
    texts = {"bfloat16": compiled(network, PARAMS, IMAGES)}
    for name, scheme in SCHEMES.items():
        texts[name] = compiled(*jc.rewrite.quantize(network, PARAMS, IMAGES, scheme=scheme), IMAGES)
    result["cycles"] = {name: cycles(text) for name, text in texts.items()}
    result["largest"] = {name: largest(text) for name, text in texts.items()}
    result["products"] = {name: products(text) for name, text in texts.items()}
    json.dump(result, sys.stdout)


def largest(text: str) -> int:
    """The cycles that the compiler expects of the largest convolution, with what it fused into it."""
    bodies = dict(re.findall(r"^(%[\w.-]+) [^\n]*\{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL))
    fusions = re.findall(r'calls=(%[\w.-]+).*?"estimated_cycles":"(\d+)"', text)
    return max(int(expected) for body, expected in fusions if " convolution(" in bodies[body])


def products(text: str) -> list[str]:
    """What every matmul and convolution of a compiled module multiplies and gives: ``s8 s8 -> s32``, sorted."""
    types = dict(re.findall(r"(%[\w.-]+) = (\w+)\[", text))
    found = re.findall(r" = (\w+)\[[^=]*? (?:convolution|dot)\(([^)]*)\)", text)
    kinds = []
    for out, operands in found:
        names = re.findall(r"%[\w.-]+", operands)
        kinds.append(" ".join(types[name] for name in names[:2]) + f" -> {out}")
    return sorted(kinds)


if __name__ == "__main__":
    main()
