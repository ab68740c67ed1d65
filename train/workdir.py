"""The run folder before anything heavy is imported: whose configuration it holds, and whether the run is finished."""

import hashlib
from pathlib import Path
from typing import Any

from train import lock, sealed
from train.errors import GO_ON, UserError

FILES = ("config.json", "metrics.jsonl", "cut.jcz", "model.jcz", "summary.json", "report.html")
"""What a run leaves beside its checkpoints."""


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
    if theirs in (None, ours):
        return theirs is not None
    mine, found = flat(ours), flat(theirs)
    differ = [key for key in sorted(mine | found) if mine.get(key) != found.get(key)]
    listing = "\n".join(f"  {key}: {found.get(key)!r} there, {mine.get(key)!r} now" for key in differ)
    raise UserError(
        f"{workdir} holds a run of another configuration:\n{listing}\n"
        "Name another --workdir, or delete that folder to start again in it."
    )


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested fields by their dotted names."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def open_existing(workdir: Path, ours: dict[str, Any]) -> None:
    """Takes a folder that is there already for this configuration; one that is not is left to be made later.

    Raises:
      UserError: if it holds another configuration, is in use, or cannot be written.
    """
    if workdir.is_dir():
        check_settings(workdir, ours)
        try:
            lock.take(workdir)
        except OSError as error:
            raise UserError(f"--workdir={workdir} cannot be written ({error}): name another") from error


def checksums(workdir: Path, names: tuple[str, ...]) -> dict[str, str]:
    """SHA-256 of files, by name."""
    return {name: hashlib.sha256((workdir / name).read_bytes()).hexdigest() for name in names}


SEALED = ("config.json", "metrics.jsonl", "model.jcz", "report.html")
"""The files whose checksums the summary of a finished main job holds."""


def finished(workdir: Path, ours: dict[str, Any]) -> dict[str, Any] | None:
    """The summary of a run that is finished, all its files whole; None if there is something left to do.

    Raises:
      UserError: if the folder holds another configuration, or a file of it is damaged.
    """
    if not check_settings(workdir, ours) or not (workdir / "summary.json").exists():
        return None
    summary = sealed.read(workdir / "summary.json", f"{GO_ON}, and it is written again.")
    if not all((workdir / name).exists() for name in SEALED):
        return None
    for name, checksum in checksums(workdir, SEALED).items():
        if summary.get("files", {}).get(name) != checksum:
            raise UserError(
                f"{workdir / name} is damaged (it is not the file that the run wrote).\n"
                f"Delete that file: {GO_ON}, and it is written again."
            )
    return summary
