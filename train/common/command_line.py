"""The command line: a Python file of defaults, and an override for every field of it.

JAX is imported where it is used: a mistake, a folder in use and a finished run are answered for before it starts.
"""

import ast
import difflib
import hashlib
import importlib
import io
import itertools
import json
import os
import re
import runpy
import shutil
import sys
import textwrap
import tokenize
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

from train.common import joining, limits, lock, mirror, options, outcome, sealed
from train.common import workdir as folders
from train.common.errors import UserError, exit_status
from train.common.limits import TASKS
from train.common.options import SHARED

CONFIGS = Path(__file__).parents[1] / "configs"

TASK = flags.DEFINE_enum("task", None, TASKS, "what images are asked")
PARALLEL = flags.DEFINE_enum("parallel", "jit", ["jit", "pmap"], "how the step runs on all devices")
MESH = flags.DEFINE_string("mesh", "", "axes of devices, as data=8,fsdp=4: fsdp splits the state too; '': data alone")
MESH_AXES = flags.DEFINE_enum("axes", "auto", ["auto", "explicit"], "the type of the mesh's axes")
DATASET, DATA_DIR, WORKDIR = (flags.DEFINE_string(n, None, SHARED[n][1]) for n in ("dataset", "data_dir", "workdir"))
MODEL = flags.DEFINE_string("model", None, "of teacher and student: a name of train.models, or package.module:function")
TENSORBOARD = flags.DEFINE_bool("tensorboard", False, "draw numbers in the run folder, for tensorboard --logdir")
WANDB = flags.DEFINE_string("wandb", None, "draw them in this project of Weights & Biases")
PROFILE = flags.DEFINE_integer("profile_steps", 0, "profile so many steps of each phase", lower_bound=0)
DRAWN = (TENSORBOARD, WANDB, PROFILE)
flags.adopt_module_key_flags(joining)  # so that --helpshort lists them


def define_config_flag(argv: list[str]) -> Any:
    """Defines ``--config``; its default is the configuration of the data set that the command line names.

    Args:
      argv: the command line, not yet parsed.

    Returns:
      The flag's holder, whose ``value`` is the ConfigDict once absl has parsed the command line.

    Raises:
      UserError: if the file cannot be used, or has no such field as an argument overrides.
    """
    _check_overrides(argv, load(_file(argv)).to_dict())
    holder = config_flags.DEFINE_config_file("config", _default_file(argv), "Python file of defaults.")
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS["config"])  # for --helpshort
    return holder


def _file(argv: list[str]) -> str:
    return _given(argv, "config") or _default_file(argv)


def _default_file(argv: list[str]) -> str:
    """The configuration of the data set and the task; where there is none, the default of the task."""
    dataset, task = (_given(argv, "dataset") or "digits").split(":")[0], _given(argv, "task")
    suffix = f"_{task}.py" if task in TASKS[1:] else ".py"
    named = CONFIGS / f"{dataset}{suffix}"
    return str(named if "/" not in dataset and named.exists() else CONFIGS / f"default{suffix}")


def descriptions() -> dict[str, str]:
    """The comment beside each field of ``train/configs/default.py``, by the field's dotted name."""
    text = (CONFIGS / "default.py").read_text()
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}

    def fields(tree: ast.Dict, prefix: str) -> Iterator[tuple[str, str]]:
        for key, value in zip(tree.keys, tree.values, strict=True):
            own = ast.literal_eval(key or "")
            if isinstance(value, ast.Dict) and not own.endswith("options"):
                yield from fields(value, f"{prefix}{own}.")
            else:
                yield prefix + own, comments.get(value.lineno, "")

    found = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Dict))
    return dict(fields(next(found), ""))  # the outermost comes first


def _given(argv: list[str], flag: str) -> str | None:
    """The last value that a command line gives to a flag, as ``--flag=value`` or ``--flag value``."""
    spelled = (f"--{flag}", f"-{flag}")
    pairs = [a.split("=", 1) if "=" in a else (a, b) for a, b in itertools.zip_longest(argv, argv[1:], fillvalue="")]
    given = [value for name, value in pairs if name in spelled]
    return given[-1] if given else None


def load(file: str) -> ConfigDict:
    """Runs ``get_config()`` of a configuration file; ``FILE:ARGUMENT`` hands it an argument.

    Raises:
      UserError: if there is no such file or function, if it fails, or if its fields are not those of a job.
    """
    path, *argument = file.split(":", 1)
    if not Path(path).is_file():
        raise UserError(f"--config={file}: there is no such file; those of this project are in {CONFIGS}")
    try:
        get_config = runpy.run_path(path).get("get_config")
        if get_config is None:
            raise UserError(f"--config={file}: the file needs a function get_config() that returns a ConfigDict")
        config = get_config(*argument)
    except UserError:
        raise
    except Exception as error:  # the file is the user's: whatever it raises is shown with the line that did
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
        raise UserError(
            f"--config={file}: {type(error).__name__}: {error}{f' (line {lines[-1]})' if lines else ''}"
        ) from error
    _check_fields(file, config)
    return config


