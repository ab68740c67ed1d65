"""The table of compressors under law: name -> factory. ``KERNEL`` and ``BIAS`` fit the containers' paths."""

from collections.abc import Callable

import optax

import jaxcomp as jc

from .channels import channels
from .gradients import given

KERNEL = r"(.*/)?(kernel|1/1)"
BIAS = r"(.*/)?(bias|0)"
STEPS = 3


def cubic() -> optax.Schedule:
    return optax.polynomial_schedule(0.0, 0.8, 3, STEPS + 1)


def recipe() -> jc.Compressor:
    sparse_int4 = jc.chain(jc.prune.magnitude(cubic(), scope="global"), jc.quant.fake(4, axis=-1))
    return jc.partition([(KERNEL, sparse_int4), (BIAS, jc.quant.fake(8, symmetric=False)), (".*", jc.identity())])


def nested() -> jc.Compressor:
    return jc.partition([(KERNEL, jc.partition([(".*", jc.prune.magnitude(cubic()))])), (".*", jc.quant.fake(2))])


def gathered() -> jc.Compressor:
    to_nm = jc.prune.prune(
        optax.linear_schedule(0.0, 0.5, STEPS), "movement", pattern=jc.prune.nm(2, 4), distribution="global"
    )
    return given(jc.partition([(KERNEL, to_nm)]))


def exchanged() -> jc.Compressor:
    blocks = jc.prune.prune(0.5, regrow="rigl", distribution="erk", pattern=jc.prune.blocks((2, 2)), every=2)
    return given(jc.partition([(KERNEL, blocks), (BIAS, jc.prune.prune(0.5, regrow="set"))]))


def fakes() -> dict[str, Callable[[], jc.Compressor]]:
    """All pairs of kind, granularity and bits."""
    of_tensor = {"symmetric": (2,), "affine": (4, 8)}
    of_channel = {"symmetric": (4, 8), "affine": (2,)}
    return {
        f"{kind}-{granularity}-int{bits}": lambda b=bits, a=axis, s=kind == "symmetric": jc.quant.fake(
            b, axis=a, symmetric=s
        )
        for granularity, axis, table in (("tensor", None, of_tensor), ("channel", -1, of_channel))
        for kind, sizes in table.items()
        for bits in sizes
    }


COMPRESSORS: dict[str, Callable[[], jc.Compressor]] = {
    "magnitude-layer": lambda: jc.prune.magnitude(0.5),
    "magnitude-layer-cubic": lambda: jc.prune.magnitude(cubic()),
    "magnitude-global": lambda: jc.prune.magnitude(0.5, scope="global"),
    "magnitude-global-cubic": lambda: jc.prune.magnitude(cubic(), scope="global"),
    "chain": lambda: jc.chain(jc.prune.magnitude(0.5), jc.quant.fake(4)),
    **fakes(),
    "lowrank-energy": lambda: jc.lowrank.project(energy=0.8),
    "lowrank-rank": lambda: jc.lowrank.project(optax.linear_schedule(1.0, 0.3, STEPS + 1)),
    "identity": jc.identity,
    "partition": recipe,
    "every-2": lambda: jc.every(2, nested()),
    "straight-through": lambda: jc.straight_through(recipe()),
    "channels-global-cubic": lambda: channels(cubic(), scope="global"),
    "prune-movement-nm-global": gathered,
    "prune-blocks-erk-regrow": exchanged,
    "prune-lamp-nested": lambda: jc.prune.prune(cubic(), distribution="lamp", nested=True, minimum=2),
    "prune-taylor-averaged": lambda: given(jc.prune.prune(cubic(), jc.prune.taylor(decay=0.9), distribution="global")),
    "prune-fisher": lambda: given(jc.prune.prune(cubic(), jc.prune.fisher(4, decay=0.9), distribution="global")),
    "prune-top-kast": lambda: jc.prune.top_kast(jc.prune.prune(0.7, "random"), jc.prune.prune(0.5, "random")),
    "learned-threshold": lambda: jc.prune.learned_threshold(-1.0),
    "quant-blocks-nf4": lambda: jc.partition([(KERNEL, jc.quant.fake("nf4", block=7))]),
    "quant-blocks-mse-fp4": lambda: jc.partition([(KERNEL, jc.quant.fake("fp4_e2m1", block=8, fit=jc.quant.mse(6)))]),
    "quant-percentile": lambda: jc.quant.fake(4, axis=-1, symmetric=False, fit=jc.quant.percentile(0.9)),
    "quant-fp8": lambda: jc.quant.fake("fp8_e4m3"),
    "quant-binary": lambda: jc.quant.binary(axis=-1, slope=jc.quant.approximate_sign),
    "quant-balanced": lambda: jc.quant.binary(balanced=True),
    "quant-ternary-blocks": lambda: jc.partition([(KERNEL, jc.quant.ternary(block=8))]),
    "quant-ttq": jc.quant.ttq,
    "quant-dorefa": lambda: jc.quant.dorefa(4),
    "quant-lsq": lambda: jc.quant.lsq(3, axis=-1),
    "quant-lsq-plus": lambda: jc.quant.lsq(3, symmetric=False),
    "quant-pact-apot": lambda: jc.quant.pact("apot4"),
    "share-cluster": lambda: jc.partition([(KERNEL, jc.chain(jc.prune.magnitude(0.5), jc.share.cluster(4)))]),
    "share-channels-learned": lambda: jc.partition(
        [(KERNEL, jc.share.cluster(2, axis=-1, start="linear", learn=True))]
    ),
    "share-global": lambda: jc.share.cluster(3, scope="global", start="density"),
    "share-dkm": lambda: jc.partition([(KERNEL, jc.share.dkm(3))]),
    "rated-lsq": lambda: jc.partition([(KERNEL, jc.chain(jc.prune.magnitude(0.5), jc.pack.rated(jc.quant.lsq(3))))]),
    "quant-pruned-lsq": lambda: jc.partition([(KERNEL, jc.chain(jc.prune.magnitude(0.5), jc.quant.lsq(4, block=8)))]),
}

EXHAUSTIVE = (
    *("prune-blocks", "prune-lamp", "prune-taylor", "prune-fisher", "prune-top-kast"),
    *("quant-blocks-mse", "quant-percentile", "quant-fp8", "quant-binary", "quant-ternary", "quant-ttq"),
    "quant-dorefa",
    *("quant-lsq-plus", "quant-pact", "quant-pruned", "share-channels", "share-global", "share-dkm", "rated"),
)
"""Beginnings of the names that are left to the exhaustive tests: compiling them takes minutes."""
EXHAUSTIVE_RUNS = {"prune": ("scan", "pmap", "explicit-mesh")}
"""Beginnings of names, and the executions that are left to the exhaustive tests."""

RESHAPES = ("quant-dorefa",)
"""Beginnings of the names whose views are no projections: a view of a view is another one."""
MIXES = ("lowrank",)
"""Beginnings of the names whose views mix entries: zeros do not stay, and sums round as they are ordered."""
COSTLY = ("magnitude", "chain", "channels", "prune")
"""Beginnings of the names whose compilation takes a second per tensor: each container in one dtype alone."""
SMALL = (*COSTLY, "symmetric-tensor", "affine-tensor")
"""Beginnings of the names that are compiled over small containers alone."""
