"""Channels: the roots of a coupling, gathered into groups by the axes that they are indices of."""

import math
from collections.abc import Mapping

import numpy as np

from jaxcomp.core.channels import Group, Member
from jaxcomp.trace.channels.coupling import AxisKey, Coupling, Reading
from jaxcomp.trace.channels.labels import Labels
from jaxcomp.trace.ir import Value


def collect(coupling: Coupling) -> list[Group]:
    """Collects the groups of a coupling, in order of the tree's leaves; those without a site are left out.

    Channels with the same member axes, and equally free or frozen, are a group. Of readings after the first, the groups
    that can be cut and that are new come last.
    """
    params, known, found = coupling.program.parameters(), set[object](), list[Group]()
    for i, reading in enumerate(coupling.readings):
        for group in _of_reading(reading, params):
            key = tuple((member.path, member.axis, member.indices.tobytes()) for member in group.members)
            if i == 0 or (group.frozen is None and key not in known):
                found.append(group._replace(reading=i))
                known.add(key)
    return _name(found)


def _of_reading(reading: Reading, params: Mapping[str, Value]) -> list[Group]:
    kinds = _kinds(reading)
    members: dict[int, list[AxisKey]] = {}
    channels: dict[int, np.ndarray] = {}
    for key, labels in reading.labels.items():
        roots = reading.roots[labels]
        for kind in _counted(kinds[roots]):
            members.setdefault(kind, []).append(key)
            if kind not in channels:
                channels[kind] = np.unique(roots[kinds[roots] == kind])
    macs, made = _costs(reading, kinds, {kind: len(own) for kind, own in channels.items()})
    found = []
    for kind, keys in members.items():
        frozen = reading.frozen.get(int(channels[kind][0]))
        if macs.get(kind) and not (frozen is not None and frozen.window):
            own = tuple(_member(reading, channels[kind], key) for key in keys)
            size = sum(_bytes(params[member.path], member) for member in own)
            name = _maker(reading, keys, made.get(kind, []))
            found.append(Group(name, len(channels[kind]), own, round(macs[kind]), size, frozen))
    return found


def _kinds(reading: Reading) -> np.ndarray:
    """``[labels]``: a number for each set of member axes, by the sum of random numbers of each."""
    kinds = np.zeros(len(reading.roots), np.uint64)
    marks = np.random.default_rng(0).integers(1, 2**63, len(reading.labels) + 1, np.uint64)
    for mark, labels in zip(marks[1:], reading.labels.values(), strict=True):
        kinds[reading.roots[labels]] += mark  # once a root, however often it is named
    if reading.frozen:
        kinds[list(reading.frozen)] += marks[0]
    return kinds


def _counted(kinds: np.ndarray) -> dict[int, int]:
    """How often each number is there; most axes hold one alone."""
    if kinds.size and np.all(kinds == kinds[0]):
        return {int(kinds[0]): len(kinds)}
    found, counts = np.unique(kinds, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def _costs(
    reading: Reading, kinds: np.ndarray, sizes: dict[int, int]
) -> tuple[dict[int, float], dict[int, list[Labels]]]:
    """For each kind, the multiply-accumulates that one channel costs, and the axes of weights that make it."""
    macs: dict[int, float] = {}
    made: dict[int, list[Labels]] = {}
    for cost in reading.analysis.costs.values():
        left: dict[int, float] = {}
        labeled = [labels for _, labels in cost.axes if labels is not None]
        for labels in labeled:
            for kind, count in _counted(kinds[reading.roots[labels]]).items():
                share = count / (sizes.get(kind, 1) * len(labels))
                left[kind] = left.get(kind, 1.0) * (1 - share)
        total = cost.calls * math.prod(size for size, _ in cost.axes)
        for kind, rest in left.items():
            macs[kind] = macs.get(kind, 0.0) + total * (1 - rest)
        for labels in cost.made:
            for kind in _counted(kinds[reading.roots[labels]]):
                made.setdefault(kind, []).append(labels)
    return macs, made


def _member(reading: Reading, channels: np.ndarray, key: AxisKey) -> Member:
    roots = reading.roots[reading.labels[key]]
    owner = np.minimum(np.searchsorted(channels, roots), len(channels) - 1)
    order = np.argsort(owner, kind="stable")
    order = order[channels[owner[order]] == roots[order]]
    counts = np.bincount(owner[order], minlength=len(channels))
    if counts.min() == counts.max():
        return Member(*key, order.reshape(len(channels), -1))
    rows = np.split(order, np.cumsum(counts)[:-1])
    # Channels that own unequally many indices: the shorter rows repeat their last.
    return Member(*key, np.stack([np.pad(row, (0, counts.max() - len(row)), mode="edge") for row in rows]))


def _bytes(value: Value, member: Member) -> int:
    return math.prod(value.shape) * value.dtype.itemsize // value.shape[member.axis] * member.indices.shape[1]


def _maker(reading: Reading, keys: list[AxisKey], made: list[Labels]) -> str:
    """``path:axis`` of the first weight that makes the channels, else of the first member."""
    for labels in made:
        for path, axis in keys:
            if np.isin(reading.labels[path, axis], labels).any():
                return f"{path}:{axis}"
    return f"{keys[0][0]}:{keys[0][1]}"


def _name(found: list[Group]) -> list[Group]:
    """Shortens names to the path where that says it, and numbers those that are still alike."""
    first = [group for group in found if group.reading == 0]
    paths = [group.name.rpartition(":")[0] for group in first]
    free = [path for path, group in zip(paths, first, strict=True) if group.frozen is None]
    named: list[Group] = []
    taken: dict[str, int] = {}
    for group in found:
        path = group.name.rpartition(":")[0]
        alone = paths.count(path) == 1 or (group.frozen is None and free.count(path) == 1)
        name = path if alone or group.reading else group.name
        taken[name] = taken.get(name, 0) + 1
        named.append(group._replace(name=name if taken[name] == 1 else f"{name}#{taken[name]}"))
    return named
