"""Which other hosts take part in a run, by flags or by what the machine says; they must have been given the same.

JAX is imported where there are others.
"""

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

    versions = {"JAX": jax.__version__, "jaxcomp": jaxcomp.__version__, "code of train/": _code()}
    hosts.agree(given | versions | {"devices": f"{jax.local_device_count()} x {jax.devices()[0].device_kind}"})


def _code() -> str:
    """A digest of the Python files of ``train``, which decide what a step computes."""
    root = Path(__file__).parents[1]
    files = sorted(root.rglob("*.py"))
    return sealed.digest([[path.relative_to(root).as_posix(), path.read_text()] for path in files])[:12]
