"""Channel groups: what must be cut together, what each channel costs, and what cannot be cut and why."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxcomp.core.channels import Group, Member
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.tables import table, with_left_out
from jaxcomp.trace.account import left_out
from jaxcomp.trace.channels.collect import collect
from jaxcomp.trace.channels.costs import Costs, Prices
from jaxcomp.trace.channels.coupling import AxisKey, Coupling, couple, only_read
from jaxcomp.trace.ir import trace


class Groups:
    """The groups of a function: iterates over those that can be cut; prints as a table.

    Attributes:
      free: the groups that can be cut.
      frozen: groups that cannot be cut, each with its reason.
      coupling: that they were read from.
    """

    def __init__(self, coupling: Coupling):
        """Reads the groups off a coupling."""
        found = collect(coupling)
        self.coupling = coupling
        self.free = tuple(group for group in found if group.frozen is None)
        self.frozen = tuple(group for group in found if group.frozen is not None)
        self._prices = functools.cache(lambda: Prices(coupling, self.free))

    def __iter__(self) -> Iterator[Group]:
        return iter(self.free)

    def __len__(self) -> int:
        return len(self.free)

    def __getitem__(self, name: str) -> Group:
        """The group of a name, of ``path:axis``, or of a member's path.

        Raises:
          ArgumentError: if there is none, several, or one that cannot be cut.
        """
        return _find(self, name)

    def __deepcopy__(self, memo: Any) -> "Groups":
        return self  # nothing in it changes

    def masks(self, keep: Mapping[str, Any]) -> dict[AxisKey, np.ndarray]:
        """Translates what is kept of groups to what is kept of each parameter's axis.

        Args:
          keep: ``{group: bool [size]}``, True for the channels that stay; groups left out stay whole.

        Returns:
          ``{(path, axis): bool [size of the axis]}`` for the axes of which something is cut.

        Raises:
          ArgumentError: for a mask of another length or type, one that keeps nothing, or a group that cannot be cut.
        """
        masks: dict[AxisKey, np.ndarray] = {}
        for name, given in keep.items():
            group = self[name]
            mask = _checked(group, name, given)
            for member in group.members:
                whole = np.ones(self.shapes[member.path][member.axis], bool)
                axis = masks.setdefault((member.path, member.axis), whole)
                axis[member.indices[~mask].ravel()] = False
        return {key: mask for key, mask in masks.items() if not mask.all()}

    def costs(self, keep: Mapping[str, Any] | None = None) -> Costs:
        """Counts the multiply-accumulates, parameters and bytes that are left once groups are cut; exact.

        Args:
          keep: as for :meth:`masks`; without it, the costs of the whole.

        Raises:
          ArgumentError: as :meth:`masks`.
        """
        kept = {group.name: np.ones(group.size, bool) for group in self.free}
        for name, given in (keep or {}).items():
            group = self[name]
            kept[group.name] &= _checked(group, name, given)
        return self._prices()(np.concatenate([np.zeros(0, bool), *kept.values()]))

    def macs(self, keep: Mapping[str, Any] | None = None) -> int:
        """Counts the multiply-accumulates of all sites once groups are cut, for the example batch."""
        return self.costs(keep).macs

    def report(self, keep: Mapping[str, Any]) -> str:
        """Tabulates what is kept of each group, what cutting it alone saves, and what all cuts together save."""
        whole, left = self.costs(), self.costs(keep)
        rows = []
        for group in self.free:
            own = {name: mask for name, mask in keep.items() if self[name] == group}
            saved = [f"{a - b:,}" for a, b in zip(whole, self.costs(own), strict=True)]
            kept = np.all([np.ones(group.size, bool), *own.values()], axis=0)
            rows.append([group.name, str(group.size), str(int(kept.sum())), *saved])
        total = ["all together", "", "", *(f"{a - b:,}" for a, b in zip(whole, left, strict=True))]
        return table(["group", "channels", "kept", "MACs saved", "parameters saved", "bytes saved"], rows, total)

    @functools.cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each parameter."""
        return {path: value.shape for path, value in self.coupling.program.parameters().items()}

    @functools.cached_property
    def left_out(self) -> dict[str, str]:
        """Why the parameters that are in no group, free or frozen, are in none: ``{path: reason}``."""
        told = {member.path for group in (*self.free, *self.frozen) for member in group.members}
        found = left_out(self.coupling.program, told, self.coupling.analysis.origins)
        return {path: self._frozen_axes(path) or why for path, why in found.items()}

    def _frozen_axes(self, path: str) -> str:
        """Why the axes of a parameter outside of all groups must be kept, if it is known."""
        first = self.coupling.readings[0]
        own = [first.roots[labels] for (owner, _), labels in first.labels.items() if owner == path]
        frozen = [first.frozen[root] for roots in own for root in roots.tolist() if root in first.frozen]
        return "; ".join(dict.fromkeys(map(str, frozen)))

    @functools.cached_property
    def weights(self) -> frozenset[str]:
        """The parameters that a matmul or convolution reads: kernels, but no biases, scales or statistics."""
        origins = self.coupling.analysis.origins
        operands = [value for node in self.coupling.analysis.costs for value in node.ins]
        return frozenset().union(*(origins[value].paths for value in operands if origins[value].is_weight))

    def produces(self, member: Member) -> bool:
        """Returns whether a member is an axis of output channels, rather than of inputs that read them."""
        return (member.path, member.axis) not in self._readers

    def zeroes(self, member: Member) -> bool:
        """Returns whether a mask zeroes a member: a strict one output channels, a lenient one their readers too."""
        return (member.path, member.axis) not in self.coupling.readers

    @functools.cached_property
    def _readers(self) -> frozenset[AxisKey]:
        first = self.coupling.readings[0]
        return self.coupling.readers | only_read(first.analysis, first.labels)

    def __str__(self) -> str:
        columns = ["group", "members", "channels", "MACs/channel", "bytes/channel"]
        rows = [[g.name, _listing(g.members), str(g.size), f"{g.macs:,}", f"{g.bytes:,}"] for g in self.free]
        lines = [table(columns, rows)]
        return with_left_out("\n".join([*lines, *self.notes()]), self.left_out)

    def notes(self) -> list[str]:
        """Lists what the table has no room for: the further members of groups, and the groups that are frozen."""
        more = [(g, g.members[3:]) for g in self.free if g.members[3:]]
        lines = [f"also in {g.name}: {_listing(members, len(members))}" for g, members in more]
        for group in self.frozen:
            others = [m for m in group.members if m.path != group.name and f"{m.path}:{m.axis}" != group.name]
            held = f" with {_listing(others, len(others))}" if others else ""
            lines.append(f"frozen: {group.name} ({group.size} channels): {group.frozen}{held}")
        return lines


