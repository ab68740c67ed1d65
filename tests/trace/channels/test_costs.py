"""Costs of a choice are those of the function that is left, counted by hand."""

import jax.numpy as jnp
import numpy as np

from jaxcomp.trace import Costs, groups

X = jnp.ones((4, 3))
PARAMS = {"a": jnp.ones((3, 8)), "b": jnp.ones((3, 5)), "c": jnp.ones((13, 2)), "step": jnp.array(0)}


def test_costs_are_counted_by_hand() -> None:
    found = groups(lambda p, x: jnp.concatenate([x @ p["a"], x @ p["b"]], 1) @ p["c"], PARAMS, X)
    assert found.costs() == Costs(4 * (3 * 8 + 3 * 5 + 13 * 2), 24 + 15 + 26 + 1, 4 * (24 + 15 + 26 + 1))
    left = found.costs({"a": np.arange(8) < 2, "b": np.arange(5) < 4})
    assert left == Costs(4 * (3 * 2 + 3 * 4 + 6 * 2), 6 + 12 + 12 + 1, 4 * (6 + 12 + 12 + 1))
    assert found.costs({"a": np.arange(8) < 6, "a:1": np.arange(8) > 3}) == found.costs({"a": np.arange(8) < 2})


def test_what_makes_and_what_reads() -> None:
    for lenient in (False, True):
        found = groups(lambda p, x: jnp.tanh(x @ p["w"] + p["bias"]) @ p["v"], shapes(), X, lenient=lenient)
        (group,) = found
        members = {member.path: member for member in group.members}
        assert {path for path, member in members.items() if found.produces(member)} == {"w", "bias"}
        assert {path for path, member in members.items() if found.zeroes(member)} == {"w", "bias"} | (
            {"v"} if lenient else set()
        )
        assert found.weights == {"w", "v"}
        assert found.shapes == {"bias": (8,), "v": (8, 2), "w": (3, 8)}


def shapes() -> dict[str, jnp.ndarray]:
    return {"w": jnp.ones((3, 8)), "bias": jnp.ones(8), "v": jnp.ones((8, 2))}


def test_the_report_says_what_each_cut_saves() -> None:
    found = groups(lambda p, x: jnp.tanh(x @ p["w"] + p["bias"]) @ p["v"], shapes(), X)
    *_, row, _, total = found.report({"w": np.arange(8) < 5}).splitlines()
    assert row.split() == ["w", "8", "5", "60", "18", "72"]
    assert total.split() == ["all", "together", "60", "18", "72"]
