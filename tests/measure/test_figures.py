"""Figures draw whatever a run leaves behind: one layer or many, gaps, nothing at all."""

import io
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from jaxcomp.core.errors import ArgumentError, MissingExtraError
from jaxcomp.core.types import Note
from jaxcomp.measure import (
    PHONE,
    class_confusion,
    figure,
    layer_sensitivity,
    layer_sparsity,
    summary,
    tradeoff_curves,
    training_curves,
    weight_histograms,
)

NAN = float("nan")


def records(n=30):
    for phase in ("teacher", "student"):
        for step in range(n):
            yield {
                "phase": phase,
                "step": step,
                "loss": 2 / (step + 1),
                "accuracy": step / n,
                "sparsity": 0.5,
            }


def layers(n, name="block_{}/conv/kernel"):
    params = {name.format(i): (np.arange(20) < i % 20).astype(np.float32) for i in range(n)}
    return summary(params, notes={path: Note(sparsity=0.5) for path in params})


def test_curves_have_a_panel_a_field_and_a_color_a_phase():
    drawing = training_curves(list(records()))
    assert [axes.get_title(loc="left") for axes in drawing.axes] == ["loss", "accuracy", "sparsity"]
    colors = [{line.get_label(): line.get_color() for line in axes.lines} for axes in drawing.axes]
    assert colors[0] == colors[1] == colors[2]
    assert len(set(colors[0].values())) == 2
    assert len(drawing.legends[0].get_texts()) == 2
    alone = training_curves([r for r in records() if r["phase"] == "student"])
    assert alone.axes[0].lines[0].get_color() == colors[0]["student"]


@pytest.mark.parametrize("names", [["a", "b"], [f"a rather long name, number {i}" for i in range(9)], ["w" * 200]])
def test_a_legend_is_no_wider_than_the_figure_if_it_can(names):
    rows = [{"method": name, "kept": k, "error": k} for name in names for k in (0.1, 0.2)]
    drawing = tradeoff_curves(rows, "kept", ["error"], "method")
    (legend,) = drawing.legends
    drawing.draw_without_rendering()
    assert [text.get_text() for text in legend.get_texts()] == names
    assert legend.get_window_extent().width <= drawing.bbox.width or len(names) == 1


def test_curves_join_records_that_measure_different_things():
    mixed = [{"step": i, "loss": 1.0} for i in range(9)] + [{"step": 4, "accuracy": 0.5}, {"epochs": 3}]
    loss, accuracy = training_curves(mixed, ["loss", "accuracy"]).axes
    assert loss.lines[0].get_xdata().tolist() == list(range(9))
    assert accuracy.lines[0].get_ydata().tolist() == [0.5]


@pytest.mark.parametrize(
    "odd",
    [
        [],
        [{"step": 1}],
        [{"step": 0, "loss": NAN}],
        [{"step": 0, "loss": None}, {"step": 1, "loss": 1.0}],
        [{"step": 0, "loss": float("inf")}, {"step": 1, "loss": 1e-2}, {"step": 2, "loss": 1e3}],
        [{"step": 0, "loss": -1.0, "phase": "$\\frac{$"}, {"step": 0, "loss": 0.0, "phase": None}],
        [{"step": 0, "loss": i, "phase": f"phase {i}"} for i in range(9)],
    ],
)
def test_curves_draw_gaps_and_nothing(odd):
    assert "<svg" in figure(training_curves(odd)).markup


@pytest.mark.parametrize("fields", [["loss"], ["loss", "a", "b", "c"]])
def test_curves_take_any_fields(fields):
    assert len(training_curves(list(records()), fields).axes) == len(fields)
    with pytest.raises(ArgumentError, match="at least one field"):
        training_curves([], [])


@pytest.mark.parametrize("n", [0, 1, 60])
def test_layers_are_one_bar_each(n):
    drawing = layer_sparsity(layers(n))
    assert len(drawing.axes[0].patches) == n
    assert "<svg" in figure(drawing).markup


def test_layers_are_those_that_were_asked():
    params = {"a": jnp.zeros(3), "b": jnp.ones(3)}
    (axes,) = layer_sparsity(summary(params, notes={"a": Note(sparsity=1.0)})).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a"]
    assert len(layer_sparsity(summary(params)).axes[0].patches) == 2


