"""Several hosts: they find each other, agree on what is run, act as one, and stop together."""

import atexit
import base64
import contextlib
import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxcomp.core.files import write_atomically
from train.common.errors import UserError, explained, first_line
from train.common.line import Line, by_host, opened, stop

MOST = 4096
"""Bytes that the first host spreads to open the line."""
_line: Line | None = None


def join(coordinator: str | None, hosts: int | None, host: int | None, wait: float) -> None:
    """Joins the other hosts of a run; each of them runs the same command on the same files.

    Args:
      coordinator: ``HOST:PORT`` of the first; None, as the two others, where the machine knows (TPU VMs, Slurm).
      hosts: how many there are.
      host: which of them this one is, from 0.
      wait: seconds for all to come; then this process ends with a sentence, as JAX would abort without one.

    Raises:
      UserError: if they cannot be found.
    """
    global _line
    late = threading.Timer(wait, stop, [_nobody(coordinator, hosts, wait)])
    late.daemon = True
    late.start()
    try:
        jax.distributed.initialize(coordinator, hosts, host, initialization_timeout=int(wait) + 60)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"--multihost: {first_line(error)} On a machine that does not say by itself who takes "
            "part, give every process --coordinator=HOST:PORT --num_processes=N and its own --process_id."
        ) from error
    finally:
        late.cancel()
    if jax.process_count() > 1:
        _line = opened(jax.process_index(), jax.process_count(), _names(coordinator), _spread)
        atexit.register(_end)


def _nobody(coordinator: str | None, hosts: int | None, wait: float) -> str:
    at = f" at {coordinator}" if coordinator else ""
    return (
        f"not all {f'{hosts} ' if hosts else ''}hosts of this run have met{at} within {wait:.0f} s: see that the same "
        "command runs on every host, each with its own --process_id where that is given, and that they reach each other"
    )


def _names(coordinator: str | None) -> list[str]:
    """Names by which others may reach this host, if it is the first."""
    given = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    names = [given.rsplit(":", 1)[0].strip("[]")] if given else []
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing: the system says which of its addresses it would send from
        names.append(probe.getsockname()[0])
    return list(dict.fromkeys([*names, socket.gethostname()]))


def _spread(words: bytes) -> bytes:
    given = np.zeros(MOST, np.uint8)
    given[: len(words)] = np.frombuffer(words, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(given)).tobytes().rstrip(b"\0")


@contextlib.contextmanager
def together(what: str = "act") -> Iterator[bool]:
    """A block in which the first host alone acts, and whose failure on any host all hosts raise.

    The others would go on, or wait in their next collective until a timeout.

    Args:
      what: names the block, the same on every host.

    Yields:
      Whether this host is the one to act.

    Raises:
      UserError: on every host, that which the block raised on one, the first before others.
    """
    if _line is None:
        yield True
        return
    refusal = ""
    try:
        yield _line.host == 0
    except Exception as error:
        if (words := explained(error)) is None:
            raise
        refusal = words
    said = _line.exchange(what, refusal)
    if refused := next((host for host, words in enumerate(said) if words), None):
        raise UserError(f"host {refused}: {said[refused]}")
    if said[0]:
        raise UserError(said[0])


def agree(about: dict[str, Any]) -> None:
    """Makes sure that all hosts were given the same; else they would wait for each other, or train to a wrong result.

    Args:
      about: JSON-able values by name.

    Raises:
      UserError: on every host, if not; what differs is listed by host.
    """
    if _line is None:
        return
    said = _line.exchange("agree", about)
    names = sorted(set().union(*said))
    differ = [name for name in names if any(one.get(name) != said[0].get(name) for one in said)]
    if differ:
        listing = "\n".join(f"  {name}: {by_host([one.get(name) for one in said])}" for name in differ)
        raise UserError(
            f"the hosts of this run were not given the same:\n{listing}\nGive every host the same command, on the same "
            "code and files."
        )


def several() -> bool:
    """Whether this process has joined others."""
    return _line is not None


def all_say(what: str, value: Any) -> list[Any]:
    """What each host says, JSON-able, in their order; every host calls, with the same words for what it is about."""
    return [value] if _line is None else _line.exchange(what, value)


def give(path: Path) -> None:
    """Gives every host a small file that the first one has, where they do not share its folder."""
    if _line is None:
        return
    content = path.read_bytes() if _line.host == 0 else b""
    given = base64.b64decode(_line.exchange(f"give {path.name}", base64.b64encode(content).decode())[0])
    if not path.exists() or path.read_bytes() != given:
        write_atomically(path, given)


def leave(status: int) -> None:
    """Ends this host's part in a run by several, with the status of its process.

    After a failure the process ends here: JAX would wait for the others, and abort.
    """
    global _line
    if _line is None:
        return
    line, _line = _line, None
    whole = status in (0, 143)  # 143: all hosts have stopped at the same step
    line.leave(whole)
    if not whole:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _end() -> None:
    """After a traceback."""
    leave(1)
