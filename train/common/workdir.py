"""The run folder before anything heavy is imported: whose configuration it holds, and whether the run is finished."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from train.common import lock, mirror, sealed
from train.common.errors import GO_ON, UserError

FILES = (
    "config.json",
    "metrics.jsonl",
    "cut.jcz",
    "model.jcz",
    "integers.jcz",
    "posttrained.jcz",
    "summary.json",
    "report.html",
    "pictures.png",
    "wandb.txt",
)
"""Files that a run leaves beside its checkpoints."""


def settings(workdir: Path) -> dict[str, Any] | None:
    """The configuration that a folder holds; None if it holds none.

    Raises:
      UserError: if ``config.json`` is damaged, or the folder cannot be used.
    """
    path = workdir / "config.json"
    try:
        if not path.exists():
            return None
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be used ({error}): name another") from error
    return sealed.read(path, f"{GO_ON}; checkpoints tell whether it is theirs.")


def check_settings(workdir: Path, ours: dict[str, Any]) -> bool:
    """Whether a folder holds this configuration; False if it holds none.

    Raises:
      UserError: if it holds another; the fields that differ are listed.
    """
    theirs = settings(workdir)
    if theirs is None:
        _check_checkpoints(workdir, ours)
        return False
    if theirs == ours:
        return True
    mine, found = flat(ours), flat(theirs)
    differ = [key for key in sorted(mine | found) if mine.get(key) != found.get(key)]
    listing = "\n".join(f"  {key}: {found.get(key)!r} there, {mine.get(key)!r} now" for key in differ)
    raise UserError(
        f"{workdir} holds a run of another configuration:\n{listing}\n"
        "Name another --workdir, or delete that folder to start again in it."
    )


def _check_checkpoints(workdir: Path, ours: dict[str, Any]) -> None:
    """Refuses a folder whose ``config.json`` was deleted and whose checkpoints are of another configuration."""
    for path in sorted((workdir / "checkpoints").glob("*/*/meta/metadata")):
        try:
            said = json.loads(path.read_bytes())
            if said.pop(sealed.KEY) != sealed.digest(said):
                continue
            of = said["of"].get("configuration")
        except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError):
            continue  # damaged: restoring it says so
        if of not in (None, sealed.digest(ours)):
            raise UserError(
                f"checkpoint {path.parents[1]} is of another configuration than is given, and {workdir} has no "
                "config.json that says which.\nGive the command of that run, name another --workdir, or delete that "
                "folder to start again in it."
            )


def seen(workdir: Path) -> str:
    """What a folder shows to a host: which process holds it, and the checkpoints in it."""
    note = workdir / lock.NAME
    holder = mirror.note(workdir) or (note.read_text() if note.exists() else "nobody")
    phases = {path.name: whole_steps(path) for path in sorted((workdir / "checkpoints").glob("*"))}
    return f"held by {holder}, checkpoints {phases or 'none'}"


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested fields by their dotted names."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {prefix + key: value}
    return found


def open_existing(workdir: Path, ours: dict[str, Any]) -> None:
    """Takes a folder that is there already for this configuration; one that is not is left to be made later.

    Raises:
      UserError: if it holds another configuration, is in use, or cannot be made or written.
    """
    there = next(path for path in (workdir, *workdir.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        why = "cannot be written" if there.is_dir() else "is no folder"
        raise UserError(f"--workdir={workdir} cannot be used ({there} {why}): name another")
    if workdir.is_dir():
        check_settings(workdir, ours)
        try:
            lock.take(workdir)
        except OSError as error:
            raise UserError(f"--workdir={workdir} cannot be used ({error}): name another") from error


CHECKSUMS = "checksums.json"
"""In each checkpoint: of all its files."""


def write_checksums(checkpoint: Path) -> None:
    """Puts checksums of a checkpoint's files beside them, so that a damaged one is known before anything reads it."""
    sealed.write(checkpoint / CHECKSUMS, _checksums(checkpoint))


def _checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of all files in a folder but the list of them, by their paths in it."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != CHECKSUMS)
    return {path.relative_to(folder).as_posix(): _sha256(path) for path in files}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def whole_steps(phase: Path) -> list[int]:
    """The steps of the checkpoints in a phase's folder, in order."""
    found = phase.iterdir() if phase.is_dir() else ()
    return sorted(int(path.name) for path in found if path.name.isdigit())


def check_checkpoint(phase: Path, step: int) -> None:
    """Makes sure that the files of a checkpoint are those that were saved, as far as that was written down.

    Raises:
      UserError: if not; the folder to delete is named.
    """
    path = phase / str(step) / CHECKSUMS
    if not path.exists():  # a kill came first: the digest of the arrays tells
        return
    try:
        listed, found = sealed.unsealed(path.read_bytes()), _checksums(path.parent)
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(damaged(phase, step, f"{CHECKSUMS}: {error}")) from error
    for name, checksum in listed.items():
        if found.get(name) != checksum:
            raise UserError(damaged(phase, step, f"{name} is {'altered' if name in found else 'missing'}"))


def damaged(phase: Path, step: int, why: str) -> str:
    """The words for a checkpoint that cannot be used."""
    older = [other for other in whole_steps(phase) if other != step]
    then = f"to continue from step {max(older)}" if older else "to start this phase again"
    return f"checkpoint {phase / str(step)} is damaged ({why}).\nDelete that folder {then}."


SEALED = ("config.json", "metrics.jsonl", "model.jcz", "report.html")
"""The files whose checksums the summary of a finished main job holds."""


def sealing(workdir: Path) -> dict[str, dict[str, Any]]:
    """The summary's facts on the folder of a finished job: checksums of files, and each phase's last step."""
    phases = sorted(path for path in (workdir / "checkpoints").iterdir() if whole_steps(path))
    return {
        "files": {name: _sha256(workdir / name) for name in SEALED},
        "checkpoints": {path.name: whole_steps(path)[-1] for path in phases},
    }


def finished(workdir: Path, ours: dict[str, Any]) -> dict[str, Any] | None:
    """The summary of a run that is finished, all its files whole; None if there is something left to do.

    Raises:
      UserError: if the folder holds another configuration, or a file of it is damaged.
    """
    if not check_settings(workdir, ours) or not (workdir / "summary.json").exists():
        return None
    summary = sealed.read(workdir / "summary.json", f"{GO_ON}, and it is written again.")
    last = {workdir / "checkpoints" / phase: step for phase, step in summary.get("checkpoints", {}).items()}
    if not all(
        path.exists() for path in (*(workdir / name for name in SEALED), *(p / str(s) for p, s in last.items()))
    ):
        return None
    for name in SEALED:
        if _sha256(workdir / name) != summary.get("files", {}).get(name):
            raise UserError(
                f"{workdir / name} is damaged (it is not the file that the run wrote).\n"
                f"Delete that file: {GO_ON}, and it is written again."
            )
    for phase, step in last.items():
        check_checkpoint(phase.absolute(), step)
    return summary
