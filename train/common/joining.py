"""Which other hosts take part in a run, by flags or by what the machine says; they must have been given the same.

JAX is imported where there are others.
"""

import contextlib
import importlib.util
import re
from pathlib import Path
from typing import Any

from absl import flags

from train.common import google_vm, sealed
from train.common.errors import UserError

MULTIHOST = flags.DEFINE_bool(
    "multihost", None, "join the other hosts: needed on Slurm alone, those of a TPU slice do so by themselves"
)
COORDINATOR = flags.DEFINE_string("coordinator", None, "where hosts do not find each other: HOST:PORT of process 0")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "with --coordinator: how many processes there are")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "with --coordinator: which of them this one is, from 0")
WAIT = flags.DEFINE_integer("wait", 300, "seconds that hosts wait for each other at the start", lower_bound=1)

_MODEL = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""Of a configuration's values those that name a function, ``package.module:function``."""

FLAGS = (MULTIHOST, COORDINATOR, NUM_PROCESSES, PROCESS_ID, WAIT)


def join() -> bool:
    """Joins the other hosts of a run, if there are others: those of a TPU slice, or whom the flags name.

    Returns:
      Whether there are others.

    Raises:
      UserError: if they cannot be found.
    """
    google_vm.stop_when_preempted()
    given = [holder.value for holder in (COORDINATOR, NUM_PROCESSES, PROCESS_ID)]
    if given.count(None) not in (0, 3):
        raise UserError("--coordinator, --num_processes and --process_id are given together, or none of them")
    several = MULTIHOST.value if MULTIHOST.value is not None else None not in given or google_vm.slice_hosts() > 1
    if several:
        from train.common import hosts

        hosts.join(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value, WAIT.value)
    return several


def agree(given: dict[str, Any]) -> None:
    """Tells hosts that were given different commands, or have different code, before they train together.

    Args:
      given: JSON-able values by name.

    Raises:
      UserError: on every host, if they differ; each value is listed by host.
    """
    import jax

    import jaxcomp
    from train.common import hosts

    versions = {"JAX": jax.__version__, "jaxcomp": jaxcomp.__version__, **_code(given)}
    hosts.agree(given | versions | {"devices": f"{jax.local_device_count()} x {jax.devices()[0].device_kind}"})


def _code(given: dict[str, Any]) -> dict[str, str]:
    """Digests of the Python files that decide what a step computes: of train, of jaxcomp, of modules of one's own."""
    import jaxcomp

    places = {f"code of {root.name}/": root for root in (Path(__file__).parents[1], Path(jaxcomp.__file__).parent)}
    for module in sorted({str(value).partition(":")[0] for value in given.values() if _MODEL.fullmatch(str(value))}):
        with contextlib.suppress(Exception):  # of the user's own package; making the network says what is wrong there
            if (spec := importlib.util.find_spec(module)) and spec.origin:
                places[f"code of {module}"] = Path(spec.origin)
    return {name: _digest(place) for name, place in places.items()}


def _digest(place: Path) -> str:
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place]
    return sealed.digest([[path.relative_to(place).as_posix(), path.read_text()] for path in files])[:12]
