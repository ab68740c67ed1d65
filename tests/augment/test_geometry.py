"""Boxes and masks move with their image, by slow loops and by what can be seen in the image itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp import augment
from jaxcomp.augment.affine import move_by
from jaxcomp.augment.operations import settings
from tests.augment.cases import GEOMETRIC, KEY, SINGLE

pytestmark = pytest.mark.exhaustive  # a minute of compilation; the rest of this folder is quick

HEIGHT, WIDTH, COUNT = 24, 32, 32


def drawn_boxes() -> tuple[np.ndarray, np.ndarray]:
    """A box an image, and the images in which it is white on black."""
    rng = np.random.default_rng(0)
    left, top = rng.integers(0, WIDTH - 8, COUNT), rng.integers(0, HEIGHT - 8, COUNT)
    boxes = np.stack([left, top, left + rng.integers(3, 9, COUNT), top + rng.integers(3, 9, COUNT)], 1)
    images = np.zeros((COUNT, HEIGHT, WIDTH, 1), np.uint8)
    for image, (x, y, right, bottom) in zip(images, boxes, strict=True):
        image[y:bottom, x:right] = 255
    return images, np.float32(boxes)[:, None]


@pytest.mark.parametrize("name", GEOMETRIC[:3])
def test_a_drawn_box_moves_with_its_corners(name: str) -> None:
    """Where nothing turns the box is what is white; to the pixel, and to two where images are resized."""
    images, boxes = drawn_boxes()
    found, labels = SINGLE[name](KEY, images, augment.Labels(boxes=boxes, masks=images[..., 0]))
    for image, (box,) in zip(np.asarray(found)[..., 0] > 127, labels.boxes, strict=True):
        assert_around(image, box, 1.0 if name == "random_resized_crop" else 0.0)
    if name != "random_resized_crop":
        np.testing.assert_array_equal(labels.masks, found[..., 0])
    else:
        assert ((labels.masks > 127) != (found[..., 0] > 127)).mean() < 0.05
        assert set(np.unique(labels.masks)) <= {0, 255}


def assert_around(white: np.ndarray, box: np.ndarray, slack: float) -> None:
    left, top, right, bottom = (float(x) for x in box)
    if not white.any():
        assert (right - left) * (bottom - top) <= slack * max(right - left, bottom - top)
        return
    y, x = np.nonzero(white)
    seen = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])
    np.testing.assert_allclose([left, top, right, bottom], seen, atol=slack)


@pytest.mark.parametrize("name", ["shear_x", "shear_y", "translate_x", "translate_y", "rotate"])
def test_a_turned_box_is_around_what_is_white(name: str) -> None:
    images, boxes = drawn_boxes()
    magnitude = 20.0 if name == "rotate" else -5.0 if "translate" in name else 0.3
    matrix = jnp.asarray(settings([(name, magnitude)] * COUNT, HEIGHT, WIDTH).matrix)
    found, labels = move_by(matrix, jnp.asarray(images), augment.Labels(boxes=boxes, masks=images[..., 0]), 0)
    np.testing.assert_array_equal(labels.masks, found[..., 0])
    for image, (box,) in zip(np.asarray(found)[..., 0] > 127, labels.boxes, strict=True):
        at_border = box[0] <= 0 or box[1] <= 0 or box[2] >= WIDTH or box[3] >= HEIGHT
        slack = 1.5 if name in ("rotate", "shear_x", "shear_y") else 0.0
        if not at_border:
            assert_around(image, box, slack)
        y, x = np.nonzero(image)  # what is cut off may be a corner: then the box is larger than what is left
        assert ((x >= box[0] - slack) & (x < box[2] + slack) & (y >= box[1] - slack) & (y < box[3] + slack)).all()


def test_boxes_turn_about_the_middle() -> None:
    matrix = jnp.asarray(settings([("rotate", 90.0)], 4, 8).matrix)
    labels = augment.Labels(boxes=jnp.array([[[4.0, 1.0, 6.0, 2.0], [0.0, 0.0, 8.0, 4.0]]]))
    moved = move_by(matrix, jnp.zeros((1, 4, 8, 1)), labels, 0)[1].boxes
    np.testing.assert_allclose(moved[0], [[3, 0, 4, 2], [2, 0, 6, 4]], atol=1e-4)


def test_each_image_moves_with_its_own_mask() -> None:
    """Posterizing keeps what is black black, and leaves what is white below 255: it moves nothing."""
    images, boxes = drawn_boxes()
    view = augment.trivial_augment(operations=["rotate", "translate_x", "posterize"])
    found, labels = view(KEY, images, augment.Labels(boxes=boxes, masks=images[..., 0]))
    np.testing.assert_array_equal(labels.masks > 0, found[..., 0] > 0)
    still = (np.asarray(found) % 255 > 0).any((1, 2, 3))
    assert 0 < still.sum() < COUNT
    np.testing.assert_array_equal(labels.boxes[still], boxes[still])


def test_what_is_not_geometric_leaves_boxes_and_masks_alone() -> None:
    images, boxes = drawn_boxes()
    given = augment.Labels(jnp.arange(COUNT), jnp.asarray(boxes), jnp.asarray(images[..., 0]))
    view = augment.sequence(
        augment.cutout(5), augment.random_erasing(1), augment.color_jitter(0.5, 0.5), augment.normalize(0.5, 0.5)
    )
    found = view(KEY, images, given)[1]
    for own, other in zip(found, given, strict=True):
        np.testing.assert_array_equal(own, other)


def test_a_box_that_has_left_the_image_has_no_area() -> None:
    matrix = jnp.asarray(settings([("translate_x", 30.0)], 4, 8).matrix)
    labels = augment.Labels(boxes=jnp.array([[[1.0, 1.0, 3.0, 3.0]]], jnp.bfloat16))
    moved = move_by(matrix, jnp.zeros((1, 4, 8, 1)), labels, 0)[1].boxes
    assert moved.dtype == jnp.bfloat16
    assert moved[0, 0].tolist() == [8.0, 1.0, 8.0, 3.0]


def test_pad_crop_and_flip_by_slow_loops() -> None:
    rng = np.random.default_rng(2)
    images = rng.integers(1, 256, (64, 5, 6, 3), np.uint8)
    view = augment.sequence(augment.pad_crop(1, fill=9), augment.flip())
    seen = set()
    for image, found in zip(images, np.asarray(view(KEY, images)[0]), strict=True):
        ways = [
            (dy, dx, mirrored)
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
            for mirrored in (False, True)
            if np.array_equal(found, slowly(image, dy, dx, mirrored, fill=9))
        ]
        assert len(ways) == 1
        seen.update(ways)
    assert len(seen) == 18


def slowly(image: np.ndarray, dy: int, dx: int, mirrored: bool, fill: int) -> np.ndarray:
    height, width, _ = image.shape
    moved = np.full_like(image, fill)
    for y in range(height):
        for x in range(width):
            if 0 <= y - dy < height and 0 <= x - dx < width:
                moved[y, x] = image[y - dy, x - dx]
    return moved[:, ::-1] if mirrored else moved


def test_masks_keep_their_type_under_vmap_and_jit() -> None:
    images, boxes = drawn_boxes()
    masks = jnp.asarray(images[..., 0] > 0)
    labels = augment.Labels(boxes=jnp.asarray(boxes), masks=masks)
    found = jax.jit(SINGLE["random_resized_crop"].__call__)(KEY, images, labels)[1]
    assert found.masks.dtype == bool
    assert found.boxes.dtype == jnp.float32
    assert found.classes is None
