"""Networks of one's own compute what their libraries compute, and what cannot be used is told."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.train.conftest import Cli
from train import models
from train.common.errors import UserError
from train.common.step import network
from train.models import own

NETS = """
import jax, jax.numpy as jnp
from flax import linen as nn
from flax import nnx


class Linen(nn.Module):
    classes: int
    width: int = 4

    @nn.compact
    def __call__(self, x, deterministic=True):
        x = nn.Conv(self.width, (3, 3))(x)
        x = nn.BatchNorm(use_running_average=deterministic, momentum=0.5)(x)
        x = nn.Dropout(0.5)(nn.relu(x).mean((1, 2)), deterministic=deterministic)
        return nn.Dense(self.classes)(x)


class Net(nnx.Module):
    def __init__(self, num_classes, width=4, *, rngs):
        self.layers = nnx.List([nnx.Conv(1, width, (3, 3), rngs=rngs)])
        self.norm = nnx.BatchNorm(width, momentum=0.5, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(width, num_classes, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.layers[0](x))).mean((1, 2))
        return self.head(self.dropout(x))


def plain(classes, width=4):
    def init(key, images):
        one, two = jax.random.split(key)
        size = images[0].size
        return {"w": jax.random.normal(one, (size, width)) / size, "v": jax.random.normal(two, (width, classes))}

    def apply(params, images, key=None):
        x = jnp.tanh(images.reshape(len(images), -1) @ params["w"])
        if key is not None:
            x = x * jax.random.bernoulli(key, 0.5, x.shape)
        return x @ params["v"]

    return init, apply


def equinox_net(classes, key):
    import equinox as eqx
    one, two = jax.random.split(key)
    layers = [eqx.nn.Lambda(jnp.ravel), eqx.nn.Linear(64, 4, key=one), eqx.nn.Dropout(0.5)]
    return eqx.nn.Sequential([*layers, eqx.nn.Linear(4, classes, key=two)])


def dictionary(classes):
    return {"classes": classes}


def three(classes):
    return len, len, len


def fails(classes):
    raise KeyError("no such width")


def needs(classes, depth):
    return None


class Counting(nnx.Module):
    def __init__(self, classes, rngs):
        self.count = nnx.Variable(jnp.zeros(()))


number = 3
"""
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1)).astype(np.uint8)
BATCH = {"image": IMAGES, "valid": np.ones(6, np.float32)}


@pytest.fixture(autouse=True)
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in {
        "ownnets/__init__.py": "",
        "ownnets/all.py": NETS,
        "ownnets/broken.py": "import nowhere",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def as_the_library_has_it(name: str, variables: Any, x: jax.Array) -> jax.Array:
    """Inference without anything of ours."""
    function = own.find(f"ownnets.all:{name}")
    if name == "Linen":
        return function(5).apply(variables, x)
    if name == "plain":
        return jnp.tanh(x.reshape(6, -1) @ variables["params"]["w"]) @ variables["params"]["v"]
    params = variables["params"]
    if name == "Net":
        mean, var = (variables["batch_stats"]["norm"][key] for key in ("mean", "var"))
        conv, norm, head = params["layers"]["0"], params["norm"], params["head"]
        y = jax.lax.conv_general_dilated(x, conv["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        y = (y + conv["bias"] - mean) / jnp.sqrt(var + 1e-5) * norm["scale"] + norm["bias"]
        return jnp.maximum(y, 0).mean((1, 2)) @ head["kernel"] + head["bias"]
    first, last = (params["layers"][number] for number in ("1", "3"))
    return (x.reshape(6, -1) @ first["weight"].T + first["bias"]) @ last["weight"].T + last["bias"]


@pytest.mark.parametrize("name", ["Linen", "Net", "plain", "equinox_net"])
def test_a_network_computes_what_its_library_computes(name: str) -> None:
    if name == "equinox_net":
        pytest.importorskip("equinox")
    model = network(models.create(f"ownnets.all:{name}", 5), (0.5,), (0.25,))
    variables = model.init(jax.random.key(0), IMAGES)
    x = (jnp.asarray(IMAGES, jnp.float32) / 255 - 0.5) / 0.25
    wanted = as_the_library_has_it(name, variables, x)
    assert wanted.shape == (6, 5)
    np.testing.assert_allclose(model.infer(variables, IMAGES), wanted, rtol=1e-4, atol=1e-5)
    learn = jax.jit(model.learn)
    (one, stats), (same, _), (other, _) = (learn(variables, BATCH | {"step": np.int32(n)}) for n in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (np.asarray(one) != np.asarray(other)).any()  # what is dropped belongs to the step
    assert set(stats) == set(variables) - {"params"}
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), dict(stats), {key: variables[key] for key in stats})
    assert jax.tree.leaves(moved) == [True] * (2 if name in ("Linen", "Net") else 0)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("ownnet.all:Linen", {}, "there is no module 'ownnet' in .*, which has: ownnets, nor among what is installed"),
        ("ownnets.al:Linen", {}, "there is no module ownnets.al; ownnets has: all, broken"),
        ("ownnets.all.deep:Linen", {}, "ownnets.all is a module, and no package: it holds no 'deep'"),
        ("ownnets.broken:Linen", {}, "importing ownnets.broken fails: ModuleNotFoundError: No module named 'nowhere'"),
        ("ownnets.all:plane", {}, "has no function 'plane'; it has: plain, Counting, Linen, Net, dictionary"),
        ("ownnets.all:number", {}, "has no function 'number'; it has: "),
        (
            "ownnets.all:dictionary",
            {},
            r"must give a Flax Linen module, .* or a pair \(init, apply\); it gave a builtins",
        ),
        ("ownnets.all:three", {}, "it gave a tuple of 3"),
        ("ownnets.all:fails", {}, "it fails: KeyError: 'no such width'"),
        ("ownnets.all:needs", {}, "it needs depth: give them as options of the model"),
        ("ownnets.all:Linen", {"depth": 3}, r"it has no option \['depth'\]; it has: \['width'\]"),
        ("ownnets.all:Counting", {}, "it has variables of kind Variable: Param, BatchStat and random ones can be"),
        ("ownnets", {}, "one of your own is package.module:function"),
    ],
)
def test_what_cannot_be_used_is_told(name: str, options: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        models.create(name, 5, options)


@pytest.mark.exhaustive
def test_the_job_takes_it(cli: Cli, nets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(nets))
    done = cli(f"--workdir={nets / 'run'}", "--model=ownnets.all:Linen", "--config.student.options={'width': 4}")
    assert done.returncode == 0, done.stderr
    about = json.loads((nets / "run" / "config.json").read_text())
    assert [about[phase]["model"] for phase in ("teacher", "student")] == ["ownnets.all:Linen"] * 2
    assert (about["teacher"]["options"], about["student"]["options"]) == ({}, {"width": 4})
    alone = cli(f"--artifact={nets / 'run' / 'model.jcz'}", module="train.evaluate")
    assert (alone.returncode, "say so with --model=ownnets.all:Linen" in alone.stderr) == (1, True)
