"""Checkpoints that survive a kill at any moment, and that say so when they were damaged."""

import hashlib
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np

from train.errors import UserError


class Checkpoints:
    """The last checkpoints of one phase of a run, in a folder of its own.

    Orbax writes a checkpoint under a temporary name and renames it when it is whole. Beside the arrays stands a
    digest of them, so that a damaged file is told from a good one. Arrays are kept as the host has them: a run may
    go on with another number of devices. With several hosts, all of them call, and the first writes.
    """

    def __init__(self, folder: Path) -> None:
        import orbax.checkpoint as ocp

        logging.getLogger("absl").setLevel(logging.ERROR)
        self._ocp, self.folder = ocp, folder.absolute()
        options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def latest(self) -> int | None:
        """The step of the newest whole checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, step: int, tree: Any, seconds: float) -> None:
        """Saves a pytree of arrays under a step; returns when it is on disk.

        Args:
          step: its name; a step that is there already is left as it is.
          tree: any pytree of arrays, the same on every host.
          seconds: the time that the run has taken so far.
        """
        if step == self.latest():
            return
        args, tree = self._ocp.args, _on_host(tree)
        meta = {"digest": digest(tree), "seconds": seconds}
        self._manager.save(step, args=args.Composite(state=args.StandardSave(tree), meta=args.JsonSave(meta)))

    def restore(self, like: Any) -> tuple[Any, float]:
        """The newest checkpoint as NumPy arrays in the structure of ``like``, and the seconds that it had taken.

        Raises:
          UserError: if it cannot be read, or is not what was written; the folder to delete is named.
        """
        step, args = self.latest(), self._ocp.args
        try:
            found = self._manager.restore(
                step, args=args.Composite(state=args.StandardRestore(_on_host(like)), meta=args.JsonRestore())
            )
        except Exception as error:  # whatever a damaged file makes Orbax raise; its words are kept
            words = (str(error).splitlines() or [""])[0][:300]
            raise UserError(self._damaged(step, f"{type(error).__name__}: {words}")) from error
        if found.meta.get("digest") != digest(found.state):
            raise UserError(self._damaged(step, "its arrays differ from those that were saved"))
        return found.state, float(found.meta["seconds"])

    def close(self) -> None:
        """Releases the folder."""
        self._manager.close()

    def _damaged(self, step: int | None, why: str) -> str:
        older = [s for s in self._manager.all_steps() if s != step]
        then = f"to continue from step {max(older)}" if older else "to start this phase again"
        return f"checkpoint {self.folder / str(step)} is damaged ({why}).\nDelete that folder {then}."


def _on_host(tree: Any) -> Any:
    return jax.tree.map(np.asarray, tree)


def digest(tree: Any) -> str:
    """SHA-256 over the leaves of a pytree: their order, types, shapes and bytes."""
    total = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        array = np.ascontiguousarray(np.asarray(leaf))
        total.update(f"{array.dtype}{array.shape}".encode())
        total.update(array.tobytes())
    return total.hexdigest()