def test_long_and_hostile_paths_are_drawn_as_they_are():
    drawing = layer_sparsity(layers(2, "$\\frac{{$/<b>/" + "x" * 90 + "{}"))
    assert "…" in drawing.axes[0].get_yticklabels()[0].get_text()
    assert "<svg" in figure(drawing).markup
    svg = figure(layer_sparsity(layers(1, "$\\frac{{$/<b>{}"))).markup
    assert "$\\frac{$/&lt;b&gt;0" in svg


@pytest.mark.parametrize("n", [0, 1, 5])
def test_histograms_are_one_panel_each(n):
    rng = np.random.default_rng(0)
    before = {f"block_{i}/conv/kernel": rng.normal(size=(3, 3, 4)) for i in range(n)}
    after = {path: np.where(abs(w) < 0.5, 0, w) for path, w in before.items()}
    drawing = weight_histograms(before, after)
    assert len(drawing.axes) == max(n, 1)


def test_histograms_draw_odd_values():
    odd = {
        "zero": np.zeros(5),
        "empty": np.zeros((0, 3)),
        "lost": np.full(4, NAN),
        "mixed": np.array([NAN, np.inf, 1.0]),
        "scalar": np.array(3.0),
        "tiny": np.array([1e-30, 2e-30]),
        "alike": np.array([1.0, np.nextafter(1.0, 2.0)]),
        "bfloat16": jnp.ones((3, 2), jnp.bfloat16),
    }
    assert "<svg" in figure(weight_histograms(odd, odd)).markup
    others = {"key": jax.random.key(0), "count": np.arange(3), "flag": np.array([True])}
    assert [axes.get_title(loc="left") for axes in weight_histograms(others, odd | others).axes] == list(odd)


def test_histograms_write_zeros_as_a_share():
    (axes,) = weight_histograms({"w": np.ones(8)}, {"w": np.array([0, 0, 0, 1, NAN, 1, 1, 1])}).axes
    assert axes.texts[0].get_text() == "37.5% zero\n1 not finite"
    before, after = axes.patches
    assert (before.get_data().values > 0.5).sum() == 1
    assert after.get_data().values.max() == 4


@pytest.mark.parametrize("draw", [lambda: training_curves([]), lambda: weight_histograms({}, {})])
def test_without_matplotlib_the_error_names_the_extra(draw, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r'pip install "jaxcomp\[report\]"'):
        draw()


