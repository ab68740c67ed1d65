"""The command line: a Python file of defaults, and an override for every field of it."""

import json
import sys
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from jaxcomp.core.errors import JaxcompError
from jaxcomp.core.files import write_atomically
from train.errors import UserError

CONFIGS = Path(__file__).parent / "configs"

PARALLEL = flags.DEFINE_enum("parallel", "jit", ["jit", "pmap"], "How the step runs on all devices.")
DATASET = flags.DEFINE_string("dataset", None, "'digits' or a TensorFlow Datasets name; overrides the configuration.")
DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Folder of prepared TFDS data (default: TFDS_DATA_DIR, or TFDS's own)."
)
WORKDIR = flags.DEFINE_string("workdir", None, "Run folder; a run found there goes on (default: runs/DATASET).")
MULTIHOST = flags.DEFINE_bool("multihost", False, "Join the other hosts: jax.distributed.initialize().")


def define_config_flag(argv: list[str]) -> Any:
    """Defines ``--config``; its default is the configuration of the data set that the command line names.

    Args:
      argv: the command line, not yet parsed.

    Returns:
      The flag's holder, whose ``value`` is the ConfigDict once absl has parsed the command line.
    """
    peek = [
        a.split("=", 1)[1] if "=" in a else b for a, b in zip(argv, [*argv[1:], ""], strict=True) if _names_dataset(a)
    ]
    named = CONFIGS / f"{peek[-1].split(':')[0] if peek else 'digits'}.py"
    return config_flags.DEFINE_config_file("config", str(named if named.exists() else CONFIGS / "default.py"))


def _names_dataset(argument: str) -> bool:
    return argument.lstrip("-").split("=", 1)[0] == "dataset" and argument.startswith("-")


def resolve(config: ConfigDict) -> ConfigDict:
    """The configuration with ``--dataset`` applied, checked and locked.

    Raises:
      UserError: for a value out of its range; the field and what it takes are named.
    """
    if DATASET.value:
        config.dataset = DATASET.value
    student = config.student
    _need(0 <= student.sparsity < 1, "student.sparsity", student.sparsity, "a fraction of zeros in [0, 1)")
    _need(2 <= student.bits <= 8, "student.bits", student.bits, "an integer from 2 to 8")
    _need(student.scope in ("layer", "global"), "student.scope", student.scope, "'layer' or 'global'")
    _need(0 < student.prune_until <= 1, "student.prune_until", student.prune_until, "a fraction in (0, 1]")
    _need(student.prune_every >= 1, "student.prune_every", student.prune_every, "1 step or more")
    _need(student.temperature > 0, "student.temperature", student.temperature, "a number above 0")
    _need(0 <= student.alpha <= 1, "student.alpha", student.alpha, "a fraction in [0, 1]")
    _need(config.batch_size >= 1, "batch_size", config.batch_size, "1 image or more")
    _need(config.record_every > 0, "record_every", config.record_every, "a number of epochs above 0")
    _need(config.optimizer in ("adamw", "sgd"), "optimizer", config.optimizer, "'adamw' or 'sgd'")
    _need(config.shift >= 0, "shift", config.shift, "0 pixels or more")
    for phase in ("teacher", "student"):
        _need(config[phase].epochs > 0, f"{phase}.epochs", config[phase].epochs, "a number above 0")
        _need(
            config[phase].learning_rate > 0, f"{phase}.learning_rate", config[phase].learning_rate, "a number above 0"
        )
    config.lock()
    return config


def _need(holds: bool, field: str, value: Any, what: str) -> None:
    if not holds:
        raise UserError(f"--config.{field} must be {what}, got {value!r}")


def claim(workdir: Path, config: ConfigDict) -> None:
    """Writes the configuration into a new workdir, or checks that an old one holds the same.

    Raises:
      UserError: if the workdir holds a run of another configuration; the fields that differ are listed.
    """
    path, ours = workdir / "config.json", json.loads(config.to_json_best_effort())
    workdir.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        write_atomically(path, json.dumps(ours, indent=2).encode())
        return
    theirs = json.loads(path.read_text())
    if ours != theirs:
        mine, found = _flat(ours), _flat(theirs)
        differ = [key for key in sorted(mine | found) if mine.get(key) != found.get(key)]
        listing = "\n".join(f"  {key}: {found.get(key)!r} there, {mine.get(key)!r} now" for key in differ)
        raise UserError(
            f"{workdir} holds a run of another configuration:\n{listing}\n"
            "Name another --workdir, or delete that folder to start again in it."
        )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def run(main: Any) -> None:
    """Runs ``main(config)`` under absl's flags; a :class:`UserError` is shown without a traceback, with status 1."""
    from absl import app

    holder = define_config_flag(sys.argv[1:])

    def entry(argv: list[str]) -> int:
        try:
            if len(argv) > 1:
                raise UserError(f"unexpected argument {argv[1]!r}: every option starts with --, as in --config.seed=1")
            return main(holder.value) or 0
        except (UserError, JaxcompError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1

    app.run(entry)
