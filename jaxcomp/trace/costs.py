"""What a choice of channels costs: counted from the labels, without tracing anew."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxcomp.trace.channels import Group
from jaxcomp.trace.coupling import Coupling
from jaxcomp.trace.labels import Labels


class Costs(NamedTuple):
    """What a function costs.

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
        owner = _owners(coupling, groups)

        def term(fixed: int, axes: Sequence[Labels]) -> _Term:
            return _Term(fixed, tuple(self._position(owner[coupling.roots[labels]]) for labels in axes))

        self._macs = [term(cost.fixed, cost.axes) for cost in coupling.analysis.costs.values()]
        self._tensors: list[tuple[_Term, int]] = []
        for path, value in coupling.program.parameters().items():
            cut = [i for i in range(len(value.shape)) if (path, i) in coupling.labels]
            fixed = math.prod(size for i, size in enumerate(value.shape) if i not in cut)
            self._tensors.append((term(fixed, [coupling.labels[path, i] for i in cut]), value.dtype.itemsize))

    def __call__(self, kept: np.ndarray) -> Costs:
        """The costs when of all groups' channels, one group after the other, those ``kept`` stay."""
        always = np.append(kept, True)
        counts = [int(np.count_nonzero(always[axis])) for axis in self._axes]

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


def _owners(coupling: Coupling, groups: Sequence[Group]) -> np.ndarray:
    """``[labels]``: for each root the channel that it is, counted over all groups; one past the last for none."""
    total = sum(group.size for group in groups)
    owner = np.full(len(coupling.roots), total)
    first = 0
    for group in groups:
        for member in group.members:
            labels = coupling.labels[member.path, member.axis]
            owner[coupling.roots[labels[member.indices]]] = np.arange(first, first + group.size)[:, None]
        first += group.size
    return owner
