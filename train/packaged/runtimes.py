"""The runtimes that packages' files are made for: what our functions are compared with."""

from pathlib import Path
from typing import Any

import numpy as np

from train.common.errors import UserError
from train.packaged.subject import Run
from train.readers.litert_file import runnable


def onnx(path: Path) -> Run:
    """An ``.onnx`` file in ONNX Runtime, on one thread; the result, or a tuple of all."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"{path} is run by ONNX Runtime: pip install onnxruntime") from error
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(*inputs: Any) -> Any:
        found = session.run(None, dict(zip(names, map(np.asarray, inputs), strict=True)))
        return found[0] if len(found) == 1 else tuple(found)

    return run


def litert(path: Path) -> Run:
    """A ``.tflite`` file in LiteRT, on one thread, example after example; the result, or a tuple of all."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise UserError(f"{path} is run by LiteRT: pip install 'jaxcomp[litert]'") from error
    model = Interpreter(model_content=runnable(path), num_threads=1)
    model.allocate_tensors()
    (given,), results = model.get_input_details(), model.get_output_details()

    def one(example: np.ndarray) -> list[np.ndarray]:
        model.set_tensor(given["index"], example[None])
        model.invoke()
        return [model.get_tensor(each["index"]) for each in results]

    def run(examples: Any) -> Any:
        found = [one(np.asarray(example)) for example in examples]
        joined = tuple(np.concatenate(each) for each in zip(*found, strict=True))
        return joined[0] if len(joined) == 1 else joined

    return run
