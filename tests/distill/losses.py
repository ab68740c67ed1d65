"""The table of losses: each with its float64 reference, what it takes, and which laws hold for it."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp import distill

from . import references as ref

BATCH, CLASSES = 8, 5
LOGITS, MAPS, TOKENS, FEATURES = (BATCH, CLASSES), (BATCH, 4, 4, 3), (BATCH, 6, 3), (BATCH, 7)


class Row(NamedTuple):
    """A loss and what is true of it.

    Attributes:
      loss: ``(student, teacher, labels, where) -> loss``.
      reference: ``(student, teacher, labels) -> loss`` in float64, of the examples that count.
      student, teacher: shapes, or trees of them.
      zero: whether it is 0 where student and teacher are equal.
      least: whether it has no gradient there.
      differentiable: whether the reference's slope is the gradient: not where parts of it are constants to that.
    """

    loss: Callable[..., Any]
    reference: Callable[..., Any]
    student: Any
    teacher: Any = None
    zero: bool = True
    least: bool = True
    differentiable: bool = True


def plain(
    loss: Callable[..., Any], reference: Callable[..., Any], shape: Any, teacher: Any = None, **options: Any
) -> Row:
    """A loss that takes no labels."""
    flags = {name: options.pop(name) for name in ("zero", "least", "differentiable") if name in options}
    return Row(
        lambda s, t, labels, where: loss(s, t, where=where, **options),
        lambda s, t, labels: reference(s, t, **options),
        shape,
        teacher or shape,
        **flags,
    )


def dkd() -> Row:
    options = {"alpha": 1.5, "beta": 4.0}
    return Row(
        lambda s, t, labels, where: distill.dkd(s, t, labels, temperature=2.0, where=where, **options),
        lambda s, t, labels: ref.dkd(s, t, labels, temperature=2.0, **options),
        LOGITS,
        LOGITS,
    )


def soft_and_hard() -> Row:
    return Row(
        lambda s, t, labels, where: distill.soft_and_hard(s, t, labels, temperature=2.0, alpha=0.75, where=where),
        lambda s, t, labels: 0.75 * ref.kl(s, t, 2.0) + 0.25 * ref.cross_entropy(s, labels, 0.0),
        LOGITS,
        LOGITS,
        zero=False,
        least=False,
    )


def vid() -> Row:
    loss = distill.vid(MAPS)
    values = {"variance": jnp.array([0.3, 2.0, -1.0])}
    return plain(
        functools.partial(loss.apply, values),
        functools.partial(ref.vid, raw=np.float64(values["variance"]), floor=1e-5),
        MAPS,
        zero=False,
    )


def ofd() -> Row:
    margin = jnp.array([-0.1, -0.5, -2.0])
    loss = functools.partial(distill.ofd, margin=margin)
    # Where the student is at the margin there is no loss; where it is at the teacher, below the margin, there is.
    return plain(loss, functools.partial(ref.ofd, margin=np.float64(margin)), MAPS, zero=False, least=False)


def review() -> Row:
    shapes = [(BATCH, 4, 4, 3), (BATCH, 2, 2, 6)], [(BATCH, 8, 8, 4), (BATCH, 2, 2, 5)]
    loss = distill.review(*shapes)
    values = loss.init(jax.random.key(0))
    theirs = jax.tree.map(np.float64, values)
    one = functools.partial(loss.apply, values)
    return plain(one, functools.partial(ref.review, values=theirs), *shapes, zero=False, least=False)


def pixels(s: Any, t: Any, *, where: Any, temperature: float) -> Any:
    where = None if where is None else jnp.broadcast_to(where[:, None, None], s.shape[:-1])
    return distill.per_position(distill.kl(s, t, temperature=temperature, where=where), where=where)


def rows() -> dict[str, Row]:
    """All of them."""
    other_features, other_maps = (BATCH, 2, 2), (BATCH, 4, 4, 5)
    pair = ((BATCH, 4, 4, 3), (BATCH, 4, 4, 2))
    levels = {"temperatures": (1.0, 3.0)}
    return {
        "kl": plain(distill.kl, ref.kl, LOGITS, temperature=2.0),
        "soft_and_hard": soft_and_hard(),
        "dkd": dkd(),
        "dist": plain(distill.dist, ref.dist, LOGITS, beta=2.0, gamma=3.0, temperature=2.0),
        "standardized": plain(distill.standardized(distill.kl), ref.standardized_kl, LOGITS, temperature=2.0),
        "multi_level": plain(distill.multi_level, ref.multi_level, LOGITS, **levels),
        "mse": plain(distill.mse, ref.mse, LOGITS),
        "cosine": plain(distill.cosine, ref.cosine, LOGITS),
        "rank_pairs": plain(distill.rank_pairs, ref.rank_pairs, LOGITS, temperature=2.0),
        "rank_list": plain(distill.rank_list, ref.rank_list, LOGITS, top=None, zero=False, least=False),
        "rank_list-top": plain(distill.rank_list, ref.rank_list, LOGITS, top=2, zero=False, least=False),
        "binary_kl": plain(distill.binary_kl, ref.binary_kl, LOGITS, temperature=2.0),
        "per_position": plain(pixels, ref.per_pixel_kl, MAPS, temperature=2.0),
        "channel_wise": plain(distill.channel_wise, ref.channel_wise, MAPS, temperature=2.0),
        "hint": plain(distill.hint, ref.hint, MAPS),
        "attention": plain(distill.attention, ref.attention, MAPS, power=2),
        "attention-wider": plain(distill.attention, ref.attention, TOKENS, (BATCH, 6, 5), power=1.5),
        "fsp": plain(distill.fsp, ref.fsp, pair),
        "similarity": plain(distill.similarity, ref.similarity, MAPS),
        "similarity-other": plain(distill.similarity, ref.similarity, MAPS, other_features),
        "correlation": plain(distill.correlation, ref.correlation, FEATURES, kernel="gaussian", gamma=0.4, order=2),
        "correlation-bilinear": plain(
            distill.correlation, ref.correlation, FEATURES, other_features, kernel="bilinear", gamma=1, order=1
        ),
        "pkt": plain(distill.pkt, ref.pkt, FEATURES),
        "nst": plain(distill.nst, ref.nst, MAPS, kernel="polynomial"),
        "nst-linear": plain(distill.nst, ref.nst, MAPS, other_maps, kernel="linear"),
        "nst-gaussian": plain(distill.nst, ref.nst, MAPS, kernel="gaussian", differentiable=False),
        "rkd_distance": plain(distill.rkd_distance, ref.rkd_distance, FEATURES),
        "rkd_angle": plain(distill.rkd_angle, ref.rkd_angle, FEATURES),
        "rkd_angle-other": plain(distill.rkd_angle, ref.rkd_angle, FEATURES, other_features),
        "vid": vid(),
        "ofd": ofd(),
        "hierarchical": plain(distill.hierarchical, ref.hierarchical, (BATCH, 5, 6, 2)),
        "review": review(),
    }
