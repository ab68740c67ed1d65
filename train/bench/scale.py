"""The cost of calls on networks of real size: seconds, programs compiled and memory, beside one forward pass."""

import argparse
import functools
import json
import multiprocessing
import resource
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import jaxcomp as jc
from train.bench import timing
from train.bench.networks import MobileNetV2, ResNet50, ResNet152, ViTB16, filled

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "ResNet-50": ResNet50,
    "ViT-B/16": ViTB16,
    "MobileNetV2": MobileNetV2,
    "ResNet-152": ResNet152,
}
SHAPE = (224, 224, 3)
COMPILED = "/jax/core/compile/backend_compile_duration"
Call = Callable[[], Any]


class Network(NamedTuple):
    """A network with random weights, and images.

    Attributes:
      apply_fn: ``apply_fn(params, images)``.
      params: its variables.
      batches: of images.
    """

    apply_fn: Callable[..., Any]
    params: Any
    batches: list[jax.Array]

    @property
    def example(self) -> jax.ShapeDtypeStruct:
        """One image's shape."""
        return jax.ShapeDtypeStruct((1, *self.batches[0].shape[1:]), jnp.float32)

    def rewritten(self, name: str) -> tuple[Callable[..., Any], Any]:
        """The network after a rewrite."""
        if name == "shrunk":
            keep = jc.rewrite.choose(0.5)
            return jc.rewrite.shrink(self.apply_fn, self.params, self.example, keep=keep)
        folded = jc.rewrite.fold_batch_norm(self.apply_fn, self.params, self.example)
        if name == "folded":
            return folded
        ranges = jc.rewrite.calibrate(*folded, self.batches[:1])
        return jc.rewrite.quantize(*folded, self.example, ranges=ranges)


def _recipe() -> jc.Compressor:
    both = jc.chain(jc.prune.magnitude(0.8, scope="global"), jc.quant.fake(8, axis=-1))
    return jc.partition([(".*/kernel", both)])


def _of_recipe(network: Network, name: str, jit: bool = False) -> Call:
    recipe, given = _recipe(), [network.params]
    call: Callable[..., Any] = getattr(recipe, name)
    if name != "init":
        given.append(jax.jit(recipe.init)(network.params))
    if name == "describe":
        given.append(0)
    return functools.partial(jax.jit(call) if jit else call, *given)


def _masks(network: Network, scope: Any) -> Call:
    pruner = jc.prune.magnitude(0.8, scope=scope)
    state = jax.jit(pruner.init)(network.params)
    return functools.partial(jax.jit(pruner.update), network.params, state, 0)


def _forward(network: Network, rewrite: str = "", jit: bool = True) -> Call:
    function, params = network.rewritten(rewrite) if rewrite else (network.apply_fn, network.params)
    return functools.partial(jax.jit(function) if jit else function, params, network.batches[0])


def _calibrate(network: Network) -> Call:
    return functools.partial(jc.rewrite.calibrate, *network.rewritten("folded"), network.batches)


def _quantize(network: Network) -> Call:
    folded = network.rewritten("folded")
    ranges = jc.rewrite.calibrate(*folded, network.batches[:1])
    return lambda: jc.rewrite.quantize(*folded, network.example, ranges=ranges)


def _on_data(network: Network, function: Callable[..., Any], *args: Any, **options: Any) -> Call:
    return lambda: function(network.apply_fn, network.params, network.batches, *args, **options)


def _pack(network: Network, load: bool) -> Call:
    path = Path(tempfile.mkdtemp()) / "model.jcz"
    params, state = network.params, jax.jit(_recipe().init)(network.params)
    view, notes = jax.jit(_recipe().apply)(params, state), _recipe().describe(params, state, 0)
    if not load:
        return lambda: jc.pack.save(path, view, notes=notes)
    jc.pack.save(path, view, notes=notes)
    return lambda: jc.pack.load(path)


def _export(network: Network, name: str, rewrite: str) -> Call:
    function, params = network.rewritten(rewrite)
    batches, write = network.batches[:1] if rewrite == "quantized" else None, getattr(jc.export, name)
    path = Path(tempfile.mkdtemp()) / name
    return lambda: write(path, function, params, network.example, batches=batches)


