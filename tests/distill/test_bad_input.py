"""What losses refuse, and what they say then."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp import distill
from jaxcomp.core.errors import ArgumentError

Z, TWO, MAPS = jnp.zeros((3, 4)), jnp.zeros((2, 4)), jnp.zeros((3, 2, 2, 5))
LABELS = jnp.zeros(3, int)
ON_LOGITS = {
    name: getattr(distill, name)
    for name in ("kl", "dist", "multi_level", "mse", "cosine", "rank_pairs", "rank_list", "binary_kl")
} | {
    "dkd": lambda s, t, **options: distill.dkd(s, t, LABELS, **options),
    "standardized": distill.standardized(distill.kl),
}
ON_FEATURES = {
    name: getattr(distill, name)
    for name in (
        "hint", "attention", "similarity", "correlation", "pkt", "nst", "rkd_distance", "rkd_angle", "hierarchical",
        "channel_wise",
    )
}  # fmt: skip


@pytest.mark.parametrize("name", ["kl", "dkd", "dist", "rank_pairs", "binary_kl", "channel_wise", "standardized"])
@pytest.mark.parametrize("temperature", [0, -1.0, float("nan")])
def test_temperatures_that_are_not_above_0(name, temperature):
    args = (MAPS, MAPS) if name == "channel_wise" else (Z, Z)
    with pytest.raises(ArgumentError, match="temperature must be above 0, got"):
        (ON_LOGITS | ON_FEATURES)[name](*args, temperature=temperature)


@pytest.mark.parametrize("name", ON_LOGITS)
def test_other_numbers_of_classes(name):
    with pytest.raises(ArgumentError, match=r"got \(3, 4\) and \(3, 7\): jc.distill.map_classes shows logits as"):
        ON_LOGITS[name](Z, jnp.zeros((3, 7)))


@pytest.mark.parametrize("name", ["hint", "attention", "channel_wise", "nst", "hierarchical"])
def test_other_shapes_of_features(name):
    message = r"got \(3, 2, 2, 5\) and \(3, 4, 4, 5\): jc.distill.connect\(student.shape, teacher.shape\) makes one"
    with pytest.raises(ArgumentError, match=message):
        ON_FEATURES[name](MAPS, jnp.zeros((3, 4, 4, 5)))


@pytest.mark.parametrize("name", ["similarity", "correlation", "pkt", "rkd_distance", "rkd_angle"])
def test_other_batches(name):
    with pytest.raises(ArgumentError, match=r"one batch, got \(3, 4\) and \(2, 4\)"):
        ON_FEATURES[name](Z, TWO)


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("dist", 2), ("multi_level", 2), ("similarity", 2), ("correlation", 2), ("rkd_distance", 2), ("rkd_angle", 3),
        ("pkt", 3),
    ],
)  # fmt: skip
def test_batches_too_small_to_compare_in(name, least):
    few = jnp.zeros((least - 1, 4))
    message = f"of at least {least} examples, got ({least - 1}, 4)"
    with pytest.raises(ArgumentError, match=re.escape(message)):
        (ON_LOGITS | ON_FEATURES)[name](few, few)


@pytest.mark.parametrize("name", ["dist", "multi_level"])
def test_logits_that_are_no_matrix(name):
    with pytest.raises(ArgumentError, match=r"takes \[batch, classes\] logits of at least 2 examples, got \(3, 2, 4\)"):
        ON_LOGITS[name](jnp.zeros((3, 2, 4)), jnp.zeros((3, 2, 4)))


@pytest.mark.parametrize("name", ["attention", "nst", "channel_wise"])
def test_features_without_positions(name):
    with pytest.raises(ArgumentError, match=r"takes \[batch, positions..., channels\], got \(3, 4\)"):
        ON_FEATURES[name](Z, Z)


@pytest.mark.parametrize("where", [np.ones(2, bool), np.ones(3, int), np.ones((3, 1), bool)])
@pytest.mark.parametrize("name", ON_LOGITS | ON_FEATURES)
def test_masks_that_do_not_fit(name, where):
    args = (Z, Z) if name in ON_LOGITS else (MAPS, MAPS)
    message = f"where must hold bools of shape (3,).*, got {where.dtype} of shape {where.shape}"
    with pytest.raises(ArgumentError, match=re.escape(message).replace(r"\.\*", ".*")):
        (ON_LOGITS | ON_FEATURES)[name](*args, where=where)


REFUSED = {
    r"labels must be integers of shape \(3,\), got float32 of shape \(3,\)": lambda: distill.dkd(Z, Z, jnp.zeros(3)),
    r"labels must be integers of shape \(3,\), got int32 of shape \(2,\)": lambda: distill.dkd(Z, Z, LABELS[:2]),
    r"smoothing is a share of probability and must be in \[0, 1\), got 1": lambda: distill.cross_entropy(
        Z, LABELS, smoothing=1
    ),
    r"labels must be of the logits' shape \(3, 4\), got \(3,\)": lambda: distill.binary_cross_entropy(Z, LABELS),
    "temperatures must hold at least one, got none": lambda: distill.multi_level(Z, Z, temperatures=()),
    "temperature must be above 0, got 0": lambda: distill.multi_level(Z, Z, temperatures=(1, 0)),
    "top counts places, at least 1, got 0": lambda: distill.rank_list(Z, Z, top=0),
    r"one integer for each of 4 classes, got shape \(3,\)": lambda: distill.map_classes(Z, [0, 1, 2], 3),
    r"classes in \[0, 2\), or to -1, got 0 to 2": lambda: distill.map_classes(Z, [0, 1, 2, 0], 2),
    r"or to -1, got -2 to 1": lambda: distill.map_classes(Z, [0, 1, -2, 0], 2),
    r"losses of positions, \[batch, ...\], got \(3,\)": lambda: distill.per_position(jnp.zeros(3)),
    r"where must hold bools of shape \(3, 4\), got": lambda: distill.per_position(Z, where=np.ones(3, bool)),
    "power must be at least 1, got 0.5": lambda: distill.attention(MAPS, MAPS, power=0.5),
    "kernel must be one of polynomial, gaussian, linear, got 'cubic'": lambda: distill.nst(MAPS, MAPS, kernel="cubic"),
    "got 'rbf', 0.4 and 2": lambda: distill.correlation(Z, Z, kernel="rbf"),
    "got 'gaussian', 0 and 2": lambda: distill.correlation(Z, Z, gamma=0),
    "got 'gaussian', 0.4 and 0": lambda: distill.correlation(Z, Z, order=0),
    "the teacher's two layers must have one batch and the same positions": lambda: distill.fsp(
        (MAPS, MAPS), (MAPS, jnp.zeros((3, 4, 4, 5)))
    ),
    r"the same channels, got \(5, 5\) and \(5, 2\)": lambda: distill.fsp((MAPS, MAPS), (MAPS, MAPS[..., :2])),
    r"one number for each of 5 channels, got \(4,\)": lambda: distill.ofd(MAPS, MAPS, jnp.zeros(4)),
    r"hierarchical takes \[batch, h, w, channels\], got \(3, 4\)": lambda: distill.hierarchical(Z, Z),
    "variance must be above floor, and that above 0, got 1e-06 and 1e-05": lambda: distill.vid((3, 4), variance=1e-6),
    "the loss was made for features of 8 channels": lambda: distill.vid((3, 8)).apply({}, Z, Z),
    "as many student layers as teacher layers": lambda: distill.review([MAPS.shape], []),
    r"review takes \[batch, h, w, channels\]": lambda: distill.review([(3, 4)], [(3, 4)]),
    "the loss was made for 1 layers, got 2 and 1": lambda: distill.review([MAPS.shape], [MAPS.shape]).apply(
        [{}], [MAPS, MAPS], [MAPS]
    ),
    "crd needs a temperature above 0": lambda: distill.crd((3, 4), (3, 4), 10, temperature=0),
    r"a momentum in \[0, 1\)": lambda: distill.crd((3, 4), (3, 4), 10, momentum=1),
    r"labels must be \[examples\] integers and count at least 1": lambda: distill.crd_negatives(np.zeros(3), 4),
    "there are no negatives": lambda: distill.crd_negatives(np.zeros(3, int), 4),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_else_is_refused(message):
    with pytest.raises(ArgumentError, match=message):
        REFUSED[message]()


def test_places_in_a_memory_that_are_no_integers_of_the_batch():
    loss = distill.crd((3, 4), (3, 4), 10, features=2)
    values, memory = jax.eval_shape(loss.init, jax.random.key(0))
    for index, negatives in ((LABELS[:2], jnp.zeros((3, 5), int)), (LABELS, LABELS), (LABELS, jnp.zeros((3, 5)))):
        with pytest.raises(ArgumentError, match=r"index must be integers of shape \(3,\) and negatives of \(3, K\)"):
            jax.eval_shape(loss.apply, values, memory, Z, Z, index, negatives)


NO_ARRAYS = ([[0.0]], [Z, Z], 1.0, None, "logits", {"logits": Z}, jax.eval_shape(lambda: Z))
OTHERS = {
    "cross_entropy": (distill.cross_entropy, (Z, LABELS), ("logits", "labels")),
    "soft_and_hard": (distill.soft_and_hard, (Z, Z, LABELS), ("student", "teacher", "labels")),
    "dkd": (distill.dkd, (Z, Z, LABELS), ("student", "teacher", "labels")),
    "binary_cross_entropy": (distill.binary_cross_entropy, (Z, Z), ("logits", "labels")),
    "per_position": (distill.per_position, (Z,), ("values",)),
    "ofd": (distill.ofd, (MAPS, MAPS, jnp.zeros(5)), ("student", "teacher", "margin")),
    "ofd_margin": (distill.ofd_margin, (Z, Z), ("scale", "bias")),
    "store_labels": (lambda z: distill.store_labels(z, 2), (Z,), ("logits",)),
    "load_labels": (lambda stored: distill.load_labels(stored, 5, 2), (jnp.zeros(3, jnp.uint8),), ("stored",)),
    "connect": (lambda x: distill.connect((3, 4), (3, 5)).apply({}, x), (Z,), ("features",)),
    "fsp": (lambda s, t: distill.fsp((s, MAPS), (MAPS, t)), (MAPS, MAPS), (r"student\[0\]", r"teacher\[1\]")),
    "fsp of one": (distill.fsp, ((MAPS, MAPS), (MAPS, MAPS)), ("student", "teacher")),
    **{name: (loss, (MAPS, MAPS), ("student", "teacher")) for name, loss in ON_FEATURES.items()},
    **{name: (loss, (Z, Z), ("student", "teacher")) for name, loss in ON_LOGITS.items()},
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_array(name):
    loss, args, names = OTHERS[name]
    for i, argument in enumerate(names):
        for other in NO_ARRAYS:
            with pytest.raises(ArgumentError, match=f"{argument} must be (an array|the features of two), got "):
                loss(*args[:i], other, *args[i + 1 :])
    if name in ON_LOGITS | ON_FEATURES:
        for other in ([True] * 3, True, "all"):
            with pytest.raises(ArgumentError, match=r"where must be an array, got (list|bool|str)"):
                loss(*args, where=other)


@pytest.mark.parametrize("name", ["kl", "hint", "cross_entropy", "ofd_margin", "store_labels"])
def test_numpys_float64_is_float32_where_jax_has_no_other(name):
    loss, args, _ = OTHERS[name]
    assert loss(*(np.asarray(x, np.float64 if x.dtype == jnp.float32 else x.dtype) for x in args)).dtype != np.float64


@pytest.mark.parametrize("name", [*ON_LOGITS, *ON_FEATURES])
def test_complex_numbers(name):
    args = MAPS if name in ("attention", "nst", "hierarchical", "channel_wise") else Z
    with pytest.raises(ArgumentError, match=r"of real numbers, got complex64 of shape .*: give its absolute values"):
        (ON_LOGITS | ON_FEATURES)[name](args + 1j, args)


ON_ONE = {
    "cross_entropy": lambda z: distill.cross_entropy(z, jnp.zeros(z.shape[:-1], int)),
    "binary_cross_entropy": lambda z: distill.binary_cross_entropy(z, jnp.zeros(z.shape)),
    "map_classes": lambda z: distill.map_classes(z, [0] * sum(z.shape[-1:]), 2),
    "store_labels": lambda z: distill.store_labels(z, 2),
}


@pytest.mark.parametrize("name", [*ON_LOGITS, *ON_ONE])
@pytest.mark.parametrize("shape", [(), (3, 0)])
def test_logits_of_no_class(name, shape):
    z = jnp.zeros(shape)
    with pytest.raises(ArgumentError, match=r"must be \[..., classes\], of a class or more, got shape"):
        ON_ONE[name](z) if name in ON_ONE else ON_LOGITS[name](z, z)


@pytest.mark.parametrize("name", ["hint", "attention", "nst", "channel_wise"])
def test_features_of_no_channel(name):
    with pytest.raises(ArgumentError, match="a number or more"):
        ON_FEATURES[name](MAPS[..., :0], MAPS[..., :0])
