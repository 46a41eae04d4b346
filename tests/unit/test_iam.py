"""The rules by which tests try the documentation's policies are IAM's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.iam import Request, decide

TABLE = "arn:aws:dynamodb:eu-central-1:123456789012:table/snapengine"
LEADING = "dynamodb:LeadingKeys"


def policy(effect: str = "Allow", action: Any = "dynamodb:Query", resource: Any = TABLE, **also: Any) -> Any:
    statement = {"Effect": effect, "Action": action, "Resource": resource, **also}
    return {"Version": "2012-10-17", "Statement": [statement]}


def query(keys: Sequence[str] | None = ("LOG#scans#0",), action: str = "dynamodb:Query") -> Request:
    return Request(action, TABLE, {} if keys is None else {LEADING: keys})


def test_nothing_is_allowed_that_no_statement_allows() -> None:
    assert decide([], query()) == "implicit deny"
    assert decide([policy(action="dynamodb:GetItem")], query()) == "implicit deny"
    assert decide([policy(resource=TABLE + "2")], query()) == "implicit deny"
    assert decide([policy()], query()) == "allowed"


def test_a_deny_wins_over_every_allow() -> None:
    both = [policy(action="*", resource="*"), policy("Deny", "dynamodb:*")]
    assert decide(both, query()) == "explicit deny"
    assert decide(both[::-1], query()) == "explicit deny"
    assert decide(both, Request("s3:GetObject", "arn:aws:s3:::a/b")) == "allowed"


@pytest.mark.parametrize(
    ("pattern", "resource", "applies"),
    [
        ("arn:aws:s3:::archives/*", "arn:aws:s3:::archives/a/b", True),
        ("arn:aws:s3:::archives/*", "arn:aws:s3:::archives", False),
        ("arn:aws:s3:::archives/*/identifying/*", "arn:aws:s3:::archives/x/identifying/y/z", True),
        ("arn:aws:s3:::archives/*/identifying/*", "arn:aws:s3:::archives/x/y/identifying/z", True),
        ("arn:aws:s3:::archives/*/identifying/*", "arn:aws:s3:::archives/identifying/z", False),
        ("arn:aws:s3:::archives/*/identifying/*", "arn:aws:s3:::archives/x/identifying-not/z", False),
        ("arn:aws:s3:::archives/?", "arn:aws:s3:::archives/ab", False),
        ("arn:aws:s3:::archives/a.c", "arn:aws:s3:::archives/abc", False),
        ("arn:aws:s3:::Archives/a", "arn:aws:s3:::archives/a", False),
        ("arn:aws:s3:::archives/*", "arn:aws:s3:::archives/a:b:c", True),
        ("arn:aws:*:::archives/a", "arn:aws:s3:::archives/a", True),
        ("arn:aws:*", "arn:aws:s3:::archives/a", False),
        ("*", "arn:aws:s3:::archives/a", True),
    ],
)
def test_wildcards_of_resources(pattern: str, resource: str, *, applies: bool) -> None:
    found = decide([policy(action="s3:GetObject", resource=pattern)], Request("s3:GetObject", resource))
    assert (found == "allowed") is applies


def test_the_case_of_an_action_does_not_count() -> None:
    assert decide([policy(action="DynamoDB:q*")], query()) == "allowed"


@pytest.mark.parametrize(
    ("operator", "values", "given", "holds"),
    [
        ("ForAllValues:StringLike", ["LOG#*", "KEY#*"], ["LOG#a", "KEY#b"], True),
        ("ForAllValues:StringLike", ["LOG#*", "KEY#*"], ["LOG#a", "IDENTIFYING#b"], False),
        ("ForAllValues:StringLike", ["LOG#*"], ["log#a"], False),
        ("ForAllValues:StringLike", "LOG#*", [], True),
        ("ForAllValues:StringLike", "LOG#*", None, True),
        ("ForAllValues:StringNotLike", "IDENTIFYING#*", ["LOG#a", "KEY#b"], True),
        ("ForAllValues:StringNotLike", "IDENTIFYING#*", ["LOG#a", "IDENTIFYING#b"], False),
        ("ForAnyValue:StringLike", "IDENTIFYING#*", ["LOG#a", "IDENTIFYING#b"], True),
        ("ForAnyValue:StringLike", "IDENTIFYING#*", ["LOG#a"], False),
        ("ForAnyValue:StringLike", "IDENTIFYING#*", [], False),
        ("ForAnyValue:StringLike", "IDENTIFYING#*", None, False),
        ("ForAllValues:StringEquals", ["LOG#*"], ["LOG#a"], False),
        ("ForAnyValue:StringNotEquals", ["a", "b"], ["a", "c"], True),
        ("ForAnyValue:StringNotEquals", ["a", "b"], ["a", "b"], False),
        ("Null", "true", None, True),
        ("Null", "false", None, False),
        ("Null", "false", ["LOG#a"], True),
    ],
)
def test_conditions_over_many_values(
    operator: str, values: Any, given: Sequence[str] | None, *, holds: bool
) -> None:
    found = decide([policy(Condition={operator: {LEADING: values}})], query(given))
    assert (found == "allowed") is holds


@pytest.mark.parametrize(
    ("operator", "given", "holds"),
    [
        ("StringLike", "the/x", True),
        ("StringLike", "other", False),
        ("StringLike", None, False),
        ("StringLikeIfExists", None, True),
        ("StringNotLike", None, True),
        ("StringNotLike", "the/x", False),
        ("StringEquals", "the/*", True),
    ],
)
def test_conditions_over_one_value(operator: str, given: str | None, *, holds: bool) -> None:
    asked = Request("s3:ListBucket", "arn:aws:s3:::a", {"s3:prefix": [given]} if given is not None else {})
    rule = policy(
        action="s3:ListBucket", resource="arn:aws:s3:::a", Condition={operator: {"s3:prefix": "the/*"}}
    )
    assert (decide([rule], asked) == "allowed") is holds


def test_all_conditions_of_a_statement_must_hold() -> None:
    condition = {"ForAllValues:StringLike": {LEADING: "LOG#*"}, "Null": {LEADING: "false"}}
    assert decide([policy(Condition=condition)], query(["LOG#a"])) == "allowed"
    assert decide([policy(Condition=condition)], query(None)) == "implicit deny"
    assert decide([policy(Condition=condition)], query(["KEY#a"])) == "implicit deny"


@pytest.mark.parametrize(
    "odd",
    [
        policy(Condition={"ForAllValues:NumericLessThan": {LEADING: "3"}}),
        policy(Condition={"StringLike": {LEADING: "LOG#*"}}),
        policy(Condition={"ForAnyValue:StringLike": {"s3:prefix": "a"}}),
        policy(Condition={"ForAnyValue:StringLike": {LEADING: "${aws:userid}"}}),
        policy(NotAction="s3:*"),
        policy("Perhaps"),
        {"Statement": []},
    ],
)
def test_what_is_not_understood_is_no_answer(odd: Any) -> None:
    with pytest.raises(ValueError, match=r"understood|takes|effect|no policy"):
        decide([odd], query())
