"""Fields and values are checked before anything is written; the message names what came and what to do."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from absl import flags
from ml_collections import ConfigDict

from train import models
from train.common import command_line, lock, workdir
from train.common.errors import UserError
from train.configs import default, mnist


@pytest.fixture(autouse=True)
def parsed() -> None:
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["tests"])


def changed(**fields: Any) -> ConfigDict:
    config = default.get_config()
    for field, value in fields.items():
        config.update_from_flattened_dict({field.replace("__", "."): value})
    return config


@pytest.mark.parametrize(
    ("field", "value", "what"),
    [
        ("student.sparsity", 1.0, "a fraction of zeros in [0, 1)"),
        ("student.sparsity", -0.1, "a fraction of zeros in [0, 1)"),
        ("student.sparsity", float("nan"), "a fraction of zeros in [0, 1)"),
        ("student.bits", 9, "an integer from 2 to 8"),
        ("student.bits", 1, "an integer from 2 to 8"),
        ("student.scope", "row", "'layer' or 'global'"),
        ("student.prune_until", 0.0, "a fraction in (0, 1]"),
        ("student.prune_every", 0, "1 step or more"),
        ("distill.temperature", 0.0, "a number above 0"),
        ("distill.alpha", 1.5, "a fraction in [0, 1]"),
        ("distill.views", -1, "a number of views, or 0"),
        ("distill.k", 1, "2 classes or more"),
        ("student.learning_rate", 0.0, "a number above 0"),
        ("teacher.epochs", -1.0, "a number above 0"),
        ("batch_size", 0, "1 image or more"),
        ("record_every", 0.0, "a number of epochs above 0"),
        ("optimizer", "adam_w", "one of optax's adabelief, adadelta"),
        ("precision", "float16", "'float32' or 'bfloat16'"),
        ("accumulate", 0, "1 part or more"),
        ("ema", 1.0, "a fraction in [0, 1)"),
        ("label_smoothing", 1.0, "a fraction in [0, 1)"),
        ("evaluate_every", 0, "1 record or more"),
        ("best_from", 0.0, "a fraction in (0, 1]"),
        ("warmup", -1.0, "0 or more"),
        ("random_crop", 1.0, "a fraction in [0, 1)"),
        ("corrupt", "ignore", "'stop' or 'skip'"),
        ("shift", -1, "0 or more"),
        ("image_size", -8, "0 or more"),
    ],
)
def test_a_value_out_of_range_is_named(field: str, value: Any, what: str) -> None:
    config = changed(**{field.replace(".", "__"): value})
    with pytest.raises(
        UserError, match=re.escape(f"--config.{field} must be {what}") + f".*, got {re.escape(repr(value))}"
    ):
        command_line.resolve(config)


def test_views_that_are_not_shown_again_keep_no_answers() -> None:
    words = "--config.shift=0 --config.flip=False --config.augment='pad_crop(2), flip()'"
    with pytest.raises(UserError, match=re.escape(words)):
        command_line.resolve(changed(distill__views=3, shift=2, flip=True))
    command_line.resolve(changed(distill__views=3, shift=0, augment="pad_crop(2)"))
    with pytest.raises(UserError, match=r"--config\.random_crop must be 0 with distill\.views"):
        command_line.resolve(changed(distill__views=3, shift=0, random_crop=0.08))


def test_the_limits_themselves_are_allowed() -> None:
    command_line.resolve(changed(student__sparsity=0.0, student__bits=2, distill__alpha=0.0, student__prune_until=1.0))
    command_line.resolve(changed(student__sparsity=0.999, student__bits=8, distill__alpha=1.0, shift=0))


@pytest.mark.parametrize("file", sorted(path.name for path in command_line.CONFIGS.glob("[!_]*.py")))
def test_every_configuration_of_the_project_is_sound(file: str) -> None:
    config = command_line.resolve(command_line.load(str(command_line.CONFIGS / file)))
    assert config.is_locked
    for phase in ("teacher", "student"):
        models.create(config[phase].model, 10, config[phase].options.to_dict())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "there is no such file"),
        ("value = 1", "needs a function get_config()"),
        ("def get_config():\n    return {}", "must return a ConfigDict, got dict"),
        ("def get_config():\n    return nowhere", "NameError: name 'nowhere' is not defined (line 2)"),
        ("def get_config(:", "SyntaxError"),
        ("{base}del config.student.bits\n    return config", "student.bits is missing"),
        ("{base}config.student.bit = 4\n    return config", "student.bit is unknown (did you mean student.bits"),
        ("{base}config.batch_size = ConfigDict()\n    return config", "batch_size must be of type int, got {}"),
        ("{base}del config.seed\n    config.seed = 'x'\n    return config", "seed must be of type int, got 'x'"),
    ],
)
def test_a_configuration_file_that_cannot_be_used(tmp_path: Path, source: str | None, message: str) -> None:
    base = (
        "from ml_collections import ConfigDict\nfrom train.configs import default\n"
        "def get_config():\n    config = default.get_config()\n    config = ConfigDict(config.to_dict(), "
        "type_safe=False)\n    "
    )
    file = tmp_path / "mine.py"
    if source is not None:
        file.write_text(source.format(base=base) if "{base}" in source else source)
    with pytest.raises(UserError, match=f"--config={re.escape(str(file))}.*{re.escape(message)}"):
        command_line.load(str(file))


def test_whole_numbers_may_stand_for_floats_and_a_file_may_take_an_argument(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from ml_collections import ConfigDict\nfrom train.configs import default\ndef get_config(seed):\n"
        "    config = ConfigDict(default.get_config().to_dict(), type_safe=False)\n"
        "    config.seed, config.teacher.epochs = int(seed), 3\n    return config\n"
    )
    config = command_line.load(f"{file}:7")
    assert (config.seed, config.teacher.epochs) == (7, 3)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.bogus=1", "--config.bogus; the fields are: accumulate, augment, batch_size"),
        ("-config.student.bit=4", "--config.student.bit (did you mean student.bits"),
        ("--noconfig.flop", "--config.flop (did you mean flip"),
        ("--config.student.options.depth=20", "--config.student.options='{\"depth\": ...}'"),
    ],
)
def test_an_unknown_field_is_named_with_its_neighbors(argument: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        command_line.define_config_flag([argument])


@pytest.mark.parametrize(
    ("argv", "given"),
    [
        ([], None),
        (["--dataset"], ""),
        (["--seed=1", "--dataset=mnist"], "mnist"),
        (["-dataset", "mnist", "--dataset", "cifar10"], "cifar10"),
    ],
)
def test_the_data_set_is_read_off_any_command_line(argv: list[str], given: str | None) -> None:
    assert command_line._given(argv, "dataset") == given


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cmm", {}, "unknown model 'cmm'; the models are: alexnet, centernet, cnn, convnext, deeplab, densenet"),
        ("cnn", {"depth": 3}, "model 'cnn' has no option ['depth']; it has: ['widths']"),
        ("lenet300", {"depth": 1}, "model 'lenet300' has no option ['depth']; it has: ['widths']"),
    ],
)
def test_an_unknown_model_or_option_is_named(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        models.create(name, 10, options)


def test_a_workdir_belongs_to_one_configuration(tmp_path: Path) -> None:
    workdir = tmp_path / "deep" / "run"
    command_line.claim(workdir, changed())
    (workdir / ".summary.json.0a1b2c3d.tmp").write_text("torn")
    (workdir / ".mine.tmp").write_text("the user's own")
    command_line.claim(workdir, changed())  # the same one goes on
    assert sorted(path.name for path in workdir.iterdir()) == [".lock", ".mine.tmp", "config.json"]
    before = (workdir / "config.json").read_bytes()
    with pytest.raises(UserError) as caught:
        command_line.claim(workdir, changed(seed=3, student__options=ConfigDict({"widths": (8,)})))
    assert "  seed: 0 there, 3 now\n  student.options.widths: [32, 64, 128] there, [8] now\n" in str(caught.value)
    lock.release(workdir)
    assert sorted(path.name for path in workdir.iterdir()) == [".mine.tmp", "config.json"]
    assert (workdir / "config.json").read_bytes() == before
    assert json.loads(before)["student"]["bits"] == 8


def test_a_workdir_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"--workdir=.*file/run cannot be used .*: name another"):
        command_line.claim(tmp_path / "file" / "run", changed())


@pytest.mark.parametrize("flag", ["--help", "--helpshort"])
def test_help_lists_every_flag_and_field_without_jax(flag: str) -> None:
    at_end = "import atexit, sys; atexit.register(lambda: print('jax' in sys.modules))"
    code = f"{at_end}; import runpy; runpy.run_module('train.compress', run_name='__main__', alter_sys=True)"
    command = [sys.executable, "-c", code, flag, "--dataset=mnist"]
    environment = {**os.environ, "COLUMNS": "80"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    *lines, jax_came = done.stdout.splitlines()
    assert jax_came == "False"
    assert max(map(len, lines)) <= 80
    for name in ("config", "dataset", "workdir", "parallel", "data_dir", "multihost"):
        assert f"--{name} " in done.stdout
    for field in workdir.flat(mnist.get_config().to_dict()):
        assert f"    {field}=" in done.stdout
    assert "student.sparsity=0.97 " in done.stdout  # MNIST's own


def test_every_field_is_described() -> None:
    said = command_line.descriptions()
    fields = {re.sub(r"options\..*", "options", name) for name in workdir.flat(default.get_config().to_dict())}
    assert said.keys() == fields
    assert all(said.values())
