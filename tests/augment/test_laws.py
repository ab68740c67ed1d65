"""What holds of every augmentation: views belong to key and index alone; types, shapes, ranges and labels are kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxcomp import augment
from tests.augment.cases import ALL, CLASSES, KEY, MIXING, SINGLE, batch, same

pytestmark = pytest.mark.exhaustive  # a minute of compilation; the rest of this folder is quick

every = pytest.mark.parametrize("name", ALL)


@every
def test_a_view_belongs_to_key_and_index(name: str) -> None:
    """In another order, a smaller batch, and at other places; neighbors stay together where they are mixed."""
    images, labels = batch()
    indices = np.arange(16, dtype=np.int32) + 100
    expected = ALL[name](KEY, images, labels, indices=indices)
    pairs = np.random.default_rng(1).permutation(8)[:4]
    chosen = (pairs[:, None] * 2 + np.arange(2)).ravel() if name in MIXING else np.array([11, 3, 5, 0, 15, 8, 9, 2])
    found = ALL[name](KEY, images[chosen], labels[chosen], indices=indices[chosen])
    same(found, jax.tree.map(lambda x: x[chosen], expected))


@every
def test_keys_and_indices_change_views(name: str) -> None:
    images, labels = batch()
    first = np.asarray(ALL[name](KEY, images, labels)[0])
    if name == "normalize":
        return
    assert (first != ALL[name](jax.random.key(8), images, labels)[0]).any()
    assert (first != ALL[name](KEY, images, labels, indices=np.arange(16) + 1)[0]).any()
    assert (first != images).any()


@every
def test_places_in_the_batch_are_the_indices_that_are_not_given(name: str) -> None:
    images, labels = batch()
    same(ALL[name](KEY, images, labels), ALL[name](KEY, images, labels, indices=np.arange(16, dtype=np.int64)))


EXPLICIT = ("flip", "random_resized_crop", "rand_augment", "cutmix")


@pytest.mark.parametrize(
    ("name", "axis"), [*((name, AxisType.Auto) for name in ALL), *((name, AxisType.Explicit) for name in EXPLICIT)]
)
def test_eight_devices_are_one(name: str, axis: AxisType) -> None:
    mesh = jax.make_mesh((8,), ("x",), axis_types=(axis,))
    images, labels = batch()
    spread = [jax.device_put(x, NamedSharding(mesh, PartitionSpec("x"))) for x in (images, labels)]
    program = jax.jit(ALL[name].__call__).lower(KEY, *spread).compile()
    text = program.as_text()
    assert not [word for word in ("all-reduce", "all-gather", "all-to-all", "collective") if word in text]
    found = program(KEY, *spread)
    assert not found[0].sharding.is_fully_replicated
    same(found, ALL[name](KEY, images, labels))
    if axis == AxisType.Explicit:
        with jax.set_mesh(mesh):
            same(ALL[name](KEY, *spread), found)


@every
def test_jit_changes_no_bit(name: str) -> None:
    """With more about it in the same program; of uint8 images every other test says so."""
    images, labels = batch(dtype=jnp.float32)
    found, classes = jax.jit(lambda images, labels: ALL[name](KEY, images / 4 * 4, labels))(images, labels)
    same((found, classes), ALL[name](KEY, images, labels))
    if name != "normalize":
        assert float(found.min()) >= 0
        assert float(found.max()) <= 1


@every
@pytest.mark.parametrize(("dtype", "channels"), [(np.uint8, 1), (jnp.bfloat16, 3)])
def test_type_shape_range_and_classes_are_kept(name: str, dtype: np.dtype, channels: int) -> None:
    images, labels = batch(15, channels, dtype)
    found, classes = ALL[name](KEY, images, labels)
    assert found.shape == images.shape
    if name == "normalize":
        assert found.dtype == (jnp.float32 if dtype == np.uint8 else dtype)
    else:
        assert found.dtype == images.dtype
        assert float(found.min()) >= 0
        assert float(found.max()) <= (255 if dtype == np.uint8 else 1)
    if name in MIXING:
        assert classes.shape == (15, CLASSES)
        np.testing.assert_array_equal(classes.sum(1), np.ones(15))
        assert float(classes.min()) >= 0
    else:
        np.testing.assert_array_equal(classes, labels)


@every
def test_strict_modes_change_nothing(name: str) -> None:
    images, labels = batch(15, 3, jnp.bfloat16)
    expected = ALL[name](KEY, images, labels)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        same(jax.jit(ALL[name].__call__)(KEY, images, labels), expected)


@pytest.mark.parametrize("name", ["mixup", "random_resized_crop", "rand_augment"])
def test_vmap_is_one_batch_after_another(name: str) -> None:
    images, labels = batch()
    keys = jax.random.split(KEY, 2)
    pairs = images.reshape(2, 8, *images.shape[1:]), labels.reshape(2, 8)
    found = jax.vmap(ALL[name].__call__)(keys, *pairs)
    for i in range(2):
        same(jax.tree.map(lambda x, i=i: x[i], found), ALL[name](keys[i], *(part[i] for part in pairs)))


@pytest.mark.parametrize("name", ["mixup", "flip"])
def test_labels_may_be_missing(name: str) -> None:
    images, labels = batch()
    found, none = ALL[name](KEY, images)
    assert none is None
    same(found, ALL[name](KEY, images, augment.Labels(labels))[0])


def test_a_sequence_is_its_parts_with_other_keys() -> None:
    images, labels = batch()
    parts = SINGLE["pad_crop"], SINGLE["rand_augment"], MIXING["cutmix"]
    found = augment.sequence(*parts)(KEY, images, labels)
    alone = augment.sequence(parts[0])(KEY, images, labels)
    assert (np.asarray(found[0]) != alone[0]).any()
    twice = augment.sequence(parts[0], parts[0])(KEY, images)[0]
    assert (np.asarray(twice) != augment.sequence(parts[0])(KEY, alone[0])[0]).any()
    same(augment.sequence()(KEY, images, labels), (jnp.asarray(images), jnp.asarray(labels)))


def test_one_of_some_is_as_likely_as_the_others() -> None:
    images = np.full((3000, 1, 1, 1), 9, np.uint8)
    marks = [augment.random_erasing(1.0, area=(1, 1), ratio=(1, 1), fill=n) for n in range(3)]
    found = np.bincount(np.asarray(augment.one_of(*marks)(KEY, images)[0]).ravel(), minlength=3)
    assert found.sum() == 3000
    assert (np.abs(found - 1000) < 90).all()  # 3.5 deviations


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
def test_keys_of_other_generators_draw_by_image_too(impl: str) -> None:
    images, labels = batch()
    key = jax.random.key(3, impl=impl)
    expected = SINGLE["rand_augment"](key, images, labels)
    same(SINGLE["rand_augment"](key, images[4:6], labels[4:6], indices=np.array([4, 5])), [x[4:6] for x in expected])


def test_keys_of_the_old_kind_are_the_same() -> None:
    images, _ = batch()
    same(SINGLE["flip"](jax.random.PRNGKey(7), images), SINGLE["flip"](KEY, images))


def test_nothing_happens_at_zero_strength() -> None:
    images, labels = batch()
    images = np.minimum(images, 254)  # the weakest solarizing inverts what is white, as torchvision's does
    whole = augment.random_resized_crop(scale=(1, 1), ratio=(1.25, 1.25))  # the images' own ratio
    others = (
        augment.pad_crop(0),
        augment.cutout(0),
        augment.random_erasing(0),
        augment.color_jitter(),
        augment.rand_augment(0),
    )
    weak = augment.rand_augment(1, 0, operations=augment.OPERATIONS[:12])
    still = augment.sequence(augment.flip(0), *others, weak, whole)
    same(still(KEY, images, labels), (jnp.asarray(images), jnp.asarray(labels)))
    floats = np.minimum(batch(dtype=jnp.float32)[0], 0.99)
    np.testing.assert_allclose(still(KEY, floats)[0], floats, atol=1e-6)
