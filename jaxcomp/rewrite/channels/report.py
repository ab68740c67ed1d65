"""The report of shrinking a function: the treatment of every channel group."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jaxcomp.core.tables import table, with_left_out
from jaxcomp.trace.channels.groups import Groups


class ShrinkRow(NamedTuple):
    """The treatment of one group.

    Attributes:
      group: its name.
      members: the parameters that it has a part of.
      channels: how many it had.
      kept: how many are left.
      skipped: why it cannot be cut; empty if it can.
    """

    group: str
    members: tuple[str, ...]
    channels: int
    kept: int
    skipped: str = ""


@dataclass(frozen=True)
class ShrinkReport:
    """The treatment of every group; prints as a table.

    Attributes:
      rows: one a group, those that can be cut first.
      left_out: ``{path: reason}`` of the parameters that are in no group, and stay whole.
    """

    rows: tuple[ShrinkRow, ...]
    left_out: Mapping[str, str]

    def __str__(self) -> str:
        rows = [[r.group, str(r.channels), str(r.kept), ", ".join(r.members), r.skipped] for r in self.rows]
        columns = ["group", "channels", "kept", "of", "skipped because"]
        return with_left_out(table(columns, rows), self.left_out)


def report_of(groups: Groups, keep: Mapping[str, Any]) -> ShrinkReport:
    """Makes the report of what ``keep`` keeps of ``groups``, by their own names."""
    kept = {name: int(np.count_nonzero(mask)) for name, mask in keep.items()}
    rows = [
        ShrinkRow(
            group.name,
            tuple(dict.fromkeys(member.path for member in group.members)),
            group.size,
            kept.get(group.name, group.size) if group.frozen is None else group.size,
            "" if group.frozen is None else str(group.frozen),
        )
        for group in (*groups.free, *groups.frozen)
    ]
    return ShrinkReport(tuple(rows), groups.left_out)
