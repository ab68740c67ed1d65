"""Rankings: which units of tensors a pruner keeps, given how many."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxcomp.core import leaves, threshold
from jaxcomp.core.largest import keep_largest
from jaxcomp.core.units import common_unit
from jaxcomp.prune import selection
from jaxcomp.prune.distributions import Distribution, Shares
from jaxcomp.prune.patterns import Pattern
from jaxcomp.prune.regrow import Regrow
from jaxcomp.prune.scores import Evidence, Score


class Ranking(NamedTuple):
    """How the units of tensors compete.

    Attributes:
      score: by which they are ranked.
      pattern: of the units, and which of them stay beside the others.
      distribution: whose units compete, and how scores of several tensors are made comparable.
      regrow: which of those that were cut come back, if any do.
      nested: whether what was cut stays so.
    """

    score: Score
    pattern: Pattern
    distribution: Distribution
    regrow: Regrow | None
    nested: bool

    def kept(
        self,
        own: Sequence[Evidence],
        memory: Sequence[Any],
        old: Sequence[Array],
        shares: Shares,
        floors: Sequence[int],
    ) -> list[Array]:
        """Makes masks that keep the units of each tensor that score highest: exactly as many as its group's share.

        Args:
          own: the evidence on each tensor.
          memory: the score's memory of each.
          old: their masks so far.
          shares: how many units each group of tensors keeps, and the group of each tensor.
          floors: how many units each tensor keeps at least.

        Returns:
          Masks ``bool [units ...]``, as :meth:`Pattern.spread` takes them.
        """
        keep, group, step = shares.keep, shares.group, own[0].step
        paths = [evidence.path for evidence in own]
        patterns = [self.pattern.of(path) for path in paths]

        def pooled(raw: Sequence[Array], of: Any) -> tuple[list[Array], Any]:
            return self._pooled(raw, of, paths)

        def choose(values: Sequence[Array], of: Any = threshold.itself) -> list[Array]:
            return self._chosen(values, of, shares, floors, patterns)

        raw = [self.score.rank(evidence, held) for evidence, held in zip(own, memory, strict=True)]
        values, of = pooled(self._in_units(raw), self.score.of)
        fresh = jnp.asarray(step) == 0
        if self.regrow:
            begin = pooled([self.regrow.start.rank(evidence, ()) for evidence in own], self.regrow.start.of)
            if not isinstance(step, jax.core.Tracer) and step == 0:
                return choose(*begin)
            alive = [each.pick(mask) for each, mask in zip(patterns, old, strict=True)]
            growth = selection.scores_of(*pooled([self.regrow.grow(evidence) for evidence in own], threshold.itself))
            ranks, first = selection.scores_of(values, of), selection.scores_of(*begin)
            return selection.exchange(alive, ranks, growth, first, keep, group, self.regrow.drop(step), fresh, choose)
        if self.nested:
            alive = [each.pick(mask) | fresh for each, mask in zip(patterns, old, strict=True)]
            scores = selection.scores_of(values, of)
            return choose([jnp.where(a, s, -jnp.inf) for a, s in zip(alive, scores, strict=True)])
        return choose(values, of)

    def _chosen(
        self, values: Sequence[Array], of: Any, shares: Shares, floors: Sequence[int], patterns: Sequence[Pattern]
    ) -> list[Array]:
        """Masks of the units of highest score, beside those that are protected."""
        keep, group = shares
        if self.pattern.protect is not None:
            scores = selection.scores_of(values, of)
            safe = [each.protect(score) for each, score in zip(patterns, scores, strict=True) if each.protect]
            assert len(safe) == len(scores), "patterns of one kind protect alike"
            return selection.keep_beside(safe, floors, scores, keep, group)
        if self.distribution.compete and any(floors):
            scores = selection.scores_of(values, of)
            safe = keep_largest(scores, floors, range(len(scores)), score=threshold.itself)
            return selection.keep_beside(safe, floors, scores, keep, group)
        return keep_largest(values, keep, group, score=of)

    def _in_units(self, raw: Sequence[Array]) -> Sequence[Array]:
        """Evidence scaled so that squares neither underflow nor overflow; of tensors that are compared in one unit."""
        if self.score.of is not jnp.square:
            return raw
        wider = [value.astype(leaves.wide(value.dtype)) for value in raw]
        units = [common_unit([value]) for value in wider]
        if self.distribution.compete:
            real = leaves.wide(*(unit.dtype for unit in units))
            units = [common_unit(unit.astype(real) for unit in units)] * len(units)
        return [value / unit.astype(value.dtype) for value, unit in zip(wider, units, strict=True)]

    def _pooled(self, raw: Sequence[Array], of: Any, paths: Sequence[str]) -> tuple[list[Array], Any]:
        """Values of the units of tensors, and the function of them that is ranked."""
        values, scale = list(raw), self.distribution.scale
        if self.pattern.pool is not None:
            pools = [self.pattern.of(path).pool or threshold.itself for path in paths]
            values, of = [pool(of(value)) for pool, value in zip(pools, values, strict=True)], threshold.itself
        if scale is not None:
            values, of = [scale(of(value), path) for value, path in zip(values, paths, strict=True)], threshold.itself
        return values, of
