"""What images cost to read: photographs to random crops, on one core and on all, and beside a step that they feed."""

import argparse
import importlib.util
import io
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from train.bench import timing
from train.common import data, pictures
from train.common.feed import Feed
from train.common.image_folder import write_records
from train.common.loop import Phase, batches
from train.common.parallel import data_parallel
from train.common.stored import cores

BASELINE, READER, GOAL = "one core", "all cores", 0.8
"""The goal is of the rate of all cores by what one reaches times their number."""
RESIDENT, FED, STEP_GOAL = "batch on the device", "batches fed", 1.05
ACCELERATOR = 3.0
"""How many times as long as decoding a batch the accelerator takes for a step; it is stood in for by waiting."""
LEAST = 0.08


def add_options(parser: argparse.ArgumentParser) -> None:
    """The benchmark's own options."""
    parser.add_argument("--batch", type=int, default=128, help="images in a batch")
    parser.add_argument("--batches", type=int, default=4, help="batches that are read in a round")
    parser.add_argument("--sides", type=int, nargs=2, default=(500, 375), help="width and height of the photographs")
    parser.add_argument("--size", type=int, default=224, help="side of the crops")


def photograph(number: int, width: int, height: int) -> bytes:
    """A JPEG of about ImageNet's bytes a pixel: large shapes, and a texture."""
    from PIL import Image

    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
    shapes = coarse.resize((width, height), Image.Resampling.BICUBIC)
    texture = np.asarray(shapes, np.float32) + rng.normal(0, 12, (height, width, 1)).astype(np.float32)
    file = io.BytesIO()
    Image.fromarray(np.clip(texture, 0, 255).astype(np.uint8)).save(file, "jpeg", quality=90)
    return file.getvalue()


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Times readers in turn, and steps with and without them; prints tables and writes ``input.json``."""
    with tempfile.TemporaryDirectory() as folder:
        count = args.batch * args.batches
        files = [photograph(number, *args.sides) for number in range(count)]
        for name, own in (("train", files), ("test", files[:2])):
            write_records(Path(folder) / f"{name}.array_record", ((file, n % 2) for n, file in enumerate(own)))
        split = data.load(folder, image_size=args.size, random_crop=LEAST).train
        rows = timing.summarize(timing.interleave(readers(split, args), args.rounds), BASELINE)
        timing.show(f"{count} photographs of {args.sides} to crops of {args.size}, {cores()} cores", rows, BASELINE)
        rates = {row["variant"]: 1e3 * count / row["median_ms"] for row in rows}
        share = rates[READER] / rates[BASELINE] / cores()
        print(f"{rates[READER]:.0f} images/s on {cores()} cores: {share:.0%} of what one reaches, times {cores()}")
        with feed(split, args) as ahead:
            taken = steps(ahead, args, ACCELERATOR * args.batch / rates[READER])
            seconds = timing.interleave(taken, args.rounds)
        fed = timing.summarize(seconds, RESIDENT)
        timing.show(f"{args.batches} steps of an accelerator that takes {ACCELERATOR:g} times as long", fed, RESIDENT)
    bytes_ = float(np.mean([len(file) for file in files]))
    result = {"images": count, "bytes": bytes_, "sides": list(args.sides), "size": args.size, "cores": cores()}
    result |= {"images_per_second": rates, "share_of_cores": share, "goal": GOAL, "rows": rows}
    result |= {"step_goal": STEP_GOAL, "steps": fed}
    print(f"written: {timing.write(args.out, 'input', result)}", flush=True)
    return result


def readers(split: data.Split, args: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """name -> what reads all images once: on one core, on all, and by grain where it is installed."""
    images, numbers = split.images, np.arange(len(split))
    parts = np.array_split(numbers, args.batches)

    def crop(number: int) -> np.ndarray:
        (file,) = images.fetch([number])
        return pictures.part(file, 3, args.size, LEAST, np.random.default_rng(number))

    found: dict[str, Callable[[], Any]] = {
        BASELINE: lambda: [np.stack([crop(int(number)) for number in part]) for part in parts],
        READER: lambda: [images.drawn(part, 0, 0)[0] for part in parts],
    }
    if importlib.util.find_spec("grain"):
        import grain

        source = grain.MapDataset.source(range(len(split))).map(crop)
        threads = grain.ReadOptions(num_threads=cores(), prefetch_buffer_size=args.batch)
        found["grain, threads"] = lambda: list(source.to_iter_dataset(threads).batch(args.batch))
    return found


def feed(split: data.Split, args: argparse.Namespace) -> Feed:
    """Batches on the device, as the job makes them, for as long as they are asked for."""
    phase = Phase("bench", args.batches, 1, args.batch, 0, 0, False)
    return Feed(batches(phase, split, data_parallel("jit", jax.devices()[:1])), 0, sys.maxsize)


def steps(ahead: Feed, args: argparse.Namespace, seconds: float) -> dict[str, Callable[[], Any]]:
    """name -> so many steps of an accelerator that leaves this machine's cores alone, as long as each takes it."""
    resident = ahead.take(jax.numpy.zeros(()))

    def wait(batch: Any) -> Any:
        time.sleep(seconds)
        return np.float32(0)

    @jax.jit
    def step(before: jax.Array, batch: Any) -> jax.Array:
        return before + jax.pure_callback(wait, jax.ShapeDtypeStruct((), np.float32), batch["image"][0, 0, 0, 0])

    def all_steps(take: Callable[[jax.Array], Any]) -> jax.Array:
        result = jax.numpy.zeros(())
        for _ in range(args.batches):
            result = step(result, take(result))
        return result

    return {RESIDENT: lambda: all_steps(lambda before: resident), FED: lambda: all_steps(ahead.take)}
