"""A function as an ONNX file, by rules of our own over its traced program.

Written as operands in their layouts (``operands``, ``graph``) by one rule a primitive (``elementwise``, ``shapes``,
``indices``, ``reductions``, ``contractions``, ``codes``), fused, and saved.
"""

from jaxcomp.export.to_onnx.save import OnnxReport, onnx

__all__ = ["OnnxReport", "onnx"]
