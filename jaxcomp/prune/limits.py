"""Limits: how many channels each group keeps at least, whatever their scores."""

import math
from collections.abc import Mapping, Sequence

from jaxcomp.core.channels import ChannelGroups, check_groups
from jaxcomp.core.errors import ArgumentError, RuleError
from jaxcomp.core.rules import assign

LimitRule = str | tuple[str, float]
"""A regex for groups that stay whole, or a regex and the fraction of their channels that may be cut at most."""


def least_kept(
    groups: ChannelGroups, rules: Sequence[LimitRule] = (), minimum: int = 1, maximum: float = 1.0
) -> dict[str, int]:
    """Counts the channels that each group keeps at least.

    Args:
      groups: of :func:`jaxcomp.trace.groups`.
      rules: regexes, or ``(regex, fraction)``: of the groups that it names at most that fraction is cut (0 for a bare
        regex). A regex names a group by its name, or by a parameter that makes its channels (kernel, bias, norm) and
        must match the whole of it; what only reads the channels does not name them. The first match wins.
      minimum: channels that every group keeps, 1 or more.
      maximum: the fraction of a group that no rule names that may be cut at most, in [0, 1].

    Returns:
      ``{group: channels}``.

    Raises:
      ArgumentError: for a minimum below 1, or a fraction outside [0, 1].
      RuleError: if a rule names no group, with the names.

    Example:
      >>> import jax.numpy as jnp, jaxcomp as jc
      >>> params = {"a": jnp.ones((3, 8)), "b": jnp.ones((8, 6)), "c": jnp.ones((6, 2))}
      >>> mlp = lambda p, x: jnp.tanh(jnp.tanh(x @ p["a"]) @ p["b"]) @ p["c"]
      >>> least_kept(jc.trace.groups(mlp, params, jnp.ones((1, 3))), rules=["a"], maximum=0.5)
      {'a': 8, 'b': 3}
    """
    check_groups(groups)
    if minimum < 1:
        raise ArgumentError(f"minimum must be at least 1 channel, got {minimum!r}")
    pairs = [rule if isinstance(rule, tuple) else (rule, 0.0) for rule in rules]
    for what, value in [("maximum", maximum), *((f"the fraction of rule {name!r}", f) for name, f in pairs)]:
        if not 0 <= value <= 1:
            raise ArgumentError(f"{what} must be a fraction of channels in [0, 1], got {value!r}")
    owners = _owners(groups, [pattern for pattern, _ in pairs])
    caps = {group.name: pairs[owners[group.name]][1] if group.name in owners else maximum for group in groups}
    return {g.name: min(g.size, max(minimum, g.size - math.floor(caps[g.name] * g.size + 1e-9))) for g in groups}


def _owners(groups: ChannelGroups, patterns: Sequence[str]) -> Mapping[str, int]:
    """The first rule that names each group."""
    names = {group.name: {group.name, *(m.path for m in group.members if groups.produces(m))} for group in groups}
    try:
        matched = assign(patterns, sorted(set().union(*names.values())))
    except RuleError as error:
        listing = "\n  ".join(names) or "(none)"
        raise RuleError(f"{error}\nThe groups that can be cut are:\n  {listing}") from error
    hits = {name: [matched[alias] for alias in own if alias in matched] for name, own in names.items()}
    return {name: min(rules) for name, rules in hits.items() if rules}
