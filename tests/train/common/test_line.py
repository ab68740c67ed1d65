"""Hosts that speak over a line: threads of one process, with sockets between them, in place of machines."""

import contextlib
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from train.common import line
from train.common.errors import UserError
from train.common.line import Line, opened


@pytest.fixture
def three() -> Iterator[tuple[list[Line], list[queue.Queue]]]:
    """Three hosts, opened as a run opens them, and what each would end with."""
    told: queue.Queue[bytes] = queue.Queue()
    ends: list[queue.Queue] = [queue.Queue() for _ in range(3)]

    def spread(words: bytes) -> bytes:
        if words:
            told.put(words)
            told.put(words)
            return words
        return told.get(timeout=20)

    with ThreadPoolExecutor(3) as pool:
        lines = list(pool.map(lambda host: opened(host, 3, ["localhost"], spread, 20), range(3)))
    for each, end in zip(lines, ends, strict=True):
        each._stop = end.put
    yield lines, ends
    for each in lines:
        each.leave(whole=True)


def at_once(lines: list[Line], call: Callable[[Line], Any]) -> list[Any]:
    with ThreadPoolExecutor(len(lines)) as pool:
        return list(pool.map(call, lines))


def test_all_hear_what_each_says(three: tuple[list[Line], list[queue.Queue]]) -> None:
    lines, _ = three
    for round in range(3):
        heard = at_once(lines, lambda one, n=round: one.exchange("round", {"host": one.host, "n": n}))
        assert heard == [[{"host": host, "n": round} for host in range(3)]] * 3
    big = at_once(lines, lambda one: one.exchange("much", "x" * 300_000 if one.host == 1 else ""))
    assert [len(said[1]) for said in big] == [300_000] * 3


def test_hosts_at_different_points_are_told_where(three: tuple[list[Line], list[queue.Queue]]) -> None:
    lines, _ = three

    def call(one: Line) -> str:
        with pytest.raises(UserError, match="'save' on hosts 0, 1; 'score' on host 2") as refused:
            one.exchange("score" if one.host == 2 else "save", None)
        return str(refused.value)

    assert len(set(at_once(lines, call))) == 1


@pytest.mark.parametrize("lost", [0, 2])
def test_a_host_that_dies_is_named_on_all_others(lost: int, three: tuple[list[Line], list[queue.Queue]]) -> None:
    lines, ends = three
    lines[lost]._left.set()  # so that the dead host says nothing itself
    for connection in lines[lost]._peers.values():
        connection.shutdown(socket.SHUT_RDWR)  # as the system does for a process that was killed
    for host in {0, 1, 2} - {lost}:
        words = ends[host].get(timeout=20)
        assert words.startswith(f"host {lost} of this run has gone"), words
        assert words.endswith("run the same command to continue, on every host.")
    assert ends[lost].empty()


def test_a_host_that_fails_is_told_from_one_that_ends(
    three: tuple[list[Line], list[queue.Queue]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "GRACE", 0.2)
    lines, ends = three
    lines[1].leave(whole=True)
    with pytest.raises(queue.Empty):
        ends[0].get(timeout=0.5)
    lines[2].leave(whole=False)
    assert ends[0].get(timeout=20).startswith("host 2 of this run has stopped; it says why")


def test_strangers_are_sent_away_and_missing_hosts_named() -> None:
    port: queue.Queue[int] = queue.Queue()

    def spread(words: bytes) -> bytes:
        port.put(line.json.loads(words)["port"])
        return words

    def knock() -> None:
        at = port.get(timeout=20)
        for greeting in (b"guess 1\n", b"\xff\xfe\n", b"x" * 100, b""):
            with socket.create_connection(("localhost", at)) as stranger, contextlib.suppress(OSError):
                stranger.sendall(greeting)

    thread = threading.Thread(target=knock)
    thread.start()
    with pytest.raises(UserError, match="hosts 1, 2 of this run do not reach host 0"):
        opened(0, 3, ["localhost"], spread, 1.0)
    thread.join()


def test_a_first_host_that_is_not_reached_is_named() -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        said = line.json.dumps({"names": ["localhost"], "port": free.getsockname()[1], "token": "t"}).encode()
    with pytest.raises(UserError, match=f"host 0 of this run is not reached at port {line.json.loads(said)['port']}"):
        opened(1, 2, [], lambda words: said, 2.0)
