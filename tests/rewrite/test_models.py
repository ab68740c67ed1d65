"""The parity law on networks as users write them: results, new states and gradients, eval and train."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxcomp.rewrite import shrink
from jaxcomp.trace import groups

from . import models
from .parity import TOLERANCE, randomize, worst

pytestmark = pytest.mark.exhaustive
RNG = np.random.default_rng(0)
IMAGE = jnp.asarray(RNG.standard_normal((2, 8, 8, 3)), jnp.float32)
SERIES = jnp.asarray(RNG.standard_normal((2, 4, 5)), jnp.float32)


@pytest.fixture(autouse=True)
def _no_leftovers() -> Iterator[None]:
    yield
    jax.clear_caches()


class Case(NamedTuple):
    """A model, its input, and how many groups of it can be cut."""

    model: nn.Module
    example: jax.Array
    free: int
    train: bool = False


CASES = {
    "cnn": Case(models.CNN(), IMAGE, 3),
    "resnet": Case(models.BasicResNet(), IMAGE, 4),
    "resnet_train": Case(models.BasicResNet(train=True), IMAGE, 4, True),
    "option_a": Case(models.OptionA(), IMAGE, 6),
    "mobile": Case(models.MobileBlock(), IMAGE, 3),
    "densenet": Case(models.Dense(), IMAGE, 4),
    "densenet_train": Case(models.Dense(train=True), IMAGE, 4, True),
    "vit": Case(models.ViT(), IMAGE, 9),
    "vit_fused": Case(models.ViT(fused=True), IMAGE, 5),
    "lstm": Case(models.Recurrent(nn.LSTMCell(6)), SERIES, 1),
    "optimized_lstm": Case(models.Recurrent(nn.OptimizedLSTMCell(6)), SERIES, 1),
    "gru": Case(models.Recurrent(nn.GRUCell(6)), SERIES, 1),
    "mixer": Case(models.Mixer(), IMAGE, 2),
    "convnext": Case(models.ConvNeXt(), IMAGE, 2),
    "unet": Case(models.UNet(), IMAGE, 3),
    "scanned_layers": Case(models.Scanned(), IMAGE, 2),
}


def prepared(case: Case) -> tuple[Callable[..., Any], Any]:
    """What is applied, and random variables for it."""
    variables = randomize(jax.eval_shape(case.model.init, jax.random.key(0), case.example))
    if case.train:
        return lambda v, x: case.model.apply(v, x, mutable=["batch_stats"]), variables
    return case.model.apply, variables


@pytest.mark.parametrize("name", CASES)
def test_linen(name: str) -> None:
    apply_fn, variables = prepared(CASES[name])
    assert len(groups(apply_fn, variables, CASES[name].example)) == CASES[name].free
    assert worst(apply_fn, variables, CASES[name].example) <= TOLERANCE


def test_dropout_in_training() -> None:
    model = models.ViT(train=True)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
    variables = randomize(jax.eval_shape(model.init, keys, IMAGE))

    def apply_fn(v: Any, x: jax.Array, key: jax.Array) -> Any:
        return model.apply(v, x, rngs={"dropout": key})

    assert worst(apply_fn, variables, IMAGE, jax.random.key(3)) <= TOLERANCE


def test_new_statistics_come_back_small() -> None:
    apply_fn, variables = prepared(CASES["resnet_train"])
    keep = {"params/Conv_0/kernel": np.arange(6) < 4}
    new, small = shrink(apply_fn, variables, IMAGE, keep=keep)
    _, states = jax.eval_shape(new, small, IMAGE)
    assert jax.tree.map(jnp.shape, states["batch_stats"]) == jax.tree.map(jnp.shape, small["batch_stats"])
    assert states["batch_stats"]["BatchNorm_0"]["mean"].shape == (4,)


class Block(nnx.Module):
    """Convolution, norm, pool, dense."""

    def __init__(self, rngs: nnx.Rngs):
        self.conv = nnx.Conv(3, 6, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.more = nnx.Conv(6, 8, (3, 3), rngs=rngs)
        self.drop = nnx.Dropout(0.3, rngs=rngs)
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.norm(self.conv(x)))
        x = self.drop(nnx.relu(self.more(x)))
        return self.head(x.mean((1, 2)))


@pytest.mark.parametrize("train", [False, True])
def test_nnx(train: bool) -> None:
    model = Block(nnx.Rngs(0))
    model.train() if train else model.eval()
    graph, state = nnx.split(model)

    def apply_fn(state: Any, x: jax.Array) -> Any:
        merged = nnx.merge(graph, state, copy=True)
        return merged(x), nnx.state(merged, nnx.BatchStat)

    assert {group.name for group in groups(apply_fn, state, IMAGE)} == {"conv/kernel", "more/kernel"}
    assert worst(apply_fn, randomize(state), IMAGE) <= TOLERANCE
