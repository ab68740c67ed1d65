"""The parity law on networks as users write them: results, new states and gradients, eval and train.

Those of ``train.models`` are held to it in tests/rewrite/test_every_call.py.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxcomp.rewrite import shrink
from jaxcomp.trace import groups
from jaxcomp.trace.channels import coupling
from tests.rewrite import models, models_nnx
from tests.rewrite.parity import TOLERANCE, randomize, worst
from tests.train.models import tiny

pytestmark = pytest.mark.exhaustive
RNG = np.random.default_rng(0)
IMAGE = jnp.asarray(RNG.standard_normal((2, 8, 8, 3)), jnp.float32)
PHOTO = jnp.asarray(RNG.standard_normal(tiny.IMAGES.shape), jnp.float32)
SERIES = jnp.asarray(RNG.standard_normal((2, 4, 5)), jnp.float32)


class Case(NamedTuple):
    """A model, its input, and how many channels each group of it has that can be cut."""

    model: Any
    example: jax.Array
    channels: tuple[int, ...]
    train: bool = False


PARITY = {
    "cnn": Case(models.CNN(), IMAGE, (6, 8, 10)),
    "resnet": Case(models.BasicResNet(), IMAGE, (6, 6, 10, 10)),
    "resnet_train": Case(models.BasicResNet(train=True), IMAGE, (6, 6, 10, 10), True),
    "bottleneck_train": Case(tiny.made("resnet_bottleneck"), PHOTO, (4, 4, 4, 8, 8, 16, 32), True),
    "option_a": Case(models.OptionA(), IMAGE, (4, 4, 4, 8, 8, 16)),
    "mobile": Case(models.MobileBlock(), IMAGE, (4, 6, 12)),
    "mobilenet_v3_train": Case(tiny.made("mobilenet_v3"), PHOTO, (8, 8, 8, 8, 16, 16, 16, 24, 96), True),
    "densenet_train": Case(models.Dense(train=True), IMAGE, (4, 4, 4, 6), True),
    "vit": Case(models.ViT(), IMAGE, (3, 3, 4, 4, 4, 4, 12, 16, 16)),
    "vit_fused": Case(models.ViT(fused=True), IMAGE, (3, 3, 4, 4, 12, 16, 16)),
    "lstm": Case(models.Recurrent(nn.LSTMCell(6)), SERIES, (6,)),
    "optimized_lstm": Case(models.Recurrent(nn.OptimizedLSTMCell(6)), SERIES, (6,)),
    "gru": Case(models.Recurrent(nn.GRUCell(6)), SERIES, (6,)),
    "convnext": Case(models.ConvNeXt(), IMAGE, (8, 16)),
    "shufflenet": Case(models.ShuffleNet(), IMAGE, (2, 2, 4, 4, 4)),
    "swin": Case(models.Swin(), IMAGE, (2, 2, 4, 4, 8, 10, 12, 12)),
    "scanned_layers": Case(models.Scanned(), IMAGE, (8, 10)),
    "nnx_resnet_train": Case(models_nnx.BasicResNet, IMAGE, (5, 6, 9, 10), True),
    "nnx_vit": Case(models_nnx.ViT, IMAGE, (3, 4, 4, 12, 16)),
}

SHIPPED = {name: Case(tiny.made(name), PHOTO, ()) for name in ("googlenet", "mixer", "mobilenet_v3", "unet")}
"""Of ``train.models``, whose parity is tests/rewrite/test_every_call.py's."""

CASES = PARITY | SHIPPED

DISTINCT = (
    *("cnn", "resnet", "bottleneck_train", "option_a", "mobilenet_v3", "densenet_train", "googlenet", "vit_fused"),
    *("lstm", "gru", "mixer", "convnext", "unet", "shufflenet", "swin", "scanned_layers", "nnx_resnet_train"),
)
"""Those that hold each way to build a network once: for what goes by the groups that were found."""


def prepared(case: Case) -> tuple[Callable[..., Any], Any]:
    """What is applied, and random variables for it."""
    if isinstance(case.model, type):
        return _prepared_nnx(case)
    variables = randomize(jax.eval_shape(case.model.init, jax.random.key(0), case.example))
    if case.train:
        told = {} if hasattr(case.model, "train") else {"train": True}
        return lambda v, x: case.model.apply(v, x, **told, mutable=["batch_stats"]), variables
    return case.model.apply, variables


def _prepared_nnx(case: Case) -> tuple[Callable[..., Any], Any]:
    model = nnx.eval_shape(lambda: case.model(nnx.Rngs(0)))
    model.train() if case.train else model.eval()
    graph, state = nnx.split(model)

    def apply_fn(state: Any, x: jax.Array) -> Any:
        merged = nnx.merge(graph, state, copy=True)
        out = merged(x)
        return (out, nnx.state(merged, nnx.BatchStat)) if case.train else out

    return apply_fn, randomize(state)


@pytest.mark.parametrize("name", PARITY)
def test_parity(name: str) -> None:
    apply_fn, variables = prepared(CASES[name])
    found = groups(apply_fn, variables, CASES[name].example)
    assert tuple(sorted(group.size for group in found)) == CASES[name].channels
    assert worst(apply_fn, variables, CASES[name].example) <= TOLERANCE


@pytest.mark.parametrize("name", PARITY)
def test_readers_that_are_seen_at_once_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    apply_fn, variables = prepared(CASES[name])
    at_once = groups(apply_fn, variables, CASES[name].example)
    monkeypatch.setattr(coupling, "_plain_readers", lambda program, origins: frozenset())
    later = groups(apply_fn, variables, CASES[name].example)
    assert at_once.coupling.readers == later.coupling.readers
    assert str(at_once) == str(later)


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
