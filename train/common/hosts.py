"""Several hosts: what keeps the first of them from going on, all of them say, and stop."""

import contextlib
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from train.common.errors import UserError, explained

MOST = 4096
"""Bytes of a sentence."""


@contextlib.contextmanager
def together() -> Iterator[bool]:
    """A block in which the first host alone acts, and whose failure all hosts raise.

    The others would wait for the first in their next collective, until a timeout.

    Yields:
      Whether this host is the one to act.

    Raises:
      UserError: on every host, that which the block raised on the first.
    """
    if jax.process_count() == 1:
        yield True
        return
    refusal = ""
    try:
        yield jax.process_index() == 0
    except Exception as error:
        if (words := explained(error)) is None:
            raise
        refusal = words
    if said := _said_by_first(refusal) or refusal:
        raise UserError(said)


def _said_by_first(words: str) -> str:
    given = np.zeros(MOST, np.uint8)
    own = np.frombuffer(words.encode()[:MOST], np.uint8)
    given[: len(own)] = own
    said = np.asarray(multihost_utils.broadcast_one_to_all(given))
    return said.tobytes().rstrip(b"\0").decode(errors="ignore")
