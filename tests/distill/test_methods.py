"""What single losses promise beside the laws: their decompositions, maps of classes, memories, masks of positions."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp import distill

from . import references as ref

pytestmark = pytest.mark.exhaustive  # a minute of compilation; the rest of this folder is quick


def logits(rng, shape=(6, 10), spread=3.0):
    return np.float32(rng.normal(size=(2, *shape)) * spread)


def test_dkd_is_kl_where_the_others_weigh_what_they_weigh_there(rng):
    student, teacher = logits(rng)
    labels = rng.integers(0, 10, 6)
    own = np.take_along_axis(np.asarray(jax.nn.softmax(teacher / 2)), labels[:, None], 1)[:, 0]
    parts = [distill.dkd(student, teacher, labels, alpha=a, beta=1 - a, temperature=2.0) for a in (1.0, 0.0)]
    np.testing.assert_allclose(
        parts[0] + (1 - own) * parts[1], distill.kl(student, teacher, temperature=2.0), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32"])
def test_dkd_of_a_label_of_no_class_learns_from_the_teacher_alone(rng, dtype):
    student, teacher = logits(rng, (3, 300))
    labels = np.array([7, np.iinfo(dtype).max, -1 if dtype != "uint8" else 255]).astype(dtype)
    got = distill.dkd(student, teacher, labels, beta=2.0)
    known = distill.dkd(student, teacher, np.int32(labels), beta=2.0)
    np.testing.assert_allclose(got, known, rtol=1e-6)
    if dtype == "int32":
        np.testing.assert_allclose(got[2], 2 * distill.kl(student, teacher, temperature=4.0)[2], rtol=1e-5)


def test_a_teacher_that_is_sure_is_followed_to_the_end():
    """In probabilities, what is left of 1 would be 0."""
    teacher = jnp.array([[60.0, 1.0, 0.0, -3.0]])
    loss = jax.jit(lambda s: distill.dkd(s, teacher, jnp.array([0]), temperature=1.0).sum())
    value, gradient = jax.value_and_grad(loss)(jnp.zeros((1, 4)))
    others = ref.kl(np.zeros((1, 3)), np.float64(teacher[:, 1:]))
    np.testing.assert_allclose(value, np.log(4) + 8 * others[0], rtol=1e-5)
    assert np.isfinite(gradient).all()
    assert (gradient != 0).all()


LOSSES = {
    "kl": distill.kl,
    "dkd": lambda s, t: distill.dkd(s, t, jnp.zeros(s.shape[0], int)),
    "standardized": distill.standardized(distill.kl),
    "mse": distill.mse,
    "cosine": distill.cosine,
    "rank_pairs": distill.rank_pairs,
    "rank_list": distill.rank_list,
    "binary_kl": distill.binary_kl,
    "multi_level": distill.multi_level,
    "dist": lambda s, t: distill.dist(s, t, gamma=0.0),
}


@pytest.mark.parametrize("name", LOSSES)
def test_classes_that_both_rule_out_are_as_if_they_were_not_there(rng, name):
    loss = jax.jit(jax.value_and_grad(lambda s, t: LOSSES[name](s, t).sum()))
    student, teacher = logits(rng)
    student[:, 4] = teacher[:, 4] = -np.inf
    value, gradient = loss(student, teacher)
    wanted, slope = loss(np.delete(student, 4, 1), np.delete(teacher, 4, 1))
    factor = 0.9 if name == "multi_level" else 1.0  # the relations of classes are over their number
    if factor == 1.0 and name != "dist":  # whose correlations count classes of no probability
        np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(np.delete(gradient, 4, 1), slope, rtol=1e-4, atol=1e-6)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    assert not gradient[:, 4].any()


@pytest.mark.parametrize("name", ["kl", "mse", "rank_pairs", "rank_list", "binary_kl"])
def test_a_student_that_rules_out_what_the_teacher_holds_possible_is_infinitely_far(rng, name):
    student, teacher = logits(rng, (2, 4))
    student[1, 2] = -np.inf
    got = LOSSES[name](student, teacher)
    assert np.isfinite(got[0])
    assert got[1] == np.inf


@pytest.mark.parametrize("name", LOSSES)
def test_examples_that_are_padding_throughout_have_finite_gradients(rng, name):
    student, teacher = logits(rng, (4, 5))
    student[2] = teacher[2] = -np.inf
    loss = jax.jit(jax.value_and_grad(lambda s, t: LOSSES[name](s, t).sum()))
    value, gradient = loss(student, teacher)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_a_map_of_classes_sums_their_probabilities(rng):
    (z, _), to = logits(rng), [0, 0, 2, 3, -1, 3, 3, 0, 2, 2]
    got = distill.map_classes(z, to, 5, temperature=4.0)
    p = np.exp(np.float64(z) / 4)
    wanted = np.stack([p[:, np.array(to) == i].sum(1) for i in range(5)], 1)
    np.testing.assert_allclose(jax.nn.softmax(got / 4), wanted / wanted.sum(1, keepdims=True), rtol=1e-5)
    student = jnp.zeros((6, 5))
    value, gradient = jax.jit(jax.value_and_grad(lambda s: distill.kl(s, got, temperature=4.0).sum()))(student)
    assert np.isfinite(value)
    assert (gradient[:, 1] > 0).all()  # which the teacher has not, and rules out
    loss = jax.jit(lambda z: distill.kl(distill.map_classes(z, [*to[:9], 1], 5), student).sum())
    slope = jax.grad(loss)(jnp.asarray(z))
    assert np.isfinite(slope).all()
    assert not slope[:, 4].any()


def test_a_map_of_no_class_but_ruled_out_ones_has_finite_gradients():
    z = jnp.array([0.0, -jnp.inf, -jnp.inf])
    value, gradient = jax.value_and_grad(jax.jit(lambda z: distill.map_classes(z, [0, 1, 1], 2)[0]))(z)
    assert value == 0
    assert np.isfinite(gradient).all()
    assert distill.map_classes(z, [0, 1, 1], 2)[1] == -jnp.inf


@pytest.mark.parametrize("labels", [np.array([0, 3, 1, 2]), np.float32(np.eye(4)[[0, 3, 1, 2]])])
def test_smoothed_labels(rng, labels):
    z, _ = logits(rng, (4, 4))
    got = distill.cross_entropy(z, labels, smoothing=0.1)
    np.testing.assert_allclose(got, ref.cross_entropy(np.float64(z), [0, 3, 1, 2], 0.1), rtol=1e-5)
    both = distill.soft_and_hard(z, z, labels, alpha=0.25, smoothing=0.1)
    np.testing.assert_allclose(both, 0.75 * got, rtol=1e-5)


def test_smoothing_leaves_out_what_is_ruled_out_or_ignored():
    z = jnp.array([[0.0, 0.0, -jnp.inf], [0.0, 0.0, 0.0]])
    loss = jax.jit(lambda z: distill.cross_entropy(z, jnp.array([0, -1]), smoothing=0.2).sum())
    value, gradient = jax.value_and_grad(loss)(z)
    np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
    assert np.isfinite(gradient).all()
    assert not gradient[1].any()


def test_labels_of_many_classes_at_once(rng):
    z, _ = logits(rng, (5, 4))
    labels = np.array([[1, 0, -1, 0.3]] * 5, np.float32)
    p = 1 / (1 + np.exp(-np.float64(z)))
    terms = -labels * np.log(p) - (1 - labels) * np.log(1 - p)
    np.testing.assert_allclose(distill.binary_cross_entropy(z, labels), terms[:, [0, 1, 3]].sum(1), rtol=1e-5)
    mask = rng.random((5, 4)) < 0.5
    got = distill.binary_kl(z, z[::-1], where=mask)
    wanted = [ref.binary_kl(np.float64(a[m]), np.float64(b[m]), 1.0) for a, b, m in zip(z, z[::-1], mask, strict=True)]
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)


def test_positions_that_do_not_count(rng):
    student, teacher = logits(rng, (2, 3, 4, 5))
    mask = rng.random((2, 3, 4)) < 0.7
    got = distill.channel_wise(student, teacher, temperature=1.0, where=mask)
    for one, s, t, m in zip(got, student, teacher, mask, strict=True):
        np.testing.assert_allclose(one, ref.channel_wise(s[m][None], t[m][None], 1.0)[0], rtol=1e-4)
    values = np.abs(student[..., 0])
    np.testing.assert_allclose(
        distill.per_position(values, where=mask), [v[m].mean() for v, m in zip(values, mask, strict=True)], rtol=1e-5
    )
    assert not distill.per_position(values, where=np.zeros_like(mask)).any()


def test_margins_of_batch_norms():
    scale, bias = (
        np.float32(x) for x in zip(*itertools.product([0.01, -1.0, 3.0], [-20.0, -1.0, 0.0, 2.0, 17.0]), strict=True)
    )
    got = jax.jit(distill.ofd_margin)(scale, bias)
    near = np.abs(bias / scale) < 30  # further off, the reference cancels, too
    np.testing.assert_allclose(got[near], ref.ofd_margin(np.float64(scale[near]), np.float64(bias[near])), rtol=5e-4)
    far = bias / np.abs(scale) > 1000
    np.testing.assert_allclose(got[far], -(scale[far] ** 2) / bias[far], rtol=1e-3)
    np.testing.assert_array_equal(distill.ofd_margin(jnp.zeros(2), jnp.array([-2.0, 2.0])), [-2, 0])


class TestCRD:
    """Contrasts with a memory."""

    def setup_method(self):
        self.loss = distill.crd((4, 6), (4, 2, 2, 2), 20, features=5)
        self.values, self.memory = self.loss.init(jax.random.key(0))
        rng = np.random.default_rng(3)
        self.student, self.teacher = np.float32(rng.normal(size=(4, 6))), np.float32(rng.normal(size=(4, 2, 2, 2)))
        self.index, self.negatives = np.array([3, 19, 0, 7]), rng.integers(0, 20, (4, 9))
        self.step = jax.jit(self.loss.apply)

    def run(self, memory, **options):
        given = self.values, memory, self.student, self.teacher, self.index, self.negatives
        return self.step(*given, **options)

    def wanted(self, memory, keep=slice(None)):
        wide = jax.tree.map(np.float64, (self.values, memory))
        given = (x[keep] for x in (np.float64(self.student), np.float64(self.teacher), self.index, self.negatives))
        return ref.crd(*given, *wide, 0.07)

    def test_losses_and_memory_are_the_references(self):
        loss, memory = self.run(self.memory)
        wanted, log_z = self.wanted(self.memory)
        np.testing.assert_allclose(loss, wanted, rtol=1e-4)
        np.testing.assert_allclose(memory["log_z"], log_z, rtol=1e-5)
        assert memory["begun"]
        untouched = np.setdiff1d(np.arange(20), self.index)
        x = self.student @ self.values["student"]["kernel"]
        moved = 0.5 * self.memory["student"][self.index] + 0.5 * x / np.linalg.norm(x, axis=1, keepdims=True)
        np.testing.assert_allclose(
            memory["student"][self.index], moved / np.linalg.norm(moved, axis=1, keepdims=True), rtol=1e-5
        )
        np.testing.assert_array_equal(memory["student"][untouched], self.memory["student"][untouched])
        again, later = self.run(memory)
        np.testing.assert_allclose(again, self.wanted(memory)[0], rtol=1e-4)
        np.testing.assert_array_equal(later["log_z"], memory["log_z"])  # of the first batch, for good

    def test_what_does_not_count_is_not_remembered(self):
        keep = np.array([True, False, True, True])
        self.student[1] = np.nan
        self.index[1] = 500
        loss, memory = self.run(self.memory, where=keep)
        wanted, log_z = self.wanted(self.memory, keep)
        np.testing.assert_allclose(loss[keep], wanted, rtol=1e-4)
        np.testing.assert_allclose(memory["log_z"], log_z, rtol=1e-5)
        assert loss[1] == 0
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(memory))
        np.testing.assert_array_equal(memory["teacher"][19], self.memory["teacher"][19])
        loss, memory = self.run(self.memory, where=np.zeros(4, bool))
        assert not loss.any()
        for new, old in zip(jax.tree.leaves(memory), jax.tree.leaves(self.memory), strict=True):
            np.testing.assert_array_equal(new, old)

    def test_gradients_reach_the_student_and_both_projections_alone(self):
        def total(values, memory, student, teacher):
            return self.loss.apply(values, memory, student, teacher, self.index, self.negatives)[0].sum()

        memory = self.memory | {"begun": jnp.float32(1)}  # a bool has no gradient
        given = self.values, memory, self.student, self.teacher
        gradient = jax.grad(lambda v, m, s, t: total(v, m | {"begun": m["begun"] > 0}, s, t), (0, 1, 2, 3))
        values, memory, student, teacher = jax.jit(gradient)(*given)
        assert student.all()
        assert all(leaf.any() for leaf in jax.tree.leaves(values))
        assert not teacher.any()
        assert not any(leaf.any() for leaf in jax.tree.leaves(memory))

    @pytest.mark.parametrize("kind", ["Explicit", "Auto"])
    def test_a_batch_on_many_devices_is_a_batch_on_one(self, kind):
        axes = (getattr(jax.sharding.AxisType, kind),)
        mesh = jax.make_mesh((4,), ("x",), axis_types=axes, devices=jax.devices()[:4])
        wanted = self.run(self.memory)
        split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
        self.student, self.teacher, self.index, self.negatives = jax.device_put(
            (self.student, self.teacher, self.index, self.negatives), split
        )
        for a, b in zip(jax.tree.leaves(self.run(self.memory)), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)

    def test_strict_modes(self):
        given = self.values, self.memory, self.student, self.teacher, np.int32(self.index), np.int32(self.negatives)
        narrow = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), given)
        with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
            loss, memory = jax.eval_shape(self.loss.apply, *narrow)
        assert loss.dtype == jnp.float32
        assert jax.tree.map(lambda x: (x.shape, x.dtype), memory) == jax.tree.map(
            lambda x: (x.shape, x.dtype), self.memory
        )


def test_negatives_are_of_other_classes_and_all_of_them():
    labels = np.array([0, 2, 1, 0, 2, 2, 5])
    drawn = distill.crd_negatives(labels, 500)(jax.random.key(0), np.arange(7))
    for own, row in enumerate(np.asarray(drawn)):
        assert set(row) == {i for i in range(7) if labels[i] != labels[own]}
        counts = np.bincount(row)[np.unique(row)]
        assert counts.min() > 0.6 * 500 / len(counts)  # evenly


@pytest.mark.parametrize("name", ["vid", "review"])
def test_learned_values_have_gradients_beside_a_mesh(rng, name):
    shapes = {"vid": (8, 3, 4), "review": [(8, 4, 4, 3), (8, 2, 2, 4)]}[name]
    loss = distill.vid(shapes) if name == "vid" else distill.review(shapes, shapes)
    values = loss.init(jax.random.key(0))
    leaf = lambda node: isinstance(node, tuple)  # noqa: E731
    student, teacher = (jax.tree.map(lambda s: np.float32(rng.normal(size=s)), shapes, is_leaf=leaf) for _ in range(2))
    step = jax.jit(jax.grad(lambda values, s, t: (loss.apply(values, s, t) * jnp.arange(8.0)).sum()))
    wanted = step(values, student, teacher)
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Explicit,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    got = step(values, *jax.device_put((student, teacher), split))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert a.any()
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(b).max())


def test_negatives_are_found_inside_of_jit_too():
    labels = np.array([0, 1, 0, 2])
    drawn = jax.jit(lambda key: distill.crd_negatives(labels, 9)(key, jnp.arange(4)))(jax.random.key(0))
    assert (labels[np.asarray(drawn)] != labels[:, None]).all()