rewrite, trace = jc.rewrite, jc.trace
CALLS: dict[str, Callable[[Network], Call]] = {
    "forward, jitted": _forward,
    "forward": lambda n: _forward(n, jit=False),
    "recipe.init": lambda n: _of_recipe(n, "init"),
    "recipe.init, jitted": lambda n: _of_recipe(n, "init", True),
    "recipe.apply": lambda n: _of_recipe(n, "apply"),
    "recipe.apply, jitted": lambda n: _of_recipe(n, "apply", True),
    "recipe.describe": lambda n: _of_recipe(n, "describe"),
    "magnitude, layer, jitted": lambda n: _masks(n, "layer"),
    "magnitude, global, jitted": lambda n: _masks(n, "global"),
    "trace.groups": lambda n: lambda: trace.groups(n.apply_fn, n.params, n.example),
    "shrink": lambda n: lambda: n.rewritten("shrunk"),
    "factorize": lambda n: lambda: rewrite.factorize(n.apply_fn, n.params, n.example, energy=0.9),
    "fold_batch_norm": lambda n: lambda: n.rewritten("folded"),
    "calibrate": _calibrate,
    "quantize": _quantize,
    "ptq, 8 bits": lambda n: _on_data(n, jc.posttrain.ptq, jc.rewrite.Scheme(8)),
    "ptq, 4 bits": lambda n: _on_data(n, jc.posttrain.ptq, jc.rewrite.Scheme(4)),
    "round_weights": lambda n: _on_data(n, jc.posttrain.round_weights, jc.rewrite.Scheme(8, inputs=None), places=256),
    "sparsify": lambda n: _on_data(n, jc.posttrain.sparsify, 0.8, places=256),
    "sparsify, sparsegpt": lambda n: _on_data(n, jc.posttrain.sparsify, 0.8, method="sparsegpt", places=256),
    "pack.save": lambda n: _pack(n, False),
    "pack.load": lambda n: _pack(n, True),
    "export.onnx": lambda n: _export(n, "onnx", "folded"),
    "export.onnx, quantized": lambda n: _export(n, "onnx", "quantized"),
    "export.litert": lambda n: _export(n, "litert", "folded"),
    "export.litert, quantized": lambda n: _export(n, "litert", "quantized"),
    "folded": lambda n: _forward(n, "folded", jit=False),
    "folded, jitted": lambda n: _forward(n, "folded"),
    "quantized": lambda n: _forward(n, "quantized", jit=False),
    "quantized, jitted": lambda n: _forward(n, "quantized"),
}
"""Name -> what is prepared of a network, untimed, so that it can be called."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The benchmark's own options."""
    usual = [name for name in NETWORKS if name != "ResNet-152"]
    parser.add_argument("--networks", nargs="+", default=usual, choices=list(NETWORKS), help="what is compressed")
    parser.add_argument("--calls", nargs="+", default=list(CALLS), choices=list(CALLS), help="what is timed")
    parser.add_argument("--images", type=int, default=64, help="for calibration")
    parser.add_argument("--batch", type=int, default=8, help="images in a batch")
    parser.add_argument("--timeout", type=int, default=300, help="seconds after which a call is given up")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Makes each call twice in a process of its own; prints a table a network and writes ``scale.json``."""
    result: dict[str, Any] = {"images": args.images, "batch": args.batch, "timeout": args.timeout, "networks": {}}
    path = args.out / "scale.json"
    if path.exists():  # what is not asked for stays
        result["networks"] = json.loads(path.read_text())["networks"]
    for name in args.networks:
        rows = result["networks"].setdefault(name, {})
        for call in args.calls:
            rows[call] = _measured(name, call, args) | {"images": args.images}
            print(f"{name}, {call}: {rows[call]}", flush=True)
            timing.write(args.out, "scale", result)
        _show(name, rows)
    print(f"written: {path}")
    return result


def _measured(name: str, call: str, args: argparse.Namespace) -> dict[str, Any]:
    """The figures of a call in a process of its own: the first, the second, or why there is none."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe(duplex=False)
    shape = (args.images // args.batch, args.batch, *SHAPE)
    child = spawn.Process(target=_alone, args=(theirs, NETWORKS[name], shape, call, args.timeout))
    child.start()
    theirs.close()
    found: dict[str, Any] = {}
    try:
        while True:
            found |= ours.recv()
    except EOFError:
        child.join()
    if child.exitcode == -signal.SIGALRM:
        found["skipped"] = f"not done in {args.timeout} s"
    elif child.exitcode:
        found["skipped"] = f"ended with {child.exitcode}"
    return found


def _alone(pipe: Any, model: Callable[[], nn.Module], shape: tuple[int, ...], call: str, timeout: int) -> None:
    """Prepares a call and makes it twice, telling of each as soon as it is done."""
    jax.config.update("jax_enable_compilation_cache", False)
    compiled: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if event == COMPILED else None
    )
    images = np.random.default_rng(1).standard_normal(shape, np.float32)
    try:
        signal.setitimer(signal.ITIMER_REAL, 2 * timeout)
        module = model()
        network = Network(module.apply, filled(module, jnp.zeros((1, *shape[2:]))), [jnp.asarray(x) for x in images])
        ready = CALLS[call](network)
        for turn in ("first", "second"):
            compiled.clear()
            before, began, busy = peak(reset=True), time.perf_counter(), time.process_time()
            signal.setitimer(signal.ITIMER_REAL, timeout)  # ends the process, whatever it is in
            jax.block_until_ready(ready())
            signal.setitimer(signal.ITIMER_REAL, 0)
            seconds, cpu = time.perf_counter() - began, time.process_time() - busy
            memory = (peak() - before) / 1e6
            pipe.send({turn: {"seconds": seconds, "cpu": cpu, "programs": len(compiled), "peak_mb": memory}})
    except Exception as error:
        pipe.send({"skipped": f"{type(error).__name__}: {str(error)[:200]}"})


def peak(reset: bool = False) -> float:
    """The most bytes that this process has held, since the last reset where the system can do that."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
        return 1024 * float(line.split()[1])
    except OSError:
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _show(name: str, rows: dict[str, Any]) -> None:
    plain = rows.get("forward, jitted", {}).get("second", {}).get("cpu")
    cells = []
    for call, row in rows.items():
        both = [row.get(turn) for turn in ("first", "second")]
        numbers = [f"{own[key]:.2f}" if own else "" for own in both for key in ("seconds", "cpu")]
        first, second = ((f"{own['programs']}", f"{own['peak_mb']:.0f}") if own else ("", "") for own in both)
        passes = f"{both[0]['cpu'] / plain:.1f}" if both[0] and plain else ""
        cells.append([call, *numbers, passes, first[0], second[0], first[1], row.get("skipped", "")])
    headings = ["", "s", "CPU s", "again s", "CPU s", "x forward", "programs", "again", "+ MB", ""]
    timing.table(f"{name}: what calls take", headings, cells)
