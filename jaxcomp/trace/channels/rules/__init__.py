"""The rules by which primitives are analyzed and rebuilt, one file a family; what has none is opaque."""

from jaxcomp.trace.channels.analysis import Rule
from jaxcomp.trace.channels.rules import (
    collective,
    contract,
    control,
    elementwise,
    index,
    layout,
    opaque,
    reduce,
    reshape,
)

OPAQUE: Rule = opaque.RULE

RULES: dict[str, Rule] = {
    **elementwise.RULES,
    **contract.RULES,
    **reduce.RULES,
    **layout.RULES,
    **reshape.RULES,
    **index.RULES,
    **control.RULES,
    **collective.RULES,
}
"""Each primitive's rule, by its name."""
