"""Values: a table of what can be tapped in a function, with shapes."""

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxcomp.core.calls import unjitted
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.tables import dims, table, with_left_out
from jaxcomp.trace.ir import Program, Value, trace
from jaxcomp.trace.taps.names import STAGES, Names
from jaxcomp.trace.taps.tap import Markable

LONGEST = 48
"""Longer names are printed by their end."""


@dataclass(frozen=True)
class Tappable:
    """The result of a layer or a block.

    Attributes:
      name: by which :func:`jaxcomp.trace.tap` knows it.
      shape: of the value; in a scan the number of steps comes first.
      dtype: of the value.
      stages: that can be asked for after a colon: ``"input"``, ``"normed"``, ``"activated"``.
    """

    name: str
    shape: tuple[Any, ...]
    dtype: str
    stages: tuple[str, ...]


@dataclass(frozen=True)
class Values:
    """The values of a function that can be tapped, in the order in which they are computed; prints as a table.

    Attributes:
      rows: the layers and blocks.
      left_out: ``{name: why it cannot be tapped}``.
    """

    rows: tuple[Tappable, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Tappable]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        if not self.rows:
            nothing = "no layer has a name of its own; parameters have: see jaxcomp.trace.sites"
            return with_left_out(nothing, self.left_out)
        short = {"float32": "f32", "float16": "f16", "bfloat16": "bf16", "float64": "f64", "int32": "i32"}
        signs = {"input": "i", "normed": "n", "activated": "a"}
        cells = [
            [
                _short(row.name, [each.name for each in self.rows]),
                dims(row.shape),
                short.get(row.dtype, row.dtype),
                "".join(signs[stage] if stage in row.stages else "-" for stage in STAGES),
            ]
            for row in self.rows
        ]
        told = table(["name", "value", "dtype", "also"], cells)
        note = "also: i name:input, n name:normed, a name:activated"
        lines = with_left_out(f"{told}\n{note}", self.left_out).splitlines()
        return "\n".join(textwrap.fill(line, 80, subsequent_indent="  ") if len(line) > 80 else line for line in lines)


def _short(name: str, names: Sequence[str]) -> str:
    """A name; of a long one the shortest end that no other has."""
    keys = name.split("/")
    for i in range(len(keys) - 1, 0, -1):
        end = "/".join(keys[i:])
        if len(name) > LONGEST and end not in names and sum(each.endswith(f"/{end}") for each in names) == 1:
            return end
    return name


def values(apply_fn: Callable[..., Any], params: Any, *example: Any) -> Values:
    """Lists what can be tapped in a function: layers and blocks, by the names that :func:`jaxcomp.trace.tap` takes.

    Parameters are names too (what their matmul gives), and are not listed: :func:`jaxcomp.trace.sites` has them.

    Args:
      apply_fn: ``apply_fn(params, *example)``: any JAX function, one that a rewrite made included.
      params: a tree of arrays or ``ShapeDtypeStruct``.
      *example: the other arguments, likewise.

    Returns:
      The names, in the order in which what they name is computed.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> params = {"up": {"w": jnp.ones((4, 8))}, "norm": {"scale": jnp.ones(8)}, "down": {"w": jnp.ones((8, 2))}}
      >>> def mlp(p, x):
      ...     return jax.nn.relu(x @ p["up"]["w"] * p["norm"]["scale"]) @ p["down"]["w"]
      >>> print(values(mlp, params, jnp.ones((1, 4))))
      name  value  dtype  also
      ----  -----  -----  ----
      up    1x8    f32    ina
      norm  1x8    f32    --a
      down  1x2    f32    i--
      also: i name:input, n name:normed, a name:activated
    """
    given = unjitted(apply_fn)
    if isinstance(given, Markable):
        found: list[Values] = []

        def look(program: Program) -> dict[Value, str]:
            found.append(_values(program))
            return {}

        trace(given.marked(look), params, *example)
        return found[0]
    return _values(trace(apply_fn, params, *example))


def _values(program: Program) -> Values:
    names = Names(program)
    rows, left_out = list[Tappable](), dict[str, str]()
    for name in names:
        own = names.of(name)
        each = [name] if len(own.values) < 2 else [f"{name}[{i}]" for i in range(len(own.values))]
        for one in each:
            try:
                value = names(one)
            except ArgumentError as error:
                left_out[one] = str(error).partition(": ")[2]
                continue
            stages = tuple(stage for stage in STAGES if names.knows(f"{one}:{stage}"))
            rows.append(Tappable(one, names.places.shape(value), value.dtype.name, stages))
    return Values(tuple(rows), left_out)
