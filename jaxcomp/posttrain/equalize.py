"""Equalization: channels scaled where they are made and back where they are read, so that fewer bits hold them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.core.arrays import concrete
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.finite import check_finite
from jaxcomp.core.paths import named_leaves, replace_leaves
from jaxcomp.core.programs import compiled
from jaxcomp.core.scalars import is_whole
from jaxcomp.core.tables import table, with_left_out
from jaxcomp.core.types import Params
from jaxcomp.observe.batches import Batches, Select, checked_batches
from jaxcomp.observe.held_out import EVERYTHING, NO_BETTER, Examples, examples_of
from jaxcomp.observe.matrices import feature_groups, matrix, unmatrix
from jaxcomp.posttrain.equalize_links import Link, Reader, find_links, groups_of
from jaxcomp.posttrain.trial import quantizes_better
from jaxcomp.rewrite.quant.scheme import INT8, Schemes
from jaxcomp.trace.account import left_out
from jaxcomp.trace.integer_weights import check_unquantized
from jaxcomp.trace.ir import Program, trace
from jaxcomp.trace.observer import Observer
from jaxcomp.trace.scaled import with_factors
from jaxcomp.trace.uses import uses_of


class EqualRow(NamedTuple):
    """The treatment of the channels of one weight, or of a norm's scale.

    Attributes:
      path: of the parameter that makes them.
      readers: the weights that read them.
      least, greatest: the numbers that they were divided by.
      skipped: why they were left as they are.
      biases: parameters that are added to them, and were divided with them.
    """

    path: str
    readers: tuple[str, ...] = ()
    least: float = 1.0
    greatest: float = 1.0
    skipped: str = ""
    biases: tuple[str, ...] = ()


@dataclass(frozen=True)
class EqualReport:
    """The treatment of the channels of every weight and scale; prints as a table.

    Attributes:
      rows: one a weight or scale.
      left_out: ``{path: what reads it}`` of all other parameters, which stay as they are.
    """

    rows: tuple[EqualRow, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        rows = [
            [
                ", ".join([row.path, *row.biases]),
                ", ".join(row.readers),
                "" if row.skipped else f"{row.least:.3g} ... {row.greatest:.3g}",
                row.skipped,
            ]
            for row in self.rows
        ]
        text = table(["made by", "read by", "divided by", "skipped because"], rows)
        return with_left_out(text, self.left_out)


class Equalized(NamedTuple):
    """Parameters of the same function.

    Attributes:
      params: of the same structure, shapes and dtypes.
      report: the weights that were scaled, and those that were not.
    """

    params: Params
    report: EqualReport


def equalize(
    apply_fn: Callable[..., Any], params: Params, *example: Any, rounds: int = 20, scheme: Schemes = INT8
) -> Equalized:
    r"""Equalizes the channel ranges of consecutive layers (cross-layer equalization); the function stays.

    Channel by channel :math:`s = \sqrt{r_1 / r_2}`, :math:`r_1` the largest weight that makes it and :math:`r_2` the
    largest that reads it; what makes it, and its bias, are divided by s, what reads it is multiplied. Between them only
    what is positively homogeneous may stand (relu, pooling, reshapes): that is tried, on random numbers. Of use where
    one scale serves a whole weight: with a scale for each output channel readers alone gain. Fold batch norms first.

    It can harm: a channel's weights may reach far where little flows. So it is tried: the parameters stay as they are
    unless, on every fourth example, which nothing is fitted to, the function that is quantized to the nearest comes
    nearer to the float one with the new ones, by more than chance.

    Args:
      apply_fn: ``apply_fn(params, *inputs)``: any JAX function, for inference.
      params: parameters alone or a whole tree of variables.
      *example: the other arguments: some ten examples or more; with ``scheme=None`` one will do.
      rounds: over all layers.
      scheme: by which the parameters are to be quantized, as of :func:`quantize`; None: nothing is tried.

    Returns:
      The parameters, and a report that prints as a table.

    Raises:
      ArgumentError: for less than one round, and weights that are not finite (the first is named); RuleError: for a
        rule that applies to no weight.

    Example:
      >>> layers = lambda p, x: jax.nn.relu(x @ p["up"]) @ p["down"]
      >>> params = {"up": jnp.array([[8.0, 0.5]]), "down": jnp.array([[2.0], [2.0]])}
      >>> new = equalize(layers, params, jnp.ones((1, 1)), scheme=None).params
      >>> new["up"].tolist(), new["down"].tolist()
      ([[4.0, 1.0]], [[4.0], [1.0]])

    Reference: Nagel et al., Data-free quantization through weight equalization and bias correction, 2019.
    """
    if not is_whole(rounds):
        raise ArgumentError(f"rounds must be a whole number of at least 1, got {rounds!r}")
    params = concrete(params, "equalize")
    check_unquantized(apply_fn, params, "equalize")
    given = checked_batches(apply_fn, params, [example])
    program, links, skipped = _found(apply_fn, params, given[0])
    links = [link for link in links if link.use is not None]
    leaves = _Leaves(named_leaves(params))
    total = {link.maker: np.ones(link.size) for link in links}
    for _ in range(rounds):
        for link in links:
            scales = np.sqrt(_ratio(leaves.reach(link), leaves.read(link)))
            leaves.scale(link, scales)
            total[link.maker] *= scales
    new = leaves.result(params, program, links, total, skipped)
    return _tried(new, apply_fn, params, program, given, scheme)


def smooth(
    apply_fn: Callable[..., Any],
    params: Params,
    batches: Iterable[Any],
    *,
    strength: float = 0.5,
    scheme: Schemes = INT8,
    select: Select | None = None,
) -> Equalized:
    r"""Moves the ranges of layer inputs into the weights that read them (SmoothQuant); the function stays.

    Channel by channel :math:`s = \max|x|^\alpha / \max|w|^{1 - \alpha}`, x what the layers that read the channel are
    given on data, w their weights: these are multiplied by s, and what makes the channel is divided: a norm's scale and
    bias, or a layer before, if between them all is positively homogeneous (see :func:`equalize`). For inputs of few
    bits, or with outliers in some channels, as transformers have them.

    Of a channel that the data hardly reach it makes one that other data may overflow. So it is tried, as in
    :func:`equalize`: ranges are those of three of four examples, and the parameters stay as they are unless it helps on
    the others.

    Args:
      apply_fn: ``apply_fn(params, *inputs)``: any JAX function, for inference.
      params: parameters alone or a whole tree of variables.
      batches: calibration batches of one shape, each the tuple of the other arguments (or the single one).
      strength: :math:`\alpha` in [0, 1]: how much of the range goes over.
      scheme: by which the parameters are to be quantized, as of :func:`quantize`; None: nothing is tried, and ranges
        are those of all examples.
      select: the inputs of each batch, a key or a function of it: :mod:`jaxcomp.observe.batches`.

    Returns:
      The parameters, and a report that prints as a table.

    Raises:
      ArgumentError: for a strength outside [0, 1], no batch, batches of several shapes, and weights or what they read
        on the data that is not finite (the first is named); RuleError: for a rule that applies to no weight.

    Example:
      >>> layer = lambda p, x: (x * p["scale"]) @ p["w"]
      >>> params = {"scale": jnp.array([1.0, 16.0]), "w": jnp.array([[1.0], [1.0]])}
      >>> new = smooth(layer, params, [jnp.array([[1.0, -1.0]])], scheme=None).params
      >>> new["scale"].tolist(), new["w"].tolist()
      ([1.0, 4.0], [[1.0], [4.0]])

    Reference: Xiao et al., SmoothQuant, 2023.
    """
    if not 0 <= strength <= 1:
        raise ArgumentError(f"strength must be in [0, 1], got {strength!r}")
    params = concrete(params, "smooth")
    check_unquantized(apply_fn, params, "smooth")
    given = checked_batches(apply_fn, params, batches, select)
    program, links, skipped = _found(apply_fn, params, given[0])
    examples = None if scheme is None else examples_of(given)
    reaches = _reaches(program, links, [jax.tree.leaves((params, *batch)) for batch in given], examples)
    leaves, total = _Leaves(named_leaves(params)), {}
    for link, reach in zip(links, reaches, strict=True):
        weights = leaves.read(link)
        both = (reach > 0) & (weights > 0)
        safe = np.where(both, reach, 1) ** strength / np.where(both, weights, 1) ** (1 - strength)
        total[link.maker] = np.where(both, safe, 1)
        leaves.scale(link, total[link.maker])
    new = leaves.result(params, program, links, total, skipped)
    return _tried(new, apply_fn, params, program, given, scheme)


def _tried(
    new: Equalized, apply_fn: Callable[..., Any], params: Params, program: Program, given: Batches, scheme: Schemes
) -> Equalized:
    """New parameters if they are quantized better, else the old ones."""
    if scheme is None or quantizes_better(program, apply_fn, params, new.params, given, scheme):
        return new
    rows = [row if row.skipped else EqualRow(row.path, row.readers, skipped=NO_BETTER) for row in new.report.rows]
    return Equalized(params, replace(new.report, rows=tuple(rows)))


def _found(
    apply_fn: Callable[..., Any], params: Params, example: tuple[Any, ...]
) -> tuple[Program, list[Link], dict[str, str]]:
    program = trace(apply_fn, params, *example)
    uses = with_factors(program, uses_of(program), jax.tree.leaves(params))
    links, skipped = find_links(program, {path: own for path, own in uses.items() if own.sites})
    return program, links, skipped


def _ratio(made: np.ndarray, read: np.ndarray) -> np.ndarray:
    """1 where a channel is never made, or never read."""
    both = (made > 0) & (read > 0)
    return np.where(both, made, 1) / np.where(both, read, 1)


def _reaches(
    program: Program, links: Sequence[Link], batches: Sequence[Any], examples: Sequence[Examples] | None
) -> list[np.ndarray]:
    """The largest size of each channel where it is read, on data; of examples' parts on those to fit to."""
    size = Examples(1, (False,), True) if examples is None else examples[0]
    probes: dict[Any, Any] = {}
    for link in links:
        for reader in link.readers:
            value, axis = _operand(reader)
            probes[value] = lambda x, axis=axis: size.largest(jnp.abs(x.astype(jnp.float32)), axis)
    observe = Observer(program, probes, join=jnp.maximum)
    run = compiled(lambda leaves: observe(leaves)[1])
    takes = [EVERYTHING] * len(batches) if examples is None else [own.fitted_kinds for own in examples]
    columns = zip(
        *([np.asarray(x)[take].max(0) for x in run(batch)] for batch, take in zip(batches, takes, strict=True)),
        strict=True,
    )
    largest = {value: np.max(own, 0) for value, own in zip(probes, columns, strict=True)}
    found = []
    for link in links:
        reach = np.zeros(link.size)
        for reader in link.readers:
            own = largest[_operand(reader)[0]]
            check_finite({reader.path: own}, "on the data, channel by channel, the input of ", "which has no range")
            np.maximum.at(reach, reader.channels, own)
        found.append(reach)
    return found


