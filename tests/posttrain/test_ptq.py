"""Post-training quantization in one call is its parts, one after the other; the ends have their own bits."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.core.errors import ArgumentError
from jaxcomp.posttrain import ptq, round_weights
from jaxcomp.posttrain.round_report import RoundReport, RoundRow
from jaxcomp.posttrain.sparsify_report import SparseReport, SparseRow
from jaxcomp.rewrite import Scheme, calibrate, fold_batch_norm, quantize
from jaxcomp.rewrite.folding.report import FoldReport, FoldRow
from jaxcomp.rewrite.quant.report import QuantReport, QuantRow
from tests.rewrite.lowrank.test_factors import conv, normal

IMAGE = normal(16, 6, 6, 3)


def network(p: Any, x: jax.Array) -> jax.Array:
    for name in ("a", "b"):
        own = p[name]
        x = conv((1, 1), "SAME")({"w": own["w"]}, x)
        x = jax.nn.relu((x - own["mean"]) * jax.lax.rsqrt(own["var"] + 1e-5) * own["scale"] + own["bias"])
    return x.mean((1, 2)) @ p["head"]


def params() -> dict[str, Any]:
    tree: dict[str, Any] = {"head": normal(8, 4)}
    for i, (name, width) in enumerate({"a": 3, "b": 8}.items()):
        own = {key: normal(8, seed=i) ** 2 + 0.5 for key in ("var", "scale")}
        tree[name] = own | {
            "w": normal(3, 3, width, 8, seed=i),
            "mean": normal(8, seed=i),
            "bias": normal(8, seed=i + 1),
        }
    return tree


def test_one_call_is_its_parts() -> None:
    tree, data = params(), [IMAGE[:8], IMAGE[8:]]
    new = ptq(network, tree, data, Scheme(4, input_bits=4))
    rows = {row.path: (row.format, row.inputs) for row in new.report.quantized.rows}
    low, high = ("4", "static 4"), ("8", "static 8")
    assert rows == {"a/w": high, "b/w": low, "head": high}
    assert new.report.folded is not None
    assert [row.bias or row.unmoved for row in new.report.rounded.rows] == ["a/bias", "b/bias", "it has no bias"]
    assert all(word in str(new.report) for word in ("taken in", "nearest", "static 8"))
    function, folded = fold_batch_norm(network, tree, data[0])
    scheme = Scheme(4, input_bits=4)
    rules = [("a/w|head", Scheme()), (".*", scheme)]
    ranges = calibrate(function, folded, data, rules)
    rounded = round_weights(function, folded, data, rules, ranges=ranges, places=256)
    again, packed = quantize(function, rounded.params, data[0], scheme=rules, ranges=ranges, grids=rounded.grids)
    np.testing.assert_array_equal(new.apply_fn(new.params, IMAGE[:8]), again(packed, IMAGE[:8]))
    ruled = ptq(network, tree, data, scheme=rules)
    np.testing.assert_array_equal(ruled.apply_fn(ruled.params, IMAGE[:8]), again(packed, IMAGE[:8]))
    plain = ptq(network, tree, data, Scheme(4, input_bits=4, fit=jc.quant.mse()), method="nearest", biases=False)
    wanted = network(tree, IMAGE[:8])
    errors = [jnp.sum((each.apply_fn(each.params, IMAGE[:8]) - wanted) ** 2) for each in (new, plain)]
    assert errors[0] < errors[1]


def test_weights_alone_and_networks_of_ends_alone() -> None:
    layer, weight = lambda p, x: x @ p["w"], {"w": normal(3, 4)}
    new = ptq(layer, weight, [normal(6, 3)], Scheme(3, inputs=None))
    assert [(row.format, row.inputs) for row in new.report.quantized.rows] == [("8", "")]
    assert new.report.folded is None
    low = ptq(layer, weight, [normal(6, 3)], Scheme(3, inputs="dynamic"), end_bits=None)
    assert [(row.format, row.inputs) for row in low.report.quantized.rows] == [("3", "dynamic 8")]
    blocks = ptq(layer, weight, [normal(6, 3)], Scheme("nf4", inputs=None, block=2), end_bits=None)
    assert blocks.params["w"].block == jc.core.types.Block(2, (1,))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scheme": Scheme(9)}, "bits must be"),
        ({"end_bits": 0}, "end_bits must be 1 to 8"),
        ({"method": "best"}, "method must be"),
    ],
)
def test_errors(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        ptq(lambda p, x: x @ p["w"], {"w": normal(3, 4)}, [normal(6, 3)], **options)


WHY = "scan reads its result"
SKIPPED = [f"layer{i}" for i in range(17)]
REPORTS = {
    "fold": (lambda path: FoldRow(path, skipped=WHY), FoldReport, FoldRow("done", "bias", ("scale",))),
    "round": (
        lambda path: RoundRow(path, (2, 2), skipped=WHY),
        RoundReport,
        RoundRow("done", (2, 2), "int4", "gptq", 0.5, 0.1, "bias", ""),
    ),
    "quant": (
        lambda path: QuantRow(path, (2, 2), "", "", WHY, 16, 16),
        QuantReport,
        QuantRow("done", (2, 2), "4", "static 8", "", 8, 16),
    ),
    "sparse": (
        lambda path: SparseRow(path, 4, None, 0.0, skipped=WHY),
        SparseReport,
        SparseRow("done", 4, 0.5, 0.5, 0.1),
    ),
}


@pytest.mark.parametrize("name", REPORTS)
def test_a_reason_is_told_once_and_columns_are_explained(name: str) -> None:
    skipped, report, done = REPORTS[name]
    text = str(report((done, *map(skipped, SKIPPED))))
    lines = text.splitlines()
    assert [", ".join(SKIPPED) in line for line in lines if WHY in line] == [True]
    assert len(lines) <= 8
    headings = lines[0].split("  ")
    legend = [line for line in lines if re.match("(format|bias|nearest|error): ", line)]
    assert len(legend) == 1
    assert len(legend[0]) <= 120
    assert legend[0].split(":")[0] in [heading.strip() for heading in headings]
    if name == "quant":
        assert re.search(r"total +280 +288", text)


def test_nothing_is_said_of_folds_where_there_are_none() -> None:
    new = ptq(lambda p, x: x @ p["w"], {"w": normal(3, 4)}, [normal(6, 3)], Scheme(4, inputs=None))
    assert "fold" not in str(new.report)
    assert str(FoldReport((FoldRow("w", skipped=WHY),))).splitlines()[0] == "nothing to fold"
