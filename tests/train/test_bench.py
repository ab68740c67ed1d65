"""The benchmarks run, print a table and write what they measured; their numbers are nobody's promise here."""

import functools
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train import models
from train.bench import (
    __main__,
    augment,
    distil,
    input,
    pack,
    planning,
    prune,
    quant,
    rewrite,
    scale,
    step,
    taps,
    threshold,
    timing,
)

SMALL = {"depth": 11, "hidden": ()}  # a VGG of fewer stages
ROW = {"variant", "median_ms", "quartiles_ms", "ratio", "ratio_quartiles", "cpu_ms", "cpu_ratio"}
MACHINE = {"date", "command", "cpus", "load", "python", "jax", "platform", "device", "devices"}


def written(folder, name, rows):
    content = json.loads((folder / f"{name}.json").read_text())
    assert set(content["machine"]) == MACHINE
    for row in rows(content):
        assert set(row) == ROW
        assert len(row["quartiles_ms"]) == len(row["ratio_quartiles"]) == 2
    return content, [row["variant"] for row in rows(content)]


@pytest.mark.exhaustive
def test_step(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(step, "MODELS", {"cnn": ((4, 4, 1), {"widths": (4,)})})
    monkeypatch.setattr(step, "EVERY", 2)
    __main__.main(["step", "--batch", "8", "--rounds", "1", "--out", str(tmp_path / "new")])
    content, names = written(tmp_path / "new", "step-cnn", lambda content: content["rows"])
    assert content["batch"] == 8
    assert names[0] == "plain"
    assert {"prune", "prune each step", "prune + fake", "prune + fake + distil", "teacher forward"} < set(names)
    assert "all without teacher" in capsys.readouterr().out


@pytest.mark.exhaustive
def test_input(tmp_path):
    small = ["--batch", "4", "--batches", "2", "--sides", "40", "30", "--size", "16", "--rounds", "1"]
    __main__.main(["input", *small, "--out", str(tmp_path)])
    content, names = written(tmp_path, "input", lambda content: content["rows"])
    assert names[:2] == [input.BASELINE, input.READER]
    assert set(content["images_per_second"]) == set(names)
    assert [row["variant"] for row in content["steps"]] == [input.RESIDENT, input.FED]


@pytest.mark.exhaustive
def test_augment(tmp_path, monkeypatch):
    monkeypatch.setattr(step, "MODELS", {"cnn": ((4, 4, 1), {"widths": (4,)})})
    monkeypatch.setattr(augment, "NETWORK", "cnn")
    __main__.main(["augment", "--batch", "8", "--rounds", "1", "--out", str(tmp_path)])
    content, names = written(tmp_path, "augment", lambda content: content["rows"])
    assert names == [augment.BASELINE, *augment.augmentations()]
    assert content["goal"] == 0.05


@pytest.mark.exhaustive
def test_distil(tmp_path, capsys):
    sizes = ["--batch", "8", "--depth", "8", "--classes", "5", "--examples", "40", "--negatives", "6"]
    __main__.main(["distil", *sizes, "--rounds", "1", "--out", str(tmp_path)])
    _, names = written(tmp_path, "distil", lambda content: content["rows"])
    assert names[0] == distil.BASELINE
    assert {"kl", "dkd", "review, 3 stages", "crd", "rkd_angle"} < set(names)
    assert "student's step" in capsys.readouterr().out


@pytest.mark.exhaustive
def test_taps(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(taps, "NETWORKS", {"ViT-B/16": taps.NETWORKS["ViT-B/16"]})
    __main__.main(["taps", "--size", "32", "--rounds", "1", "--out", str(tmp_path)])
    content, names = written(tmp_path, "taps", lambda content: content["networks"]["ViT-B/16"]["forward"]["rows"])
    assert names == ["by hand", "tapped", "untapped"]
    assert content["networks"]["ViT-B/16"]["forward"]["same_bits"]
    assert "planned in" in capsys.readouterr().out


@pytest.mark.exhaustive
def test_threshold(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(threshold, "SPARSITIES", (0.9,))
    monkeypatch.setattr(threshold, "split_like_resnet50", lambda w: [w[:1000], w[1000:].reshape(-1, 8)])
    __main__.main(["threshold", "--size", "5000", "--rounds", "1", "--out", str(tmp_path)])
    for dtype in ("float32", "bfloat16"):
        content, names = written(tmp_path, "threshold", lambda content, dtype=dtype: content["dtypes"][dtype])
        assert {"read", "compare", "write mask", "keep_largest 0.9", "2 arrays, global 0.9"} < set(names)
        assert content[f"floor_{dtype}"]["bytes"] == 5000 * (4 if dtype == "float32" else 2)
        assert ("jnp.sort" in names) == ("np.partition" in names) == (dtype == "float32")
    assert "GB/s" in capsys.readouterr().out


@pytest.mark.exhaustive
def test_quant(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(quant, "NETWORKS", {"vgg": lambda: models.create("vgg", 10, SMALL | {"widths": (4, 20)})})
    monkeypatch.setattr(quant, "SHAPE", (8, 8, 3))
    __main__.main(["quant", "--batches", "2", "--rounds", "1", "--out", str(tmp_path)])
    content, names = written(tmp_path, "quant", lambda content: content["networks"]["vgg"]["batches"]["2"])
    assert names[:2] == ["float32", "fake int8"]
    assert set(names) >= {*quant.SCHEMES}
    sizes = content["networks"]["vgg"]["bytes"]
    assert sizes["int4 weights"] < sizes["int8 weights"] < sizes["float32"] == sizes["fake int8"]
    assert "qwix" in " ".join([*sizes, *content["networks"]["vgg"]["refused"]])
    assert "as fast as float32" in capsys.readouterr().out


@pytest.mark.exhaustive
def test_prune(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(prune, "resnet50_shapes", lambda: [(3, 3, 16, 32), (32, 10)])
    __main__.main(["prune", "--models", "resnet50", "--rounds", "1", "--out", str(tmp_path)])
    content, names = written(tmp_path, "prune", lambda content: content["trees"]["resnet50"]["rows"])
    assert names[0] == "compare"
    assert {"magnitude, layer", "magnitude, global", "2:4", "argsort"} < set(names)
    tree = content["trees"]["resnet50"]
    assert tree["weights"] == 4928
    assert set(tree["memory_over_parameters"]) == set(names) - {"compare", "argsort"}
    assert min(tree["memory_over_parameters"].values()) > 1
    assert "x the parameters" in capsys.readouterr().out


@pytest.mark.exhaustive
def test_rewrite(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(rewrite, "SHAPE", (8, 8, 3))
    __main__.main(
        [
            "rewrite",
            "--depth",
            "8",
            "--macs",
            "0.5",
            "--multiple",
            "1",
            "--batches",
            "2",
            "--rounds",
            "1",
            "--out",
            str(tmp_path),
        ]
    )
    content, names = written(tmp_path, "rewrite", lambda content: content["batches"]["2"]["rows"])
    assert names == ["whole", "masked", "folded", "shrunk", "shrunk, folded"]
    assert content["planning"]["ideal speed-up"] >= 2
    assert "faster of" in capsys.readouterr().out


@pytest.mark.exhaustive
def test_planning(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(planning, "NETWORKS", {"small": models.create("resnet", 10, {"depth": 8, "width": 4})})
    monkeypatch.setattr(planning, "IMAGE", jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32))
    __main__.main(["planning", "--rounds", "1", "--out", str(tmp_path)])
    content, names = written(tmp_path, "planning", lambda content: content["networks"]["small"]["rows"])
    assert names == ["trace", "groups", "shrink", "trace of the shrunk"]
    assert content["networks"]["small"]["groups"] == 6
    assert "milliseconds of planning" in capsys.readouterr().out


def test_variants_are_timed_in_turn_after_one_run_that_compiles():
    calls = []
    seconds = timing.interleave({name: lambda name=name: calls.append(name) for name in "ab"}, rounds=2)
    assert "".join(calls) == "ab" + "ab" + "ba"
    assert seconds["a"].shape == (2, 2)


def test_ratios_are_of_medians_and_their_quartiles_within_rounds():
    base = np.array([[1.0, 1.0], [2.0, 2.0], [9.0, 3.0]])
    row = timing.summarize({"base": base, "more": base * [3, 2]}, "base")[1]
    assert row["median_ms"] == 6000
    assert row["ratio"] == 3
    assert row["ratio_quartiles"] == pytest.approx([3, 3])
    assert row["cpu_ratio"] == 2


@pytest.mark.exhaustive
def test_reconstruct(tmp_path, capsys):
    __main__.main(
        ["reconstruct", "--layers", "18x4", "36x4", "--obc-up-to", "18", "--rounds", "1", "--out", str(tmp_path)]
    )
    for name, more in (("18x4", ["OBC"]), ("36x4", [])):
        content, names = written(tmp_path, "reconstruct", lambda content, name=name: content["layers"][name]["rows"])
        assert names == ["product", "SparseGPT", *more]
        errors = content["layers"][name]["errors"]
        assert errors["magnitude"] > errors["SparseGPT"] > errors.get("OBC", 0)
    assert "36 inputs, 4 outputs" in capsys.readouterr().out


@pytest.mark.exhaustive
def test_pack(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pack, "SHARE", 1000)
    __main__.main(["pack", "--trees", "ResNet-20", "--recipes", "4 bits", "--out", str(tmp_path)])
    row = json.loads((tmp_path / "pack.json").read_text())["trees"]["ResNet-20"]["4 bits"]
    assert row["range"]["bytes"] < row["deflate"]["bytes"] < row["float32"] / 8
    assert row["range"]["bytes"] < 1.01 * row["ideal"] + 32
    assert "times smaller" in capsys.readouterr().out


@pytest.mark.exhaustive
def test_scale(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        scale, "NETWORKS", {"ViT-B/16": functools.partial(models.create, "vgg", 1000, SMALL | {"widths": (4,)})}
    )
    monkeypatch.setattr(scale, "SHAPE", (8, 8, 3))
    calls = ["forward, jitted", "trace.groups", "sparsify, sparsegpt"]
    options = ["--images", "8", "--out", str(tmp_path)]
    __main__.main(["scale", "--networks", "ViT-B/16", "--calls", *calls, *options])
    monkeypatch.setattr(scale, "NETWORKS", {"ViT-B/16": functools.partial(time.sleep, 600)})  # on any machine too long
    __main__.main(["scale", "--networks", "ViT-B/16", "--calls", "sparsify", "--timeout", "1", *options])
    rows = json.loads((tmp_path / "scale.json").read_text())["networks"]["ViT-B/16"]
    assert list(rows) == [*calls, "sparsify"]
    for call in calls:
        assert set(rows[call]["first"]) == {"seconds", "cpu", "programs", "peak_mb"}
    assert [rows[calls[0]][turn]["programs"] for turn in ("first", "second")] == [1, 0]
    assert rows[calls[2]]["first"]["programs"] > 0
    assert rows["sparsify"]["skipped"] == "not done in 1 s"
    assert "x forward" in capsys.readouterr().out
