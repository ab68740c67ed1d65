"""What is refused, in words that say what to do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp import augment
from jaxcomp.errors import ArgumentError
from tests.augment.cases import KEY, batch

IMAGES, LABELS = batch(4)
MAKERS = {
    "probability in [0, 1], got 1.5": lambda: augment.flip(1.5),
    "probability in [0, 1], got nan": lambda: augment.flip(float("nan")),
    "padding must be a number of pixels": lambda: augment.pad_crop(-1),
    "padding must be a number of pixels, 0 or more, got 0.5": lambda: augment.pad_crop(0.5),
    "size must be a number of pixels": lambda: augment.cutout(-3),
    "scale must be shares of the area": lambda: augment.random_resized_crop(scale=(0, 1)),
    "0 < least <= most <= 1, got (0.5, 0.1)": lambda: augment.random_resized_crop(scale=(0.5, 0.1)),
    "ratio must be widths by heights": lambda: augment.random_resized_crop(ratio=(-1, 1)),
    "size must be a height and a width": lambda: augment.random_resized_crop((0, 3)),
    "random_erasing: probability must be a probability in [0, 1], got -1": lambda: augment.random_erasing(-1),
    "random_erasing: area must be shares": lambda: augment.random_erasing(area=(0, 0.5)),
    "random_erasing: ratio must be widths": lambda: augment.random_erasing(ratio=(2, 1)),
    "brightness must be 0 or more": lambda: augment.color_jitter(brightness=-0.1),
    "hue must be a share of the circle in [0, 0.5]": lambda: augment.color_jitter(hue=0.6),
    "mixup: alpha must be above 0": lambda: augment.mixup(0),
    "cutmix: alpha must be above 0": lambda: augment.cutmix(float("nan")),
    "count must be a number of operations": lambda: augment.rand_augment(-1),
    "magnitude must be an integer from 0 to 30, got 31": lambda: augment.rand_augment(2, 31),
    "magnitude must be an integer from 0 to 30, got 0.5": lambda: augment.rand_augment(2, 0.5),
    "unknown ['blur']": lambda: augment.trivial_augment(operations=["blur"]),
    "got none": lambda: augment.rand_augment(operations=[]),
    "std must be above 0": lambda: augment.normalize([0.5], [0.0]),
    "like jc.augment.flip(), got <function flip": lambda: augment.sequence(augment.flip),
    "one_of: argument 0 must be an augmentation": lambda: augment.one_of("flip"),
    "one_of: one augmentation or more is needed": lambda: augment.one_of(),
    "argument 1 must be an augmentation": lambda: augment.sequence(augment.flip(), 3),
}
FLIP, MIX = augment.flip(), augment.mixup(classes=5)
CALLS = {
    "add an axis": lambda: FLIP(KEY, IMAGES[0]),
    "uint8, or floating point in [0, 1]": lambda: FLIP(KEY, IMAGES.astype(np.int32)),
    "one pixel or more": lambda: FLIP(KEY, IMAGES[:, :0]),
    "key must be a random key": lambda: FLIP(3, IMAGES),
    "key must be one key": lambda: FLIP(jax.random.split(KEY), IMAGES),
    "indices must be integers of shape [4]": lambda: FLIP(KEY, IMAGES, indices=np.arange(3)),
    "got float32 of shape (4,)": lambda: FLIP(KEY, IMAGES, indices=np.zeros(4, np.float32)),
    "labels must be an array of classes": lambda: FLIP(KEY, IMAGES, [1, 2, 3, 4]),
    "classes must be integers of shape [4]": lambda: FLIP(KEY, IMAGES, LABELS[:3]),
    "probabilities of shape [4, classes], got float32[4]": lambda: FLIP(KEY, IMAGES, np.zeros(4, np.float32)),
    "boxes must be floating point of shape [4, n, 4]": lambda: FLIP(
        KEY, IMAGES, augment.Labels(boxes=np.zeros((4, 1, 4), int))
    ),
    "masks must be of shape [4, 8, 10]": lambda: FLIP(KEY, IMAGES, augment.Labels(masks=np.zeros((4, 8, 8)))),
    "mixup(classes=5) was given class 9": lambda: MIX(KEY, IMAGES, np.array([0, 9, 1, 2])),
    "mixup(classes=5) was given probabilities of 3": lambda: MIX(KEY, IMAGES, np.zeros((4, 3), np.float32)),
    "must know how many: cutmix(classes=10)": lambda: augment.cutmix()(KEY, IMAGES, LABELS),
    "mixup cannot mix boxes and masks": lambda: MIX(
        KEY, IMAGES, augment.Labels(boxes=jnp.zeros((4, 1, 4)), masks=jnp.zeros((4, 8, 10)))
    ),
    "one_of: all must give images and labels of the same shapes": lambda: augment.one_of(FLIP, MIX)(
        KEY, IMAGES, LABELS
    ),
    "in a sequence too, class 9": lambda: augment.sequence(FLIP, MIX)(KEY, IMAGES, np.array([0, 9, 1, 2])),
    "rand_augment takes images of 1 channel or of 3": lambda: augment.rand_augment()(KEY, IMAGES[..., :2]),
    "color_jitter takes images of 1 channel or of 3": lambda: augment.color_jitter()(KEY, IMAGES[..., :2]),
    "must have 1 number or 3": lambda: augment.normalize([0.5, 0.5], [0.5, 0.5])(KEY, IMAGES),
}


@pytest.mark.parametrize("words", [*MAKERS, *CALLS])
def test_it_is_refused(words: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        {**MAKERS, **CALLS}[words]()
    assert words.rpartition("too, ")[2] in str(caught.value)


def test_augmentations_print_as_the_calls_that_made_them() -> None:
    policy = augment.rand_augment(1, 3, operations=["rotate"], fill=128)
    text = "sequence(flip(0.5), rand_augment(1, 3, operations=['rotate'], fill=128), trivial_augment())"
    assert repr(augment.sequence(FLIP, policy, augment.trivial_augment())) == text


def test_normalize_is_made_inside_of_jit_too():
    images = jnp.ones((1, 2, 2, 1))
    made = jax.jit(lambda images: augment.normalize([0.5], [0.25])(jax.random.key(0), images)[0])
    np.testing.assert_array_equal(made(images), 2)
    with pytest.raises(ArgumentError, match=r"'mean' is traced.* call normalize outside of jit"):
        jax.jit(lambda mean: augment.normalize(mean, 0.25)(jax.random.key(0), images)[0])(0.5)
