"""What a run shows of its speed: images a second, waiting for input, memory, the share of the hardware's peak."""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

import jaxcomp as jc
from train.common import boards, hosts
from train.common.progress import watched

PEAKS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA L4": 121e12,
}
"""Operations a second of a chip in bfloat16, dense, by the begin of its name: of Google's and NVIDIA's data sheets."""
FIRST = 5
"""Steps before those of a profile: the first ones compile, and fill queues."""


def peak(kind: str) -> float | None:
    """Operations a second of a device, by its kind; None for one that is not known.

    Example:
      >>> peak("NVIDIA H200 141GB"), peak("cpu")
      (989000000000000.0, None)
    """
    known = [name for name in PEAKS if kind == name or (kind.startswith(name) and not kind[len(name)].isalnum())]
    return PEAKS[max(known, key=len)] if known else None


@dataclasses.dataclass(frozen=True)
class Sight:
    """Where numbers of a run are drawn.

    Attributes:
      workdir: the run folder, as the user named it.
      config: of the run.
      tensorboard: whether event files are written.
      wandb: the project of Weights & Biases; None: none.
      profile_steps: that are profiled; 0: none.
    """

    workdir: str = ""
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    tensorboard: bool = False
    wandb: str | None = None
    profile_steps: int = 0

    def __post_init__(self) -> None:
        boards.check(self.tensorboard, self.wandb)

    def of(self, phase: str, batch_size: int, folder: Path, network: tuple[Any, Any, Any]) -> "Watch":
        """Begins to watch a phase.

        Args:
          phase: its name.
          batch_size: images in a step.
          folder: the run folder on this machine.
          network: the functions that are trained, their variables and an image, by which operations are counted.
        """
        first = not hosts.several() or jax.process_index() == 0
        drawn: list[boards.Board] = []
        if first and self.tensorboard:
            drawn.append(boards.TensorBoard(folder / "tensorboard" / phase))
        if first and self.wandb:
            drawn.append(boards.WeightsAndBiases(self.wandb, self.workdir, self.config, phase, folder))
        profile = folder / "profile" / phase if first and self.profile_steps else None
        return Watch(phase, batch_size, batch_size * _operations(*network), drawn, profile, self.profile_steps)


class Watch:
    """Measures the steps of a phase. What is between :meth:`pause` and :meth:`go_on` does not count.

    Args:
      phase: its name.
      images: in a step.
      operations: of a step; 0: not known.
      drawn: where numbers go.
      profile: the folder of a profile; None: there is none.
      steps: of the profile.
    """

    def __init__(
        self,
        phase: str,
        images: int,
        operations: float = 0.0,
        drawn: Sequence[boards.Board] = (),
        profile: Path | None = None,
        steps: int = 0,
    ) -> None:
        self._phase, self._images, self._operations, self._drawn = phase, images, operations, drawn
        self._profile, self._profiled, self._made = profile, range(FIRST, FIRST + steps), 0
        self._last: dict[str, float] = {}
        self._idle = 0.0
        self._begin()

    def _begin(self) -> None:
        self._steps, self._seconds, self._since = 0, 0.0, time.monotonic()

    @contextlib.contextmanager
    def stepping(self, state: Any) -> Iterator[None]:
        """A block that makes a step from a state; the first one compiles it, and is no measure of others."""
        if self._profile and self._made == self._profiled.start:
            jax.profiler.start_trace(str(self._profile))
        if self._profile and self._made == self._profiled.stop:
            self._end_profile(state)
        began = time.monotonic()
        yield
        self._made += 1
        self._steps += 1
        if self._made == 1:
            if watched() and (seconds := time.monotonic() - began) > 1:
                print(f"{self._phase}: compiled in {seconds:.0f} s", file=sys.stderr)
            self._begin()

    def _end_profile(self, state: Any) -> None:
        jax.block_until_ready(state)
        jax.profiler.stop_trace()
        if watched():
            print(f"{self._phase}: a profile is in {self._profile}; tensorboard shows it", file=sys.stderr)
        self._profile = None

    def pause(self) -> None:
        """Notes that what follows, until :meth:`go_on`, is no training: a score, a checkpoint."""
        self._seconds += time.monotonic() - self._since

    def go_on(self) -> None:
        """Notes that training goes on."""
        self._since = time.monotonic()

    def record(self, record: dict[str, Any], idle: float) -> None:
        """Draws a record of metrics with the speed since the last one; the first speed of a phase is said too.

        Args:
          record: of metrics.
          idle: seconds for which devices had no input, in all.
        """
        numbers = {name: value for name, value in record.items() if isinstance(value, float)}
        speed = self.measured(idle)
        for board in self._drawn:
            board.add(record["step"], numbers | {f"speed/{name}": value for name, value in speed.items()})
        if speed and not self._last and watched():
            print(f"{self._phase}: {sentence(speed)}", file=sys.stderr)
        self._last = speed or self._last

    def measured(self, idle: float = 0.0) -> dict[str, float]:
        """The speed since the last call, in a pause; nothing if no step was made that counts.

        Args:
          idle: seconds for which devices had no input, in all.

        Returns:
          ``images_per_second``, ``step_seconds``, ``input_wait`` (a share of the time), of devices that tell it
          ``memory_gib`` (the most in use), and ``mfu`` where operations and peak are known: the operations of the
          trained network's forward and backward pass, of those that all devices could have done.
        """
        if not self._steps or self._seconds <= 0:
            return {}
        found = {
            "images_per_second": self._steps * self._images / self._seconds,
            "step_seconds": self._seconds / self._steps,
            "input_wait": min(1.0, (idle - self._idle) / self._seconds),
        }
        device = jax.local_devices()[0]
        if stats := device.memory_stats():
            found["memory_gib"] = stats.get("peak_bytes_in_use", 0) / 2**30
        if (most := peak(device.device_kind)) and self._operations:
            found["mfu"] = self._operations / found["step_seconds"] / most / jax.device_count()
        self._idle = idle
        self._begin()
        return found

    def close(self, state: Any) -> None:
        """Ends a profile that is longer than the phase, says the last speed, and hands over what is not yet drawn."""
        if self._profile and self._made > self._profiled.start:
            self._end_profile(state)
        if self._last and watched():
            print(f"{self._phase}: {sentence(self._last)}", file=sys.stderr)
        for board in self._drawn:
            board.close()


def sentence(speed: dict[str, float]) -> str:
    """A speed in words.

    Example:
      >>> sentence({"images_per_second": 1234.5, "step_seconds": 0.1037, "input_wait": 0.02, "mfu": 0.4})
      '1,234 images/s, 104 ms a step, 2% waiting for input, 40% of peak'
    """
    words = [
        f"{speed['images_per_second']:,.0f} images/s",
        f"{1000 * speed['step_seconds']:.3g} ms a step",
        f"{speed['input_wait']:.0%} waiting for input",
    ]
    words += [f"{speed['memory_gib']:.1f} GiB of memory"] if "memory_gib" in speed else []
    return ", ".join([*words, f"{speed['mfu']:.0%} of peak"] if "mfu" in speed else words)


def _operations(infer: Any, variables: Any, images: Any) -> float:
    """Those of a forward and a backward pass of an image, three times the forward one's; 0 where no peak is known."""
    if peak(jax.local_devices()[0].device_kind) is None:
        return 0.0
    return 6.0 * jc.trace.sites(infer, variables, images).macs


QUIET = Sight()
"""Draws nothing."""
