"""Costs of a choice of channels: counted from the labels, without tracing anew."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from jaxcomp.core.channels import Group
from jaxcomp.trace.channels.coupling import Coupling
from jaxcomp.trace.channels.labels import Labels


class Costs(NamedTuple):
    """The costs of a function.

    Attributes:
      macs: multiply-accumulates of all sites, for the example batch.
      parameters: numbers in the whole tree that it was found on, statistics included.
      bytes: their size.
    """

    macs: int
    parameters: int
    bytes: int


class _Term(NamedTuple):
    """A product: ``fixed`` times what is kept of each axis (by its position in the list of axes)."""

    fixed: int
    axes: tuple[int, ...]


class Prices:
    """The costs of a coupling as sums of products of channel counts: exact, in milliseconds."""

    def __init__(self, coupling: Coupling, groups: Sequence[Group]):
        """Reads which channel owns each index of each axis that a cost depends on."""
        self._axes: list[np.ndarray] = []
        self._known: dict[bytes, int] = {}
        owners = _owners(coupling, groups)

        def term(fixed: int, axes: Iterable[tuple[int, Sequence[Labels | None]]]) -> _Term:
            """Counts axes, each with its labels in every reading."""
            cut = []
            for size, labels in axes:
                own = [owner[each] for owner, each in zip(owners, labels, strict=True) if each is not None]
                if own:
                    cut.append(self._position(np.stack(own)))
                else:
                    fixed *= size
            return _Term(fixed, tuple(cut))

        self._macs = []
        for node, cost in coupling.analysis.costs.items():
            several = zip(*(reading.analysis.costs[node].axes for reading in coupling.readings), strict=True)
            self._macs.append(term(cost.calls, [(each[0][0], [labels for _, labels in each]) for each in several]))
        self._tensors: list[tuple[_Term, int]] = []
        for path, value in coupling.program.parameters().items():
            axes = [
                (size, [reading.labels.get((path, i)) for reading in coupling.readings])
                for i, size in enumerate(value.shape)
            ]
            self._tensors.append((term(1, axes), value.dtype.itemsize))

    def __call__(self, kept: np.ndarray) -> Costs:
        """The costs when of all groups' channels, one group after the other, those ``kept`` stay."""
        always = np.append(kept, True)
        counts = [int(np.count_nonzero(always[axis].all(axis=0))) for axis in self._axes]

        def size(term: _Term) -> int:
            return term.fixed * math.prod(counts[axis] for axis in term.axes)

        sizes = [(size(term), width) for term, width in self._tensors]
        return Costs(sum(map(size, self._macs)), sum(n for n, _ in sizes), sum(n * width for n, width in sizes))

    def _position(self, axis: np.ndarray) -> int:
        key = axis.tobytes()
        if key not in self._known:
            self._known[key] = len(self._axes)
            self._axes.append(axis)
        return self._known[key]


def _owners(coupling: Coupling, groups: Sequence[Group]) -> list[np.ndarray]:
    """``[labels]`` of each reading: the channel that each is, counted over all groups; one past the last for none."""
    total = sum(group.size for group in groups)
    owners = [np.full(len(reading.roots), total) for reading in coupling.readings]
    first = 0
    for group in groups:
        reading, owner = coupling.readings[group.reading], owners[group.reading]
        for member in group.members:
            labels = reading.labels[member.path, member.axis]
            owner[reading.roots[labels[member.indices]]] = np.arange(first, first + group.size)[:, None]
        first += group.size
    return [owner[reading.roots] for owner, reading in zip(owners, coupling.readings, strict=True)]
