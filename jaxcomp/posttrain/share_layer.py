r"""One layer's weights made to share a few values, which make up for each other's errors as GPTQ's codes do.

Centers begin at the exact weighted optimum of one dimension. Then, in turn: each weight goes to a center, those that
follow making up for the error; and the centers are those of the least error given who goes where, in closed form:

.. math:: \min_c \operatorname{tr} (W - C)^\top H (W - C) \;\Rightarrow\; M c = b, \quad M_{kl} = \sum_o a_{ko}^\top H
   a_{lo}, \quad b_k = \sum_o a_{ko}^\top H w_o

with a the places of center k in output o.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcomp.core.factored import Factored
from jaxcomp.core.meshes import beside
from jaxcomp.core.units import host_unit
from jaxcomp.observe.evidence import Evidence
from jaxcomp.observe.matrices import matrix, unmatrix
from jaxcomp.pack.lengths import Lengths
from jaxcomp.posttrain.round_priced import Coder, Rate
from jaxcomp.quant.gptq import descended, fixed
from jaxcomp.share import optimal
from jaxcomp.trace.uses import Use

ROUNDS = 4
"""Times that centers and places are found in turn."""
TABLE_BITS = 24
"""The bits of a center in a file, about."""
FEWER = (2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Numbers of centers that are tried where bits count."""


class Settings(NamedTuple):
    """How layers share: what :func:`jaxcomp.posttrain.share` was asked for.

    Attributes:
      damping, act_order, sweeps: of it.
      rate: what errors of outputs are worth, and bits; None: all errors alike.
      counts: whether bits count.
    """

    damping: float
    act_order: bool
    sweeps: int
    rate: Rate | None
    counts: bool


class Shared(NamedTuple):
    """A weight that holds few values.

    Attributes:
      leaf: of its own shape and dtype.
      back: the fraction of its outputs that are at the nearest of the plain centers: all or none.
    """

    leaf: Any
    back: float = 1.0


def nearest(leaf: Any, k: int) -> Shared:
    """Replaces each number of ``leaf`` by the nearest of the ``k`` centers of least squared error; 0 stays 0."""
    values = np.asarray(leaf, np.float64)
    return _shown(leaf, values, optimal(values, k, zero=bool((values == 0).any())))


def _shown(leaf: Any, values: np.ndarray, centers: np.ndarray, back: float = 1.0) -> Shared:
    """A weight with values at the nearest of some centers; 0 stays 0."""
    middles = (centers[1:] + centers[:-1]) / 2
    found = np.where(values == 0, 0.0, centers[np.searchsorted(middles, values)])
    return Shared(beside(jax.device_put(found.astype(leaf.dtype)), leaf), back)


def shared(path: str, use: Use, leaf: Any, known: Evidence, k: int, settings: Settings, plain: Shared) -> Shared:
    """Replaces a weight by one of at most k values, so that its sites' results change least.

    What is found on the examples to fit to is kept where it costs less than ``plain`` on those that are held out: in
    errors, and in bits where these count.

    Args:
      path: of the weight.
      use: the site that reads it.
      leaf: the weight.
      known: statistics of its sites' inputs.
      k: values, 0 included.
      settings: of the method.
      plain: the weight by :func:`nearest`.
    """
    if not known.reaches or (known.other is None and not settings.counts):
        return plain
    old = aim = matrix(use, leaf)
    unit = host_unit(np.max(np.abs(old), initial=0))
    inputs = Factored.of(known.moment(), settings.damping, settings.act_order)
    if known.corrects:
        far = known.aim(old, inputs)
        aim = old + known.share(old, far, old) * (far - old)
    price = np.ones((len(old), 1, old.shape[2]))
    if settings.rate is not None:
        price = settings.rate.prices(path, use, old, known) / unit**2
    layer = _Layer(use, leaf.shape, (aim / unit).astype(np.float32), old != 0, inputs, price, settings)
    tried = [each for each in FEWER if each <= k] or [k] if settings.counts else [k]
    best: _Found | None = None
    for each in tried:
        now = layer.found(each)
        if best is not None and now.cost > best.cost:
            break
        best = now
    assert best is not None
    values = unmatrix(use, best.values.astype(np.float64) * unit, leaf.shape)
    found = _shown(leaf, values, np.unique(values), 0.0)
    costs = [layer.judged(each.leaf, leaf, known, unit) for each in (found, plain)]
    least = 0.0 if settings.counts else known.least_gain()
    better = costs[0][0] < (1 - least) * costs[1][0] and costs[0][1] < costs[1][1]
    return found if better else plain


