"""Numbers of a run for programs that draw them: TensorBoard's event files in the run folder, and Weights & Biases."""

import importlib.util
import secrets
from pathlib import Path
from typing import Any, Protocol

from jaxcomp.core.files import write_atomically
from train.common import mirror
from train.common.errors import UserError


class Board(Protocol):
    """Where numbers are drawn."""

    def add(self, step: int, numbers: dict[str, float]) -> None:
        """Adds numbers by name, of a step."""

    def close(self) -> None:
        """Hands over what is not yet written."""


class TensorBoard:
    """Event files in a folder, read by ``tensorboard --logdir``; a run that goes on adds a file.

    Args:
      folder: for the files; it is made.
    """

    def __init__(self, folder: Path) -> None:
        from tensorboardX import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._writer = SummaryWriter(str(folder), flush_secs=3600)

    def add(self, step: int, numbers: dict[str, float]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of a project of https://wandb.ai; the same run folder goes on in the same run.

    Args:
      project: of the account that ``wandb login`` was given.
      workdir: as the user named it.
      config: of the run.
      phase: put before names, as steps begin anew in each.
      folder: the run folder on this machine, which keeps by what name the run is known there.
    """

    def __init__(self, project: str, workdir: str, config: dict[str, Any], phase: str, folder: Path) -> None:
        import wandb

        name = _known_as(folder)
        self._run = wandb.init(project=project, id=name, name=workdir, config=config, resume="allow", reinit=True)
        self._phase = phase

    def add(self, step: int, numbers: dict[str, float]) -> None:
        self._run.log(
            {f"{self._phase}/{name}": value for name, value in numbers.items()} | {f"{self._phase}/step": step}
        )

    def close(self) -> None:
        self._run.finish()


def _known_as(folder: Path) -> str:
    """A name that no other run has: others of the project may have a run folder of the same path."""
    path = folder / "wandb.txt"
    if not path.exists():
        write_atomically(path, secrets.token_hex(8).encode())
        mirror.push(folder)
    return path.read_text()


def check(tensorboard: bool, wandb: str | None) -> None:
    """Makes sure that what is asked for is installed.

    Raises:
      UserError: if a package is missing.
    """
    if tensorboard and importlib.util.find_spec("tensorboardX") is None:
        raise UserError("--tensorboard needs a package: pip install tensorboardX")
    if wandb and importlib.util.find_spec("wandb") is None:
        raise UserError(f"--wandb={wandb} needs a package: pip install wandb")
