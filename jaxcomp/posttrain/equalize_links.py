"""Links: whose channels can be scaled, layer by layer, without changing what a function computes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcomp.core.types import Skipped
from jaxcomp.observe.matrices import feature_groups
from jaxcomp.trace import compat
from jaxcomp.trace.ir import Node, Program, Value
from jaxcomp.trace.readers import Readers
from jaxcomp.trace.uses import Use, Uses


class Reader(NamedTuple):
    """A site that reads channels.

    Attributes:
      path: its weight.
      use: how it reads that.
      channels: ``int [inputs]``: the channel of each index of the axis that it sums over.
    """

    path: str
    use: Use
    channels: np.ndarray


class Link(NamedTuple):
    """Channels that may be divided by positive numbers where they are made, and multiplied where they are read.

    Attributes:
      maker: the weight that makes them, or the scale of a norm.
      use: how its site reads that weight; None for a scale.
      size: how many channels.
      biases: the parameters that are added to them, a number for each channel.
      readers: the sites that read them; nothing else does.
    """

    maker: str
    use: Use | None
    size: int
    biases: tuple[str, ...]
    readers: tuple[Reader, ...]


@dataclass(frozen=True, eq=False)
class _Scaled:
    """Along which axis a value is scaled, and by which channel's number each index."""

    axis: int
    channels: np.ndarray


def find_links(program: Program, uses: Mapping[str, Uses]) -> tuple[list[Link], dict[str, str]]:
    """Finds the equalization pairs of a program outside of loops, and says why other weights and scales make none.

    Between where channels are made and where they are read every primitive must be positively homogeneous: f(s x) =
    s f(x), channel by channel. That is tried, on random numbers of all magnitudes: so it holds of relu and its kin, of
    pooling, padding, reshapes, sums and products with others, and does not of relu6 or gelu.

    Args:
      program: a traced function.
      uses: of its parameters, by path.
    """
    search = _Search(program, uses)
    links, skipped = [], {}
    for node in program.frame.nodes:
        for path, use, value, axis in search.makers(node):
            found = search.follow(path, use, value, axis)
            if isinstance(found, Skipped):
                skipped[path] = found.reason
            else:
                links.append(found)
    linked = {link.maker for link in links} | {reader.path for link in links for reader in link.readers}
    for path, own in uses.items():
        if path not in skipped and path not in linked:
            skipped[path] = _no_maker(program, own)
    return links, {path: why for path, why in skipped.items() if all(link.maker != path for link in links)}


def _no_maker(program: Program, own: Uses) -> str:
    """Why the channels that a weight's sites make are not looked at."""
    if own.other:
        return own.elsewhere()
    if len(own.sites) > 1:
        return "several sites read it"
    (use,) = own.sites
    if use.node not in program.frame.nodes:
        return "it is in a loop, a branch or a shard_map"
    return "it is a stack of matrices" if use.stack else "its channels are no single axis"