def _operand(reader: Reader) -> tuple[Any, int]:
    """The weight that a reader reads, and along which axis the channels are."""
    (axis,) = reader.use.input.met
    return reader.use.node.ins[1 - reader.use.side], axis


class _Leaves:
    """The parameters, in float64, on their way."""

    def __init__(self, named: Mapping[str, Any]) -> None:
        self._named, self._now = named, dict[str, np.ndarray]()

    def _get(self, path: str) -> np.ndarray:
        if path not in self._now:
            check_finite({path: self._named[path]}, why="which has no range")
            self._now[path] = np.asarray(self._named[path], np.float64)
        return self._now[path]

    def reach(self, link: Link) -> np.ndarray:
        """The largest weight that makes each channel."""
        assert link.use is not None
        reach = np.abs(matrix(link.use, self._get(link.maker))).max(1).reshape(-1)
        return reach * np.abs(link.use.factor)

    def read(self, link: Link) -> np.ndarray:
        """The largest weight that reads each channel."""
        largest = np.zeros(link.size)
        for reader in link.readers:
            channels = groups_of(reader)
            own = np.abs(matrix(reader.use, self._get(reader.path))).max(2) * np.abs(reader.use.factor)
            own = own.reshape(len(channels), -1, channels.shape[1]).max(1)
            np.maximum.at(largest, channels.ravel(), own.ravel())
        return largest

    def scale(self, link: Link, by: np.ndarray) -> None:
        """Divides channels where they are made, and multiplies them where they are read."""
        shape = self._get(link.maker).shape
        if link.use is None:
            self._now[link.maker] = self._get(link.maker) / by.reshape(shape)
        else:
            made = matrix(link.use, self._get(link.maker)) / by.reshape(feature_groups(link.use), 1, -1)
            self._now[link.maker] = unmatrix(link.use, made, shape)
        for path in link.biases:
            self._now[path] = self._get(path) / by.reshape(self._get(path).shape)
        for reader in link.readers:
            rows = matrix(reader.use, self._get(reader.path))
            channels = groups_of(reader)
            times = np.tile(by[channels], (1, rows.shape[1] // channels.shape[1]))
            self._now[reader.path] = unmatrix(reader.use, rows * times[..., None], self._get(reader.path).shape)

    def result(
        self, params: Params, program: Program, links: Sequence[Link], by: Mapping[str, np.ndarray], skipped: Any
    ) -> Equalized:
        """The new parameters, and what was done."""
        new = {path: jnp.asarray(leaf, jnp.result_type(self._named[path])) for path, leaf in self._now.items()}
        rows = {
            link.maker: EqualRow(
                link.maker,
                tuple(reader.path for reader in link.readers),
                float(by[link.maker].min()),
                float(by[link.maker].max()),
                biases=link.biases,
            )
            for link in links
        }
        rows |= {path: EqualRow(path, skipped=why) for path, why in skipped.items()}
        changed = {path for link in links for path in (link.maker, *link.biases, *(r.path for r in link.readers))}
        kept = {path: leaf for path, leaf in new.items() if path in changed}
        told = {path for row in rows.values() for path in (row.path, *row.readers, *row.biases)}
        ordered = tuple(rows[path] for path in program.paths if path in rows)
        return Equalized(replace_leaves(params, kept), EqualReport(ordered, left_out(program, told)))
