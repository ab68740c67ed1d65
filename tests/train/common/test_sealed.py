"""Every altered byte of a sealed file or line is told; what was sealed comes back."""

from pathlib import Path

import pytest

from train.common import sealed
from train.common.errors import UserError

FIELDS = {"seed": 0, "student": {"options": {"widths": [4, 8]}}, "loss": 1.25e-7, "name": "é", "none": None}


def altered(content: bytes) -> list[bytes]:
    """The content with one bit of each byte flipped, with a byte less at its end, and with one more."""
    flipped = [content[:at] + bytes([content[at] ^ (1 << at % 8)]) + content[at + 1 :] for at in range(len(content))]
    return [*flipped, content[:-1], content + b" ", b"", b"[1]", b"null"]


def test_a_file_comes_back_or_tells(tmp_path: Path) -> None:
    content = sealed.sealed(FIELDS)
    assert sealed.unsealed(content) == FIELDS
    path = tmp_path / "config.json"
    for spoilt in altered(content):
        path.write_bytes(spoilt)
        with pytest.raises(UserError, match=f"^{path} is damaged .*\nDelete that file: then it goes on."):
            sealed.read(path, "then it goes on.")


def test_a_line_comes_back_or_tells() -> None:
    line = sealed.line(FIELDS)
    assert sealed.unlined(line.removesuffix("\n")) == FIELDS
    for spoilt in altered(line.removesuffix("\n").encode()):
        with pytest.raises(ValueError):  # noqa: PT011 -- of JSON, of UTF-8, or of the checksum: which, does not matter
            sealed.unlined(spoilt.decode())


def test_numbers_are_those_that_were_sealed() -> None:
    record = {"step": 3, "accuracy": 1 / 3, "loss": float("inf")}
    assert sealed.unlined(sealed.line(record)[:-1]) == record
    assert sealed.unsealed(sealed.sealed(record)) == record
