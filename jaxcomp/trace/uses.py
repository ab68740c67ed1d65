"""Uses: which sites read a parameter and as what, and whatever else reads it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcomp.trace.contraction import Axes, Contraction
from jaxcomp.trace.ir import Node, Program, Value
from jaxcomp.trace.once import found
from jaxcomp.trace.packed import chain
from jaxcomp.trace.packed.leaf import Indices, Packed, pack
from jaxcomp.trace.packed.run import PackedInterpreter


class Use(NamedTuple):
    """A site's reading of a parameter.

    Attributes:
      node: the site.
      side: which of its operands the parameter is.
      stack: the indices that scans run over, and those of a matmul's batch.
      window: for a convolution, the indices of places of its window, axis by axis; none for a matmul.
      summed: the indices that are summed over (of a convolution, its input channels).
      free: the indices of the result's features.
      home: the indices of each axis of the parameter.
      sizes: the size of every index.
      scans: that run over the first of ``stack`` (a scan over a single entry has no index).
      factor: by what the parameter is multiplied before: a number, or one for each of the layers that scans run over;
        1 unless :func:`jaxcomp.trace.scaled.with_factors` has found it.
    """

    node: Node
    side: int
    stack: Indices
    window: tuple[Indices, ...]
    summed: Indices
    free: Indices
    home: tuple[Indices, ...]
    sizes: dict[int, int]
    scans: tuple[Node, ...]
    factor: Any = 1.0

    @property
    def is_conv(self) -> bool:
        """Whether the site is a convolution."""
        return self.node.op == "conv_general_dilated"

    @property
    def contraction(self) -> Contraction:
        """The axes of the site's operands and of its result."""
        return Contraction(self.node)

    @property
    def weight(self) -> Axes:
        """The axes of the operand that is made of the parameter."""
        return self.contraction.operands[self.side]

    @property
    def input(self) -> Axes:
        """The axes of the other operand."""
        return self.contraction.operands[1 - self.side]

    def size(self, names: Indices) -> int:
        """Counts the values that indices run over together."""
        return math.prod(self.sizes[name] for name in names)


@dataclass
class Uses:
    """How a parameter is read.

    Attributes:
      sites: by the sites that take it as it is, or transposed, reshaped, cast or scaled by a number.
      other: by what else, in words.
      scaled: whether it is multiplied by a number somewhere.
    """

    sites: list[Use] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    scaled: bool = False

    def elsewhere(self) -> str:
        """Says what else reads a parameter that a site reads computed, and the remedy; empty if nothing does."""
        if not self.other:
            return ""
        said = self.other[0] + (f" and {len(self.other) - 1} more" if len(self.other) > 1 else "")
        if self.sites or "read by shard_map" in self.other[0]:  # which shares it out over several axes of devices
            return said
        return f"{said}: jaxcomp.rewrite.fold_weights makes a parameter of what the site reads"


class _Probe(PackedInterpreter):
    """Runs a program on shapes alone and notes who reads each packed parameter."""

    def __init__(self, params: Mapping[str, Value]) -> None:
        super().__init__()
        self.params = params
        self.uses: dict[str, Uses] = {path: Uses() for path in params}

    def node(self, node: Node, operands: list[Any]) -> list[Any]:
        outs = super().node(node, operands)
        if node.op in ("mul", "div", "neg") and isinstance(outs[0], Packed):
            self.uses[outs[0].path].scaled = True
        return outs

    def site(self, node: Node, operands: list[Any], side: int) -> Any:
        weight: Packed = operands[side]
        own = self.uses[weight.path]
        if node.op != "dot_general" and side == 0:
            return None
        if all(use.node is not node for use in own.sites):
            own.sites.append(_use(node, side, weight, self.params[weight.path].shape))
        operands = [x.dense() if isinstance(x, Packed) else x for x in operands]
        return super().node(node, operands)[0]

    def dense(self, x: Any, node: Node | None) -> Any:
        if isinstance(x, Packed):
            reader = (
                "carried or returned" if node is None else f"read by {node.op} at {node.place}".removesuffix(" at ")
            )
            if reader not in self.uses[x.path].other:
                self.uses[x.path].other.append(reader)
        return super().dense(x, node)


def _use(node: Node, side: int, weight: Packed, shape: tuple[int, ...]) -> Use:
    batch, summed, free, window = chain.axis_names(node, weight, side)
    sizes, scans = weight.sizes, dict(weight.stack)
    for axis, n in zip(weight.home, shape, strict=True):
        if axis and axis[0] in scans:
            sizes[axis[0]] = n // math.prod(sizes[name] for name in axis[1:])
    return Use(node, side, (*scans, *batch), window, summed, free, weight.home, sizes, tuple(scans.values()))


def is_weight(value: Value) -> bool:
    """Returns whether a parameter is followed to its sites: floating point, of two or more axes, not empty."""
    return len(value.shape) > 1 and 0 not in value.shape and bool(jax.dtypes.issubdtype(value.dtype, np.floating))


def uses_of(program: Program) -> dict[str, Uses]:
    """Finds what reads each floating-point parameter of two or more axes.

    Args:
      program: a traced function.

    Returns:
      ``{path: its readers}``.
    """
    return dict(found(program.frame, (), lambda: _probed(program)))


def _probed(program: Program) -> dict[str, Uses]:
    params = program.parameters()
    wanted = {path: value for path, value in params.items() if is_weight(value)}
    probe = _Probe(wanted)

    def run(*leaves: Any) -> list[Any]:
        named = zip(program.paths, leaves, strict=False)
        packed = [pack(path, leaf) if path in wanted else leaf for path, leaf in named]
        outs = probe.body(program.frame, [*packed, *leaves[len(packed) :]])
        return [probe.dense(out, None) for out in outs]

    jax.eval_shape(run, *(jax.ShapeDtypeStruct(value.dims, value.dtype) for value in program.frame.ins))
    return probe.uses
