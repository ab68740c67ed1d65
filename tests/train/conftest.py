"""Real runs of the command line: processes of their own that share one compilation cache, and runs in this one."""

import importlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
TINY = """
from train.configs import default

def get_config():
    config = default.get_config()
    config.dataset, config.seed, config.batch_size, config.shift = "digits", 0, 128, 1
    config.record_every = 0.5
    for phase in (config.teacher, config.student):
        phase.model, phase.options.widths, phase.learning_rate = "cnn", (4, 8), 5e-3
    config.teacher.epochs, config.student.epochs = 1.5, 2.5
    config.student.sparsity, config.student.prune_every, config.student.prune_until = 0.5, 4, 0.6
    return config
"""


class Process(subprocess.Popen):
    """A process whose words go into files: it would stop once a pipe that nobody reads meanwhile is full."""

    def __init__(self, command: list[str], **options: Any) -> None:
        self._words = [tempfile.TemporaryFile("w+") for _ in range(2)]  # noqa: SIM115 - open as long as it lives
        super().__init__(command, stdout=self._words[0], stderr=self._words[1], text=True, **options)

    def communicate(self, input: None = None, timeout: float | None = None) -> tuple[str, str]:
        """Waits for its end; returns what it printed and what it complained of."""
        self.wait(timeout)
        out, err = (file.seek(0) or file.read() for file in self._words)
        return out, err


class Cli:
    """``python -m train.compress`` on a tiny configuration (or another module), as a user would run it.

    Args:
      folder: for the configuration and the compilation cache.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.config = folder, folder / "tiny.py"
        self.config.write_text(TINY)

    def start(self, *arguments: str, module: str = "train.compress", devices: int = 1) -> "Process":
        """Starts a process."""
        environment = {
            **os.environ,
            "JAX_COMPILATION_CACHE_DIR": str(self.folder / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            "XLA_FLAGS": re.sub(r"(device_count)=\d+", rf"\1={devices}", os.environ["XLA_FLAGS"]),
        }
        command = [sys.executable, "-m", module, *arguments]
        if module == "train.compress" and not any(argument.startswith("--config=") for argument in arguments):
            command.insert(3, f"--config={self.config}")
        return Process(command, cwd=ROOT, env=environment)

    def __call__(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess:
        """Runs a process to its end."""
        return finish(self.start(*arguments, **options))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs a command in this process, which has imported everything: as :class:`Cli` does in one of its own."""

    def run(*arguments: str, module: str) -> subprocess.CompletedProcess:
        monkeypatch.setattr(sys, "argv", [module, *arguments])
        capsys.readouterr()
        status = importlib.import_module(module).main()
        return subprocess.CompletedProcess(arguments, status, *capsys.readouterr())

    return run


def finish(process: subprocess.Popen) -> subprocess.CompletedProcess:
    """Waits for a process."""
    try:
        out, err = process.communicate(timeout=400)
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail(f"it did not end within 400 s: {process.communicate()}")
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def wait_until(process: subprocess.Popen, holds: Callable[[], Any]) -> None:
    """Waits for a condition, as long as the process lives, and 400 seconds at most."""
    end = time.monotonic() + 400
    while not holds():
        if time.monotonic() > end:
            process.kill()
            pytest.fail(f"the moment did not come within 400 s: {process.communicate()}")
        assert process.poll() is None, f"it ended before the moment came: {process.communicate()}"
        time.sleep(0.001)


def records(workdir: Path, phase: str) -> int:
    """How many whole records of a phase a run has written."""
    path = workdir / "metrics.jsonl"
    return path.read_text().count(f'"phase": "{phase}"') if path.exists() else 0


def last_checkpoint(workdir: Path, phase: str = "student") -> Path:
    """The folder of a phase's newest whole checkpoint."""
    folder = workdir / "checkpoints" / phase
    return folder / str(max(int(path.name) for path in folder.iterdir() if path.name.isdigit()))


def checkpoint_arrays(checkpoint: Path) -> list[np.ndarray]:
    """The arrays of a checkpoint: parameters, masks, scales, optimizer state, sums."""
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        return [np.asarray(leaf) for leaf in jax.tree.leaves(checkpointer.restore(checkpoint / "state"))]


def assert_same_end(workdir: Path, reference: Path, phase: str = "student") -> None:
    """Two runs ended with the same bits: metrics, artifact, training state, predictions."""
    assert (workdir / "metrics.jsonl").read_bytes() == (reference / "metrics.jsonl").read_bytes()
    assert (workdir / "model.jcz").read_bytes() == (reference / "model.jcz").read_bytes()
    mine, theirs = last_checkpoint(workdir, phase), last_checkpoint(reference, phase)
    assert mine.name == theirs.name
    arrays, others = checkpoint_arrays(mine), checkpoint_arrays(theirs)
    assert len(arrays) == len(others) > 20
    for array, other in zip(arrays, others, strict=True):
        assert array.dtype == other.dtype
        np.testing.assert_array_equal(array, other)
    summary, expected = (json.loads((folder / "summary.json").read_text()) for folder in (workdir, reference))
    assert 0 < summary["train_seconds"] < summary["wall_seconds"]  # of runs that were resumed too
    differing = {key for key in expected if summary[key] != expected[key]}
    assert differing <= {"wall_seconds", "train_seconds", "files", "sha256"}  # the report shows seconds


@pytest.fixture(scope="session")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    return Cli(tmp_path_factory.mktemp("cli"))


@pytest.fixture(scope="session")
def reference(cli: Cli) -> Path:
    """The run folder of an uninterrupted run; nobody writes into it."""
    workdir = cli.folder / "reference"
    began = time.monotonic()
    done = cli(f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    (cli.folder / "seconds").write_text(str(time.monotonic() - began))
    (cli.folder / "stdout").write_text(done.stdout)
    (cli.folder / "stderr").write_text(done.stderr)
    return workdir


@pytest.fixture
def finished(reference: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be spoilt."""
    return Path(shutil.copytree(reference, tmp_path / "finished"))


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of an emulator of Google's storage; gcsfs, which knows nothing of it, speaks to it."""
    gcsfs = pytest.importorskip("gcsfs", reason="gs:// needs it: pip install gcsfs")
    server = pytest.importorskip("gcp_storage_emulator.server", reason="pip install gcp-storage-emulator")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    running = server.create_server("localhost", port, in_memory=True, default_bucket="bucket")
    running.start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://localhost:{port}")
    gcsfs.GCSFileSystem.clear_instance_cache()
    yield "gs://bucket"
    gcsfs.GCSFileSystem.clear_instance_cache()
    running.stop()
