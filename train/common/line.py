"""A line over TCP from the first host to each other one: what one says all hear, and who has gone is told at once.

Collectives of devices wait for a host that has gone until a timeout, and say nothing. This needs no device.
"""

import contextlib
import json
import os
import queue
import secrets
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from train.common.errors import GO_ON, UserError

BEAT = 5.0
"""Seconds between signs of life."""
SILENT = 100.0
"""Seconds without one after which a host has gone: tracing a large model holds the interpreter for many."""
GRACE = 3.0
"""Seconds in which a host may say by itself why it stops, before it says that another has stopped."""
LONGEST = 2**26
_LENGTH = struct.Struct(">I")


def stop(words: str) -> None:
    """Ends this process from any thread: the main one waits for a host that does not come."""
    print(f"error: {words}", file=sys.stderr, flush=True)
    os._exit(1)


class Line:
    """One end of the lines of a run.

    Args:
      host: the number of this one.
      peers: of the first host, the sockets to all others by their numbers; of another, that to 0.
      stop: is called, in a thread, with the sentence to end with when a host has gone.
    """

    def __init__(self, host: int, peers: dict[int, socket.socket], stop: Callable[[str], None] = stop) -> None:
        self.host, self._peers, self._stop = host, peers, stop
        self._heard: dict[int, queue.Queue[Any]] = {peer: queue.Queue() for peer in peers}
        self._locks = {peer: threading.Lock() for peer in peers}
        self._open = set(peers)
        self._left = threading.Event()
        for peer, connection in peers.items():
            connection.settimeout(SILENT)
            threading.Thread(target=self._listen, args=(peer,), daemon=True).start()
        threading.Thread(target=self._beat, daemon=True).start()

    def exchange(self, what: str, own: Any) -> list[Any]:
        """What each host has to say, in their order; every host calls, at the same point of the program.

        Args:
          what: names the point.
          own: JSON-able.

        Raises:
          UserError: on every host, if they are at different points.
        """
        if self.host == 0:
            said = [[what, own], *(self._heard[peer].get() for peer in sorted(self._peers))]
            for peer in self._peers:
                self._say(peer, {"said": said})
        else:
            self._say(0, {"said": [what, own]})
            said = self._heard[0].get()
        if len({at for at, _ in said}) != 1:
            raise UserError(f"the hosts of this run have come to different points: {by_host([at for at, _ in said])}")
        return [one for _, one in said]

    def leave(self, whole: bool) -> None:
        """Says that this host ends; of a run that failed, the first ends when the others have, which need it."""
        self._left.set()
        for peer in self._peers:
            self._say(peer, {"left": whole})
        until = time.monotonic() + GRACE
        while self.host == 0 and not whole and self._open and time.monotonic() < until:
            time.sleep(0.05)

    def _say(self, peer: int, message: dict[str, Any]) -> None:
        text = json.dumps(message).encode()
        with contextlib.suppress(OSError), self._locks[peer]:  # whoever listens notices that it has gone
            self._peers[peer].sendall(_LENGTH.pack(len(text)) + text)

    def _beat(self) -> None:
        while not self._left.wait(BEAT):
            for peer in self._peers:
                self._say(peer, {})

    def _listen(self, peer: int) -> None:
        """Reads what a peer says until it leaves; one that ends without leaving has gone."""
        failed = False
        while (message := self._read(peer)) is not None:
            if "said" in message:
                self._heard[peer].put(message["said"])
            elif "gone" in message:
                self._end(message["gone"])
            elif "left" in message:
                if message["left"]:
                    self._open.discard(peer)
                    return
                failed = True
                break
        self._open.discard(peer)
        if self._left.is_set():
            return
        if failed:
            time.sleep(GRACE)
        words = (
            f"host {peer} of this run {'has stopped; it says why' if failed else 'has gone (killed, or unreachable)'}"
        )
        for other in self._open - {peer} if self.host == 0 else ():
            self._say(other, {"gone": words})
        self._end(words)

    def _end(self, words: str) -> None:
        if not self._left.is_set():
            self.leave(whole=False)
            self._stop(f"{words}. What was saved is kept: {GO_ON}, on every host.")

    def _read(self, peer: int) -> dict[str, Any] | None:
        """The next message; None at the end."""
        try:
            length = self._bytes(peer, _LENGTH.size)
            size = _LENGTH.unpack(length)[0] if length else 0
            return json.loads(self._bytes(peer, size)) if 0 < size <= LONGEST else None
        except (OSError, ValueError):
            return None

    def _bytes(self, peer: int, count: int) -> bytes:
        found = b""
        while len(found) < count:
            part = self._peers[peer].recv(count - len(found))
            if not part:
                return b""
            found += part
        return found


