"""Sites: every matmul and convolution that reads parameters, with what it costs."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.tables import dims, table, with_left_out
from jaxcomp.trace import compat
from jaxcomp.trace.account import left_out
from jaxcomp.trace.contraction import Contraction
from jaxcomp.trace.ir import SITES, Node, Program, Value, trace
from jaxcomp.trace.origins import Origins


@dataclass(frozen=True)
class Site:
    """One matmul or convolution that reads parameters.

    Attributes:
      name: the parameter that it reads, or the first of them in order of the tree's leaves.
      paths: every parameter that it reads, those that were concatenated or scaled before use included.
      op: ``"dot_general"``, ``"conv_general_dilated"`` or ``"ragged_dot_general"`` (of experts).
      scope: the module: Linen's own path where the function has one, else that of ``name``.
      lhs, rhs, out: the shapes of its operands and of its result, in one call.
      weight: the shape of the operand that is made of parameters.
      calls: how often one application runs it (a scan's length; a while loop's body counts once).
      macs: multiply-accumulates of all calls together, for the whole batch of the example.
      bytes: the size of the parameters in ``paths``.
    """

    name: str
    paths: tuple[str, ...]
    op: str
    scope: str
    lhs: tuple[int, ...]
    rhs: tuple[int, ...]
    out: tuple[int, ...]
    weight: tuple[int, ...]
    calls: int
    macs: int
    bytes: int


@dataclass(frozen=True)
class Sites:
    """The sites of a function, in the order in which they run; prints as a table.

    Attributes:
      rows: the sites.
      bytes: the size of all parameters, read by a site or not.
      left_out: ``{path: what reads it instead}`` of the parameters that no site reads.
    """

    rows: tuple[Site, ...]
    bytes: int
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one application to the whole example batch."""
        return sum(site.macs for site in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data: ``{"macs": ..., "bytes": ..., "rows": [{...}], "left_out": {path: reason}}``."""
        rows = [asdict(site) for site in self.rows]
        return {"macs": self.macs, "bytes": self.bytes, "rows": rows, "left_out": dict(self.left_out)}

    def __iter__(self) -> Iterator[Site]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        columns = ["parameter", "op", "weight", "out", "calls", "MACs", "bytes"]
        rows = [
            [
                ", ".join(site.paths),
                {"dot_general": "dot", "conv_general_dilated": "conv", "ragged_dot_general": "ragged dot"}[site.op],
                dims(site.weight),
                dims(site.out),
                str(site.calls),
                _count(site.macs),
                f"{site.bytes:,}",
            ]
            for site in self.rows
        ]
        total = ["total", "", "", "", "", _count(self.macs), f"{self.bytes:,}"]
        return with_left_out(table(columns, rows, total), self.left_out)


def _count(number: Any) -> str:
    """A number in thousands, or the formula of one that depends on sizes that have names."""
    return str(number) if compat.is_symbolic(number) else f"{number:,}"


def sites(apply_fn: Callable[..., Any], params: Any, *example: Any) -> Sites:
    """Finds every matmul and convolution that reads parameters, and says what reads the others.

    A parameter is followed through whatever is computed of parameters alone (casts, transposes, reshapes, slices,
    concatenations, fake quantization), and into jit, remat, scan, while, cond, shard_map, pmap and functions with their
    own derivative or batching. What is inside of kernels (Pallas) and callbacks is not looked into: ``left_out`` names
    the parameters. MACs: product of the result's shape times the number of terms in each of its sums.

    Args:
      apply_fn: ``apply_fn(params, *example)``: any JAX function.
      params: a tree of arrays or ``ShapeDtypeStruct``: parameters alone, or a whole tree of variables.
      *example: the other arguments, likewise. MACs are those of this batch.

    Returns:
      The sites, in the order in which they run. Both branches of a cond are listed and counted.

    Raises:
      ArgumentError: if the function reads none of the parameters.

    Example:
      >>> import jax.numpy as jnp
      >>> params = {"up": jnp.ones((4, 8)), "down": jnp.ones((8, 2))}
      >>> print(sites(lambda p, x: jnp.tanh(x @ p["up"]) @ p["down"], params, jnp.ones((1, 4))))
      parameter  op   weight  out  calls  MACs  bytes
      ---------  ---  ------  ---  -----  ----  -----
      up         dot  4x8     1x8      1    32    128
      down       dot  8x2     1x2      1    16     64
      ---------  ---  ------  ---  -----  ----  -----
      total                               48    192
    """
    return sites_of(trace(apply_fn, params, *example))


def sites_of(program: Program) -> Sites:
    """Lists the sites of a traced function: :func:`sites` of a program."""
    check_reads(program)
    origins = Origins(program)
    found = [node for node, calls in origins.calls.items() if calls and node.op in SITES]
    weights = [(node, weight_of(node, origins)) for node in found]
    rows = tuple(_site(program, origins, node, weight) for node, weight in weights if weight is not None)
    told = {path for row in rows for path in row.paths}
    return Sites(rows, sum(map(_bytes, program.parameters().values())), left_out(program, told, origins))


def weight_of(node: Node, origins: Origins) -> Value | None:
    """Returns the operand of a site that is made of parameters alone.

    Args:
      node: a matmul or convolution.
      origins: of its program.

    Returns:
      The operand; the second one if both are; None if neither is.
    """
    return next((value for value in reversed(node.ins[:2]) if origins[value].is_weight), None)


def macs(node: Node) -> int:
    """Counts the multiply-accumulates of one run of a matmul or convolution."""
    lhs, rhs = (value.dims for value in node.ins[:2])
    if node.op == "ragged_dot_general":
        numbers = node.params["ragged_dot_dimension_numbers"]
        (_, summed), (_, batch) = numbers.dot_dimension_numbers
        met = (*summed, *batch, *numbers.rhs_group_dimensions)  # each row meets the matrix of one group
        return math.prod(lhs) * math.prod(size for axis, size in enumerate(rhs) if axis not in met)
    terms = math.prod(rhs[axis] for axis in Contraction(node).operands[1].summed)
    return math.prod(node.outs[0].dims) * terms


def check_reads(program: Program) -> None:
    """Refuses a function that reads none of its parameters.

    Raises:
      ArgumentError: if no parameter has a reader; most often the function closes over its own.
    """
    params = program.frame.ins[: len(program.paths)]
    read = {value for node in program.frame.nodes for value in node.ins} | set(program.frame.outs)
    if program.paths and not read.isdisjoint(params):
        return
    raise ArgumentError(
        f"apply_fn reads none of the {len(program.paths)} parameters that it is given. If it closes over a model that "
        "holds them, pass them instead: apply_fn(params, *inputs) (NNX: nnx.split the model, nnx.merge inside apply_fn)"
    )


def _site(program: Program, origins: Origins, node: Node, weight: Value) -> Site:
    read = frozenset().union(*(origins[value].paths for value in node.ins))
    paths = tuple(path for path in program.paths if path in read)
    params = program.parameters()
    return Site(
        name=paths[0],
        paths=paths,
        op=node.op,
        scope=node.scope or paths[0].rpartition("/")[0],
        lhs=node.ins[0].dims,
        rhs=node.ins[1].dims,
        out=node.outs[0].dims,
        weight=weight.shape,
        calls=origins.calls[node],
        macs=macs(node) * origins.calls[node],
        bytes=sum(_bytes(params[path]) for path in paths),
    )


def _bytes(value: Value) -> int:
    return math.prod(value.shape) * value.dtype.itemsize
