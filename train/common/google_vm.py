"""What Google's virtual machines know of themselves: how many hosts a TPU slice has, and that one is to be taken away.

A machine's metadata server answers over plain HTTP: https://cloud.google.com/compute/docs/metadata/overview. Nothing is
asked elsewhere than on such a machine.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

_PRODUCT = Path("/sys/class/dmi/id/product_name")
_TPUS = ("/dev/accel0", "/dev/vfio/0")


def is_here() -> bool:
    """Whether this is a virtual machine of Google's; a server that GCE_METADATA_IP names counts as one."""
    if os.environ.get("GCE_METADATA_IP"):
        return True
    with contextlib.suppress(OSError):
        return "Google" in _PRODUCT.read_text()
    return False


def has_tpu() -> bool:
    """Whether this machine has a TPU's device files."""
    return any(os.path.exists(path) for path in _TPUS)


def asked(key: str, timeout: float = 2.0) -> str | None:
    """A value under ``computeMetadata/v1/instance/``; None where there is no answer."""
    import urllib.request  # takes as long as all else of a command line that is wrong

    server = os.environ.get("GCE_METADATA_IP", "metadata.google.internal")
    request = urllib.request.Request(
        f"http://{server}/computeMetadata/v1/instance/{key}", headers={"Metadata-Flavor": "Google"}
    )
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy would ask its own machine's
    try:
        with direct.open(request, timeout=timeout) as answer:
            return answer.read(2**16).decode()
    except (OSError, ValueError):
        return None


def slice_hosts() -> int:
    """How many hosts the TPU slice of this machine has; 1 for a machine without a TPU, or that nothing tells of.

    Kubernetes says it by TPU_WORKER_HOSTNAMES, a virtual machine by its metadata; MEGASCALE_NUM_SLICES counts slices.
    """
    if not has_tpu():
        return 1
    names = os.environ.get("TPU_WORKER_HOSTNAMES")
    if not names and is_here():
        names = asked("attributes/worker-network-endpoints")
    slices = os.environ.get("MEGASCALE_NUM_SLICES", "")
    return len((names or "here").split(",")) * (int(slices) if slices.isdigit() else 1)


def _sigterm() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def stop_when_preempted(act: Callable[[], None] = _sigterm) -> threading.Thread | None:
    """Acts as soon as this virtual machine is told that it is taken away: by default SIGTERM, on which runs save.

    A spot machine has 30 seconds from then on. The system's own SIGTERM comes later, and not to all processes.

    Returns:
      The thread that waits for the word; None elsewhere.

    Reference: https://cloud.google.com/compute/docs/instances/create-use-preemptible#detecting_if_an_instance_was_preempted
    """
    if not is_here():
        return None

    def watch() -> None:
        pause = 1.0
        while (said := asked("preempted?wait_for_change=true&timeout_sec=300", timeout=330)) != "TRUE":
            pause = 1.0 if said else min(60.0, 2 * pause)  # each answer comes after a wait, a refusal at once
            time.sleep(pause)
        print("this machine is being taken away (preempted): saving", file=sys.stderr)
        act()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread
