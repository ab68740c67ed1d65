"""A line is shown where somebody looks, after a while, and is gone at the end."""

import io
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from jaxcomp.core import progress as module
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.progress import Progress, shows_progress, steps


class Terminal(io.StringIO):
    """What is written to it is seen."""

    def isatty(self) -> bool:
        return True


@shows_progress
def job(until: Callable[[], Any], *, progress: Progress = None) -> int:
    """Two steps, in the second of which it waits."""
    for number in steps([1, 2], progress, "numbers"):
        if number == 2:
            until()
    return number


def wait_for(stream: io.StringIO, text: str) -> Callable[[], None]:
    def until() -> None:
        end = time.monotonic() + 20
        while text not in stream.getvalue() and time.monotonic() < end:
            time.sleep(0.01)

    return until


def screen(text: str) -> str:
    """What is to be read in the line in the end."""
    cells: list[str] = []
    at = 0
    for letter in text:
        if letter == "\r":
            at = 0
        else:
            cells[at:] = [letter, *cells[at + 1 :]]
            at += 1
    return "".join(cells).rstrip()


@pytest.mark.parametrize("asked", [True, None])
def test_a_terminal_shows_a_line_that_is_gone_at_the_end(monkeypatch: pytest.MonkeyPatch, asked: bool | None) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(module, "_under_pytest", lambda: False)
    monkeypatch.setattr(module, "QUIET_SECONDS", 0.05)
    assert job(wait_for(stream, "job 0:00 1/2 numbers"), progress=asked) == 2
    assert "job 0:00 1/2 numbers" in stream.getvalue()
    assert "\n" not in stream.getvalue()
    assert screen(stream.getvalue()) == ""


def test_a_file_has_lines_if_it_is_asked_for() -> None:
    stream = io.StringIO()
    with module.Line("job", stream, 0.0) as tell:
        tell(1, 2, "numbers")
        wait_for(stream, "\n")()
    assert [line[:4] for line in stream.getvalue().splitlines()] == ["job "]


@pytest.mark.parametrize(
    ("stream", "asked", "tested"),
    [
        (io.StringIO(), None, False),  # no terminal
        (None, None, False),  # no stream at all
        (Terminal(), None, True),  # a terminal under pytest
        (Terminal(), None, False),  # a short call
        (Terminal(), False, False),
    ],
)
def test_nobody_is_told_who_does_not_look(
    monkeypatch: pytest.MonkeyPatch, stream: Any, asked: Any, tested: Any
) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(module, "_under_pytest", lambda: tested)
    assert job(lambda: None, progress=asked) == 2
    assert stream is None or not stream.getvalue()


def test_a_stream_that_was_closed_and_an_error_end_the_line_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)

    def fails() -> None:
        wait_for(stream, "1/2")()
        raise KeyError("of the job's")

    with pytest.raises(KeyError, match="of the job's"):
        job(fails, progress=True)
    assert screen(stream.getvalue()) == ""
    stream.close()
    assert job(lambda: None, progress=True) == 2
    with pytest.raises(ArgumentError, match=r"progress= must be None, True, False or a function .*; got 'yes'"):
        job(lambda: None, progress="yes")  # type: ignore[arg-type]
