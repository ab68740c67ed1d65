"""Rules over paths never fail in silence."""

import pytest

from jaxcomp.core.errors import RuleError
from jaxcomp.core.rules import assign


def test_the_first_rule_that_matches_the_whole_path_wins():
    paths = ["a/kernel", "a/bias", "b/kernel", "b/kernel_2"]
    assert assign(["b/.*", ".*/kernel"], paths) == {"b/kernel": 0, "b/kernel_2": 0, "a/kernel": 1}
    assert assign([], paths) == {}


def test_a_closing_rule_for_the_rest_may_be_left_without_any():
    assert assign([r"a/.*", ".*"], ["a/x"]) == {"a/x": 0}
    assert assign([".*"], []) == {}


def test_a_rule_that_matches_nothing_lists_the_paths():
    with pytest.raises(RuleError) as error:
        assign([".*/kernel", "Conv_9"], ["Conv_0/kernel", "Conv_0/bias"])
    assert "rule 1, 'Conv_9', matches no parameter" in str(error.value)
    assert "\n  Conv_0/kernel\n  Conv_0/bias" in str(error.value)
    with pytest.raises(RuleError, match="the tree has no leaves"):
        assign(["kernel"], [])


def test_a_rule_that_matches_a_part_of_a_path_matches_nothing():
    with pytest.raises(RuleError, match="must match a whole path"):
        assign(["kernel"], ["Conv_0/kernel"])


def test_a_shadowed_rule_names_the_one_that_shadows_it():
    with pytest.raises(RuleError, match=r"the earlier rule '\.\*/kernel' takes 'Conv_0/kernel'"):
        assign([".*/kernel", "Conv_0/.*nel"], ["Conv_0/kernel"])


def test_a_rule_that_is_no_regular_expression_is_named():
    with pytest.raises(RuleError, match=r"rule '\*/kernel' is not a regular expression"):
        assign(["*/kernel"], ["a/kernel"])
