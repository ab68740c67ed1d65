"""The README's code runs as it stands, given a model, a teacher and data."""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import jaxcomp as jc

README = (Path(__file__).parents[1] / "README.md").read_text()


class Net(nn.Module):
    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        return nn.Dense(3)(nn.relu(nn.Dense(8)(images.reshape(images.shape[0], -1))))


def test_the_code_runs(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    model, images = Net(), jnp.ones((4, 2, 2, 1))
    params = model.init(jax.random.key(0), images)["params"]
    tx = optax.sgd(0.1)
    names: dict[str, Any] = {
        "jc": jc,
        "jax": jax,
        "optax": optax,
        "model": model,
        "teacher": lambda images: jnp.zeros((len(images), 3)),
        "tx": tx,
        "params": params,
        "apply_fn": lambda params, images: model.apply({"params": params}, images),
        "images": images,
        "shapes": jax.eval_shape(lambda: params),
        "batches": [jnp.linspace(-1, 1, 16).reshape(images.shape)],
    }
    train, ship = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    exec(train, names)
    trained, _, _ = names["step"](params, tx.init(params), names["state"], {"image": images}, 0)
    assert jax.tree.structure(trained) == jax.tree.structure(params)
    assert jc.pack.load("model.jcz")[0]["Dense_1"]["kernel"].shape == (4, 8)
    exec(ship, names)
    small_fn, small = names["small_fn"], names["small"]
    np.testing.assert_allclose(names["int_fn"](names["ints"], images), small_fn(small, images), atol=0.05)


def test_it_is_read_in_ten_minutes() -> None:
    assert len(README.split()) <= 900
