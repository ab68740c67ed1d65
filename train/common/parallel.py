"""How a step runs on all devices of all hosts: jit over a mesh, its state in full on each or in parts, or pmap."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from train.common.data import pad
from train.common.errors import UserError

AXIS = "data"
PARTS = "fsdp"
AXES = {
    AXIS: "the batch is split among its devices",
    PARTS: "so is the batch, and each holds a part of parameters, masks and the optimizer's state",
}
"""Of meshes, and what they do."""
SMALL = 2**10
"""Numbers in an array below which every device holds it in full: collecting it would take longer than it saves."""


class DataParallel(Protocol):
    """How a step runs on all devices."""

    @property
    def axis(self) -> str | None:
        """The pmap axis that the step sums over; None under jit."""

    def compile(self, step: Callable[..., Any], state: Any = None) -> Any:
        """Compiles ``step(state, frozen, batch) -> state`` for a state of such shapes; the state is donated."""

    def make(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Compiles what makes a tree, on the devices that are to hold it, where one alone could not."""

    def put(self, tree: Any) -> Any:
        """Gives the devices a tree: each the whole of it, or its parts."""

    def get(self, tree: Any) -> Any:
        """One copy of such a tree, for checkpoints and evaluation."""

    @property
    def size(self) -> int:
        """How many devices share a batch."""

    def split(self, batch: dict[str, np.ndarray]) -> Any:
        """Spreads a batch over the devices, padded to divide among them; every host passes the same batch."""

    def place(self, rows: dict[str, np.ndarray]) -> Any:
        """Spreads a batch that divides among the devices; every host passes its own rows (:func:`own_rows`)."""


class MeshParallel(NamedTuple):
    """jit with NamedSharding: batches split along all axes of the mesh, state along ``fsdp`` if it has that axis.

    Masks, scales and the optimizer's moments are laid out as the parameters of their shapes. Under Explicit axes the
    step, which any model may be in, is the compiler's to lay out within (``jax.sharding.auto_axes``).
    """

    mesh: Mesh
    axis: None = None

    def compile(self, step: Callable[..., Any], state: Any = None) -> Any:
        kept = NamedSharding(self.mesh, PartitionSpec()) if state is None else self.layouts(state)
        within, rows = self._automatic(step, kept), NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names))
        return jax.jit(within, in_shardings=(kept, None, rows), out_shardings=kept, donate_argnums=0)

    def make(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **others: Any) -> Any:
            if not self._in_parts():
                return jax.jit(function)(*args, **others)
            out = self.layouts(jax.eval_shape(function, *args, **others))
            return jax.jit(self._automatic(function, out), out_shardings=out)(*args, **others)

        return run

    def put(self, tree: Any) -> Any:
        return jax.device_put(tree, self.layouts(tree))

    def get(self, tree: Any) -> Any:
        if not self._in_parts() and not self._is_explicit():
            return tree
        whole = jax.jit(lambda x: x, out_shardings=NamedSharding(self.mesh, PartitionSpec()))
        return jax.tree.map(lambda x: np.asarray(whole(x)), tree)  # leaf by leaf: devices may not hold the whole

    def split(self, batch: dict[str, np.ndarray]) -> Any:
        return self.place(_own(pad(batch, self.size)))

    @property
    def size(self) -> int:
        return self.mesh.size

    def place(self, rows: dict[str, np.ndarray]) -> Any:
        parts, hosts = NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names)), jax.process_count()
        return {
            key: jax.make_array_from_process_local_data(parts, x, (hosts * len(x), *x.shape[1:]))
            for key, x in rows.items()
        }

    def layouts(self, tree: Any) -> Any:
        """The layout of each leaf, by its shape: its longest axis that ``fsdp`` divides is split."""
        return jax.tree.map(lambda x: NamedSharding(self.mesh, self._spec(np.shape(x))), tree)

    def _spec(self, shape: tuple[int, ...]) -> PartitionSpec:
        count = self.mesh.shape.get(PARTS, 1)
        even = [axis for axis, size in enumerate(shape) if size % count == 0]
        if count == 1 or not even or math.prod(shape) < SMALL:
            return PartitionSpec()
        longest = max(even, key=lambda axis: shape[axis])
        return PartitionSpec(*(PARTS if axis == longest else None for axis in range(longest + 1)))

    def _in_parts(self) -> bool:
        return self.mesh.shape.get(PARTS, 1) > 1

    def _is_explicit(self) -> bool:
        return AxisType.Explicit in self.mesh.axis_types

    def _automatic(self, function: Callable[..., Any], out: Any) -> Callable[..., Any]:
        if not self._is_explicit():
            return function
        return jax.sharding.auto_axes(function, axes=self.mesh.axis_names, out_sharding=out)


