"""Channels that are cut together: what tracing finds and pruning reads."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxcomp.core.errors import ArgumentError


class Reason(NamedTuple):
    """Why indices cannot be cut.

    Attributes:
      primitive: the operation that needs them.
      place: where it was written.
      text: the reason.
      window: whether they are no channels but places under a convolution's window.
    """

    primitive: str
    place: str
    text: str
    window: bool = False

    def __str__(self) -> str:
        return f"{self.text} ({self.primitive}{' at ' + self.place if self.place else ''})"


class Member(NamedTuple):
    """An axis of a parameter that has a part in a group.

    Attributes:
      path: the parameter.
      axis: the axis.
      indices: ``int [channels, k]``: the indices of the axis that each channel owns.
    """

    path: str
    axis: int
    indices: np.ndarray


class Group(NamedTuple):
    """Channels, each of which is a set of indices of parameters' axes that are cut together.

    Attributes:
      name: the parameter that makes the channels (``path:axis`` where that names two groups).
      size: how many channels there are.
      members: the axes that they are indices of.
      macs: multiply-accumulates saved by cutting one channel, all others kept, for the example batch.
      bytes: parameter bytes saved likewise.
      frozen: why none of them can be cut; None if they can.
      reading: of the program's reshapes, in which they are channels (heads in one, positions in all heads in another).
    """

    name: str
    size: int
    members: tuple[Member, ...]
    macs: int
    bytes: int
    frozen: Reason | None
    reading: int = 0


class ChannelGroups(Protocol):
    """The groups that pruning reads; those of :func:`jaxcomp.trace.groups` are such.

    Attributes:
      shapes: the shape of each parameter, by path.
      weights: the parameters that a matmul or convolution reads: kernels, but no biases, scales or statistics.
    """

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...

    @property
    def weights(self) -> frozenset[str]: ...

    def __iter__(self) -> Iterator[Group]:
        """The groups that can be cut."""

    def __len__(self) -> int:
        """How many can be cut."""

    def produces(self, member: Member) -> bool:
        """Returns whether a member is an axis of output channels, rather than of inputs that read them."""

    def zeroes(self, member: Member) -> bool:
        """Returns whether a mask zeroes a member."""


def check_groups(groups: Any) -> None:
    """Refuses what are no groups.

    Raises:
      ArgumentError: with the call that makes them.
    """
    if not hasattr(groups, "produces"):
        raise ArgumentError(
            f"groups must be what jc.trace.groups(apply_fn, params, *example) returns, got {groups!r:.80}"
        )
