"""Backbones give maps of halved sizes; segmenters and detectors give of them what they say."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from tests.train.models.tiny import TINY, small_backbone
from train import models
from train.common.errors import UserError


def shapes(name: str, classes: int, options: dict[str, Any], *image: int) -> Any:
    module = models.create(name, classes, options)
    example = jax.ShapeDtypeStruct(image, jnp.float32)
    given = jax.eval_shape(lambda key, x: module.init_with_output(key, x)[0], jax.random.key(0), example)
    return jax.tree.map(lambda leaf: leaf.shape, given)


def test_every_model_has_a_tiny_one() -> None:
    assert {own.model for own in TINY.values()} == set(models.MODELS)


@pytest.mark.parametrize("name", [*models.BACKBONES][::3])
def test_backbones_give_four_maps_at_strides_4_to_32(name: str) -> None:
    sizes = [own[1:3] for own in shapes(name, 0, {}, 2, 64, 96, 3)]
    if name in ("resnet", "wide_resnet"):  # of small images
        assert sizes == [(64, 96), (32, 48), (16, 24)]
    else:
        assert sizes == [(16, 24), (8, 12), (4, 6), (2, 3)]


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", [name for i, name in enumerate(models.BACKBONES) if i % 3])
def test_so_do_the_others(name: str) -> None:
    test_backbones_give_four_maps_at_strides_4_to_32(name)


@pytest.mark.parametrize("backbone", models.BACKBONES)
def test_detectors_and_segmenters_stand_on_every_backbone(backbone: str) -> None:
    options = {"backbone": backbone, "backbone_options": small_backbone(backbone), "width": 6}
    maps = shapes(backbone, 0, options["backbone_options"], 2, 18, 22, 3)
    head = [*("centernet", "deeplab", "ssd")][list(models.BACKBONES).index(backbone) % 3]
    own = shapes(head, 5, options, 2, 18, 22, 3)
    finest = maps[0][:3]
    if head == "centernet":
        assert own == {"heat": (*finest, 5), "size": (*finest, 2), "offset": (*finest, 2)}
    elif head == "deeplab":
        assert own == (2, 18, 22, 5)
    else:
        anchors = 3 * sum(rows * columns for _, rows, columns, _ in maps)
        assert own == {"classes": (2, anchors, 6), "boxes": (2, anchors, 4), "anchors": (2, anchors, 4)}


def test_a_unet_gives_a_class_for_each_pixel() -> None:
    assert shapes("unet", 3, {"widths": (4, 6, 8), "attention": False}, 2, 16, 24, 1) == (2, 16, 24, 3)


def test_a_unet_says_what_sides_it_takes() -> None:
    with pytest.raises(ValueError, match="4 levels of U-Net need sides that are multiples of 8, got 16x20"):
        shapes("unet", 3, {}, 1, 16, 20, 3)


def test_what_gives_no_maps_is_told() -> None:
    with pytest.raises(UserError, match=r"'cnn' gives 'centernet' no maps; the backbones are: .*mobilenet_v2"):
        models.create("centernet", 3, {"backbone": "cnn"})
    with pytest.raises(UserError, match=r"model 'mobilenet_v2' has no option \['depth'\]"):
        models.create("centernet", 3, {"backbone_options": {"depth": 3}})
