"""Writes the tables of measured numbers in the documentation from ``bench/*.json``.

A page holds a table between ``<!-- table: NAME FILE -->`` and ``<!-- end -->``; what stands between is made here.

    python docs/results.py            writes the tables of every page
    python docs/results.py --check    exits with 1, naming the pages, where a table is not what its file says
"""

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PLACE = re.compile(r"(<!-- table: (\S+) (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
METHODS = {
    "cubic": "cubic magnitude",
    "dense, shifted": "dense, moved images",
    "steep distilled": "steep, distilled",
    "steep distilled, shifted": "steep, distilled, moved images",
}
Data = dict[str, Any]


def table(head: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """A Markdown table whose first columns are words and whose others are numbers."""
    lines = [head, [*["---"] * words, *["---:"] * (len(head) - words)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(fraction: float | None, digits: int = 2) -> str:
    """A fraction in percent; None: nothing."""
    return "" if fraction is None else f"{100 * fraction:.{digits}f}"


def spread(values: Sequence[float]) -> str:
    """Mean and sample deviation of fractions, in percent."""
    mean = percent(statistics.fmean(values))
    return f"{mean} ± {percent(statistics.stdev(values))}" if len(values) > 1 else f"{mean} (1 seed)"


def compress(data: Data) -> str:
    """Runs of ``train.compress``: a row a seed, then mean and sample deviation."""
    head = ["seed", "teacher, %", "compressed, %", "drop, points", "bytes", "ratio", "sparsity, %"]
    numbers = [
        [
            100 * row["teacher_accuracy"],
            100 * row["compressed_accuracy"],
            100 * (row["teacher_accuracy"] - row["compressed_accuracy"]),
            row["compressed_bytes"],
            row["teacher_bytes"] / row["compressed_bytes"],
            100 * row["sparsity"],
        ]
        for row in data["rows"]
    ]

    def line(name: str, row: Sequence[float]) -> list[str]:
        return [name, *(f"{x:.2f}" for x in row[:3]), f"{row[3]:,.0f}", f"{row[4]:.1f}x", f"{row[5]:.1f}"]

    lines = [line(str(row["seed"]), own) for row, own in zip(data["rows"], numbers, strict=True)]
    if len(numbers) > 1:
        columns = list(zip(*numbers, strict=True))
        lines += [line("mean", [statistics.fmean(column) for column in columns])]
        lines += [line("deviation", [statistics.stdev(column) for column in columns])]
    return table(head, lines)


def tasks(data: Data) -> str:
    """Runs of ``train.compress --task``: a row a run, its figure before and after, and in integers."""
    head = ["task", "images", "figure", "float, %", "compressed, %", "in integers, %"]
    head += ["bytes", "smaller", "zeros, %", "fewer MACs", "CPU minutes"]
    rows = []
    for row in data["rows"]:
        figures = [percent(row.get(f"{whose}_{row['metric']}")) for whose in ("teacher", "compressed", "integers")]
        size = [f"{row['compressed_bytes']:,}", f"{row['ratio']:.1f}x", percent(row["sparsity"], 1)]
        speed = f"{row['teacher_macs'] / row['compressed_macs']:.2f}x"
        title = {"map50": "mAP@0.5", "mean_iou": "mean IoU"}.get(row["metric"], row["metric"])
        rows.append([row["task"], row["dataset"], title, *figures, *size, speed, f"{row['cpu_minutes']:.0f}"])
    return table(head, rows, 3)


def curves(data: Data) -> str:
    """Error against sparsity of ``train.curves``: a row a method, a column a sparsity."""
    asked = sorted({row["asked"] for row in data["rows"]})

    def cell(method: str, sparsity: float) -> str:
        rows = [row for row in data["rows"] if row["method"] == method and row["asked"] == sparsity]
        if not rows:
            return ""
        reached = statistics.fmean(row["sparsity"] for row in rows)
        missed = sparsity > 0 and abs((1 - reached) / (1 - sparsity) - 1) > 0.1
        return spread([row["error"] for row in rows]) + (f" at {percent(reached)} %" if missed else "")

    methods = list(dict.fromkeys(row["method"] for row in data["rows"]))
    methods.sort(key=lambda method: ("dense" not in method, "steep" in method))
    head = ["method", *("dense" if s == 0 else f"{percent(s, 2).rstrip('0').rstrip('.')} %" for s in asked)]
    return table(head, ([METHODS.get(m, m), *(cell(m, s) for s in asked)] for m in methods))


def shrink(data: Data) -> str:
    """Runs of ``train.shrink``."""
    head = ["network", "fewer MACs", "whole, %", "cut, %", "recalibrated, %", "fine-tuned, %"]
    keys = ("dense", "cut", "recalibrated", "tuned")
    return table(
        head, ([row["network"], f"{row['speedup']:.2f}x", *(percent(row[k]) for k in keys)] for row in data["rows"])
    )


def quantize(data: Data) -> str:
    """Settings of ``train.quantize``; beside them the best of others on the same file and images."""

    def name(setting: str) -> str:
        mixed = re.fullmatch(r"mixed(\d+)a(\d)", setting)
        if mixed:
            return f"of each layer's own, within {int(mixed[1]):,} bytes; {mixed[2]} static"
        weights, inputs, dynamic = re.fullmatch(r"w(\d)(?:a(\d)(d?))?", setting).groups()  # type: ignore[union-attr]
        return f"{weights}; " + (f"{inputs} {'dynamic' if dynamic else 'static'}" if inputs else "float")

    rows = [
        [
            name(row["setting"]),
            percent(row["accuracy"]),
            f"{100 * row['drop']:.2f}",
            f"{row['bytes']:,}",
            f"{percent(row['peer_accuracy'])} ({row['peer']})" if row["peer"] else "",
        ]
        for row in data["rows"]
    ]
    head = ["bits of weights; of inputs", "accuracy, %", "drop, points", "bytes of the file", "others, %"]
    shown = [row if any(each[-1] for each in rows) else row[:-1] for row in rows]
    return table(head[: len(shown[0])], shown)


def small_files(data: Data) -> str:
    """Files of ``train.small_files``, the largest first."""

    def name(setting: str) -> str:
        return f"{setting[1:]} values a layer" if setting.startswith("k") else f"`{setting}`"

    rows = sorted(data["rows"], key=lambda row: -row["bytes"])
    numbers = [[f"{row['bytes']:,}", percent(row["accuracy"]), f"{100 * row['drop']:.2f}"] for row in rows]
    cells = [[name(row["setting"]), *own] for row, own in zip(rows, numbers, strict=True)]
    return table(["setting", "bytes of the file", "accuracy, %", "drop, points"], cells)


def packaged(data: Data) -> str:
    """Networks of packages, of ``train.packaged``: a row a network, what it is judged by, and its files."""
    judged = {
        "voice": "Silero VAD: frames decided alike",
        "text": "PP-OCR: lines read alike",
        "selfie": "selfie segmentation: masks' mean overlap",
        "faces": "BlazeFace: boxes that overlap by 0.95",
    }
    counted = ("frames", "lines", "photographs", "faces")
    rows = []
    for row in data["rows"]:
        size, old = (sum(row[f"{which}_bytes"].values()) for which in ("compressed", "original"))
        number = next(row[name] for name in counted if name in row)
        far = f"{max(row['largest_difference'].values()):.0e}"
        cells = [f"{old:,}", f"{size:,}", f"{row['ratio']:.1f}x", percent(row["read"]["score"]), percent(row["score"])]
        rows.append([judged[row["network"]], f"{number:,}", *cells, far])
    head = ["network", "of how many", "bytes", "small, bytes", "smaller", "as read, %", "small, %", "read, furthest"]
    return table(head, rows)


def exports(data: Data) -> str:
    """Files of ``train.export`` in the runtimes that run them; times are the processor's, on one thread."""

    def time(row: Data, batch: str) -> list[str]:
        own = next(each for each in row["times"][batch] if each["variant"] == "file")
        return [_milliseconds(own["cpu_ms"]), _ratio(own["cpu_ratio"])]

    rows = []
    for row in data["rows"]:
        about = [row["artifact"], row["file"].rpartition(".")[2], row["runtime"], f"{row['bytes']:,}"]
        if "refused" in row:
            rows.append([*about, "refused", *[""] * 8])
            continue
        scores = [percent(row[key]) for key in ("accuracy", "our_accuracy", "agreement")]
        scores += [f"{row['images']:,}", f"{row['products_in_floats']}"]
        rows.append([*about, *scores, *time(row, "1"), *time(row, "256")])
    head = [
        "network",
        "file",
        "runtime",
        "bytes",
        "accuracy, %",
        "in JAX, %",
        "alike, %",
        "of images",
        "products in floats",
    ]
    return table([*head, "1 image, ms", "of its float", "256, ms", "of its float"], rows, 3)


def qat(data: Data) -> str:
    """Runs of ``train.qat``."""
    head = ["command", "rounded, %", "trained, %", "integers, %", "drop, points", "bytes of the file", "minutes"]
    rows = []
    for row in data["rows"]:
        accuracy = [percent(row["accuracy"][k]) for k in ("rounded", "trained", "integers")]
        flags = row["command"].split(" --weights resnet20.npz ")[1]
        drop, minutes = f"{100 * row['drop']:.2f}", f"{row['seconds'] / 60:.0f}"
        rows.append([f"`{flags}`", *accuracy, drop, f"{row['bytes']:,}", minutes])
    return table(head, rows)


def oneshot(data: Data) -> str:
    """Methods of ``train.oneshot``: accuracy as pruned, and with batch norm recalibrated."""
    asked = sorted({row["asked"] for row in data["rows"]})
    found = {(row["method"], row["asked"]): row for row in data["rows"]}
    rows = []
    for method in dict.fromkeys(row["method"] for row in data["rows"]):
        own = [found.get((method, s)) for s in asked]
        cells = [f"{percent(r['accuracy'])} / {percent(r['recalibrated'])}" if r else "" for r in own]
        seconds = found.get((method, 0.8))
        rows.append([method, *cells, f"{seconds['seconds']:.0f}" if seconds else ""])
    return table(["method", *(f"{percent(s, 0)} %" for s in asked), "seconds at 80 %"], rows)


def iterative(data: Data) -> str:
    """Rounds of ``train.prune``."""
    rows = ([percent(row["sparsity"], 1), percent(row["accuracy"])] for row in data["rows"])
    return table(["zeros, %", "accuracy, %"], rows)


def _timed(rows: Iterable[Data], *before: str) -> list[list[str]]:
    return [
        [*before, row["variant"], _milliseconds(row["median_ms"]), _ratio(row["ratio"]), _ratio(row["cpu_ratio"])]
        for row in rows
    ]


def _milliseconds(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _ratio(value: float) -> str:
    return f"{value:,.0f}x" if value >= 10 else f"{value:.2f}x"


def times(data: Data) -> str:
    """Variants of ``train.bench``, timed in turn: medians, and ratios to the first."""
    tail = ["median, ms", "time", "CPU time"]
    if "batches" in data:
        rows = [row for batch, own in data["batches"].items() for row in _timed(own["rows"], batch)]
        return table(["batch", "variant", *tail], rows, 2)
    for kind in ("networks", "trees", "layers"):
        if kind in data:
            rows = [row for name, own in data[kind].items() for row in _timed(own["rows"], name)]
            return table([kind.removesuffix("s"), "variant", *tail], rows, 2)
    return table(["variant", *tail], _timed(data["rows"]))


def readers(data: Data) -> str:
    """Readers of ``train.bench input``: rate, and processor time of an image."""
    rates, count = data["images_per_second"], data["images"]
    rows = [[row["variant"], f"{rates[row['variant']]:.0f}", f"{row['cpu_ms'] / count:.2f}"] for row in data["rows"]]
    return table(["reader", "images a second", "CPU ms an image"], rows)


def losses(data: Data) -> str:
    """Distillation losses of ``train.bench distil``: time of each, and its share of the student's step."""
    head = ["loss", "median, ms", "of the step, %", "of its CPU time, %"]
    shares = ([row["variant"], row["median_ms"], 100 * row["ratio"], 100 * row["cpu_ratio"]] for row in data["rows"])
    return table(head, ([name, _milliseconds(ms), *(f"{share:.1f}" for share in own)] for name, ms, *own in shares))


def distilled(data: Data) -> str:
    """Runs of ``train.distil``: a column a teacher and its student, a row a method, and its gain over labels alone."""

    def accuracies(run: Data, method: str) -> list[float]:
        return [row["accuracy"] for row in run["rows"] if row["method"] == method]

    def cell(run: Data, method: str) -> str:
        own, alone = accuracies(run, method), accuracies(run, "alone")
        if not own:
            return "nothing to compare" if method in run["left_out"] else ""
        gain = 100 * (statistics.fmean(own) - statistics.fmean(alone)) if alone else 0.0
        return spread(own) if method in ("teacher", "alone") else f"{spread(own)} ({gain:+.2f})"

    runs = data["runs"]
    methods = dict.fromkeys(
        name for run in runs for name in [*(row["method"] for row in run["rows"]), *run["left_out"]]
    )
    head = ["method", *(f"{run['settings']['teacher']} to {run['settings']['student']}" for run in runs)]
    return table(head, ([method, *(cell(run, method) for run in runs)] for method in methods))


def integers(data: Data) -> str:
    """Networks of ``train.bench quant``: time of each variant as a fraction of float32's, and bytes."""
    networks = data["networks"]
    columns = [(network, batch) for network, own in networks.items() for batch in own["batches"]]
    variants = list(dict.fromkeys(r["variant"] for n, b in columns for r in networks[n]["batches"][b]))
    rows = []
    for variant in variants:
        timed = [r for n, b in columns for r in networks[n]["batches"][b] if r["variant"] == variant]
        stored = [f"{networks[n]['bytes'][variant]:,}" for n in networks]
        rows.append([variant, *(f"{row['ratio']:.2f}" for row in timed), *stored])
    head = ["variant", *(f"{n}, batch {b}" for n, b in columns), *(f"{n}, bytes" for n in networks)]
    return table(head, rows)


def thresholds(data: Data) -> str:
    """Ways to find a threshold among 25 million numbers."""
    rows = [row for dtype, own in data["dtypes"].items() for row in _timed(own, dtype)]
    return table(["dtype", "variant", "median, ms", "time", "CPU time"], rows, 2)


def errors(data: Data) -> str:
    """What one-shot methods leave of a layer's output, and how long they take."""
    rows = []
    for layer, own in data["layers"].items():
        seconds = {row["variant"]: row["median_ms"] / 1000 for row in own["rows"]}
        methods = ("magnitude", "SparseGPT", "OBC")
        took = [f"{seconds[m]:.3g}" if m in seconds else "" for m in methods[1:]]
        rows.append([layer, *(f"{own['errors'][m]:.3f}" if m in own["errors"] else "" for m in methods), *took])
    return table(["inputs x outputs", "magnitude", "SparseGPT", "OBC", "SparseGPT, s", "OBC, s"], rows)


TABLES: dict[str, Callable[[Data], str]] = {
    each.__name__: each  # type: ignore[attr-defined]
    for each in (
        compress,
        tasks,
        curves,
        shrink,
        quantize,
        small_files,
        packaged,
        exports,
        qat,
        oneshot,
        iterative,
        times,
        readers,
        losses,
        distilled,
        integers,
        thresholds,
        errors,
    )
}


def written(text: str) -> str:
    """A page with its tables made anew."""

    def one(match: re.Match[str]) -> str:
        begin, name, file, end = match.groups()
        if name not in TABLES:
            raise SystemExit(f"no table {name!r}: there are {', '.join(TABLES)}")
        return f"{begin}\n{TABLES[name](json.loads((ROOT / 'bench' / file).read_text()))}\n\n{end}"

    return PLACE.sub(one, text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes, or checks, every page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where a page would change")
    check = parser.parse_args(arguments).check
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    old = [page for page in pages if written(page.read_text()) != page.read_text()]
    for page in old:
        if check:
            print(f"{page.relative_to(ROOT)} differs from bench/: run python docs/results.py", file=sys.stderr)
        else:
            page.write_text(written(page.read_text()))
    return 1 if check and old else 0


if __name__ == "__main__":
    sys.exit(main())