class _Search:
    def __init__(self, program: Program, uses: Mapping[str, Uses]) -> None:
        self._program, self._readers = program, Readers(program)
        alone = {path: own.sites[0] for path, own in uses.items() if len(own.sites) == 1 and not own.other}
        self._sites = {use.node: (path, use) for path, use in alone.items() if not use.stack}
        self._rng = np.random.default_rng(0)

    def makers(self, node: Node) -> list[tuple[str, Use | None, Value, int]]:
        """The weight, or the scale, that makes channels at a node, and which axis of its result they are."""
        if node in self._sites:
            path, use = self._sites[node]
            axes = use.contraction.places[use.side]
            return [(path, use, node.outs[0], axes[0])] if len(axes) == 1 else []
        if node.op != "mul":
            return []
        found: list[tuple[str, Use | None, Value, int]] = []
        for place in (0, 1):
            each = self._readers.per_channel(node.ins[place], node.outs[0])
            if each is not None:
                found.append((each[0], None, node.outs[0], each[1]))
        return found

    def follow(self, path: str, use: Use | None, value: Value, axis: int) -> Link | Skipped:
        """Follows channels to where they are read, if they can be scaled."""
        size = value.shape[axis]
        scaled = {value: _Scaled(axis, np.arange(size))}
        biases, readers = list[str](), list[Reader]()
        started = False
        for node in self._program.frame.nodes:
            if not started:
                started = value in node.outs
                continue
            here = {i: scaled[v] for i, v in enumerate(node.ins) if v in scaled}
            if not here:
                continue
            reader, bias = self._reader(node, here), self._bias(node, here)
            if reader is not None:
                readers.append(reader)
            elif bias is not None:
                biases.append(bias)
                scaled[node.outs[0]] = next(iter(here.values()))
            else:
                out = self._tried(node, here, size)
                if isinstance(out, Skipped):
                    return out
                if out is not None:
                    scaled[node.outs[0]] = out
        if any(v in scaled for v in self._program.frame.outs):
            return Skipped("it is the function's result")
        return Link(path, use, size, tuple(biases), tuple(readers)) if readers else Skipped("no site reads it")

    def _reader(self, node: Node, here: Mapping[int, _Scaled]) -> Reader | None:
        """The site that sums over the channels."""
        if node not in self._sites or len(here) != 1:
            return None
        path, use = self._sites[node]
        scaled = here.get(1 - use.side)
        if scaled is None or use.input.met != (scaled.axis,):
            return None
        if use.is_conv and node.params["batch_group_count"] > 1:
            return None
        return Reader(path, use, scaled.channels)

    def _bias(self, node: Node, here: Mapping[int, _Scaled]) -> str | None:
        """The bias that a node adds to the channels."""
        if node.op not in ("add", "sub") or len(here) != 1:
            return None
        ((place, scaled),) = here.items()
        if node.ins[place].shape != node.outs[0].shape:
            return None
        each = self._readers.per_channel(node.ins[1 - place], node.outs[0])
        plain = np.array_equal(scaled.channels, np.arange(len(scaled.channels)))
        return each[0] if each is not None and each[1] == scaled.axis and plain else None

    def _tried(self, node: Node, here: Mapping[int, _Scaled], size: int) -> _Scaled | Skipped | None:
        """How a node's result is scaled if its operands are; None if it stays as it is."""
        why = Skipped(f"{node.op} is not homogeneous in it")
        channels, out = next(iter(here.values())).channels, node.outs[0]
        left: list[_Scaled | None] = [None]
        left += [_Scaled(i, names) for i, n in enumerate(out.shape) for names in _candidates(channels, n)]
        # So many numbers that a threshold among them shows.
        draws = int(np.clip(4096 // max(math.prod(out.shape), 1), 2, 64)) if len(node.outs) == 1 else 0
        for _ in range(draws):
            operands = [self._operand(value) for value in node.ins]
            if any(x is None for x in operands):
                return why
            by = np.exp2(self._rng.integers(-3, 4, size)).astype(np.float32)  # no product is rounded
            moved = list(operands)
            for i, each in here.items():
                factor = _along(by[each.channels], each.axis, np.ndim(operands[i]))
                moved[i] = operands[i] * factor.astype(operands[i].dtype)
            before, after = (self._result(node, each) for each in (operands, moved))
            wanted = {each: before if each is None else before * _along(by[each.channels], each.axis, before.ndim)
                      for each in left}  # fmt: skip
            left = [each for each in left if np.allclose(after, wanted[each], rtol=1e-5, atol=0)]
        if not draws or not left:
            return why
        return left[0]

    def _operand(self, value: Value) -> Any:
        """A constant as it is, random numbers for what depends on parameters and inputs; None for what has no unit."""
        if not compat.is_number(value.dtype):
            return None
        if value.const is not None:
            return np.asarray(value.const)
        if value.dtype == np.bool_:
            return self._rng.random(value.shape) < 0.5
        floats = jax.dtypes.issubdtype(value.dtype, np.floating)
        return self._numbers(value.shape).astype(value.dtype) if floats else None

    def _result(self, node: Node, operands: list[Any]) -> np.ndarray:
        (result,) = compat.bind(node.equation, compat.laid_out(node.equation, operands))
        values = np.asarray(result)
        return values.astype(np.complex128 if np.iscomplexobj(values) else np.float64)

    def _numbers(self, shape: tuple[int, ...]) -> np.ndarray:
        """Random numbers of both signs and all magnitudes."""
        return self._rng.standard_normal(shape) * 10.0 ** self._rng.integers(-3, 4, shape)


def _candidates(channels: np.ndarray, length: int) -> list[np.ndarray]:
    """How the channels may lie along an axis of a length."""
    if not length or length % len(channels):
        return []
    times = length // len(channels)
    return [np.tile(channels, times), np.repeat(channels, times)]


def _along(numbers: np.ndarray, axis: int, ndim: int) -> np.ndarray:
    return numbers.reshape([-1 if i == axis else 1 for i in range(ndim)])


def groups_of(reader: Reader) -> np.ndarray:
    """Returns the channels that a reader sums over, ``[groups, inputs of a group]``."""
    return reader.channels.reshape(feature_groups(reader.use), -1)
