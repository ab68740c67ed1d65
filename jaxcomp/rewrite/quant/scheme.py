"""Schemes: how a weight is quantized, and what its sites read."""

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Literal, NamedTuple

from jaxcomp.quant.formats import Format, as_format
from jaxcomp.quant.ranges import Fit
from jaxcomp.trace.packed.codes import Inputs


class Scheme(NamedTuple):
    """How a weight is quantized, and what the matmuls and convolutions that read it multiply it by.

    Attributes:
      bits: of a weight's code, 1 to 8; or a format, or its name.
      axis: the weight's axis or axes along which each index has a scale of its own; ``"channel"``: those of the sites'
        features (of stacked weights also each layer); None: one scale.
      symmetric: whether the weight's codes lie evenly about 0, without zero point.
      inputs: None: weights alone are quantized, and sites compute with their values; ``"static"``: inputs on a grid of
        their calibrated range; ``"dynamic"``: on one that spans each row of a matmul's input, each example of a
        convolution's, as they come (on TPUs this can be slower than bfloat16).
      input_bits: 1 to 8, or a format with an integer form, or its name.
      input_symmetric: whether the inputs' codes lie evenly about 0 (those of formats without zero point do).
        After a relu, half of such codes would never occur.
      block: weights along the reduction that share a scale: see :func:`jaxcomp.quant.fake`. Sites compute with the
        weight's value.
      fit: how far the weight's grid reaches; None: the whole range.

    Example:
      >>> Scheme(bits=4, inputs=None).axis
      'channel'
    """

    bits: int | str | Format = 8
    axis: int | tuple[int, ...] | Literal["channel"] | None = "channel"
    symmetric: bool = True
    inputs: Literal["static", "dynamic"] | None = "static"
    input_bits: int | str | Format = 8
    input_symmetric: bool = False
    block: int | None = None
    fit: Fit | None = None

    @property
    def format(self) -> Format:
        """The format of the weight's codes."""
        return as_format(self.bits, self.symmetric)

    @property
    def input_format(self) -> Format:
        """The format of the inputs' codes."""
        bits = self.input_bits
        if isinstance(bits, Integral) and bits > 1:
            return as_format(bits, self.input_symmetric)
        return as_format(bits)

    @property
    def site(self) -> Inputs | None:
        """The treatment of inputs, as sites need it."""
        return None if self.inputs is None else Inputs(self.inputs, self.input_format.name)


INT8 = Scheme()
"""Weights of 8 bits a channel, calibrated inputs of 8 bits."""

Schemes = Scheme | None | Sequence[tuple[str, Scheme | None]] | Mapping[str, Scheme | None]
"""One scheme for all weights, rules ``[(regex, Scheme or None), ...]``, or ``{path: Scheme or None}`` of exact paths.

Of rules the first that matches the whole path counts. What none matches, what the mapping does not name, and None stay
as they are.
"""