class PmapParallel(NamedTuple):
    """pmap: a leading axis of devices on everything, gradients and statistics summed by the step."""

    axis: str = AXIS

    def compile(self, step: Callable[..., Any], state: Any = None) -> Any:
        return jax.pmap(step, axis_name=AXIS, donate_argnums=0)

    def make(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return jax.jit(function)

    def put(self, tree: Any) -> Any:
        devices = jax.local_device_count()
        return jax.tree.map(lambda x: np.broadcast_to(np.asarray(x), (devices, *x.shape)), tree)

    def get(self, tree: Any) -> Any:
        def first(x: Any) -> np.ndarray:
            return np.asarray(x.addressable_shards[0].data if isinstance(x, jax.Array) else x)[0]

        return jax.tree.map(first, tree)

    def split(self, batch: dict[str, np.ndarray]) -> Any:
        return self.place(_own(pad(batch, self.size)))

    @property
    def size(self) -> int:
        return jax.device_count()

    def place(self, rows: dict[str, np.ndarray]) -> Any:
        return {key: x.reshape(jax.local_device_count(), -1, *x.shape[1:]) for key, x in rows.items()}


def own_rows(count: int) -> slice:
    """Which rows of a batch of so many are this host's."""
    own = count // jax.process_count()
    return slice(jax.process_index() * own, (jax.process_index() + 1) * own)


def _own(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    rows = own_rows(len(batch["label"]))
    return {key: x[rows] for key, x in batch.items()}


def mesh_sizes(spec: str, devices: int) -> dict[str, int]:
    """The axes of a mesh and their sizes.

    Args:
      spec: ``"data=8,fsdp=4"``; one size may be ``*``, whatever is left; ``""`` is ``"data=*"``.
      devices: how many there are.

    Raises:
      UserError: if it is spelled otherwise, names another axis, or does not make up all devices.

    Example:
      >>> mesh_sizes("data=*,fsdp=4", 8)
      {'data': 2, 'fsdp': 4}
    """
    known = "; ".join(f"{name}: {what}" for name, what in AXES.items())
    found: dict[str, int] = {}
    for part in (spec or f"{AXIS}=*").split(","):
        name, _, size = part.strip().partition("=")
        if name not in AXES or name in found or not (size == "*" or (size.isdecimal() and int(size) > 0)):
            raise UserError(f"--mesh={spec} has {part!r}: give axes with sizes, as in --mesh=data=8,fsdp=4 ({known})")
        found[name] = 0 if size == "*" else int(size)
    given = math.prod(size for size in found.values() if size)
    if (free := [name for name, size in found.items() if not size]) and devices % given == 0 and len(free) == 1:
        found[free[0]] = devices // given
    elif free or given != devices:
        raise UserError(
            f"--mesh={spec} is made of {given} devices{' times *' * len(free)}, and there are {devices}: give sizes "
            f"whose product is {devices}, one of them may be *"
        )
    return found


def data_parallel(
    mode: str, devices: list[jax.Device] | None = None, mesh: str = "", axes: str = "auto"
) -> DataParallel:
    """How steps run on all devices, or on those given.

    Args:
      mode: ``"jit"`` or ``"pmap"``.
      devices: of ``"jit"``; None: all.
      mesh: of ``"jit"``, as :func:`mesh_sizes` reads it.
      axes: ``"auto"`` or ``"explicit"``: the type of the mesh's axes.

    Raises:
      UserError: for another mode, or a mesh that does not divide.
    """
    if mode == "pmap" and not mesh and axes == "auto":
        return PmapParallel()
    if mode == "jit":
        devices = jax.devices() if devices is None else devices
        sizes = mesh_sizes(mesh, len(devices))
        kind = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}[axes]
        if len(sizes) == 1:  # neighbors need not be near each other
            return MeshParallel(Mesh(np.array(devices), tuple(sizes), axis_types=(kind,)))
        shape = tuple(sizes.values())
        return MeshParallel(jax.make_mesh(shape, tuple(sizes), axis_types=(kind,) * len(sizes), devices=devices))
    if mode == "pmap":
        raise UserError("--mesh and --axes are of jit: leave out --parallel=pmap")
    raise UserError(f"unknown --parallel {mode!r}; choose jit or pmap")
