"""One layer pruned: by a method if that is better than the plain one where it is held out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.core.factored import Factored
from jaxcomp.core.units import host_unit
from jaxcomp.observe.evidence import Evidence
from jaxcomp.observe.matrices import matrix, unmatrix
from jaxcomp.posttrain.sparsify_methods import PRUNERS, LayerMatrix, Pruner
from jaxcomp.prune import reconstruct
from jaxcomp.prune.sparsegpt import sparsegpt
from jaxcomp.trace.uses import Use

Reference = Literal["corrected", "pruned", "dense"]


MOST_PRODUCTS = 3e9
"""So many, some 0.2 s of them, may the least squares of all outputs of a layer take that only judge a mask."""

MASKS_MARGIN = 1.02
"""How much more error a mask may make than magnitude's: nothing is fitted, and little is due to chance."""


class Pruned(NamedTuple):
    """A parameter that was pruned.

    Attributes:
      leaf: of its own shape and dtype.
      mask: likewise, True = kept.
      error: the squared error of its sites' results over their squares, where it is held out; None if not known.
      back: the method by which it was pruned after all; ``""`` for the one that was asked for, of ``auto`` OBC.
      plain: what the plain method makes of it; None where that is not better.
    """

    leaf: Any
    mask: np.ndarray
    error: float | None
    back: str = ""
    plain: Any = None


