"""Files for other programs: a program that runs without the code that made it, parameters that others read.

``save`` writes a function and its parameters as one StableHLO artifact, and ``load`` gives back a function of both.
``litert`` writes a .tflite file and ``onnx`` an ONNX file, in integers where the function was quantized.
``safetensors`` writes parameters alone, for any framework.
"""

from jaxcomp.export.litert import LitertReport, litert
from jaxcomp.export.safetensors import TensorName, Tensors, load_safetensors, safetensors, torch_names
from jaxcomp.export.stablehlo import Program, load, save
from jaxcomp.export.to_onnx.save import OnnxReport, onnx

__all__ = [
    "LitertReport",
    "OnnxReport",
    "Program",
    "TensorName",
    "Tensors",
    "litert",
    "load",
    "load_safetensors",
    "onnx",
    "safetensors",
    "save",
    "torch_names",
]


def __dir__() -> list[str]:
    return __all__