def groups(apply_fn: Callable[..., Any], params: Any, *example: Any, lenient: bool = False) -> Groups:
    """Finds the channels that can be cut out of a function, and what must go with each.

    Two indices belong to one channel if cutting one without the other gives another function than masking does: an
    output channel of a convolution, its bias, its norm's scale, the input channel of every reader, whatever it is
    added to. A channel can be cut if, masked, it leaves 0 wherever it is summed over.

    Args:
      apply_fn: ``apply_fn(params, *example)``: any JAX function. A result that ends in a parameter's path and has its
        shape (``batch_stats`` in train mode) is that parameter's new state.
      params: a tree of arrays or ``ShapeDtypeStruct``: parameters alone, or a whole tree of variables.
      *example: the other arguments, likewise.
      lenient: whether masks also zero the weights that read a channel; admits softplus and sigmoid before a matmul.

    Returns:
      The groups, those that can be cut and those that cannot.

    Raises:
      ArgumentError: if the function reads none of the parameters.

    Example:
      >>> import jax.numpy as jnp
      >>> params = {"up": jnp.ones((4, 8)), "bias": jnp.ones(8), "down": jnp.ones((8, 2))}
      >>> print(groups(lambda p, x: jnp.tanh(x @ p["up"] + p["bias"]) @ p["down"], params, jnp.ones((1, 4))))
      group  members             channels  MACs/channel  bytes/channel
      -----  ------------------  --------  ------------  -------------
      up     bias:0 down:0 up:1         8             6             28
      frozen: down (2 channels): they are the function's result (output)
      frozen: up:0 (4 channels): it sums over them, and no parameter makes their values (dot_general at ...)

    Reference: Fang et al., DepGraph: towards any structural pruning, 2023 (the idea of coupled groups).
    """
    return Groups(couple(trace(apply_fn, params, *example), lenient))


def _find(found: Groups, name: str) -> Group:
    hits = [group for group in found.free if group.name == name] or _holders(found, name)
    hits = hits or [group for group in found.frozen if group.name == name]
    if len(hits) == 1 and hits[0].frozen is None:
        return hits[0]
    names = "\n  ".join(group.name for group in found.free) or "(none)"
    if not hits:
        raise ArgumentError(f"no group is called {name!r} and none has it as a member. The groups are:\n  {names}")
    if len(hits) > 1:
        several = ", ".join(repr(group.name) for group in hits)
        raise ArgumentError(f"{name!r} is a member of several groups: name one of {several}")
    raise ArgumentError(f"group {name!r} cannot be cut: {hits[0].frozen}. Those that can are:\n  {names}")


def _holders(found: Groups, name: str) -> list[Group]:
    """The groups with a member ``path:axis`` or ``path``; if any, those that can be cut and are not only read by it."""
    held = [(g, m) for g in (*found.free, *found.frozen) for m in g.members if name in (m.path, f"{m.path}:{m.axis}")]
    free = [(g, m) for g, m in held if g.frozen is None]
    making = [(g, m) for g, m in free if found.produces(m) or name != m.path]
    return list({group.name: group for group, _ in making or free or held}.values())


def _checked(group: Group, name: str, given: Any) -> np.ndarray:
    if isinstance(given, jax.core.Tracer):
        raise ArgumentError(
            f"the keep mask of group {name!r} is traced, inside of jit, grad or vmap: cut outside of them"
        )
    mask = np.asarray(given)
    if mask.dtype != np.bool_ or mask.shape != (group.size,):
        raise ArgumentError(
            f"the keep mask of group {name!r} must be bool of shape ({group.size},), one entry a channel, True = kept; "
            f"got {mask.dtype} of shape {mask.shape}"
        )
    if not mask.any():
        raise ArgumentError(
            f"the keep mask of group {name!r} keeps none of its {group.size} channels: keep at least one"
        )
    return mask


def _listing(members: Sequence[Member], most: int = 3) -> str:
    shown = " ".join(f"{m.path}:{m.axis}" for m in members[:most])
    return shown + (f" (+{len(members) - most})" if len(members) > most else "")
