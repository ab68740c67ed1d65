"""A function each of whose layers can be quantized or not by numbers that it is given: compiled once for all."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.leaves import wide
from jaxcomp.core.meshes import replicated
from jaxcomp.core.paths import leaves_of, named_leaves, replace_leaves
from jaxcomp.core.types import Grid, Params
from jaxcomp.quant.fake import fake_quantize, fit_grid
from jaxcomp.rewrite.quant.scheme import Scheme, Schemes
from jaxcomp.rewrite.quant.targets import Target, Targets, find_targets
from jaxcomp.rewrite.rewritten import Born, RewrittenPacked
from jaxcomp.trace import compat
from jaxcomp.trace.ir import Node, trace
from jaxcomp.trace.packed.codes import Codes
from jaxcomp.trace.packed.run import PackedInterpreter


class Switch(NamedTuple):
    """Whether what the sites of a weight read is rounded, and how.

    Attributes:
      on: bool.
      scale, zero_point: of the grid: scalars, or one for each stacked layer.
      bottom, top: the least and the greatest code.
    """

    on: Any
    scale: Any
    zero_point: Any
    bottom: Any
    top: Any


class Switched(RewrittenPacked[None]):
    """``(params, switches, *inputs) -> what apply_fn returns``: sites round what they read where they are switched on.

    Weights are rounded by handing in rounded ones: :meth:`rounded`.

    Attributes:
      paths: the weights that schemes can apply to.
    """

    name = "sensitivity"

    def __init__(self, apply_fn: Callable[..., Any], params: Params, *example: Any):
        """Finds the weights, which must be finite."""
        self._program = trace(apply_fn, params, *example)
        self._base = find_targets(self._program, Scheme(), params)
        self.paths = tuple(self._base.weights)
        super().__init__(apply_fn, params, {}, born=Born(example, self._program, None))

    def targets(self, scheme: Schemes) -> Targets:
        """Finds what a scheme, or rules, would quantize."""
        return find_targets(self._program, scheme, self.full)

    def __call__(self, params: Params, switches: Mapping[str, Switch], *inputs: Any) -> Any:
        paths = self._paths
        pairs = zip(paths, leaves_of(params, paths), strict=True)
        given = [replicated(leaf) if path in switches else leaf for path, leaf in pairs]
        program, plan = self._plans(given, inputs)
        leaves = [
            _leaf(self._base.weights[path], leaf, switches[path]) if path in switches else leaf
            for path, leaf in zip(paths, given, strict=True)
        ]
        return self.run_with(_Rounding(), program, plan, leaves, inputs)

    def off(self) -> dict[str, Switch]:
        """Returns switches by which nothing is rounded."""
        named, switches = named_leaves(self.full), {}
        for path, target in self._base.weights.items():
            shape = tuple(named[path].shape[i] for i in target.stack)
            numbers = (jnp.ones(shape), jnp.zeros(shape, jnp.int32), jnp.zeros(()), jnp.ones(()))
            switches[path] = Switch(jnp.zeros((), bool), *numbers)
        return switches

    def switched(
        self, switches: Mapping[str, Switch], targets: Targets, ranges: Mapping[str, Grid]
    ) -> dict[str, Switch]:
        """Turns on the rounding of layer inputs, where their scheme's inputs are static.

        Args:
          switches: as of :meth:`off`.
          targets: weights whose sites' inputs are rounded.
          ranges: of inputs, by path.

        Raises:
          ArgumentError: for inputs that are neither static integers nor left in floating point.
        """
        changed = dict(switches)
        for path, target in targets.weights.items():
            format = target.scheme.input_format
            if target.scheme.inputs is None:
                continue
            if target.scheme.inputs != "static" or format.kind != "integer":
                raise ArgumentError(
                    f"{path!r}: inputs can be switched on if they are static integers or not quantized, got "
                    f"{target.scheme.inputs!r} inputs of {format.name}"
                )
            if path not in ranges:
                continue  # in a loop that data cannot be seen in
            grid, old = ranges[path], switches[path]
            scale = jnp.broadcast_to(grid.scale, old.scale.shape).astype(old.scale.dtype)
            zero = jnp.broadcast_to(grid.zero_point, old.scale.shape).astype(jnp.int32)
            ends = (jnp.float32(code) for code in (format.bottom, format.top))
            changed[path] = Switch(jnp.ones((), bool), scale, zero, *ends)
        return changed

    def rounded(self, params: Params, targets: Targets, grids: Mapping[str, Grid]) -> Params:
        """Rounds weights of the parameters.

        Args:
          params: parameters.
          targets: the weights.
          grids: of weights, by path; the others are fitted.
        """
        named = named_leaves(params)
        new = {path: _round(named[path], target, grids.get(path)) for path, target in targets.weights.items()}
        return replace_leaves(params, new)


def _round(leaf: Any, target: Target, grid: Grid | None) -> Array:
    own = target.scheme
    if grid is None:
        grid = fit_grid(jnp.asarray(leaf), own.format, target.axes, block=own.block, fit=own.fit)
    return fake_quantize(jnp.asarray(leaf), grid, own.format)


def _leaf(target: Target, leaf: Any, switch: Switch) -> Codes:
    """A weight as it is, with its switch."""
    real, kept = wide(leaf.dtype), tuple(i for i, n in enumerate(leaf.shape) if n != 1)
    stack = tuple(i for i in target.stack if leaf.shape[i] != 1)
    sizes = [leaf.shape[i] for i in stack]
    parts = {"codes": leaf.reshape([leaf.shape[i] for i in kept]).astype(real), "scale": jnp.ones((), real)}
    names: dict[str, tuple[int, ...]] = {"codes": kept, "scale": ()}
    for key, number in switch._asdict().items():
        own = stack if key in ("scale", "zero_point") else ()
        parts["switch_" + key], names["switch_" + key] = number.reshape(sizes if own else ()), own
    axes = [(i,) if n != 1 else () for i, n in enumerate(leaf.shape)]
    return Codes(target.path, parts, list(names.values()), axes, dtypes=(jnp.dtype(leaf.dtype).name,))


class _Rounding(PackedInterpreter):
    """Rounds what sites read, by their weights' switches."""

    def site(self, node: Node, operands: list[Any], side: int) -> Any:
        weight, x = operands[side], operands[1 - side]
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return None
        switch = Switch(*(weight.parts["switch_" + key] for key in Switch._fields))
        scale = switch.scale.astype(wide(x.dtype))
        zero = switch.zero_point.astype(scale.dtype)
        codes = jnp.clip(jnp.round(x.astype(scale.dtype) * (1 / scale)) + zero, switch.bottom, switch.top)
        x = jnp.where(switch.on, ((codes - zero) * scale).astype(x.dtype), x)
        pair = [x, weight.dense()] if side == 1 else [weight.dense(), x]
        return compat.bind(node.equation, pair)[0]
