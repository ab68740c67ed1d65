"""How JAX computes the operators of ONNX that occur in the networks read here; channels come second.

Operands stand where the newest versions have them; ``opset`` among the attributes tells versions apart.
What is known beforehand, shapes and places, is computed in NumPy and stays so: JAX needs it to be static.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from train.readers.graph import Attributes, Rule, Rules, UnsupportedError, same

Array = Any


def _static(*operands: Any) -> bool:
    return all(isinstance(each, (np.ndarray, np.generic)) for each in operands)


def _of(*operands: Any) -> Any:
    """NumPy for what is known beforehand, else JAX."""
    return np if _static(*operands) else jnp


def _numbers(what: str, operand: Any) -> list[int]:
    if not _static(operand):
        raise UnsupportedError(f"{what} that depend on its inputs")
    return [int(each) for each in np.ravel(operand)]


def _pads(a: Attributes, sizes: Sequence[int], window: Sequence[int]) -> list[tuple[int, int]]:
    """What stands before and behind each axis of so many places, over which a window moves."""
    kind, n = a.get("auto_pad", b"NOTSET").decode(), len(sizes)
    if kind in ("NOTSET", "VALID"):
        pads = a.get("pads", [0] * 2 * n)
        return [*zip(pads[:n], pads[n:], strict=True)]
    if kind != "SAME_UPPER":
        raise UnsupportedError(f"auto_pad={kind}")
    wide = [(size - 1) * step + 1 for size, step in zip(window, a.get("dilations", [1] * n), strict=True)]
    return [*lax.padtype_to_pads(sizes, wide, a.get("strides", [1] * n), "SAME")]


def _layout(kernel: str, spatial: int) -> tuple[str, str, str]:
    axes = "DHW"[-spatial:]
    return f"NC{axes}", f"{kernel}{axes}", f"NC{axes}"


def _biased(y: Array, bias: Array | None) -> Array:
    return y if bias is None else y + bias.reshape(-1, *[1] * (y.ndim - 2))


def conv(a: Attributes, x: Array, kernel: Array, bias: Array | None = None) -> Array:
    """A convolution, in groups or not, of any number of axes."""
    n = x.ndim - 2
    y = lax.conv_general_dilated(
        x,
        kernel,
        a.get("strides", [1] * n),
        _pads(a, x.shape[2:], kernel.shape[2:]),
        rhs_dilation=a.get("dilations"),
        dimension_numbers=_layout("OI", n),
        feature_group_count=a.get("group", 1),
    )
    return _biased(y, bias)


def conv_transpose(a: Attributes, x: Array, kernel: Array, bias: Array | None = None) -> Array:
    """A transposed convolution: one of the input spread out by the strides, the kernel turned round."""
    n = x.ndim - 2
    odd = a.get("auto_pad", b"NOTSET") != b"NOTSET" or "output_shape" in a
    if odd or a.get("group", 1) != 1 or set(a.get("dilations", [1])) != {1}:
        raise UnsupportedError("groups, dilations, an auto_pad or an output_shape")
    more = a.get("output_padding", [0] * n)
    sides = zip(kernel.shape[2:], _pads(a, x.shape[2:], kernel.shape[2:]), more, strict=True)
    y = lax.conv_general_dilated(
        x,
        kernel,
        (1,) * n,
        [(size - 1 - low, size - 1 - high + extra) for size, (low, high), extra in sides],
        lhs_dilation=a.get("strides", [1] * n),
        dimension_numbers=_layout("IO", n),
    )
    return _biased(y, bias)


def _turned(kernel: np.ndarray) -> np.ndarray:
    return np.flip(kernel, tuple(range(2, kernel.ndim)))


def batch_norm(a: Attributes, x: Array, scale: Array, bias: Array, mean: Array, var: Array) -> Array:
    """Batch norm at inference."""
    if a.get("training_mode") or not a.get("spatial", 1):
        raise UnsupportedError("training_mode or spatial=0")
    shape = (-1, *[1] * (x.ndim - 2))
    factor = lax.rsqrt(var + a.get("epsilon", 1e-5)) * scale
    return (x - mean.reshape(shape)) * factor.reshape(shape) + bias.reshape(shape)


def lstm(
    a: Attributes, x: Array, kernel: Array, recurrent: Array, bias: Array | None = None, *more: Array | None
) -> tuple[Array, ...]:
    """An LSTM over steps ``[time, batch, in]``; gates in the order input, output, forget, cell."""
    given = dict(enumerate(more))
    lengths, hidden, cell, peepholes = (given.get(i) for i in range(4))
    if a.get("direction", b"forward") != b"forward" or lengths is not None or peepholes is not None:
        raise UnsupportedError("two directions, lengths or peepholes")
    if a.get("activations") or a.get("clip") or a.get("layout") or a.get("input_forget"):
        raise UnsupportedError("activations, clip, layout=1 or input_forget=1")
    begin = jnp.zeros((x.shape[1], a["hidden_size"]), x.dtype)
    states: Any = tuple(begin if each is None else each[0] for each in (hidden, cell))

    def step(state: tuple[Array, Array], now: Array) -> tuple[tuple[Array, Array], Array]:
        h, c = state
        i, o, f, g = jnp.split(now + h @ recurrent, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    gates = x @ kernel
    (h, c), every = lax.scan(step, states, gates if bias is None else gates + bias)
    return every[:, None], h[None], c[None]


def _only(gates: np.ndarray) -> np.ndarray:
    """Of an LSTM of one direction ``[1, 4 hidden, in]`` -> ``[in, 4 hidden]``."""
    return gates[0].T


def _joined(biases: np.ndarray) -> np.ndarray:
    """An LSTM has two biases, which are added."""
    return biases[0].reshape(2, -1).sum(axis=0)


def pad(a: Attributes, x: Array, pads: Array, value: Array | None = None, axes: Array | None = None) -> Array:
    """Zeros, a number or a reflection around the borders."""
    mode, numbers = a.get("mode", b"constant").decode(), _numbers("pads", pads)
    if mode not in ("constant", "reflect", "edge") or min(numbers, default=0) < 0:
        raise UnsupportedError(f"mode={mode} and pads={numbers}")
    which = range(x.ndim) if axes is None else _numbers("axes", axes)
    sides, half = [(0, 0)] * x.ndim, len(numbers) // 2
    for axis, low, high in zip(which, numbers[:half], numbers[half:], strict=True):
        sides[axis] = low, high
    if mode == "constant":
        return _of(x).pad(x, sides, constant_values=0 if value is None else value.item())
    return _of(x).pad(x, sides, mode=mode)


def part(
    a: Attributes, x: Array, starts: Array, ends: Array, axes: Array | None = None, steps: Array | None = None
) -> Array:
    """``x[start:end:step]`` of some axes."""
    first, last = _numbers("starts", starts), _numbers("ends", ends)
    which = range(len(first)) if axes is None else _numbers("axes", axes)
    strides = [1] * len(first) if steps is None else _numbers("steps", steps)
    places = [slice(None)] * x.ndim
    for axis, begin, end, stride in zip(which, first, last, strides, strict=True):
        places[axis] = slice(begin, end, stride) if stride > 0 else _backwards(begin, end, stride, x.shape[axis])
    return x[tuple(places)]


def _backwards(begin: int, end: int, stride: int, size: int) -> slice:
    """Places from the last to the first: a beginning before all is the first, for Python it would be none."""
    begin, end = (place + size * (place < 0) for place in (begin, end))
    return slice(min(max(begin, 0), size - 1), None if end < 0 else end, stride)


def reshape(a: Attributes, x: Array, shape: Array) -> Array:
    """A new shape, in which 0 is the old size."""
    sizes = _numbers("shapes", shape)
    return x.reshape([x.shape[i] if size == 0 and not a.get("allowzero") else size for i, size in enumerate(sizes)])


def _repeats(a: Attributes) -> bool:
    """Whether the nearest neighbor at whole factors is each number repeated; by default it is."""
    if a["opset"] < 11:
        return True
    places = a.get("coordinate_transformation_mode", b"half_pixel")
    rounding = a.get("nearest_mode", b"round_prefer_floor")
    if places == b"asymmetric":
        return bool(rounding == b"floor")
    return places in (b"half_pixel", b"pytorch_half_pixel") and rounding.startswith(b"round_prefer")


def resize(
    a: Attributes, x: Array, roi: Array | None, scales: Array | None = None, sizes: Array | None = None
) -> Array:
    """Every number several times: whole factors, the nearest neighbor."""
    if a.get("mode", b"nearest") != b"nearest" or not _repeats(a):
        asked = ("mode", "coordinate_transformation_mode", "nearest_mode")
        raise UnsupportedError(", ".join(f"{name}={a[name].decode()}" for name in asked if name in a))
    if a.get("keep_aspect_ratio_policy", b"stretch") != b"stretch":
        raise UnsupportedError(f"keep_aspect_ratio_policy={a['keep_aspect_ratio_policy'].decode()}")
    axes = a.get("axes", range(x.ndim))
    given: Any = roi if a["opset"] < 11 else scales
    if sizes is not None:
        given = np.asarray(_numbers("sizes", sizes)) / [x.shape[axis] for axis in axes]
    if not _static(given):
        raise UnsupportedError("scales that depend on its inputs")
    for axis, scale in zip(axes, given.tolist(), strict=True):
        if scale != int(scale) or scale < 1:
            raise UnsupportedError(f"a scale of {scale}")
        x = x if scale == 1 else jnp.repeat(x, int(scale), axis=axis)
    return x


def reduced(name: str) -> Callable[..., Array]:
    """A mean or a sum over axes, over all where none is given; of integers one, rounded toward zero."""

    def compute(a: Attributes, x: Array, axes: Array | None = None) -> Array:
        which = () if axes is None else tuple(_numbers("axes", axes))
        if not which and a.get("noop_with_empty_axes"):
            return x
        how: dict[str, Any] = {"axis": which or None, "keepdims": bool(a.get("keepdims", 1))}
        if name == "mean" and np.issubdtype(x.dtype, np.integer):
            total = _of(x).sum(x, dtype=x.dtype, **how)
            return divide(a, total, np.asarray(x.size // max(total.size, 1), x.dtype))
        return getattr(_of(x), name)(x, dtype=x.dtype, **how)

    return compute


def _window(a: Attributes, x: Array) -> tuple[tuple[int, ...], tuple[int, ...], list[tuple[int, int]]]:
    if a.get("ceil_mode") or set(a.get("dilations", [1])) != {1}:
        raise UnsupportedError("ceil_mode or dilations")
    n = x.ndim - 2
    sides = [(0, 0), (0, 0), *_pads(a, x.shape[2:], a["kernel_shape"])]
    return (1, 1, *a["kernel_shape"]), (1, 1, *a.get("strides", [1] * n)), sides


def max_pool(a: Attributes, x: Array) -> Array:
    """The greatest number of each window."""
    return lax.reduce_window(x, -jnp.inf, lax.max, *_window(a, x))


def average_pool(a: Attributes, x: Array) -> Array:
    """The mean of each window, without the border or with it."""
    window, strides, sides = _window(a, x)
    total = lax.reduce_window(x, 0.0, lax.add, window, strides, sides)
    if a.get("count_include_pad"):
        return total / float(np.prod(window))
    ones = jnp.ones((1, 1, *x.shape[2:]), x.dtype)
    return total / lax.reduce_window(ones, 0.0, lax.add, window, strides, sides)


def clip(a: Attributes, x: Array, low: Array | None = None, high: Array | None = None) -> Array:
    """Numbers between two bounds."""
    return jnp.clip(x, *(None if each is None else each.item() for each in (low, high)))


def squeeze(a: Attributes, x: Array, axes: Array | None = None) -> Array:
    """Without axes of length 1."""
    return x.squeeze(None if axes is None else tuple(_numbers("axes", axes)))


def unsqueeze(a: Attributes, x: Array, axes: Array) -> Array:
    """With axes of length 1."""
    return _of(x).expand_dims(x, tuple(_numbers("axes", axes)))


def softmax(a: Attributes, x: Array) -> Array:
    """Softmax along an axis; before opset 13 over all from that axis on."""
    if a["opset"] >= 13:
        return jax.nn.softmax(x, axis=a.get("axis", -1))
    return jax.nn.softmax(x, axis=tuple(range(a.get("axis", 1) % x.ndim, x.ndim)))


def divide(a: Attributes, x: Array, y: Array) -> Array:
    """A quotient; that of integers is rounded toward zero."""
    own = _of(x, y)
    if not all(np.issubdtype(each.dtype, np.integer) for each in (x, y)):
        return own.divide(x, y)
    return own.sign(x) * own.sign(y) * (abs(x) // abs(y))


def gather(a: Attributes, x: Array, places: Array) -> Array:
    """Entries along an axis."""
    return _of(x, places).take(x, places, axis=a.get("axis", 0))


def cast(a: Attributes, x: Array) -> Array:
    """Another type; 64 bits are what JAX makes of them."""
    kind = {1: np.float32, 6: np.int32, 7: np.int64, 9: np.bool_, 10: np.float16, 11: np.float64}.get(a["to"])
    if kind is None:
        raise UnsupportedError(f"type {a['to']}")
    return x.astype(kind) if _static(x) else x.astype(jax.dtypes.canonicalize_dtype(kind))


def filled(a: Attributes, shape: Array) -> Array:
    """One number everywhere."""
    return np.full(_numbers("shapes", shape), a["value"].item() if "value" in a else np.float32(0))


def gemm(a: Attributes, x: Array, kernel: Array, bias: Array | None = None) -> Array:
    """A matrix product with its bias."""
    if a.get("alpha", 1.0) != 1 or a.get("beta", 1.0) != 1 or a.get("transA"):
        raise UnsupportedError("factors, or a first operand that is transposed")
    y = x @ (kernel.T if a.get("transB") else kernel)
    return y if bias is None else y + bias


EITHER = {0: ("value", same), 1: ("value", same)}


def _pairwise(name: str) -> Rule:
    return Rule(lambda a, x, y: getattr(_of(x, y), name)(x, y), EITHER)


def _each(compute: Callable[[Array], Array]) -> Rule:
    return Rule(lambda a, x: compute(x))


RULES: Rules = {
    "Add": _pairwise("add"),
    "AveragePool": Rule(average_pool),
    "BatchNormalization": Rule(
        batch_norm, {i: (name, same) for i, name in enumerate(("", "scale", "bias", "mean", "var")) if i}
    ),
    "Cast": Rule(cast),
    "Clip": Rule(clip),
    "Concat": Rule(lambda a, *each: _of(*each).concatenate(each, axis=a["axis"])),
    "ConstantOfShape": Rule(filled),
    "Conv": Rule(conv, {1: ("kernel", same), 2: ("bias", same)}),
    "ConvTranspose": Rule(conv_transpose, {1: ("kernel", _turned), 2: ("bias", same)}),
    "Div": Rule(divide, EITHER),
    "Erf": _each(lax.erf),
    "Exp": _each(jnp.exp),
    "Gather": Rule(gather),
    "Gemm": Rule(gemm, {1: ("kernel", same), 2: ("bias", same)}),
    "GlobalAveragePool": _each(lambda x: x.mean(tuple(range(2, x.ndim)), keepdims=True)),
    "HardSigmoid": Rule(lambda a, x: jnp.clip(x * a.get("alpha", 0.2) + a.get("beta", 0.5), 0, 1)),
    "HardSwish": _each(lambda x: x * jnp.clip(x / 6 + 0.5, 0, 1)),
    "Identity": _each(lambda x: x),
    "LSTM": Rule(lstm, {1: ("kernel", _only), 2: ("recurrent", _only), 3: ("bias", _joined)}),
    "MatMul": Rule(lambda a, x, y: x @ y, {0: ("kernel", same), 1: ("kernel", same)}),
    "MaxPool": Rule(max_pool),
    "Mul": _pairwise("multiply"),
    "Pad": Rule(pad),
    "Pow": Rule(lambda a, x, y: x * x if _static(y) and y == 2 else x**y),
    "ReduceMean": Rule(reduced("mean")),
    "ReduceSum": Rule(reduced("sum")),
    "Relu": _each(jax.nn.relu),
    "Reshape": Rule(reshape),
    "Resize": Rule(resize),
    "Shape": Rule(lambda a, x: np.asarray(x.shape[a.get("start", 0) : a.get("end")], np.int64)),
    "Sigmoid": _each(jax.nn.sigmoid),
    "Slice": Rule(part),
    "Softmax": Rule(softmax),
    "Sqrt": _each(jnp.sqrt),
    "Squeeze": Rule(squeeze),
    "Sub": _pairwise("subtract"),
    "Tanh": _each(jnp.tanh),
    "Transpose": Rule(lambda a, x: x.transpose(a.get("perm"))),
    "Unsqueeze": Rule(unsqueeze),
}
"""By ONNX's names."""
