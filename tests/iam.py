"""IAM's rules for one identity's policies: which requests they let through.

moto judges actions and resources, DynamoDB Local nothing. Sources: IAM User Guide, "Policy evaluation logic",
"Condition operators", "Single-valued vs. multivalued context keys". What a policy has that is not known here
is an error, never an answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, Literal

Decision = Literal["allowed", "explicit deny", "implicit deny"]
Policy = Mapping[str, Any]

_ELEMENTS: Final = {"Sid", "Effect", "Action", "Resource", "Condition"}
_MULTIVALUED: Final = {"dynamodb:leadingkeys"}
_OPERATORS: Final = {"StringEquals", "StringNotEquals", "StringLike", "StringNotLike"}


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be authorised: one action on one resource, and what is known besides."""

    action: str
    resource: str
    """An ARN, or `*` where the action has none."""
    context: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Condition keys that the request has, each with its values."""


def decide(policies: Iterable[Policy], request: Request) -> Decision:
    """An explicit deny wins; else one allow is enough; else it is denied."""
    effects = {
        statement["Effect"]
        for policy in policies
        for statement in statements(policy)
        if _applies(statement, request)
    }
    if "Deny" in effects:
        return "explicit deny"
    return "allowed" if "Allow" in effects else "implicit deny"


def statements(policy: Policy) -> list[Policy]:
    """A policy's statements. Raises `ValueError` for what is not a policy, or not understood here."""
    if policy.get("Version") != "2012-10-17" or set(policy) != {"Version", "Statement"}:
        raise ValueError(f"no policy of version 2012-10-17: {sorted(policy)}")
    found = _several(policy["Statement"])
    for statement in found:
        if set(statement) - _ELEMENTS or not {"Effect", "Action", "Resource"} <= set(statement):
            raise ValueError(f"elements that are missing or not understood: {sorted(statement)}")
        if statement["Effect"] not in {"Allow", "Deny"}:
            raise ValueError(f"no effect: {statement['Effect']!r}")
    return found


def _applies(statement: Policy, request: Request) -> bool:
    return (
        any(like(pattern.lower(), request.action.lower()) for pattern in _several(statement["Action"]))
        and any(_arn_like(pattern, request.resource) for pattern in _several(statement["Resource"]))
        and all(
            _holds(operator, key, _several(values), request.context)
            for operator, keys in statement.get("Condition", {}).items()
            for key, values in keys.items()
        )
    )


def _several(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]


def like(pattern: str, text: str) -> bool:
    """`*` is any characters, `?` any one, case counts. Raises `ValueError` for a policy variable."""
    if "${" in pattern:
        raise ValueError(f"policy variables are not understood here: {pattern}")
    return _compiled(pattern).fullmatch(text) is not None


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    wild = {"*": ".*", "?": "."}
    return re.compile("".join(wild.get(letter, re.escape(letter)) for letter in pattern), re.DOTALL)


def _arn_like(pattern: str, arn: str) -> bool:
    """Part by part: no wildcard reaches over a colon, but in the last part, which may have colons itself."""
    if pattern == "*":
        return True
    parts, ours = pattern.split(":", 5), arn.split(":", 5)
    return len(parts) == len(ours) and all(like(one, other) for one, other in zip(parts, ours, strict=True))


def _holds(operator: str, key: str, wanted: list[str], context: Mapping[str, Sequence[str]]) -> bool:
    given = next((values for name, values in context.items() if name.lower() == key.lower()), None)
    if operator == "Null":
        return any((given is None) == (value == "true") for value in wanted)
    quantity, _, plain = operator.rpartition(":")
    optional = plain.endswith("IfExists")
    plain = plain.removesuffix("IfExists")
    if plain not in _OPERATORS or quantity not in {"", "ForAllValues", "ForAnyValue"}:
        raise ValueError(f"the operator {operator} is not understood here")
    if (key.lower() in _MULTIVALUED) != bool(quantity):
        raise ValueError(f"{key} takes {'ForAllValues or ForAnyValue' if not quantity else 'neither'}")
    if quantity == "ForAllValues":
        return all(_matches(plain, value, wanted) for value in given or ())
    if given is None:
        return optional or (not quantity and "Not" in plain)
    return any(_matches(plain, value, wanted) for value in given)


def _matches(operator: str, value: str, wanted: list[str]) -> bool:
    same = like if operator.endswith("Like") else str.__eq__
    found = any(same(one, value) for one in wanted)
    return found is not operator.startswith("StringNot")
