"""Rankings: the order in which channels are cut."""

from collections.abc import Mapping

import numpy as np

from jaxcomp.core.errors import ArgumentError

KeepMasks = dict[str, np.ndarray]
"""``{group: bool [size]}``, True for the channels that stay."""


class Ranking:
    """All channels that may be cut, the least important first; what is kept after so many cuts is nested.

    Attributes:
      length: how many channels may be cut.
    """

    def __init__(
        self,
        scores: Mapping[str, np.ndarray],
        least: Mapping[str, int],
        scope: str,
        cost: Mapping[str, int],
        multiple: int,
    ):
        """Orders channels.

        Args:
          scores: ``{group: [size]}``.
          least: how many channels each group keeps at least.
          scope: ``"global"`` compares scores; ``"group"`` lets all groups go down by the same fraction.
          cost: for each group, by what scores are divided before they are compared.
          multiple: kept counts are rounded up to it.

        Raises:
          ArgumentError: for scores that are NaN, with the group and how many.
        """
        for name, own in scores.items():
            lost = int(np.isnan(own).sum())
            if lost:
                raise ArgumentError(
                    f"the scores of group {name!r} hold NaN in {lost:,} of {own.size:,} channels, by which none can be "
                    "chosen: mend what they are computed of, or give infinity for a channel that must stay"
                )
        self._multiple = multiple
        self._least = {name: least[name] for name in scores}
        # Among equals the first is kept: in a group, and of two groups.
        self._order = {name: np.argsort(-own, kind="stable") for name, own in scores.items()}
        self._names = list(scores)
        keys, owners = [np.zeros(0)], [np.zeros(0, int)]
        lowest = min((own[np.isfinite(own)].min(initial=0.0) for own in scores.values()), default=0.0)
        for i, name in enumerate(self._names):
            size = len(scores[name])
            places = np.arange(size - 1, self._least[name] - 1, -1)
            # None negative, or what costs more would be cut later for it.
            ranked = scores[name][self._order[name]][places] - lowest
            keys.append((size - places - 0.5) / size if scope == "group" else ranked / max(cost[name], 1))
            owners.append(np.full(len(places), i))
        flat, owner = np.concatenate(keys), np.concatenate(owners)
        # Reversed, so that of equal keys those of the later group go first; within a group keys never fall.
        self._cuts = owner[::-1][np.argsort(flat[::-1], kind="stable")]
        self.length = len(self._cuts)

    def keep(self, cuts: int) -> KeepMasks:
        """Returns what is kept after the first ``cuts`` cuts, rounded up."""
        gone = np.bincount(self._cuts[:cuts], minlength=len(self._names))
        return self.top({name: len(self._order[name]) - int(n) for name, n in zip(self._names, gone, strict=True)})

    def top(self, counts: Mapping[str, int]) -> KeepMasks:
        """Keeps the most important channels, ``counts`` of each group or the least that it keeps, rounded up."""
        kept = {}
        for name, order in self._order.items():
            count = -(-max(counts[name], self._least[name]) // self._multiple) * self._multiple
            kept[name] = np.zeros(len(order), bool)
            kept[name][order[:count]] = True
        return kept
