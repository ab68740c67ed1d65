"""Data parallelism over every device of every host: jit over a mesh, or pmap. The step is the same."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from train.common.data import pad
from train.common.errors import UserError

AXIS = "data"


class DataParallel(Protocol):
    """How a step runs on all devices."""

    @property
    def axis(self) -> str | None:
        """The pmap axis that the step sums over; None under jit."""

    def compile(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """Compiles ``step(state, frozen, batch) -> state``; the state is donated."""

    def put(self, tree: Any) -> Any:
        """Gives every device the whole of a tree."""

    def get(self, tree: Any) -> Any:
        """One copy of such a tree, for checkpoints and evaluation."""

    @property
    def size(self) -> int:
        """How many devices share a batch."""

    def split(self, batch: dict[str, np.ndarray]) -> Any:
        """Spreads a batch over the devices, padded to divide among them; every host passes the same batch."""

    def place(self, rows: dict[str, np.ndarray]) -> Any:
        """Spreads a batch that divides among the devices; every host passes its own rows (:func:`own_rows`)."""


class JitParallel(NamedTuple):
    """jit with NamedSharding: parameters replicated, batches split along the mesh's one axis."""

    mesh: Mesh
    axis: None = None

    def compile(self, step: Callable[..., Any]) -> Callable[..., Any]:
        whole, parts = self._shardings()
        return jax.jit(step, in_shardings=(whole, whole, parts), out_shardings=whole, donate_argnums=0)

    def put(self, tree: Any) -> Any:
        return jax.device_put(tree, self._shardings()[0])

    def get(self, tree: Any) -> Any:
        return tree

    def split(self, batch: dict[str, np.ndarray]) -> Any:
        return self.place(_own(pad(batch, self.size)))

    @property
    def size(self) -> int:
        return self.mesh.size

    def place(self, rows: dict[str, np.ndarray]) -> Any:
        parts, hosts = self._shardings()[1], jax.process_count()
        return {
            key: jax.make_array_from_process_local_data(parts, x, (hosts * len(x), *x.shape[1:]))
            for key, x in rows.items()
        }

    def _shardings(self) -> tuple[NamedSharding, NamedSharding]:
        return NamedSharding(self.mesh, PartitionSpec()), NamedSharding(self.mesh, PartitionSpec(AXIS))


class PmapParallel(NamedTuple):
    """pmap: a leading axis of devices on everything, gradients and statistics summed by the step."""

    axis: str = AXIS

    def compile(self, step: Callable[..., Any]) -> Callable[..., Any]:
        return jax.pmap(step, axis_name=AXIS, donate_argnums=0)

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


def data_parallel(mode: str, devices: list[jax.Device] | None = None) -> DataParallel:
    """``"jit"`` or ``"pmap"`` over all devices (``"jit"``: or over those given).

    Raises:
      UserError: for another mode.
    """
    if mode == "pmap":
        return PmapParallel()
    if mode == "jit":
        devices = jax.devices() if devices is None else devices
        return JitParallel(Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,)))
    raise UserError(f"unknown --parallel {mode!r}; choose jit or pmap")