class _Found(NamedTuple):
    cost: float
    values: np.ndarray


class _Layer(NamedTuple):
    """A layer as a matrix ``[groups, n, out]`` in units in which squares neither underflow nor overflow.

    Attributes:
      use, shape: how it is read, and the weight's own shape.
      aim: the weights that come nearest to the old outputs.
      kept: which of them are not 0.
      inputs: second moments of its inputs.
      price: of a bit in each output's squared error, ``[groups, 1, out]``; of no rate all 1.
      settings: of the call.
    """

    use: Use
    shape: tuple[int, ...]
    aim: np.ndarray
    kept: np.ndarray
    inputs: Factored
    price: np.ndarray
    settings: Settings

    def found(self, k: int) -> _Found:
        """The best values of so many centers."""
        zero = bool((~self.kept).any()) or (self.settings.counts and k > 1)
        squares = np.diagonal(self.inputs.moment, axis1=1, axis2=2)[..., None] / self.price
        weight = np.broadcast_to(squares, self.aim.shape) * self.kept
        centers = optimal(np.where(self.kept, self.aim, 0), k, importance=weight, zero=zero)
        best, values = None, None
        ones, none = np.ones(self.aim.shape, np.float32), np.zeros(self.aim.shape, np.int32)
        for _ in range(ROUNDS):
            coder = self._coder(centers)
            start = np.asarray(centers[_places(centers, self.aim if values is None else values)], np.float32)
            start = np.where(self.kept, start, 0)
            lengths = coder.lengths(start)
            choices = coder.choices(self._free(lengths), self.price)
            given = ones, none, self.kept
            values = fixed(self.aim, self.inputs, given, None, choices=choices)[0] if values is None else start
            sweeps = self.settings.sweeps
            values = descended(self.aim, values, self.inputs.moment, given, None, sweeps, choices=choices)
            values, centers = self._refitted(values, centers)
            now = _Found(self._cost(values, centers), values)
            best = now if best is None or now.cost < best.cost else best
        assert best is not None
        return best

    def _coder(self, centers: np.ndarray) -> Coder:
        origin = min(int(np.searchsorted(centers, 0.0)), len(centers) - 1)
        return Coder(self.use, self.shape, centers, -origin)

    def _free(self, lengths: Lengths) -> Lengths:
        """Code lengths, all 0 where bits do not count."""
        return lengths if self.settings.counts else lengths._replace(bits=0 * lengths.bits)

    def _cost(self, values: np.ndarray, centers: np.ndarray) -> float:
        cost = float((self.inputs.error(values - self.aim) / self.price).sum())
        return cost + self._bits(values, centers)

    def _bits(self, values: np.ndarray, centers: np.ndarray) -> float:
        if not self.settings.counts:
            return 0.0
        coder = self._coder(centers)
        return TABLE_BITS * len(centers) + float(coder.bits(values, coder.lengths(values)).sum())

    def judged(self, new: Any, leaf: Any, known: Evidence, unit: float) -> tuple[float, float]:
        """The costs of a weight on the examples that are held out, and on the others."""
        values, old = matrix(self.use, new), matrix(self.use, leaf)
        bits, price = self._bits(values / unit, np.unique(values / unit)), self.price[:, 0] * unit**2
        held, fit = (float((known.error(values, old, each) / price).sum()) for each in (True, False))
        return held + bits, fit + bits

    def _refitted(self, values: np.ndarray, centers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The values with the centers of the least error of those who are at each."""
        place = _places(centers, values)
        free = [i for i, each in enumerate(centers) if each != 0 and (place == i).any()]
        if not free:
            return values, centers
        at = [(place == i) & self.kept for i in free]
        pulls = [np.matmul(self.inputs.moment, each.astype(np.float32)) / self.price for each in at]
        m = np.array([[np.sum(pull, where=other, dtype=np.float64) for other in at] for pull in pulls])
        b = np.array([np.sum(pull * self.aim, dtype=np.float64) for pull in pulls])
        now = centers[free]
        ridge = 1e-6 * np.trace(m) / len(m) * np.eye(len(m))
        new = centers.copy()
        new[free] = now + np.linalg.solve(m + ridge, b - m @ now)
        if (np.diff(new) <= 0).any():  # centers that cross would not be in order: they stay
            return values, centers
        return np.where(self.kept, new[place], 0).astype(np.float32), new


def _places(centers: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.searchsorted((centers[1:] + centers[:-1]) / 2, values)
