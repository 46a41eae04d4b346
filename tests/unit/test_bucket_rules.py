"""The one notification rule among everybody else's, and the two queues: names, settings, differences."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from snapengine.buckets import queues, rules
from snapengine.buckets.facts import wanted_settings
from snapengine.buckets.plan import make_plan
from snapengine.buckets.steps import Wanted
from tests.unit.bucket_values import ACCOUNT, NEW, codes, enabled, foreign

# Merging our rule into what is there

names = st.sampled_from(["snapengine", "thumbnails", "audit"])
items = st.builds(
    lambda name, events, prefix: {
        "Id": name,
        "QueueArn": f"arn:aws:sqs:r:a:{name}",
        "Events": events,
        "Filter": {"Key": {"FilterRules": [{"Name": "Prefix", "Value": prefix}]}},
    },
    names,
    st.lists(st.sampled_from(rules.EVENTS), min_size=1, max_size=3),
    st.text("ab/", max_size=3),
)
configurations = st.fixed_dictionaries(
    {},
    optional={
        "QueueConfigurations": st.lists(items, min_size=1, max_size=3),
        "EventBridgeConfiguration": st.just({}),
        "TopicConfigurations": st.just([{"Id": "t", "TopicArn": "arn:t", "Events": ["s3:ObjectAcl:Put"]}]),
    },
)


@given(configurations, st.text("ab/ =", max_size=4))
def test_merging_our_rule_loses_nothing_of_anybody_elses_and_can_be_repeated(
    before: dict[str, Any], prefix: str
) -> None:
    ours = rules.wanted_rule("arn:ours", prefix)
    after = rules.merged(before, ours)
    assert rules.lost(before, after) == []
    assert rules.our_rule(after) == ours
    assert rules.merged(after, ours) == after


@given(configurations)
def test_taking_our_rule_out_leaves_all_others_and_event_bridge(before: dict[str, Any]) -> None:
    after = rules.merged(before, None)
    assert rules.our_rule(after) is None
    assert rules.lost(before, after) == []
    assert ("EventBridgeConfiguration" in after) == ("EventBridgeConfiguration" in before)


def test_a_lost_foreign_rule_and_a_lost_event_bridge_are_seen() -> None:
    before = {**foreign(), "EventBridgeConfiguration": {}}
    assert len(rules.lost(before, {})) == 2


def test_all_three_kinds_of_events_are_subscribed() -> None:
    assert rules.wanted_rule("arn:q", "")["Events"] == [
        "s3:ObjectCreated:*",
        "s3:ObjectRemoved:*",
        "s3:LifecycleExpiration:*",
    ]


@given(st.text(min_size=1, max_size=20))
def test_a_filter_is_form_encoded_as_keys_are_in_events_and_means_the_prefix_again(prefix: str) -> None:
    rule = rules.wanted_rule("arn:q", prefix)
    (read,) = rules.rules_of({"QueueConfigurations": [rule]})
    assert read.prefix == prefix


def test_a_prefix_with_a_space_and_an_equals_sign_is_written_as_s3_wants_it() -> None:
    rule = rules.wanted_rule("arn:q", "my scans/date=1/")
    assert rule["Filter"]["Key"]["FilterRules"] == [{"Name": "prefix", "Value": "my+scans/date%3D1/"}]


# Queues

bucket_names = st.from_regex(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", fullmatch=True) | st.from_regex(
    r"[A-Za-z0-9_.-]{3,255}", fullmatch=True
)


@given(bucket_names)
def test_queue_names_are_what_sqs_allows(bucket: str) -> None:
    for name in (queues.queue_name(bucket), queues.dead_letter_name(bucket)):
        assert len(name) <= 80
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


@given(st.lists(bucket_names, min_size=2, max_size=4, unique=True))
def test_no_two_buckets_share_a_queue_name(buckets: list[str]) -> None:
    made = [name(bucket) for bucket in buckets for name in (queues.queue_name, queues.dead_letter_name)]
    assert len(set(made)) == len(made)


def test_names_that_look_alike_get_queues_of_their_own() -> None:
    buckets = [
        "a.b.c",
        "a-b.c",
        "a_b.c",
        "a.b_c",
        "scans",
        "scans-dead",
        "scans.dead",
        "Scans",
        "scans-dead-dead",
    ]
    made = [name(bucket) for bucket in buckets for name in (queues.queue_name, queues.dead_letter_name)]
    assert len(set(made)) == len(made)


def test_only_s3_for_this_bucket_of_this_account_may_send() -> None:
    event, dead = wanted_settings(replace(NEW, partition="aws-cn", region="cn-north-1"))
    (statement,) = json.loads(event["Policy"])["Statement"]
    assert statement["Principal"] == {"Service": "s3.amazonaws.com"}
    assert statement["Action"] == "sqs:SendMessage"
    assert statement["Condition"] == {
        "ArnEquals": {"aws:SourceArn": "arn:aws-cn:s3:::scans"},
        "StringEquals": {"aws:SourceAccount": ACCOUNT},
    }
    assert event["MessageRetentionPeriod"] == dead["MessageRetentionPeriod"] == str(14 * 86400)
    assert event["SqsManagedSseEnabled"] == dead["SqsManagedSseEnabled"] == "true"
    assert json.loads(dead["RedriveAllowPolicy"])["redrivePermission"] == "byQueue"


def test_on_aws_an_attribute_that_is_not_there_is_set_and_elsewhere_it_is_said() -> None:
    facts = enabled()
    assert facts.queue
    bare = {k: v for k, v in facts.queue.attributes.items() if k != "SqsManagedSseEnabled"}
    lacking = replace(facts, queue=replace(facts.queue, attributes=bare))
    assert codes(make_plan(lacking, Wanted())) == ["set-queue"]
    elsewhere = make_plan(replace(lacking, real_aws=False), Wanted())
    assert elsewhere.steps == ()
    assert any("does not report SqsManagedSseEnabled" in warning for warning in elsewhere.warnings)


def test_a_kms_key_on_the_queue_gives_way_to_sse_sqs() -> None:
    facts = enabled()
    assert facts.queue
    keyed = {**facts.queue.attributes, "SqsManagedSseEnabled": "false", "KmsMasterKeyId": "alias/x"}
    changes = queues.differences(
        wanted_settings(facts)[0], replace(facts.queue, attributes=keyed), real_aws=True
    )
    assert changes == {"KmsMasterKeyId": "", "SqsManagedSseEnabled": "true"}