def test_matplotlib_is_imported_late_and_never_pyplot():
    code = """
import sys
from types import SimpleNamespace
import jaxcomp.measure as measure
assert not {"matplotlib", "rich", "flax"} & set(sys.modules)
measure.figure(measure.training_curves([{"step": 1, "loss": 1.0}], ["loss"]))
assert "matplotlib" in sys.modules and "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_tradeoffs_have_a_panel_a_field_and_a_line_a_method_in_order_of_the_axis():
    rows = [{"method": m, "kept": k, "a": k / 2, "b": k} for m in ("one", "two") for k in (0.9, 0.1, 0.5)]
    drawing = tradeoff_curves(rows, "kept", ["a", "b"], line="method")
    assert [axes.get_title(loc="left") for axes in drawing.axes] == ["a", "b"]
    for axes in drawing.axes:
        assert [line.get_label() for line in axes.lines] == ["one", "two"]
        assert list(axes.lines[0].get_xdata()) == [0.1, 0.5, 0.9]
    many = [{"method": str(i), "kept": 0.5, "a": 0.5} for i in range(12)]
    looks = {
        (line.get_color(), line.get_linestyle())
        for line in tradeoff_curves(many, "kept", ["a"], "method").axes[0].lines
    }
    assert len(looks) == 12
    with pytest.raises(ArgumentError, match="at least one row"):
        tradeoff_curves([], "kept", ["a"], "method")


def test_repeated_runs_are_one_point_with_a_bar_and_points_of_others_are_marked():
    runs = [(0.9, 0.01), (0.9, 0.03), (0.99, 0.05)]
    rows = [{"method": "ours", "asked": asked, "kept": asked, "error": error} for asked, error in runs]
    theirs = [{"method": "theirs", "kept": 0.98, "error": 0.024}, {"method": "elsewhere", "kept": 0.5, "other": 1.0}]
    drawing = tradeoff_curves(rows, "kept", ["error"], "method", repeats="asked", marks=theirs, near_one=True)
    (axes,) = drawing.axes
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[0.9, 0.02], [0.99, 0.05]])
    bars, mark = axes.collections
    bar, single = bars.get_segments()
    np.testing.assert_allclose(bar[:, 1], 0.02 + np.array([-1, 1]) * np.std([0.01, 0.03], ddof=1))
    np.testing.assert_allclose(single[:, 1], 0.05)
    assert mark.get_offsets().tolist() == [[0.98, 0.024]]
    assert [text.get_text() for text in axes.texts] == ["theirs"]
    across = axes.transData.transform([[0.9, 0.02], [0.99, 0.02], [0.999, 0.02]])[:, 0]
    np.testing.assert_allclose(across[2] - across[1], across[1] - across[0])  # each a tenth of what is left
    assert {0.9, 0.95, 0.98, 0.99} <= set(axes.get_xticks())
    drawing.savefig(io.BytesIO())


def test_harms_that_are_not_finite_are_beyond_all_others_and_named() -> None:
    harms = {"a": 0.0, "b": 0.5, "c": np.inf, "d": NAN}
    rows = [SimpleNamespace(path=path, option="4", harm=harm) for path, harm in harms.items()]
    axes = layer_sensitivity(rows).axes[0]
    x = axes.collections[0].get_offsets()[:, 0]
    assert min(x[2:]) > max(x[:2])
    assert [text.get_text() for text in axes.texts] == ["not finite", "not finite"]


DRAWINGS = {
    "curves": lambda **width: training_curves(list(records()), ["loss", "test_accuracy"], **width),
    "sparsity": lambda **width: layer_sparsity(layers(5), **width),
    "sensitivity": lambda **width: layer_sensitivity(
        [SimpleNamespace(path="block/" * 12 + str(i), option="4", harm=i) for i in range(3)], **width
    ),
    "histograms": lambda **width: weight_histograms(*2 * [{f"w{i}": np.arange(9.0) for i in range(4)}], **width),
    "tradeoff": lambda **width: tradeoff_curves([{"s": 0.5, "a": 1, "m": "x"}], "s", ["a"], line="m", **width),
    "confusion": lambda **width: class_confusion(np.arange(12), np.arange(12) % 5, 12, **width),
}


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_a_drawing_for_a_phone_is_laid_out_anew(draw):
    for drawing in (draw(), draw(width=PHONE)):
        FigureCanvasAgg(drawing).draw()
        width = drawing.bbox.width
        for axes in drawing.axes:
            assert axes.get_window_extent().width > 0.15 * width
            box = axes.get_tightbbox(drawing.canvas.get_renderer())  # with titles and labels
            assert -1 <= box.x0 <= box.x1 <= width + 1
    assert drawing.get_figwidth() <= PHONE + 1e-9


def test_the_most_sensitive_layer_stands_first_on_an_axis_with_a_unit():
    harms = {"a": 0.1, "b": NAN, "c": 0.7}
    rows = [SimpleNamespace(path=p, option=o, harm=h * w) for p, h in harms.items() for o, w in (("8", 0.1), ("4", 1))]
    axes = layer_sensitivity(rows).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b", "c", "a"]
    assert axes.get_xlabel() == "KL divergence of the outputs, nats"


def test_confusion_counts_every_answer_once():
    rng = np.random.default_rng(0)
    true, taken = rng.integers(0, 6, 200), rng.integers(-1, 6, 200)
    axes = class_confusion(true, taken, 6).axes[0]
    shown = {tuple(map(round, reversed(text.get_position()))): int(text.get_text()) for text in axes.texts}
    assert shown == {
        pair: n for pair, n in Counter(zip(true.tolist(), taken.tolist(), strict=True)).items() if pair[1] >= 0
    }


def test_bytes_stand_by_their_logarithm() -> None:
    rows = [{"method": "ours", "bytes": size, "error": error} for size, error in ((900, 0.02), (30_000, 0.01))]
    (axes,) = tradeoff_curves(rows, "bytes", ["error"], "method", logarithmic=True).axes
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1,000", "2,000", "5,000", "10,000", "20,000"]
    assert axes.yaxis.get_major_formatter()(0.015, None) == "1.5%"
