"""SIGTERM and Ctrl-C end a script with one sentence and with what it started, and never cut through a checkpoint."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from train.common.errors import exit_status
from train.common.signals import Stopped, postponed, stopping_on_sigterm

ROOT = Path(__file__).parents[3]
WAITING = """
import signal, subprocess, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
from train.common.errors import exit_status
child = "import time; print('begun', flush=True); time.sleep(600)"
sys.exit(exit_status(lambda: subprocess.run([sys.executable, "-c", child], check=True)))
"""


@pytest.fixture(autouse=True)
def interrupts() -> Iterator[None]:
    """Ctrl-C as in a terminal: whatever is started in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGTERM, 143, "stopped"), (signal.SIGINT, 130, "inter")]
)
def test_what_a_script_started_ends_with_it(number: signal.Signals, status: int, word: str) -> None:
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", WAITING], cwd=ROOT, stdout=pipe, stderr=pipe, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=60)  # which waits for all that hold its pipes: for the child too
    assert process.returncode == status
    assert len(err.splitlines()) == 1
    assert err.startswith(word)
    assert "run the same command to continue" in err


def test_no_handler_of_errors_swallows_it() -> None:
    def job() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except Exception:
            pytest.fail("it is no error")

    assert exit_status(job) == 143


@pytest.mark.parametrize(("number", "end"), [(signal.SIGTERM, Stopped), (signal.SIGINT, KeyboardInterrupt)])
def test_a_block_is_ended_first(number: signal.Signals, end: type[BaseException]) -> None:
    done = []

    def write(times: int) -> None:
        with postponed():
            for _ in range(times):
                signal.raise_signal(number)
            done.append(times)

    with stopping_on_sigterm("stopped"):
        before = signal.getsignal(number)
        with pytest.raises(end):
            write(1)
        assert signal.getsignal(number) is before
        with pytest.raises(end):
            write(2)  # who asks twice does not wait
    assert done == [1]


def test_an_error_in_the_block_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError), postponed():
        _ = 1 / 0
