"""Checkpoints that survive a kill at any moment, and that say so when they were damaged."""

import contextlib
import hashlib
import logging
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxcomp.core.files import naming
from train.common import hosts, mirror, sealed
from train.common.errors import GO_ON, UserError, disk_is_full, first_line, is_full
from train.common.signals import postponed
from train.common.workdir import check_checkpoint, damaged, whole_steps, write_checksums


class Checkpoints:
    """The last checkpoints of one phase of a run, in a folder of its own.

    Orbax writes a checkpoint under a temporary name and renames it when it is whole. Beside the arrays stands a
    digest of them, and what else a run must know, under a checksum: a damaged file is told from a good one. Last,
    checksums of all files are put beside them, so that Orbax is not given a damaged one to read; a kill may come
    before that. Arrays are kept as the host has them: a run may go on with another number of devices. With several
    hosts, all of them call, and the first writes, by itself: what it meets with then, all of them say.

    Attributes:
      records: of the phase's metrics up to the last step; saved and restored with it.
    """

    def __init__(self, folder: Path, of: Mapping[str, str] | None = None) -> None:
        """Opens a folder, which may be new.

        Args:
          folder: where checkpoints are.
          of: what they belong to, such as ``{"data": digest}``: checkpoints of anything else are refused.
        """
        import orbax.checkpoint as ocp

        logging.getLogger("absl").setLevel(logging.ERROR)
        self._ocp, self.folder, self._of = ocp, folder.absolute(), dict(of or {})
        self.records: list[dict[str, Any]] = []
        with _alone():
            self._manager = ocp.CheckpointManager(self.folder, options=self._options())
        self._latest: int | None = self._manager.latest_step()

    def _options(self) -> Any:
        """Orbax's; of several hosts each has a manager of its own, which waits for no other."""
        if jax.process_count() == 1:
            return self._ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
        host = jax.process_index()
        alone = self._ocp.options.MultiprocessingOptions(
            primary_host=host, active_processes={host}, barrier_sync_key_prefix=f"host {host}"
        )
        with hosts.together() as first, naming(self.folder):
            if first:
                self.folder.mkdir(parents=True, exist_ok=True)
        return self._ocp.CheckpointManagerOptions(
            max_to_keep=2,
            enable_async_checkpointing=False,
            create=False,
            read_only=host != 0,
            multiprocessing_options=alone,
        )

    def latest(self) -> int | None:
        """The step of the newest whole checkpoint, or None."""
        return self._latest

    def save(self, step: int, tree: Any, seconds: float) -> None:
        """Saves a pytree of arrays under a step; returns when it is on disk.

        Args:
          step: its name; a step that is there already is left as it is.
          tree: any pytree of arrays, the same on every host.
          seconds: the time that the run has taken so far.

        Raises:
          UserError: if it cannot be written, on every host; what is kept is said.
        """
        if step == self.latest():
            return
        tree = _on_host(tree)
        with hosts.together() as first:
            if first:
                self._write(step, tree, seconds)
        self._latest = step

    def _write(self, step: int, tree: Any, seconds: float) -> None:
        args = self._ocp.args
        meta = {"step": step, "digest": digest(tree), "seconds": seconds, "records": self.records, "of": self._of}
        meta[sealed.KEY] = sealed.digest(meta)
        saved = args.Composite(state=args.StandardSave(tree), meta=args.JsonSave(meta))
        try:
            with _alone():
                self._manager.save(step, args=saved)
                write_checksums(self.folder / str(step))
        except Exception as error:  # Orbax's, TensorStore's and the system's
            raise UserError(self._unwritten(step, error)) from error

    def restore(self, like: Any) -> tuple[Any, float]:
        """The newest checkpoint as NumPy arrays in the structure of ``like``, and the seconds that it had taken.

        Args:
          like: arrays, or what has their shapes and types alone: of arrays that lie on several hosts none can be read.

        Raises:
          UserError: if it cannot be read, is not what was written, or belongs to something else; the folder to delete
            is named.
        """
        args, step = self._ocp.args, self.latest()
        assert step is not None, "nothing was saved"
        if hosts.several() and jax.process_index() != 0:
            mirror.refresh(self.folder)
            self._manager.reload()  # what was written by another is not noticed else
        check_checkpoint(self.folder, step)
        like = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
        try:
            with _alone():
                found = self._manager.restore(
                    step, args=args.Composite(state=args.StandardRestore(like), meta=args.JsonRestore())
                )
        except Exception as error:  # whatever a damaged file makes Orbax raise; its words are kept
            raise UserError(damaged(self.folder, step, first_line(error))) from error
        meta = found.meta
        if not isinstance(meta, dict) or meta.pop(sealed.KEY, None) != sealed.digest(meta):
            raise UserError(damaged(self.folder, step, "what it says of itself is not what was saved"))
        if meta["step"] != step:
            raise UserError(damaged(self.folder, step, f"it is that of step {meta['step']}"))
        if meta["digest"] != digest(found.state):
            raise UserError(damaged(self.folder, step, "its arrays differ from those that were saved"))
        if other := [name for name, ours in self._of.items() if meta["of"].get(name, ours) != ours]:
            raise UserError(self._foreign(step, other))
        self.records = meta["records"]
        return found.state, float(meta["seconds"])

    def forget(self, after: int) -> None:
        """Deletes the checkpoints of later steps; with several hosts, all call."""
        steps = list(self._manager.all_steps())
        with hosts.together() as first:
            for step in steps if first else []:
                if step > after:
                    with _alone():
                        self._manager.delete(step)
        self._latest = max((step for step in steps if step <= after), default=None)

    def close(self) -> None:
        """Releases the folder."""
        self._manager.close()

    def _foreign(self, step: int | None, other: list[str]) -> str:
        """Lists what a checkpoint belongs to that is not what was given."""
        return (
            f"checkpoint {self.folder / str(step)} was saved with another {' and another '.join(other)} than is given "
            f"now.\nGive what it was saved with to continue from it, or name another --workdir."
        )

    def _unwritten(self, step: int, error: Exception) -> str:
        for torn in self.folder.glob(f"{step}.orbax-checkpoint-tmp*"):  # it takes what little space is left
            shutil.rmtree(torn, ignore_errors=True)
        whole = whole_steps(self.folder)  # also this one, if no space was left for its checksums alone
        kept = f"the checkpoint of step {whole[-1]} is kept" if whole else "no checkpoint was saved before"
        path = self.folder / str(step)
        if is_full(error):
            return f"{disk_is_full(f'checkpoint {path}')}; {kept}. Free some space, then {GO_ON}."
        return f"checkpoint {path} could not be written ({first_line(error)}); {kept}. Mend that, then {GO_ON}."


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Lets no signal cut through Orbax, and lets errors alone speak of what went wrong.

    Beside the error that it raises, Orbax logs a traceback for each of its threads, and TensorStore's threads, calling
    back into an event loop that the error has closed, one for each array: also later, when all is over.
    """
    logger, hook = logging.getLogger("absl"), sys.unraisablehook
    level = logger.level

    def without_closed_loops(said: Any) -> None:
        if not (said.exc_type is RuntimeError and str(said.exc_value) == "Event loop is closed"):
            hook(said)

    sys.unraisablehook = without_closed_loops
    logger.setLevel(logging.CRITICAL)
    with postponed(alone=jax.process_count() == 1):
        yield
    sys.unraisablehook = hook  # after an error it stays
    logger.setLevel(level)


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
