"""Classifiers in files of other runtimes, run there: pixels in, logits out, on one thread, in batches of one size."""

import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

from train.common.errors import UserError

Run = Callable[[np.ndarray], np.ndarray]
"""From images ``[batch, height, width, channels]`` uint8 to logits ``[batch, classes]``."""


class Engine(NamedTuple):
    """A file as its runtime has taken it.

    Attributes:
      run: it, on batches of the size that it was opened for.
      products: its convolutions and matmuls, by the type that they are computed in.
    """

    run: Run
    products: Mapping[str, int]


def litert(path: Path, batch: int) -> Engine:
    """Opens a .tflite file of this batch in LiteRT."""
    from ai_edge_litert.interpreter import Interpreter

    from jaxcomp.export.litert_file import operations

    model = Interpreter(model_path=str(path), num_threads=1)
    (given,), (result,) = model.get_input_details(), model.get_output_details()
    model.allocate_tensors()

    def run(images: np.ndarray) -> np.ndarray:
        model.set_tensor(given["index"], images)
        model.invoke()
        return np.asarray(model.get_tensor(result["index"]))

    return Engine(run, Counter(each.types[0].lower() for each in operations(path.read_bytes()) if each.is_product))


def onnxruntime(path: Path, batch: int) -> Engine:
    """Opens an .onnx file of any batch in ONNX Runtime."""
    import onnx
    import onnxruntime as runtime

    settings = runtime.SessionOptions()
    settings.intra_op_num_threads, settings.log_severity_level = 1, 3
    settings.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")  # else inputs are rounded, too
    with tempfile.TemporaryDirectory() as folder:
        settings.optimized_model_filepath = f"{folder}/optimized.onnx"
        session = runtime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        kinds = [node.op_type for node in onnx.load(settings.optimized_model_filepath).graph.node]
    (given,) = session.get_inputs()
    products = Counter("int8" if kind in _INTEGERS else "float32" for kind in kinds if kind in (*_INTEGERS, *_FLOATS))
    return Engine(lambda images: session.run(None, {given.name: images})[0], products)


_INTEGERS = ("QLinearConv", "QGemm", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "ConvInteger")
_FLOATS = ("Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "MatMulNBits")
"""What ONNX Runtime makes of products."""


def openvino(path: Path, batch: int) -> Engine:
    """Opens an .onnx file of any batch or a .tflite file of this one in OpenVINO, floats as float32."""
    import openvino as runtime

    core = runtime.Core()
    model = core.read_model(str(path))
    (port,) = model.inputs
    if model.is_dynamic():
        model.reshape([batch, *(dim.get_length() for dim in list(port.partial_shape)[1:])])
    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()
    infos = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
    types = [str(each["runtimePrecision"].value) for each in infos if each["layerType"].value in _PRODUCTS]
    return Engine(lambda images: np.array(request.infer({0: images})[0]), Counter(types))


_PRODUCTS = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")


class Runtime(NamedTuple):
    """What runs files.

    Attributes:
      title: its name.
      package: that has it.
      open: from a file and a batch to an engine.
    """

    title: str
    package: str
    open: Callable[[Path, int], Engine]

    @property
    def is_here(self) -> bool:
        """Whether it is installed."""
        return find_spec(self.package.replace("-", "_")) is not None

    def opened(self, path: Path, batch: int) -> Engine:
        """Opens a file.

        Raises:
          UserError: if the runtime refuses it.
        """
        try:
            return self.open(path, batch)
        except (RuntimeError, ValueError) as error:  # the runtimes' own kinds are such
            raise UserError(f"{path}: {self.title} does not run it on {batch} images at once: {error}") from error

    def __str__(self) -> str:
        return f"{self.title} {version(self.package).partition('-')[0]}"


LITERT = Runtime("LiteRT", "ai-edge-litert", litert)
ONNX_RUNTIME = Runtime("ONNX Runtime", "onnxruntime", onnxruntime)
OPENVINO = Runtime("OpenVINO", "openvino", openvino)
