"""Facts of a value: for each axis its labels and its cut values."""

from typing import NamedTuple

import numpy as np

from jaxcomp.trace.channels.cut_values import UNKNOWN, Dead, constant, tidy
from jaxcomp.trace.channels.labels import Labels
from jaxcomp.trace.ir import Value


class Axis(NamedTuple):
    """One axis of a value.

    Attributes:
      labels: its labels; None for an axis that is always whole (and of which any part can be taken).
      dead: the value at an index that was cut, one number or one for each index; if whole, the value there.
    """

    labels: Labels | None = None
    dead: Dead = UNKNOWN

    def take(self, index: np.ndarray | slice) -> "Axis":
        """Returns the axis of some of its indices."""
        dead = tidy(self.dead[index]) if np.ndim(self.dead) else self.dead
        return Axis(None if self.labels is None else self.labels[index], dead)


class Facts(NamedTuple):
    """The facts of a value.

    Attributes:
      axes: its axes.
      fill: the number that fills all of it, if one does; else unknown.
    """

    axes: tuple[Axis, ...]
    fill: Dead = UNKNOWN

    @property
    def is_whole(self) -> bool:
        """Whether none of it is ever cut."""
        return all(axis.labels is None for axis in self.axes)


def whole(value: Value, fill: Dead = UNKNOWN) -> Facts:
    """Returns the facts of a ``value`` that is never cut, of cut value ``fill``."""
    return Facts((Axis(None, fill),) * len(value.shape), fill)


def constant_facts(value: Value) -> Facts:
    """Returns the facts of a constant."""
    return whole(value, UNKNOWN if value.const is None else constant(value.const))
