"""How scripts end: with one clear message, without a traceback, for what the person at the command line can mend."""

import sys
from collections.abc import Callable
from typing import Any

from jaxcomp import JaxcompError


class UserError(Exception):
    """Something that the person at the command line can mend; the message says how."""


class Stopped(Exception):  # noqa: N818 -- not an error: the run was asked to stop, and can go on
    """The run was asked to stop; its state is saved."""


def exit_status(job: Callable[[], Any]) -> int:
    """Runs a script's job.

    Returns:
      0; 1 with the message on stderr for what the user can mend; 143 (128 + SIGTERM, by which a supervisor knows the
      reason) for a run that was asked to stop.
    """
    try:
        job()
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return 143
    except (UserError, JaxcompError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
