"""Quantized leaves: a parameter held as integer codes, with the grid that they stand on."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.core.types import Block, Grid
from jaxcomp.quant.formats import Format, decode, named, to_integers
from jaxcomp.quant.gradients import Estimator
from jaxcomp.quant.granularity import spread
from jaxcomp.quant.nibbles import codes_per_byte, from_bytes, to_bytes
from jaxcomp.trace.packed.leaf import Indices, Packed, serializable
from jaxcomp.trace.packed.marked import DECODE, is_marking, marked


class Inputs(NamedTuple):
    """How what a site reads beside its weight is quantized.

    Attributes:
      mode: ``"static"``: on a grid that the leaf holds; ``"dynamic"``: on one that spans each row.
      name: of their format.
      estimator: the formulas of gradients to the grid, if it learns: see :mod:`jaxcomp.quant.gradients`.
    """

    mode: str
    name: str
    estimator: Estimator | None = None

    @property
    def format(self) -> Format:
        """The format of the inputs' codes."""
        return named(self.name)


@jax.tree_util.register_pytree_with_keys_class
class Codes(Packed):
    """A parameter whose value is ``level(codes - zero_point) * scale``.

    Its parts are ``codes`` (int8, or uint8 that holds several; floats where gradients are to reach them) and ``scale``;
    ``zero_point`` unless it is 0 everywhere; of static inputs ``input_scale`` and ``input_zero_point`` likewise; where
    inputs have zero points, ``sums`` of codes over what sites sum over (int32).

    Attributes:
      dtypes: that the value goes through, by name; the first is the parameter's own.
      inputs: how the sites' inputs are quantized; None if they are not.
      fields: the codes' bits and shape where bytes hold several of them; else None.
      format: the name of the codes' format.
      block: how scales share out the weights, if in blocks: the scale then has the layout of a grid's.
    """

    sums: ClassVar[tuple[str, ...]] = ("sums",)

    _static: ClassVar[tuple[str, ...]] = (*Packed._static, "dtypes", "inputs", "fields", "format", "block")

    def __init__(
        self,
        path: str,
        parts: Mapping[str, Any],
        names: Sequence[Indices],
        axes: Sequence[Indices],
        home: Sequence[Indices] | None = None,
        stack: tuple[tuple[int, Any], ...] = (),
        dtypes: tuple[str, ...] = ("float32",),
        inputs: Inputs | None = None,
        fields: tuple[int, tuple[int, ...]] | None = None,
        format: str = "int8",
        block: Block | None = None,
    ):
        """Takes the arrays, what their axes are, and what the codes mean."""
        super().__init__(path, parts, names, axes, home, stack)
        self.dtypes, self.fields, self.format = dtypes, fields, format
        self.block = None if block is None else Block(*block)
        self.inputs = None if inputs is None else Inputs(*inputs)

    @property
    def dtype(self) -> Any:
        """The dtype of the value."""
        return jnp.dtype(self.dtypes[-1])

    @property
    def sizes(self) -> dict[int, int]:
        """The size of every index."""
        shapes = {key: part.shape for key, part in self.parts.items()}
        if self.fields is not None:
            shapes["codes"] = self.fields[1]
        pairs = zip(self.names, shapes.values(), strict=True)
        return {name: n for names, shape in pairs for name, n in zip(names, shape, strict=True)}

    def with_part(self, key: str, part: Any, names: Indices) -> Self:
        """Adds a part, or replaces it.

        Args:
          key: its name.
          part: its array.
          names: of its axes.
        """
        return self._with(parts={**self.parts, key: part}, names=(*self.names, names))

    def _shareable(self, name: int, count: int) -> Self | None:
        """Not in blocks, whose scales are laid out otherwise than the codes."""
        return super()._shareable(name, count) if self.block is None else None

    def in_bytes(self, bits: int) -> Self:
        """Packs several codes of ``bits`` bits to a byte, if they are of few enough."""
        codes = self.parts["codes"]
        if codes_per_byte(bits) == 1:
            return self
        return self._with(parts={**self.parts, "codes": to_bytes(codes, bits)}, fields=(bits, codes.shape))

    def unpacked(self) -> Self:
        """Unpacks the codes, one to a number."""
        if self.fields is None:
            return self
        codes, format = from_bytes(self.parts["codes"], *self.fields), named(self.format)
        codes = jnp.where(codes < format.bottom, codes + 2**format.bits, codes)  # of nf4 one is beyond two's complement
        return self._with(parts={**self.parts, "codes": codes}, fields=None)

    def part(self, key: str) -> Any:
        """Returns a part with the axes of the value, 1 where it does not vary; None if there is none."""
        if key not in self.parts:
            return None
        array, sizes = self.parts[key], self.sizes
        names = self.names[list(self.parts).index(key)]
        order = [name for axis in self.axes for name in axis]
        array = jnp.transpose(array, [names.index(name) for name in order if name in names])
        array = array.reshape([sizes[name] if name in names else 1 for name in order])
        whole = [name for axis in self.axes if set(axis) & set(names) for name in axis]
        array = jnp.broadcast_to(array, [sizes[name] if name in whole else 1 for name in order])
        shape = [int(np.prod([sizes[name] for name in axis if name in whole])) for axis in self.axes]
        return array.reshape(shape)

    def opened(self) -> Any:
        """Returns the codes as sites read them: an int8 each; the value itself if int8 holds no multiples of it."""
        format, own = named(self.format), self.unpacked()
        if own.block is not None or format.unit is None:
            return own.dense()
        codes, grid = to_integers(own.parts["codes"], Grid(own.parts["scale"], jnp.zeros((), jnp.int32)), format)
        return own._with(parts={**own.parts, "codes": codes, "scale": grid.scale}, format="int8")

    @property
    def centered(self) -> Any:
        """The levels of the codes less their zero points, in the scale's floating-point type."""
        codes, zero_point = (self._spread(key) for key in ("codes", "zero_point"))
        codes = codes.astype(self.parts["scale"].dtype)
        codes = codes if zero_point is None else codes - zero_point.astype(codes.dtype)
        return decode(codes, named(self.format), codes.dtype)

    def _spread(self, key: str) -> Any:
        """A part as it broadcasts against the value."""
        if self.block is None or key == "codes":
            return self.part(key)
        return spread(self.parts[key], self.shape, self.block) if key in self.parts else None

    @property
    def input_grid(self) -> Grid:
        """The grid of static inputs: scalars, once the scans over a stack are entered."""
        scale = self.parts["input_scale"]
        return Grid(scale, self.parts.get("input_zero_point", jnp.zeros(scale.shape, jnp.int32)))

    def following(self, before: Packed) -> Self:
        """Returns it as of the dtype that its scales were cast to from those of ``before``."""
        own, was = self.parts["scale"].dtype, before.parts["scale"].dtype
        return self if own == was else self._with(dtypes=(own.name, *self.dtypes[1:]))

    def dense(self) -> jax.Array:
        """Returns the value, rounded once to each dtype that it goes through."""
        if self.fields is not None:
            return self.unpacked().dense()
        value = self._marked() if is_marking() and self.parts["codes"].dtype == jnp.int8 else self._value()
        for dtype in self.dtypes:
            value = value.astype(dtype)
        return value

    def _value(self) -> Any:
        return self.centered * self._spread("scale")

    def _marked(self) -> Any:
        """The value of integers as what an exporter reads."""
        if named(self.format).kind != "integer":
            return self._value()
        keys = [key for key in ("codes", "scale", "zero_point") if key in self.parts]
        block = self.block or Block(0, ())
        arrays = [self.part(key) if self.block is None or key == "codes" else self.parts[key] for key in keys]

        def decoded(codes: Any, scale: Any, zero_point: Any = 0) -> Any:
            grid = (spread(part, codes.shape, self.block) if jnp.ndim(part) else part for part in (scale, zero_point))
            scale, zero_point = grid
            return (codes.astype(scale.dtype) - jnp.asarray(zero_point).astype(scale.dtype)) * scale

        return marked(DECODE, decoded, *arrays, size=block.size, axes=tuple(block.axes))

    def cast(self, dtype: Any) -> Self:
        """Casts the value to another dtype."""
        return self._with(dtypes=(*self.dtypes, jnp.dtype(dtype).name))

    def scaled(self, factor: Any) -> Self:
        """Multiplies the value by a number."""
        scale = self.parts["scale"]
        return self._with(parts={**self.parts, "scale": scale * jnp.asarray(factor, scale.dtype)})


serializable(Codes)