def by_host(values: list[Any]) -> str:
    """Values in words, each with the hosts that have it.

    Example:
      >>> by_host([1, 2, 1])
      '1 on hosts 0, 2; 2 on host 1'
    """
    hosts: dict[str, list[int]] = {}
    for host, value in enumerate(values):
        hosts.setdefault(f"{value!r:.200}", []).append(host)
    return "; ".join(f"{v} on host{'s' * (len(on) > 1)} {', '.join(map(str, on))}" for v, on in hosts.items())


def opened(host: int, hosts: int, names: list[str], spread: Callable[[bytes], bytes], seconds: float = 60.0) -> Line:
    """Opens the lines of a run; every host calls.

    Args:
      host, hosts: the number of this one, and how many there are.
      names: of the first host, by which others may reach it, the likeliest first.
      spread: gives every host the bytes that the first one passes; the others pass none.
      seconds: to wait for all.

    Raises:
      UserError: if hosts do not reach each other.
    """
    if host:
        at = json.loads(spread(b""))
        return Line(host, {0: _connected(at["names"], at["port"], f"{at['token']} {host}\n".encode(), seconds)})
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    with socket.create_server(("", 0), family=family, dualstack_ipv6=both, backlog=hosts) as server:
        token, port = secrets.token_hex(16), server.getsockname()[1]
        spread(json.dumps({"names": names, "port": port, "token": token}).encode())
        return Line(0, _accepted(server, token, hosts, seconds))


def _connected(names: list[str], port: int, greeting: bytes, seconds: float) -> socket.socket:
    why: OSError | None = None
    for name in names:
        try:
            found = socket.create_connection((name, port), timeout=min(10.0, seconds))
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            found.sendall(greeting)
            return found
        except OSError as error:
            why = error
    raise UserError(
        f"host 0 of this run is not reached at port {port} of {' or '.join(names)} ({why}): let hosts of a run reach "
        "each other on all ports above 1023"
    )


def _accepted(server: socket.socket, token: str, hosts: int, seconds: float) -> dict[int, socket.socket]:
    found: dict[int, socket.socket] = {}
    until = time.monotonic() + seconds
    while len(found) < hosts - 1:
        server.settimeout(max(0.01, until - time.monotonic()))
        try:
            connection, _ = server.accept()
        except TimeoutError as error:
            missing = ", ".join(str(host) for host in range(1, hosts) if host not in found)
            raise UserError(
                f"hosts {missing} of this run do not reach host 0: let hosts reach each other on all ports above 1023"
            ) from error
        connection.settimeout(10.0)
        with contextlib.suppress(OSError, ValueError):
            given, host = _greeting(connection).split(" ")
            if secrets.compare_digest(given, token) and 0 < int(host) < hosts and int(host) not in found:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                found[int(host)] = connection
                continue
        connection.close()  # a stranger
    return found


def _greeting(connection: socket.socket) -> str:
    """The first line, read byte by byte: what follows it is the line's own."""
    found = b""
    while not found.endswith(b"\n") and len(found) < 64:
        part = connection.recv(1)
        if not part:
            break
        found += part
    return found.decode("ascii").strip()
