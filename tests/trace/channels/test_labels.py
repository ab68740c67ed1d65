"""Labels resolve to connected components."""

import numpy as np

from jaxcomp.core.channels import Reason
from jaxcomp.trace.channels.labels import LabelSet


def slow_components(count: int, pairs: list[tuple[int, int]]) -> list[int]:
    roots = list(range(count))
    for _ in range(count):
        for a, b in pairs:
            roots[a] = roots[b] = min(roots[a], roots[b])
    return roots


def test_components_are_those_of_the_slow_way(rng: np.random.Generator) -> None:
    for count, links in [(1, 0), (10, 5), (60, 40), (60, 100)]:
        labels = LabelSet()
        fresh = labels.fresh(count)
        a, b = rng.integers(0, count, (2, links))
        labels.tie(fresh[a], fresh[b])
        roots, _ = labels.resolve()
        assert roots.tolist() == slow_components(count, list(zip(a.tolist(), b.tolist(), strict=True)))


def test_a_chain_of_ties_is_one_component() -> None:
    labels = LabelSet()
    parts = [labels.fresh(3) for _ in range(50)]
    for one, other in zip(parts[1:], parts, strict=False):
        labels.tie(one, other)
    assert labels.resolve()[0].reshape(50, 3).tolist() == [[0, 1, 2]] * 50


def test_the_first_reason_stands() -> None:
    labels = LabelSet()
    a, b = labels.fresh(2), labels.fresh(2)
    labels.tie(a, b)
    labels.freeze(b[1:], Reason("first", "", "why"))
    labels.freeze(a, Reason("second", "", "why"))
    _, reasons = labels.resolve()
    assert {root: reason.primitive for root, reason in reasons.items()} == {1: "first", 0: "second"}
