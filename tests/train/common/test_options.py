"""Scripts have one habit: what two of them ask for by one name is one thing, with one line of help."""

import argparse
from pathlib import Path
from typing import Any

import pytest

from train import curves, oneshot, prune, qat, quantize, shrink
from train.common import options

SCRIPTS = (curves, oneshot, prune, qat, quantize, shrink)
OWN = ("method", "help", "model")
"""Of qat and of quantize these are methods of two families, with choices of their own; curves trains one of MODELS."""


class Asked(Exception):  # noqa: N818 -- it is no error
    """The command line that a script has made."""


def command_line(script: Any, monkeypatch: pytest.MonkeyPatch) -> argparse.ArgumentParser:
    def stop(parser: argparse.ArgumentParser, *_: Any) -> None:
        raise Asked(parser)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    with pytest.raises(Asked) as caught:
        script.parse([])
    return caught.value.args[0]


def test_options_of_one_name_are_one_option(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {name: what for name, what in options.SHARED.items() if name not in OWN}
    met = 0
    for script in SCRIPTS:
        for action in command_line(script, monkeypatch)._actions:
            said = (action.type, action.help)
            if action.dest not in OWN:
                assert seen.setdefault(action.dest, said) == said, f"--{action.dest} of {script.__name__}"
            met += action.dest in options.SHARED
    assert met > len(options.SHARED)


def test_a_bucket_that_is_not_there_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: str) -> Path:
        raise FileNotFoundError(f"{path}: there is no such bucket")

    monkeypatch.setattr(options.mirror, "folder", refuse)
    with pytest.raises(SystemExit):
        prune.parse(["--weights=a.npz", "--workdir=gs://b/run"])
    assert "error: argument --workdir: gs://b/run: there is no such bucket" in capsys.readouterr().err


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_help_fits_and_names_the_command(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    parser = command_line(script, monkeypatch)
    assert parser.prog == f"python -m {script.__name__}"
    lines = parser.format_help().splitlines()
    long = [line for line in lines if len(line) > 80 and not line.startswith("    ")]
    assert long == []
