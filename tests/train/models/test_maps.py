"""Backbones give maps of halved sizes; segmenters and detectors give of them what they say."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from train import models
from train.common.errors import UserError


def shapes(name: str, classes: int, options: dict[str, Any], *image: int) -> Any:
    module = models.create(name, classes, options)
    example = jax.ShapeDtypeStruct(image, jnp.float32)
    given = jax.eval_shape(lambda key, x: module.apply(module.init(key, x), x), jax.random.key(0), example)
    return jax.tree.map(lambda leaf: leaf.shape, given)


@pytest.mark.parametrize("name", models.BACKBONES)
def test_backbones_give_maps_of_halved_sizes(name: str) -> None:
    maps = shapes(name, 0, {}, 2, 64, 96, 3)
    sides = [own[1:3] for own in maps]
    assert len(maps) in (3, 4)
    assert sides == [(sides[0][0] // 2**i, sides[0][1] // 2**i) for i in range(len(maps))]


@pytest.mark.parametrize("backbone", models.BACKBONES)
@pytest.mark.parametrize("side", [32, 50])
def test_a_center_net_stands_on_every_backbone(backbone: str, side: int) -> None:
    own = shapes("centernet", 3, {"backbone": backbone}, 2, side, side, 3)
    finest = shapes(backbone, 0, {}, 2, side, side, 3)[0][:3]
    assert own == {"heat": (*finest, 3), "size": (*finest, 2), "offset": (*finest, 2)}


def test_a_unet_gives_a_class_for_each_pixel() -> None:
    for attention in (True, False):
        assert shapes("unet", 3, {"widths": (4, 6, 8), "attention": attention}, 2, 16, 24, 1) == (2, 16, 24, 3)


def test_a_unet_says_what_sides_it_takes() -> None:
    with pytest.raises(ValueError, match="4 levels of U-Net need sides that are multiples of 8, got 16x20"):
        shapes("unet", 3, {}, 1, 16, 20, 3)


def test_what_gives_no_maps_is_told() -> None:
    with pytest.raises(UserError, match=r"'cnn' gives 'centernet' no maps; the backbones are: .*mobilenet_v2"):
        models.create("centernet", 3, {"backbone": "cnn"})
    with pytest.raises(UserError, match=r"model 'mobilenet_v2' has no option \['depth'\]"):
        models.create("centernet", 3, {"backbone_options": {"depth": 3}})