OWN = ("recipe", "stages", "post_training")
"""Functions that a configuration file may have beside ``get_config``."""


def own_functions() -> dict[str, Any]:
    """The functions of :data:`OWN` that the configuration file of the command line has."""
    found = runpy.run_path(_file(sys.argv[1:]).split(":")[0])
    return {name: found[name] for name in OWN if callable(found.get(name))}


def _check_fields(file: str, config: Any) -> None:
    if not isinstance(config, ConfigDict):
        raise UserError(f"--config={file}: get_config() must return a ConfigDict, got {type(config).__name__}")
    needed, found = (
        _fields(fields) for fields in (runpy.run_path(str(CONFIGS / "default.py"))["get_config"](), config)
    )
    wrong = [f"{field} is missing" for field in needed if field not in found]
    wrong += [f"{field} is unknown{_near(field, needed)}" for field in found if field not in needed]
    for field in needed.keys() & found.keys():
        kind = type(needed[field])
        if not isinstance(found[field], (kind, int) if kind is float else kind):
            wrong.append(f"{field} must be of type {kind.__name__}, got {found[field]!r}")
    if wrong:
        raise UserError(
            f"--config={file}: {'; '.join(sorted(wrong))}. Start from train.configs.default.get_config() and change "
            "what differs."
        )


def _fields(config: ConfigDict) -> dict[str, Any]:
    """Values by field, without the options of the models, which are each model's own."""
    return {key: value for key, value in folders.flat(config.to_dict()).items() if "options" not in key}


def _check_overrides(argv: list[str], config: dict[str, Any]) -> None:
    known = folders.flat(config)
    groups = {key.rsplit(".", n)[0] for key in known for n in (1, 2) if key.count(".") >= n}
    for argument in argv:
        if not (match := re.match(r"--?(?:no)?config\.([^=\[]*)", argument)):
            continue
        field = match[1]
        if field in known or field in groups:
            continue
        words = f"unknown configuration field --config.{field}{_near(field, known)}"
        if ".options." in field:
            group, option = field.rsplit(".", 1)
            raise UserError(f"{words}; give the options of another model as --config.{group}='{{\"{option}\": ...}}'")
        raise UserError(f"{words}; the fields are: {', '.join(known)}")


def _near(field: str, known: Any) -> str:
    near = difflib.get_close_matches(field, known, n=3)
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def resolve(config: ConfigDict) -> ConfigDict:
    """The configuration with ``--task`` and ``--dataset`` applied, checked and locked.

    Raises:
      UserError: for a value out of its range; the field and what it takes are named.
    """
    if own := own_functions():  # a run belongs to them as to its fields
        with config.unlocked():
            source = Path(_file(sys.argv[1:]).split(":")[0]).read_bytes()
            config.functions = f"{', '.join(own)} of a file of SHA-256 {hashlib.sha256(source).hexdigest()}"
    if DATASET.value:
        config.dataset = DATASET.value
    if TASK.value:
        config.task = TASK.value
    if MODEL.value:
        _take_model(config, MODEL.value, sys.argv[1:])
    limits.check(config, PARALLEL.value)
    config.lock()
    return config


def _take_model(config: ConfigDict, model: str, argv: list[str]) -> None:
    """Makes a model that of both phases; options stay where the command line gives them, or the model was that one."""
    for phase in ("teacher", "student"):
        given = any(re.match(rf"--?config\.{phase}\.options", argument) for argument in argv)
        if config[phase].model != model and not given:
            config[phase].options = ConfigDict()
        config[phase].model = model


def fields(config: ConfigDict) -> dict[str, Any]:
    """A configuration as ``config.json`` holds it."""
    return json.loads(config.to_json_best_effort())


def claim(workdir: Path, config: ConfigDict) -> None:
    """Takes a run folder: writes the configuration into a new one, or checks that an old one holds the same.

    Of several hosts the first holds the folder; all of them call.

    Raises:
      UserError: if the workdir cannot be written, is in use, or holds a run of another configuration; the fields
        that differ are listed.
    """
    from train.common import hosts
    from train.common.line import by_host

    with hosts.together("look"):  # every host has looked before one writes
        known = folders.check_settings(workdir, fields(config))
    with hosts.together("claim") as first:
        if first:
            _prepare(workdir, None if known else config)
            mirror.take(workdir)
            mirror.push(workdir)
    if hosts.several() and len(set(seen := hosts.all_say("see", folders.seen(workdir)))) > 1:
        raise UserError(
            f"--workdir={mirror.shown(str(workdir))} is not the same folder on all hosts: {by_host(seen)}.\n"
            "Name one that they share, on a network file system or in a bucket."
        )


