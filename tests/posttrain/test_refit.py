"""Refit: least squares by closed form; cut channels stay cut; what is computed comes nearer to the whole."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.paths import named_leaves
from jaxcomp.posttrain import refit
from jaxcomp.rewrite import choose, mask, shrink
from tests.rewrite import models
from tests.rewrite.parity import randomize


def mlp(p: Any, x: jax.Array) -> jax.Array:
    """Two layers."""
    return jax.nn.relu(x @ p["up"]) @ p["down"]


def test_two_layers_by_the_normal_equations() -> None:
    rng = np.random.default_rng(0)
    params = {"up": rng.standard_normal((5, 8)), "down": rng.standard_normal((8, 3))}
    params = {name: jnp.asarray(leaf, jnp.float32) for name, leaf in params.items()}
    data = [jnp.asarray(rng.standard_normal((20, 5)), jnp.float32) for _ in range(2)]
    keep = np.array([True, False, True, True, False, True, True, False])
    new = refit(mlp, params, iter(data), jc.trace.groups(mlp, params, data[0]), {"up": keep}, damping=0.1)
    inputs = np.concatenate(data).astype(np.float64)
    hidden = np.maximum(inputs @ np.asarray(params["up"], np.float64), 0)
    left, down = hidden[:, keep], np.asarray(params["down"], np.float64)
    ridge = 0.1 * np.mean(np.sum(left**2, 0))
    wanted = left.T @ hidden @ down + ridge * down[keep]
    want = np.linalg.solve(left.T @ left + ridge * np.eye(keep.sum()), wanted)
    np.testing.assert_allclose(new["down"][keep], want, rtol=1e-4, atol=1e-5)
    assert not np.any(np.asarray(new["down"])[~keep])
    np.testing.assert_allclose(new["up"], np.where(keep, params["up"], 0), rtol=1e-4, atol=1e-5)


CASES = {
    "cnn": models.CNN(),
    "resnet_train": models.BasicResNet(train=True),
    "option_a": models.OptionA(),
    "vit": models.ViT(),
    "scanned_layers": models.Scanned(),
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", CASES)
def test_a_model_comes_nearer_to_what_it_was(name: str) -> None:
    model = CASES[name]
    images = jax.random.normal(jax.random.key(0), (16, 8, 8, 3))
    variables = randomize(jax.eval_shape(model.init, jax.random.key(1), images))

    def apply_fn(v: Any, x: jax.Array) -> Any:
        out = model.apply(v, x, mutable=["batch_stats"] if "batch_stats" in v else False)
        return out[0] if isinstance(out, tuple) else out

    found = jc.trace.groups(apply_fn, variables, images)
    keep = choose(0.3)(found, variables)
    masked, new = mask(found, variables, keep), refit(apply_fn, variables, [images], found, keep, places=32)
    assert jax.tree.structure(new) == jax.tree.structure(variables)
    for path, leaf in named_leaves(masked).items():
        assert not np.any(np.asarray(named_leaves(new)[path])[np.asarray(leaf) == 0] != 0), path
    run = jax.jit(apply_fn)
    whole = run(variables, images)
    errors = [jnp.sum((run(tree, images) - whole) ** 2) for tree in (new, masked)]
    # With batch norms that average each batch, what twelve images gain is lost on the four that are held out.
    assert errors[0] == errors[1] if name == "resnet_train" else errors[0] < 0.9 * errors[1]
    small_fn, small = shrink(apply_fn, new, images, keep=keep)
    np.testing.assert_allclose(small_fn(small, images), run(new, images), rtol=1e-4, atol=1e-4)


def test_what_is_wrong_is_said() -> None:
    params = {"up": jnp.ones((2, 4)), "down": jnp.ones((4, 1))}
    found = jc.trace.groups(mlp, params, jnp.ones((1, 2)))
    keep = {"up": [True, True, False, True]}
    with pytest.raises(ArgumentError, match="gave no batch"):
        refit(mlp, params, [], found, keep)
    with pytest.raises(ArgumentError, match="must all be of one structure"):
        refit(mlp, params, [jnp.ones((1, 2)), jnp.ones((3, 2))], found, keep)
    with pytest.raises(ArgumentError, match="damping must be at least 0"):
        refit(mlp, params, [jnp.ones((1, 2))], found, keep, damping=-1)


def test_what_no_data_reach_stays_masked() -> None:
    params = {"up": jnp.ones((2, 4)), "down": jnp.ones((4, 1))}
    found = jc.trace.groups(mlp, params, jnp.ones((1, 2)))
    keep = {"up": [True, True, False, True]}
    new = refit(mlp, params, [jnp.zeros((3, 2))], found, keep)
    np.testing.assert_array_equal(new["up"], mask(found, params, keep)["up"])
    np.testing.assert_array_equal(new["down"][:, 0], [1, 1, 0, 1])