@dataclass(frozen=True)
class Recipe:
    """How every layer is pruned: what :func:`sparsify` was asked for."""

    pruner: Pruner
    pattern: bool
    reference: Reference
    refit: bool | None
    damping: float
    fisher: Mapping[str, Any]
    factors: Mapping[str, Any] = field(default_factory=dict)

    @property
    def reads_data(self) -> bool:
        return self.pruner.needs == "moment" or bool(self.refit)

    def layer(self, path: str, use: Use, leaf: Any, known: Evidence | None, moment: Any = None) -> LayerMatrix:
        """Arranges a parameter as its sites read it.

        Args:
          path: of the parameter.
          use: the site.
          leaf: its value.
          known: statistics of its sites' inputs; None: nothing is known.
          moment: of its inputs, if that is known in place of ``known``; it is overwritten.
        """
        fisher = self.fisher.get(path)
        if known is not None and moment is None:
            moment = known.part.products()
        weight = matrix(use, leaf)
        unit = host_unit(np.max(np.abs(weight), initial=0))
        norms = None if moment is None else np.sqrt(_squares(moment))[..., None]
        fresh = known is None or moment is not known.part.now
        fisher_unit = 1.0 if fisher is None else host_unit(np.max(fisher, initial=0))
        return LayerMatrix(
            weight=np.asarray(weight / unit, np.float32),
            inputs=None if moment is None else Factored.of(moment, self.damping, overwrite=fresh),
            norms=norms,
            fisher=None if fisher is None else jnp.asarray(matrix(use, fisher) / fisher_unit, jnp.float32),
            factor=self.factors.get(path, 1.0),
            unit=unit,
            fisher_unit=fisher_unit,
        )

    def solve(self, path: str, use: Use, leaf: Any, known: Evidence | None, goal: Any) -> Pruned:
        """Prunes one parameter.

        Args:
          path: of the parameter.
          use: the site that reads it.
          leaf: its value.
          known: statistics of its sites' inputs; None: nothing is known.
          goal: a count of weights that are kept, or a pattern.
        """
        old = matrix(use, leaf)
        if known is None:
            own = _Matrix(*self._pruned(self.layer(path, use, leaf, None), old, None, goal))
        else:
            own = self._judged(path, use, leaf, old, known, goal)

        other = self.pruner.other(old.shape)

        def shaped(own: _Matrix) -> Pruned:
            leaf_ = jax.device_put(unmatrix(use, own.weight, leaf.shape).astype(leaf.dtype))
            plain = None if own.plain is None else shaped(own.plain)
            return Pruned(leaf_, unmatrix(use, np.asarray(own.mask), leaf.shape), own.error, own.back or other, plain)

        return shaped(own)

    def _judged(self, path: str, use: Use, leaf: Any, old: np.ndarray, known: Evidence, goal: Any) -> "_Matrix":
        """The method's result on all examples, if that is better than the plain one where it is held out.

        Else what it makes of correlations as far as they are not due to chance, taken as far as serves the examples
        that are held out; if that is no better either, the plain one: the smallest weights go, or none is refitted.
        """
        whole = known.power(old)
        plain = self._plain(path, use, leaf, old, goal).judged(known, old, whole)
        if known.other is None or plain.error is None:
            return plain
        if not self.refits:
            own = _Matrix(*self._of_all(path, use, leaf, old, known, goal)).judged(known, old, whole)
            return own._replace(plain=plain) if own.error <= MASKS_MARGIN * plain.error else plain
        most = (1 - known.least_gain()) * plain.error
        # A mask that was chosen on what is held out cannot be judged there, unless it hardly depends on that.
        mask, new = self._of_all(path, use, leaf, old, known, goal) if known.suffices else (None, None)
        trial = self.layer(path, use, leaf, known)
        mask, fitted = self._refitted(self._aim(trial, old, known), mask, goal)
        own = _Matrix(mask, fitted * trial.unit).judged(known, old, whole)._replace(plain=plain)
        if own.error <= most:
            return own if new is None else own._replace(weight=new)
        del trial, new  # they may be large
        mask, new = self._pruned(self.layer(path, use, leaf, known, known.moment()), old, known, goal)
        start = np.where(mask, old, 0)
        own = _Matrix(mask, start + known.share(start, new, old) * (new - start)).judged(known, old, whole)
        return own._replace(plain=plain) if own.error <= most else plain

    def _plain(self, path: str, use: Use, leaf: Any, old: np.ndarray, goal: Any) -> "_Matrix":
        """Prunes by what a method has to be better than: the smallest weights go, or those of its mask without data."""
        ranks = self.pruner.needs == "moment"
        pruner = PRUNERS["magnitude"] if ranks else self.pruner
        mask, _ = pruner.prune(self.layer(path, use, leaf, None), *_keep(goal))
        return _Matrix(mask, np.where(mask, old, 0), back="magnitude" if ranks else "no refit" if self.refits else "")

    def _of_all(
        self, path: str, use: Use, leaf: Any, old: np.ndarray, known: Evidence, goal: Any
    ) -> tuple[Any, np.ndarray]:
        all_ = known.pooled()
        return self._pruned(self.layer(path, use, leaf, all_), old, all_, goal)

    def _refitted(self, layer: LayerMatrix, mask: Any, goal: Any) -> tuple[Any, np.ndarray]:
        """Returns a mask, the method's own unless one is given, and weights: its best, or those of a sweep.

        SparseGPT's sweep takes a hundredth of what least squares take of large layers, and errs by some tenths more: it
        stands for itself, and of large layers it judges any mask.
        """
        judges, new = mask is not None and not self.refit, None
        if mask is None:
            mask, new = self.pruner.prune(layer, *_keep(goal))
        sweeps, large = self.pruner.sweeps(layer.weight.shape), _products(mask) > MOST_PRODUCTS
        if judges and (sweeps or large):
            _, new = sparsegpt(layer.weight, layer.moment, upper=layer.upper, mask=mask)
        elif self.refit or not (sweeps and large):
            new = reconstruct.least_squares(layer.weight, layer.moment, mask)
        return mask, np.asarray(new, np.float64)

    @property
    def refits(self) -> bool:
        """Whether the weights that are left change."""
        return self.pruner.updates if self.refit is None else self.refit

    def _aim(self, layer: LayerMatrix, old: np.ndarray, known: Evidence | None) -> LayerMatrix:
        if self.refits and self.reference == "corrected" and known is not None and known.corrects:
            assert layer.inputs is not None
            aim = known.aim(old, layer.inputs) / layer.unit
            return layer._replace(weight=np.asarray(aim, np.float32))
        return layer

    def _pruned(self, layer: LayerMatrix, old: np.ndarray, known: Evidence | None, goal: Any) -> tuple[Any, np.ndarray]:
        layer = self._aim(layer, old, known)
        mask, new = self.pruner.prune(layer, *_keep(goal))
        if self.refit:
            new = reconstruct.least_squares(layer.weight, layer.moment, mask)
        return mask, np.asarray(new, np.float64) * layer.unit if self.refits else np.where(mask, old, 0)


class _Matrix(NamedTuple):
    """A layer that was pruned: ``[groups, reduction, out]``."""

    mask: Any
    weight: np.ndarray
    error: Any = None
    back: str = ""
    plain: Any = None

    def judged(self, known: Evidence, old: np.ndarray, whole: float) -> "_Matrix":
        """With its squared error over the squares of what the outputs were, on the examples that are held out."""
        return self._replace(error=float(known.error(self.weight, old).sum()) / whole if whole else None)


def _keep(goal: Any) -> tuple[int, Any]:
    """How many weights are kept, or 0 and a pattern."""
    return (0, goal) if isinstance(goal, tuple) else (goal, None)


def _products(mask: Any) -> float:
    """How many products the least squares of all outputs of a layer take."""
    return float(np.sum(np.asarray(mask).sum(1, dtype=np.float64) ** 3)) / 3


def _squares(moment: Any) -> np.ndarray:
    """The squares of each input, the diagonal of their moments: ``[groups, reduction]`` float32."""
    return np.maximum(np.diagonal(moment, axis1=1, axis2=2), 0).astype(np.float32)
