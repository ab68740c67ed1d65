"""Ways to distil that ``train.distil`` compares: which loss, on what, and by what weight beside the labels'."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jaxcomp as jc
from jaxcomp.core.paths import named_leaves

Shape = Sequence[int]
Term = Callable[[Any, jax.Array, jax.Array, jax.Array], jax.Array]
"""``(learned values, the student's, the teacher's, labels) -> scalar``."""


class Method(NamedTuple):
    """A way to distil.

    Attributes:
      reads: what it compares: ``"logits"``, ``"features"`` (what the head reads) or ``"map"`` (the last feature map).
      soft: the weight of its loss, as published.
      make: ``(student's shape, teacher's shape) -> (init, loss)``: values from a key, and a :data:`Term`.
      hard: the weight of the labels' cross-entropy.
    """

    reads: str
    soft: float
    make: Callable[[Shape, Shape], tuple[Callable[[jax.Array], Any], Term]]
    hard: float = 1.0


def _plain(loss: Callable[..., jax.Array], labelled: bool = False) -> Callable[[Shape, Shape], Any]:
    """A loss without values of its own."""

    def term(values: Any, student: jax.Array, teacher: jax.Array, labels: jax.Array) -> jax.Array:
        del values
        return jnp.mean(loss(student, teacher, labels) if labelled else loss(student, teacher))

    return lambda student, teacher: (lambda key: {}, term)


def _connector(student: Shape, teacher: Shape) -> jc.distill.Connector:
    """What joins two shapes; tokens that are one or two more than a square have class tokens before them."""
    tokens = [shape[1] for shape in (student, teacher) if len(shape) == 3]
    extra = [count - math.isqrt(count) ** 2 for count in tokens]
    return jc.distill.connect(student, teacher, prefix=extra[0] if extra and extra[0] <= 2 else 0)


def _connected(loss: Callable[..., jax.Array]) -> Callable[[Shape, Shape], Any]:
    """A loss of features of one shape, which the student's are brought to."""

    def make(student: Shape, teacher: Shape) -> Any:
        connector = _connector(student, teacher)
        return connector.init, lambda values, s, t, labels: jnp.mean(loss(connector.apply(values, s), t))

    return make


def _variational(student: Shape, teacher: Shape) -> Any:
    connector, loss = _connector(student, teacher), jc.distill.vid(tuple(teacher))

    def init(key: jax.Array) -> Any:
        return {"connector": connector.init(key), "loss": loss.init(key)}

    def term(values: Any, s: jax.Array, t: jax.Array, labels: jax.Array) -> jax.Array:
        return jnp.mean(loss.apply(values["loss"], connector.apply(values["connector"], s), t))

    return init, term


def _same_places(student: Shape, teacher: Shape) -> Any:
    """Attention transfer where maps have other sizes: the student's are resized first, their channels stay."""
    connector = _connector(student, (*teacher[:-1], student[-1]))
    return connector.init, lambda values, s, t, labels: jnp.mean(jc.distill.attention(connector.apply(values, s), t))


_KL = functools.partial(jc.distill.kl, temperature=4.0)

METHODS: Mapping[str, Method] = {
    "alone": Method("logits", 0.0, _plain(jc.distill.mse)),
    "soft targets": Method("logits", 0.9, _plain(_KL), hard=0.1),
    "dkd": Method("logits", 1.0, _plain(functools.partial(jc.distill.dkd, temperature=4.0), labelled=True)),
    "dist": Method("logits", 1.0, _plain(jc.distill.dist)),
    "standardized": Method(
        "logits", 9.0, _plain(functools.partial(jc.distill.standardized(jc.distill.kl), temperature=2.0)), hard=0.1
    ),
    "multi-level": Method("logits", 1.0, _plain(jc.distill.multi_level)),
    "mse": Method("logits", 0.1, _plain(jc.distill.mse)),
    "hint": Method("map", 100.0, _connected(jc.distill.hint)),
    "attention": Method("map", 1000.0, _same_places),
    "vid": Method("map", 1.0, _variational),
    "similarity": Method("features", 3000.0, _plain(jc.distill.similarity)),
    "correlation": Method("features", 0.02, _plain(jc.distill.correlation)),
    "pkt": Method("features", 30000.0, _plain(jc.distill.pkt)),
    "rkd": Method(
        "features", 1.0, _plain(lambda s, t: 25 * jc.distill.rkd_distance(s, t) + 50 * jc.distill.rkd_angle(s, t))
    ),
}
"""By name; weights as in the guide on distillation. ``mse`` and ``correlation`` have no published one: ours."""


def where(infer: Callable[..., Any], variables: Any, images: jax.Array) -> dict[str, str]:
    """What of a classifier can be read beside its logits: ``{"features": name, "map": name}``; no map of an MLP.

    The map is what the last convolution or block of positions gives, after its activation where there is one.
    """
    rows = list(jc.trace.values(infer, variables, images))
    kernels = {path.removesuffix("/kernel"): leaf.ndim for path, leaf in named_leaves(variables["params"]).items()}
    found = {"features": f"{rows[-1].name}:input"}
    maps = [row for row in rows if len(row.shape) == 3 or (len(row.shape) == 4 and kernels.get(row.name, 4) == 4)]
    if maps:
        found["map"] = f"{maps[-1].name}:activated" if "activated" in maps[-1].stages else maps[-1].name
    return found
