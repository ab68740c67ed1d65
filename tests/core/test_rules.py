"""Rules over paths never fail in silence."""

import pytest

from jaxcomp.core.errors import RuleError
from jaxcomp.core.rules import assign, by_rule, rules_of


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


PATHS = ["a.b/kernel", "aXb/kernel", "head"]


def test_a_mapping_is_exact_paths_and_pairs_are_rules() -> None:
    assert by_rule({"a.b/kernel": 1}, PATHS) == {"a.b/kernel": 1}
    for rules in ([("a.b/kernel", 1)], (("a.b/kernel", 1),)):
        assert by_rule(rules, PATHS) == {"a.b/kernel": 1, "aXb/kernel": 1}
    for one in (None, (2, 4), 0.5, {}):
        assert by_rule(one, PATHS) == ({} if one == {} else dict.fromkeys(PATHS, one))


@pytest.mark.parametrize("value", [{"a.b/kernel": 1, "head": None}, [("a.b.*", 1), (".*", 2)], 3])
def test_everything_can_be_written_as_rules(value: object) -> None:
    assert by_rule(rules_of(value), PATHS) == by_rule(value, PATHS)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"heed": 1}, "'heed' is none; the nearest is 'head'"),
        ({"a.*": 1}, r"'a.\*' is a regular expression: give rules, \[\('a.\*', value\)\]"),
        ({"*": 1}, r"'\*' is none; the nearest is"),
        ([0.5, 0.3], r"element 0 is 0.5: give pairs, or \{path: value\} for exact paths"),
    ],
)
def test_what_is_neither_says_what_to_give(value: object, said: str) -> None:
    with pytest.raises(RuleError, match=said):
        by_rule(value, PATHS)
