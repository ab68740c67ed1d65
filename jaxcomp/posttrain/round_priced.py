r"""One layer rounded for a small file: each weight goes where its error and its bits together cost least.

In GPTQ's order a weight w becomes the level l of least :math:`(w - l)^2 / [H^{-1}]_{qq} + p\, b(l)`: p is what a bit is
worth in squared error, b the code length under the file's own model, whose frequencies are those of the last round. The
rest makes up for the error. So zeros come by themselves, most where they cost least.

Reference: Conzelmann and Bamler, Reducing storage of pretrained neural networks by rate-constrained quantization and
entropy coding, 2025 (CERWU).
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.factored import Factored
from jaxcomp.core.paths import named_leaves
from jaxcomp.core.types import Params
from jaxcomp.observe.evidence import Evidence
from jaxcomp.observe.matrices import matrix, unmatrix
from jaxcomp.pack.lengths import Lengths, code_lengths
from jaxcomp.quant.gptq import Choices, descended, fixed
from jaxcomp.trace.uses import Use

ROUNDS = 2
"""Times that a layer is rounded by frequencies, each time those of the last, for each step that is tried."""
FELT = 0.05
"""Part of a layer's mean sensitivity that every output has at least: few examples say little of one."""


SIGNIFICANT = 4
"""Bits of a scale, the first of them always 1, where a weight has several: half a byte of a file instead of four."""


def shortened(scale: Any, rounded: Any = np.ceil) -> np.ndarray:
    """Returns several scales as numbers of few bits, 8 an octave; one alone, which costs little, as it is.

    Args:
      scale: positive numbers.
      rounded: to which of these; up, no weight is cut off.

    Example:
      >>> shortened([0.1, 3.0, 3.1]).tolist()
      [0.1015625, 3.0, 3.25]
    """
    own = np.asarray(scale)
    if own.size < 2:
        return own
    part, power = np.frexp(own)
    return np.ldexp(rounded(part * 2**SIGNIFICANT) / 2**SIGNIFICANT, power).astype(own.dtype)


class Rate(NamedTuple):
    """The price of a bit.

    Attributes:
      value: in parts of a layer's squared results; with ``fisher`` in parts of what the loss feels of a mean layer's.
      fisher: by path, the squares of gradients, over those of a mean layer and its weights; empty if not known.
    """

    value: float
    fisher: Any

    def prices(self, path: str, use: Use, old: np.ndarray, known: Evidence) -> np.ndarray:
        r"""Returns the price of a bit in each output's squared error, ``[groups, 1, out]``, in the evidence's units.

        The Fisher information of an output's weights is about the moment of the inputs times
        :math:`\gamma = \operatorname{tr} F / \operatorname{tr} H`: the loss per squared error of the output.

        Args:
          path: of the weight.
          use: the site that reads it.
          old: the weight, ``[groups, n, out]``.
          known: statistics of its inputs.
        """
        power, felt = known.power(old), np.zeros((len(old), 1, old.shape[2]))
        if path in self.fisher:
            own, moment = matrix(use, self.fisher[path]).sum(1, keepdims=True), known.squares.sum(1)[:, None, None]
            felt = np.divide(own, moment, out=felt, where=moment > 0)  # of a channel that is never on nothing is felt
            felt = (1 - FELT) * felt + FELT * felt.mean()
        return self.value / felt if felt.all() else np.full_like(felt, self.value * (power or 1.0))


def rate_of(value: float | None, fisher: Params | None, method: str, weights: Mapping[str, Any]) -> Rate | None:
    """Checks what a bit is worth in the errors of some weights; None: nothing.

    Args:
      value: the rate, or None.
      fisher: the Fisher diagonal of the parameters, or None.
      method: by which weights are rounded.
      weights: by path.

    Raises:
      ArgumentError: for a rate that is no number above 0, ``fisher`` without a rate, and another method than GPTQ.
    """
    if value is None:
        if fisher is not None:
            raise ArgumentError("fisher says what errors are worth beside bits: give rate= with it")
        return None
    if method != "gptq":
        raise ArgumentError(f"weights are rounded by a rate in GPTQ's order: method must be 'gptq', got {method!r}")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ArgumentError(f"rate must be a number above 0: what a bit is worth in squared error; got {value!r}")
    leaves = {} if fisher is None else named_leaves(fisher)
    known = {
        path: np.asarray(leaves[path], np.float64) for path in weights if path in leaves and np.shape(leaves[path])
    }
    whole = sum(float(np.vdot(leaf, np.square(np.asarray(weights[path], np.float64)))) for path, leaf in known.items())
    mean = whole / len(known) if whole else 1.0
    return Rate(float(value), {path: leaf / mean for path, leaf in known.items()})


