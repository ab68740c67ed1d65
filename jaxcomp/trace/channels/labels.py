"""Labels: one number an index of an axis, which indices must be kept or cut together, and which must be kept."""

import numpy as np

from jaxcomp.core.channels import Reason

Labels = np.ndarray
"""int64 ``[size of the axis]``; indices with one label (or labels tied to each other) go together."""


class LabelSet:
    """All labels of one analysis: made fresh, tied to each other, frozen; resolved once, at the end."""

    def __init__(self) -> None:
        self.count = 0
        self._ties: list[tuple[Labels, Labels]] = []
        self._frozen: list[tuple[Labels, Reason]] = []

    def fresh(self, size: int) -> Labels:
        """Makes ``size`` labels that no other index has."""
        self.count += size
        return np.arange(self.count - size, self.count)

    def tie(self, a: Labels, b: Labels) -> None:
        """Ties indices at the same position of ``a`` and ``b``: they go together; ``b`` is broadcast to ``a``."""
        if a is not b:
            self._ties.append((a, np.broadcast_to(b, a.shape)))

    def freeze(self, labels: Labels, reason: Reason) -> None:
        """Keeps the indices that have ``labels``, for a ``reason``."""
        if labels.size:
            self._frozen.append((labels, reason))

    def resolve(self) -> tuple[np.ndarray, dict[int, Reason]]:
        """Returns each label's root (the smallest that it is tied to), and the first reason of each frozen root."""
        roots = np.arange(self.count)
        if self._ties:
            a, b = (np.concatenate([tie[i].ravel() for tie in self._ties]) for i in (0, 1))
            roots = _components(roots, a, b)
        reasons: dict[int, Reason] = {}
        for labels, reason in self._frozen:
            for root in np.unique(roots[labels]).tolist():
                reasons.setdefault(root, reason)
        return roots, reasons


def _components(roots: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    while a.size:
        low, high = np.minimum(roots[a], roots[b]), np.maximum(roots[a], roots[b])
        apart = low != high
        a, b = a[apart], b[apart]
        np.minimum.at(roots, high[apart], low[apart])
        while not np.array_equal(roots, roots[roots]):
            roots = roots[roots]
    return roots
