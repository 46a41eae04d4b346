"""What `enable-bucket` would change, from what was read: values in, values out."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from snapengine.buckets import rules
from snapengine.buckets.disable import make_disable_plan
from snapengine.buckets.facts import BucketFacts
from snapengine.buckets.plan import drift, make_plan, not_assured, wait_until
from snapengine.buckets.steps import Wanted
from snapengine.model import BucketConfig
from tests.unit.bucket_values import ACCOUNT, MINUTE, NEW, STORE, T, codes, enabled, foreign

# The steps


def test_a_new_bucket_gets_queues_rule_versioning_registration_and_baseline_in_this_order() -> None:
    plan = make_plan(NEW, Wanted())
    assert codes(plan) == [
        "make-queue",
        "make-queue",
        "put-rule",
        "switch-versioning-on",
        "register",
        "take-baseline",
    ]
    assert plan.steps[0].words == "create queue snapengine-scans-dead for messages that fail"


def test_versioning_the_one_step_that_cannot_be_undone_comes_after_all_that_aws_may_deny() -> None:
    assert codes(make_plan(NEW, Wanted())).index("switch-versioning-on") == 3


def test_a_bucket_that_is_enabled_needs_nothing() -> None:
    plan = make_plan(enabled(), Wanted())
    assert (plan.steps, plan.warnings, plan.refusals) == ((), (), ())


def test_asking_again_without_a_prefix_keeps_the_one_that_is_registered() -> None:
    plan = make_plan(enabled("ct/"), Wanted())
    assert (plan.prefix, plan.steps) == ("ct/", ())


def test_without_the_wait_a_second_run_does_nothing_either() -> None:
    facts = enabled()
    assert facts.config
    hasty = replace(facts, config=replace(facts.config, assured=False))
    assert codes(make_plan(hasty, Wanted(wait=False))) == []


def test_a_baseline_that_did_not_wait_is_taken_again_by_a_run_that_does() -> None:
    facts = enabled()
    assert facts.config
    hasty = replace(facts, config=replace(facts.config, assured=False))
    assert codes(make_plan(hasty, Wanted())) == ["register", "take-baseline"]


def test_a_run_that_was_stopped_in_the_baseline_goes_on_with_it_alone() -> None:
    facts = enabled()
    assert facts.config
    stopped = replace(facts, config=replace(facts.config, baseline_started=None, baseline_ended=None))
    assert codes(make_plan(stopped, Wanted())) == ["take-baseline"]


def test_a_rule_that_somebody_removed_is_put_back_and_all_is_listed_again() -> None:
    plan = make_plan(enabled(notification={}), Wanted())
    assert codes(plan) == ["put-rule", "register", "take-baseline"]
    assert "our notification rule was missing" in plan.steps[1].words
    assert any("snapengine reconcile scans" in warning for warning in plan.warnings)


def test_a_gap_that_was_noticed_stays_noticed_though_its_cause_was_repaired() -> None:
    assert codes(make_plan(enabled(unfinished=True), Wanted())) == ["register", "take-baseline"]


def test_a_wider_prefix_changes_the_rule_and_needs_a_new_baseline() -> None:
    plan = make_plan(enabled("ct/"), Wanted(prefix=""))
    assert codes(plan) == ["put-rule", "register", "take-baseline"]
    assert "change the notification rule" in plan.steps[0].words


def test_a_narrower_prefix_changes_the_rule_and_needs_no_new_baseline() -> None:
    plan = make_plan(enabled(), Wanted(prefix="ct/"))
    assert codes(plan) == ["put-rule", "register"]
    assert any("Only keys below ct/ are watched" in warning for warning in plan.warnings)


def test_a_bucket_that_was_disabled_is_enabled_anew() -> None:
    facts = enabled()
    assert facts.config
    off = replace(facts, config=replace(facts.config, enabled=False), notification={})
    assert codes(make_plan(off, Wanted())) == ["put-rule", "register", "take-baseline"]


def test_suspended_versioning_is_switched_on_again_and_noted_without_a_new_baseline() -> None:
    assert codes(make_plan(enabled(versioning="Suspended"), Wanted())) == ["switch-versioning-on", "register"]


def test_a_queue_attribute_that_differs_is_set_right() -> None:
    facts = enabled()
    assert facts.queue
    short = replace(facts.queue, attributes={**facts.queue.attributes, "MessageRetentionPeriod": "345600"})
    plan = make_plan(replace(facts, queue=short), Wanted())
    assert codes(plan) == ["set-queue"]
    assert plan.steps[0].words == "set MessageRetentionPeriod of queue snapengine-scans right"


def test_a_queue_policy_that_kept_s3_out_means_that_events_were_missed() -> None:
    facts = enabled()
    assert facts.queue
    shut = replace(facts.queue, attributes={**facts.queue.attributes, "Policy": "{}"})
    assert codes(make_plan(replace(facts, queue=shut), Wanted())) == [
        "set-queue",
        "register",
        "take-baseline",
    ]


def test_json_spelt_otherwise_is_no_difference() -> None:
    facts = enabled()
    assert facts.queue
    spelt = {
        **facts.queue.attributes,
        "Policy": json.dumps(json.loads(facts.queue.attributes["Policy"]), indent=4),
        "RedrivePolicy": json.dumps(
            {"maxReceiveCount": "10", "deadLetterTargetArn": facts.dead_letters.arn}  # type: ignore[union-attr]  # it is there
        ),
    }
    assert make_plan(replace(facts, queue=replace(facts.queue, attributes=spelt)), Wanted()).steps == ()


def test_the_plan_is_plain_data() -> None:
    text = json.dumps(make_plan(NEW, Wanted(wait=False)).as_dict())
    assert '"step": "put-rule"' in text


# Refusals, with which nothing is planned


def refusal(facts: BucketFacts, prefix: str | None = None) -> str:
    plan = make_plan(facts, Wanted(prefix=prefix))
    assert plan.steps == ()
    return " ".join(plan.refusals)


def test_a_directory_bucket_is_refused_by_its_name() -> None:
    assert "directory bucket" in refusal(BucketFacts("scans--euc1-az1--x-s3", ACCOUNT, "eu-central-1"))


def test_an_alias_of_an_access_point_is_no_bucket() -> None:
    assert "Give the name of its bucket" in refusal(replace(NEW, bucket="scans-abc123-s3alias"))


def test_a_bucket_of_another_account_is_refused() -> None:
    assert f"does not belong to account {ACCOUNT}" in refusal(replace(NEW, owned_by_caller=False))


def test_a_bucket_of_another_region_is_refused_with_the_setting_that_helps() -> None:
    assert "Set AWS_REGION=us-west-2" in refusal(replace(NEW, region="us-west-2"))


def test_mfa_delete_is_refused_where_versioning_would_have_to_be_switched_on() -> None:
    assert "MFA" in refusal(replace(NEW, mfa_delete=True, versioning="Suspended"))
    assert make_plan(enabled(mfa_delete=True), Wanted()).refusals == ()


def test_a_configuration_that_the_sdk_does_not_understand_is_not_touched() -> None:
    assert "MoonConfiguration" in refusal(replace(NEW, unknown_elements=("MoonConfiguration",)))


def test_a_queue_that_feeds_another_log_is_not_taken_over() -> None:
    facts = enabled(store="dynamodb://staging")
    text = refusal(facts)
    assert text.count("feeds another log, dynamodb://snapengine") == 1
    assert facts.queue
    assert facts.dead_letters
    assert f"Queue {facts.queue.name} with {facts.dead_letters.name} feeds" in text


def test_the_hundredth_rule_is_the_last() -> None:
    many = [
        {"Id": str(n), "QueueArn": "arn:x", "Events": ["s3:ObjectRestore:*"]} for n in range(rules.MAX_RULES)
    ]
    assert "S3 allows 100" in refusal(replace(NEW, notification={"QueueConfigurations": many}))


@pytest.mark.parametrize(
    "kind", ["QueueConfigurations", "TopicConfigurations", "LambdaFunctionConfigurations"]
)
def test_a_catch_all_rule_of_somebody_else_is_named_with_the_ways_out(kind: str) -> None:
    text = refusal(replace(NEW, notification=foreign(kind)))
    assert "rule thumbnails" in text
    for way_out in ("narrow", "--prefix", "EventBridge", "SNS"):
        assert way_out in text


@pytest.mark.parametrize(
    ("theirs", "ours", "narrow", "choose"),
    [("", "", True, True), ("", "ct/", True, False), ("ct/", "", False, True), ("ct/", "ct/a/", True, True)],
)
def test_only_those_ways_out_are_offered_that_keep_the_two_rules_apart(
    theirs: str, ours: str, narrow: bool, choose: bool
) -> None:
    text = refusal(replace(NEW, notification=foreign(prefix=theirs)), ours)
    assert ("narrow that rule" in text, "--prefix" in text) == (narrow, choose)


@pytest.mark.parametrize(
    ("events", "filters", "prefix"),
    [
        (("s3:ObjectCreated:Put",), {}, ""),
        (("s3:ObjectRemoved:DeleteMarkerCreated",), {}, ""),
        (("s3:LifecycleExpiration:Delete",), {}, ""),
        (("s3:ObjectCreated:*",), {"prefix": "ct/"}, ""),
        (("s3:ObjectCreated:*",), {"prefix": "ct/new/"}, "ct/"),
        (("s3:ObjectCreated:*",), {"suffix": ".dcm"}, ""),
        (("s3:ObjectCreated:*",), {"prefix": "date%3D1/"}, "date=1/"),
        (("s3:ObjectTagging:*", "s3:ObjectCreated:Post"), {"prefix": "", "suffix": ""}, "ct/"),
    ],
)
def test_overlapping_rules_are_refused(events: tuple[str, ...], filters: dict[str, str], prefix: str) -> None:
    assert "thumbnails" in refusal(replace(NEW, notification=foreign(events=events, **filters)), prefix)


@pytest.mark.parametrize(
    ("events", "filters", "prefix"),
    [
        (("s3:ObjectTagging:*",), {}, ""),
        (("s3:ObjectRestore:Completed", "s3:Replication:*"), {}, ""),
        (("s3:ObjectCreated:*",), {"prefix": "mr/"}, "ct/"),
        (("s3:ObjectCreated:*",), {"prefix": "ct2/", "suffix": ".dcm"}, "ct/"),
    ],
)
def test_rules_that_no_key_and_event_both_match_are_left_alone(
    events: tuple[str, ...], filters: dict[str, str], prefix: str
) -> None:
    plan = make_plan(replace(NEW, notification=foreign(events=events, **filters)), Wanted(prefix=prefix))
    assert plan.refusals == ()


# Warnings


def warnings(**changes: Any) -> str:
    return " ".join(make_plan(replace(NEW, **changes), Wanted()).warnings)


def test_a_lifecycle_rule_that_destroys_versions_is_said_loudly() -> None:
    rule = {
        "ID": "tidy",
        "Status": "Enabled",
        "Filter": {"Prefix": "ct/"},
        "NoncurrentVersionExpiration": {"NoncurrentDays": 30, "NewerNoncurrentVersions": 3},
    }
    text = warnings(lifecycle=(rule,))
    assert text.startswith("DATA LOSS AHEAD: Lifecycle rule tidy of bucket scans destroys versions 30 days")
    assert "but for the newest 3" in text
    assert "keys below ct/" in text


def test_a_lifecycle_rule_that_is_switched_off_is_no_danger() -> None:
    rule = {"ID": "tidy", "Status": "Disabled", "NoncurrentVersionExpiration": {"NoncurrentDays": 1}}
    assert "DATA LOSS" not in warnings(lifecycle=(rule,))


def test_archived_versions_replicas_and_object_lock_are_told_of() -> None:
    rule = {"ID": "cold", "Status": "Enabled", "Transitions": [{"Days": 1, "StorageClass": "DEEP_ARCHIVE"}]}
    text = warnings(lifecycle=(rule,), replica="ct/1.dcm", replicates_to=("copy",), object_lock=True)
    for told in ("DEEP_ARCHIVE", "'ct/1.dcm' is a replica", "replicated to copy", "Object Lock"):
        assert told in text


def test_expiring_objects_will_only_hide_them_once_versioning_is_on() -> None:
    rule = {"ID": "old", "Status": "Enabled", "Expiration": {"Days": 90}}
    assert "storage will not shrink" in warnings(lifecycle=(rule,))


# When the baseline may begin, and what it cannot vouch for


def test_the_baseline_waits_five_minutes_after_the_rule_and_fifteen_after_versioning() -> None:
    config = BucketConfig("scans", "r", ACCOUNT, enabled_at=T)
    assert wait_until(config) == T + 5 * MINUTE
    assert wait_until(replace(config, versioning_enabled_at=T - MINUTE)) == T + 14 * MINUTE
    assert wait_until(replace(config, versioning_enabled_at=T - 60 * MINUTE)) == T + 5 * MINUTE


def test_what_was_not_waited_for_is_said() -> None:
    config = BucketConfig("scans", "r", ACCOUNT, enabled_at=T, versioning_enabled_at=T)
    assert len(not_assured(config, T)) == 2
    assert len(not_assured(config, T + 6 * MINUTE)) == 1
    assert not_assured(config, wait_until(config)) == []


# Drift


def test_nothing_has_drifted_from_a_bucket_as_it_was_left() -> None:
    assert drift(enabled()) == []
    assert drift(NEW) == []


def test_drift_names_what_somebody_changed() -> None:
    facts = enabled(notification={}, versioning="Suspended", dead_letters=None)
    text = "; ".join(drift(facts))
    assert "rule `snapengine` is gone" in text
    assert "versioning is suspended" in text
    assert "dead-letter queue is gone" in text


def test_a_rule_that_was_narrowed_is_drift() -> None:
    facts = enabled()
    assert facts.queue
    narrowed = {"QueueConfigurations": [rules.wanted_rule(facts.queue.arn, "ct/")]}
    assert drift(replace(facts, notification=narrowed)) == [
        "the notification rule `snapengine` was changed: changes may be missed"
    ]


# Disabling


def test_disabling_takes_back_registration_rule_and_queues_in_this_order() -> None:
    facts = enabled()
    assert facts.config
    plan = make_disable_plan(
        facts.config, rules.our_rule(facts.notification), (facts.queue, facts.dead_letters), STORE
    )
    assert [step.code for step in plan.steps] == ["deregister", "remove-rule", "delete-queue", "delete-queue"]


def test_disabling_leaves_a_queue_that_feeds_another_log() -> None:
    facts = enabled()
    assert facts.config
    plan = make_disable_plan(facts.config, None, (facts.queue, None), "dynamodb://staging")
    assert [step.code for step in plan.steps] == ["deregister"]
    assert "feeds another log" in plan.warnings[0]


def test_disabling_what_is_disabled_does_nothing() -> None:
    config = BucketConfig("scans", "r", ACCOUNT, enabled=False)
    assert make_disable_plan(config, None, (None, None), STORE).as_dict()["steps"] == []
