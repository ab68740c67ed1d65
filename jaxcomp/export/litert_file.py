"""The contents of .tflite files: LiteRT's converter makes them of a function, and its schema tells what they hold.

A network's weights go to the converter as the arrays that they are. In the program's text they would take six times
their own memory.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcomp.core.errors import ArgumentError
from jaxcomp.trace import compat

LARGE, NUMBERS = 1024, ("float32", "float16", "int8", "int16", "int32")
"""The bytes from which on a constant is handed over beside the program, and the types that can be."""

PRODUCTS = ("CONV_2D", "DEPTHWISE_CONV_2D", "CONV_3D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "BATCH_MATMUL")
"""The runtime's operations that multiply."""

SMALL = 2**24
"""The bytes of a file up to which it is worth the time to store what is alike once."""


class Operation(NamedTuple):
    """One operation of a file.

    Attributes:
      name: the runtime's, ``"CONV_2D"``.
      types: those of its first two operands, of which one is its weight, and of its result.
      shape: of its result.
    """

    name: str
    types: tuple[str, ...]
    shape: tuple[int, ...]

    @property
    def is_product(self) -> bool:
        """Whether it multiplies matrices or convolves."""
        return self.name in PRODUCTS


def converted(fn: Callable[..., Any], example: Sequence[Any], names: Sequence[str]) -> bytes:
    """Converts a function of inputs alone.

    Args:
      fn: the function, which closes over its weights.
      example: the shapes of its inputs.
      names: of the arrays of the inputs.

    Returns:
      The bytes of a .tflite file.

    Raises:
      ArgumentError: if the converter refuses the function.
    """
    text, weights, results = _lowered(fn, example)
    content = _content(text, weights, names, results)
    return content if len(content) > SMALL else _shared(content)


def _lowered(fn: Callable[..., Any], example: Sequence[Any]) -> tuple[str, list[np.ndarray], int]:
    """The program's text, in which its large constants are the first arguments, these, and the number of results."""
    apart, constants = compat.constants_apart(fn, *example)
    large = [i for i, each in enumerate(constants) if _is_large(each)]
    weights = [np.asarray(constants[i]) for i in large]

    def whole(weights: list[Any], *inputs: Any) -> Any:
        own = dict(zip(large, weights, strict=True))
        return apart([own.get(i, each) for i, each in enumerate(constants)], *inputs)

    shapes = [jax.ShapeDtypeStruct(each.shape, each.dtype) for each in weights]
    lowered = jax.jit(whole, keep_unused=True).lower(shapes, *example)
    return str(lowered.compiler_ir("stablehlo")), weights, len(jax.tree.leaves(lowered.out_info))


def _is_large(constant: Any) -> bool:
    return constant.nbytes >= LARGE and constant.dtype.name in NUMBERS


def _content(text: str, weights: list[np.ndarray], names: Sequence[str], results: int) -> bytes:
    from litert_converter import converter_api_ext as converter
    from litert_converter.mlir import ir, passmanager
    from litert_converter.mlir.dialects import stablehlo

    context = ir.Context()
    converter.prepare_mlir_context(context)
    stablehlo.register_dialect(context)
    made = ["y"] if results == 1 else [f"y{i}" for i in range(results)]
    try:
        with context:
            module = ir.Module.parse(text)
            _put_in(module, weights)
            converter.set_signature(
                module.operation, signature_name="serving_default", input_names=list(names), output_names=made
            )
            settings = converter.ConvertToTFLConfig()
            settings.model_origin_framework = "JAX"
            settings.strict_qdq_mode = True  # else marks are dropped without a word
            converter.run_convert_to_tfl_passes(module, passmanager.PassManager(), settings)
            return bytes(converter.export_flatbuffer_to_bytes(module.operation))
    except Exception as error:  # the converter's own kinds
        raise ArgumentError(f"LiteRT's converter refuses the function: {type(error).__name__}: {error}") from error


def _put_in(module: Any, weights: list[np.ndarray]) -> None:
    """Makes constants of the first arguments of a program; takes them from the list, which may be all that has them."""
    from litert_converter.mlir import ir
    from litert_converter.mlir.dialects import stablehlo

    main = next(each for each in module.body.operations if each.sym_name.value == "main")
    block = main.entry_block
    with ir.Location.unknown(), ir.InsertionPoint.at_block_begin(block):
        while weights:
            array = np.ascontiguousarray(weights.pop(0))
            value = ir.DenseElementsAttr.get(array, shape=list(array.shape))
            block.arguments[0].replace_all_uses_with(stablehlo.ConstantOp(value).result)
            block.erase_argument(0)
    inputs = [each.type for each in block.arguments]
    main.attributes["function_type"] = ir.TypeAttr.get(ir.FunctionType.get(inputs, main.type.results))
    main.attributes["arg_attrs"] = ir.ArrayAttr.get([ir.DictAttr.get({}) for _ in inputs])


def _shared(content: bytes) -> bytes:
    """The same file, smaller: equal vectors are stored once, and numbers are the names of inner tensors.

    Zero points take eight bytes a channel, and are all 0; the names that the converter makes up are long.
    """
    from flatbuffers import Builder
    from litert_converter import schema_py_generated as schema

    class Sharing(Builder):
        def CreateNumpyVector(self, x: np.ndarray) -> Any:  # noqa: N802
            key = x.dtype.str, x.tobytes()
            if key not in known:
                if x.itemsize == 1:
                    self.Prep(16, x.nbytes)  # runtimes read weights where they lie
                known[key] = super().CreateNumpyVector(x)
            return known[key]

    known: dict[Any, Any] = {}
    builder = Sharing(len(content))
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
    for graph in model.subgraphs:
        for i, tensor in enumerate(graph.tensors):
            tensor.name = tensor.name if i in (*graph.inputs, *graph.outputs) else f"{i}"
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def operations(content: bytes) -> tuple[Operation, ...]:
    """Lists what a file computes.

    Args:
      content: the bytes of a .tflite file.

    Returns:
      The operations of all its graphs, in order.
    """
    from litert_converter import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
    names = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
    types = {number: name for name, number in vars(schema.TensorType).items() if isinstance(number, int)}
    found = []
    for graph in model.subgraphs:
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            tensors = [graph.tensors[i] for i in (*operator.inputs[:2], *operator.outputs[:1]) if i >= 0]
            kinds = tuple(types[tensor.type] for tensor in tensors)
            shape = () if tensors[-1].shape is None else tuple(map(int, tensors[-1].shape))
            found.append(Operation(names[max(code.builtinCode, code.deprecatedBuiltinCode)], kinds, shape))
    return tuple(found)
