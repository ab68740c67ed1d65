"""Groups: named, priced, printed, and found by name."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.core.errors import ArgumentError
from jaxcomp.trace import groups
from train.bench.networks import ResNet50, ViTB16, abstract

IMAGE = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
X = jnp.ones((2, 3))


@pytest.mark.parametrize(("model", "count"), [(ResNet50(), 37), (ViTB16(), 49)])
def test_full_size_networks(model: Any, count: int) -> None:
    found = groups(model.apply, abstract(model, IMAGE), IMAGE)
    assert len(found) == count
    assert all(group.macs > 0 and group.bytes > 0 for group in found)
    assert len({group.name for group in found}) == count


def test_a_wrong_claim_of_state_is_not_made() -> None:
    found = groups(lambda w, x: jnp.tanh(x @ w), jnp.ones((3, 3)), jnp.ones((3, 3)))
    assert len(found) == 0
    found = groups(lambda w, x: (x @ w[0], x @ w[1]), [jnp.ones((3, 3))] * 2, jnp.ones((3, 3)))
    assert len(found) == 0


def test_an_untouched_state_comes_back_tied() -> None:
    params = {"w": jnp.ones((3, 4)), "mean": jnp.ones(4), "c": jnp.ones((4, 2))}

    def function(p: Any, x: jax.Array) -> Any:
        h = x @ p["w"] - p["mean"]
        return h @ p["c"], {"mean": jnp.zeros(4)}

    (group,) = groups(function, params, X)
    assert {member.path for member in group.members} == {"w", "mean", "c"}


def test_scanned_layers_are_priced_by_their_number() -> None:
    params = {"a": jnp.ones((5, 3, 8)), "b": jnp.ones((5, 8, 3))}

    def function(p: Any, x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda h, w: (h + jnp.tanh(h @ w["a"]) @ w["b"], None), x, p)[0]

    found = groups(function, params, X)
    assert found.macs() == 5 * 2 * 2 * 3 * 8
    assert found["a"].macs == 5 * 2 * 2 * 3
    assert found.macs({"a": np.arange(8) < 6}) == 5 * 2 * 2 * 3 * 6


def test_lookup_and_listing() -> None:
    params = {"up": jnp.ones((3, 8)), "down": jnp.ones((8, 2))}
    found = groups(lambda p, x: jnp.tanh(x @ p["up"]) @ p["down"], params, X)
    assert found["up"] == found["up:1"] == found["down:0"]
    assert "up" in str(found)
    assert "frozen: down (2 channels): they are the function's result" in str(found)
    with pytest.raises(ArgumentError, match="no group is called 'other'"):
        found["other"]
    with pytest.raises(ArgumentError, match="cannot be cut"):
        found["down:1"]


def test_a_member_of_several_groups_is_asked_about() -> None:
    params = {"a": jnp.ones((3, 4)), "b": jnp.ones((3, 5)), "c": jnp.ones((9, 2))}
    found = groups(lambda p, x: jnp.concatenate([x @ p["a"], x @ p["b"]], 1) @ p["c"], params, X)
    assert {group.name: group.size for group in found} == {"a": 4, "b": 5}
    assert [member.indices.ravel().tolist() for member in found["b"].members if member.path == "c"] == [[4, 5, 6, 7, 8]]
    with pytest.raises(ArgumentError, match="several groups: name one of 'a', 'b'"):
        found["c"]