class Coder:
    """The codes of one weight, as a matrix and as the file has them.

    Args:
      use: one of its sites.
      shape: its own.
      levels: ascending, what codes from ``bottom`` on stand for, in units of scales.
      bottom: the least code.
    """

    def __init__(self, use: Use, shape: tuple[int, ...], levels: np.ndarray, bottom: int) -> None:
        self.levels, self.bottom = np.asarray(levels, np.float32), bottom
        self._use, self._shape = use, shape
        self._middles = (self.levels[1:] + self.levels[:-1]) / 2

    def codes(self, values: np.ndarray) -> np.ndarray:
        """Returns the codes of the nearest levels of a matrix in units of scales, in the weight's own shape."""
        found = np.searchsorted(self._middles, values).astype(np.int64) + self.bottom
        return unmatrix(self._use, found, self._shape)

    def lengths(self, values: np.ndarray) -> Lengths:
        """Fits the file's model of the codes."""
        return code_lengths(self.codes(values), self.bottom, self.bottom + len(self.levels) - 1)

    def bits(self, values: np.ndarray, lengths: Lengths) -> np.ndarray:
        """Counts the bits of each output by a model ``lengths`` of ``values``, ``[groups, 1, out]`` float64."""
        return matrix(self._use, lengths.of(self.codes(values))).sum(1, keepdims=True)

    def choices(self, lengths: Lengths, price: np.ndarray) -> Choices:
        """Returns the levels that weights can take, and their cost by a model ``lengths`` and a ``price`` of a bit."""
        which = matrix(self._use, lengths.which).astype(np.int32)
        return Choices(self.levels, lengths.bits, which, price.astype(np.float32))


class Rounded(NamedTuple):
    """A layer at one step.

    Attributes:
      cost: of errors and of bits, in bits.
      values: ``[groups, n, out]``.
      ratio: of scales to those that were given, ``[groups, 1, out]``.
      lengths: the model of its codes.
    """

    cost: float
    values: np.ndarray
    ratio: np.ndarray
    lengths: Lengths


def priced(
    aim: np.ndarray,
    numbers: tuple[np.ndarray, np.ndarray, np.ndarray],
    inputs: Factored,
    price: np.ndarray,
    coder: Coder,
    sweeps: int,
    apart: bool | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the values of least cost, and the ratio of their scales to the given ones.

    Args:
      aim: ``[groups, n, out]``.
      numbers: scales, zero points and what is kept, of its shape.
      inputs: second moments of the layer's inputs.
      price: ``[groups, 1, out]``, of a bit in squared errors, in units of both.
      coder: of its codes.
      sweeps: code by code.
      apart: whether each output has a scale of its own; None: scales are given and stay.
    """
    scale, zero_point, kept = numbers

    def cost(values: np.ndarray, scale: np.ndarray, lengths: Lengths) -> float:
        errors = inputs.error(values - aim)
        return float((errors / price + coder.bits(values / scale, lengths)).sum())

    def tried(ratio: np.ndarray) -> Rounded:
        own = scale * ratio
        x = aim / own
        lengths = coder.lengths(np.where(kept, np.sign(x) * np.maximum(np.abs(x) - 0.15, 0), 0))
        for _ in range(ROUNDS):
            choices = coder.choices(lengths, price)
            values, _ = fixed(aim, inputs, (own, zero_point, kept), None, choices=choices)
            lengths = coder.lengths(values / own)
        return Rounded(cost(values, own, lengths), values, ratio, lengths)

    best = _searched(tried, _theory(inputs, price, scale, coder, apart)) if apart is not None else tried(_ones(scale))
    own = scale * best.ratio
    for _ in range(2 if sweeps else 0):
        given = own, zero_point, kept
        choices = coder.choices(best.lengths, price)
        values = descended(aim, best.values, inputs.moment, given, None, -(-sweeps // 2), choices=choices)
        lengths = coder.lengths(values / own)
        now = Rounded(cost(values, own, lengths), values, best.ratio, lengths)
        best = min(best, now, key=lambda each: each.cost)
    return best.values, best.ratio


def _ones(scale: np.ndarray) -> np.ndarray:
    return np.ones((len(scale), 1, scale.shape[2]), np.float32)


def _theory(inputs: Factored, price: np.ndarray, scale: np.ndarray, coder: Coder, apart: bool) -> Any:
    r"""Ratios that a factor gives, about those that are best of fine steps: :math:`s^2 = 6 p / (\bar h \ln 2)`.

    A step s makes the error :math:`h s^2 / 12`, of which a bit takes :math:`2 \ln 2` parts, h being what a weight's
    error adds to outputs', the others having made up for it.
    """
    places = np.arange(inputs.upper.shape[1])
    felt = (1 / np.square(inputs.upper[:, places, places], dtype=np.float64)).mean(1)[:, None, None]
    step = np.sqrt(6 / math.log(2) * price / felt)
    ratio = step / scale.mean(1, keepdims=True)
    if not apart:
        ratio = np.full_like(ratio, np.sqrt(np.mean(np.square(ratio))))
    given = scale[:, :1]

    def ratios(factor: float) -> np.ndarray:
        found = np.clip(ratio * factor, 0.2, coder.levels[-1]).astype(np.float32)
        return shortened(found * given) / given if apart else found

    return ratios


def _searched(tried: Any, ratios: Any) -> Rounded:
    """The best of steps, each half an octave from the last, as long as they become better."""
    best = tried(ratios(1.0))
    for way in (math.sqrt(2), math.sqrt(0.5)):
        factor, moved = way, False
        while not np.array_equal(ratios(factor), best.ratio):
            now = tried(ratios(factor))
            if now.cost >= best.cost:
                break
            best, factor, moved = now, factor * way, True
        if moved:
            break
    return best
