"""Floor 4: what compression reached, and reports of it. Needs only jax and numpy until a figure is drawn."""

from jaxcomp.measure.blocks import (
    Bar,
    Block,
    Titled,
    code,
    collapsible,
    figure,
    heading,
    paragraph,
    summary_table,
    table,
    tiles,
)
from jaxcomp.measure.canvas import PHONE
from jaxcomp.measure.curves import tradeoff_curves, training_curves
from jaxcomp.measure.figures import class_confusion, layer_sensitivity, layer_sparsity, weight_histograms
from jaxcomp.measure.report import html_report
from jaxcomp.measure.summary import Row, Summary, summary

__all__ = [
    "PHONE",
    "Bar",
    "Block",
    "Row",
    "Summary",
    "Titled",
    "class_confusion",
    "code",
    "collapsible",
    "figure",
    "heading",
    "html_report",
    "layer_sensitivity",
    "layer_sparsity",
    "paragraph",
    "summary",
    "summary_table",
    "table",
    "tiles",
    "tradeoff_curves",
    "training_curves",
    "weight_histograms",
]


def __dir__() -> list[str]:
    return __all__