def _prepare(workdir: Path, config: ConfigDict | None) -> None:
    """Locks a folder, clears it of torn files and writes the configuration, if given."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock.take(workdir)
        for torn in (torn for name in folders.FILES for torn in workdir.glob(f".{name}.????????.tmp")):
            torn.unlink()  # of a run that was killed while it wrote
        if config is not None:
            sealed.write(workdir / "config.json", fields(config))
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be used ({error}): name another") from error


def workdir_of(config: ConfigDict) -> Path:
    """The run folder that the command line names."""
    task = "" if config.task == TASKS[0] else f"-{config.task}"
    name = Path(config.dataset).expanduser().absolute().name if "/" in config.dataset else config.dataset
    return mirror.folder(WORKDIR.value or f"runs/{name.replace(':', '-')}{task}")


def run(module: str) -> None:
    """Runs ``main(config)`` of a module under absl's flags, unless the run folder is refused, or finished already.

    It ends as :func:`train.common.errors.exit_status` has it.
    """

    def job() -> None:
        if {"--help", "-h", "-help", "--helpshort", "-helpshort"} & set(sys.argv[1:]):
            print(help_text(sys.modules["__main__"].__doc__, sys.argv[1:]))
            return
        holder = define_config_flag(sys.argv[1:])
        try:
            app.run(lambda argv: _entry(module, holder, argv))
        except SystemExit as ended:  # so absl ends, also when all went well
            if ended.code:
                raise

    status = exit_status(job)
    if hosts := sys.modules.get("train.common.hosts"):  # only what is imported can have joined others
        hosts.leave(status)
    sys.exit(status)


def help_text(doc: str | None, argv: list[str]) -> str:
    """The text of ``--help``: the flags, and each field of the configuration that the command line names.

    Args:
      doc: of the job's module.
      argv: the command line, of which ``--config`` and ``--dataset`` are read.
    """
    parser = options.parser(doc)
    parser.usage = f"{parser.prog} [--FLAG=VALUE ...] [--config.FIELD=VALUE ...]"
    add = parser.add_argument
    add("--config", metavar="FILE", help="Python file of defaults; without it that of the data set, in train/configs")
    own = (TASK, MODEL, DATASET, DATA_DIR, WORKDIR, PARALLEL, MESH, MESH_AXES, *DRAWN)
    for holder in (*own, *joining.FLAGS):
        add(f"--{holder.name}", metavar="VALUE", help=flags.FLAGS[holder.name].help, default=holder.default)
    lines, said = [], descriptions()
    width, rest = 32, max(20, shutil.get_terminal_size().columns - 38)
    for name, value in folders.flat(load(_file(argv)).to_dict()).items():
        told = next((text for field, text in said.items() if f"{name}.".startswith(f"{field}.")), "")
        first, *others = textwrap.wrap(told, rest) or [""]
        given = f"{name}={value!r}"
        start = f"    {given:<{width}} " if len(given) <= width else f"    {given}\n{'':<{width + 5}}"
        lines += [start + first, *(" " * (width + 5) + other for other in others)]
    parser.epilog = f"Fields of {Path(_file(argv)).name}, given as --config.FIELD=VALUE:\n\n" + "\n".join(lines)
    return parser.format_help()


def _entry(module: str, holder: Any, argv: list[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}: every option starts with --, as in --config.seed=1")
    absl_logging.set_verbosity(absl_logging.WARNING)
    config = resolve(holder.value)
    workdir = workdir_of(config)
    if (platforms := os.environ.get("JAX_PLATFORMS")) and "cpu" not in platforms.split(","):
        os.environ["JAX_PLATFORMS"] = f"{platforms},cpu"  # what ships is scored on the CPU
    several = joining.join()
    if several:
        given = {f"--config.{name}": value for name, value in folders.flat(fields(config)).items()}
        joining.agree(given | {f"--{holder.name}": holder.value for holder in (PARALLEL, MESH, MESH_AXES)})
    summary = folders.finished(workdir, fields(config))
    if several:
        joining.agree({"the run in --workdir": "finished" if summary else "not finished"})
    if summary:
        print(outcome.sentence(summary, workdir))
        return
    if not several:  # else the first host takes it, in claim
        folders.open_existing(workdir, fields(config))
    if sys.stderr.isatty():
        print("starting JAX ...", file=sys.stderr)
    importlib.import_module(module).main(config)
