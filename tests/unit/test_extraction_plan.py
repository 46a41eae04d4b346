"""What `enable-bucket --extract` and `--no-extract` would change: values in, values out."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapengine.buckets import queues
from snapengine.buckets.disable import make_disable_plan
from snapengine.buckets.facts import BucketFacts, wanted_extract_settings
from snapengine.buckets.plan import drift, make_plan
from snapengine.buckets.queues import QueueFacts
from snapengine.buckets.steps import SetExtraction, SetQueue, Wanted
from snapengine.errors import UsageError
from tests.unit.bucket_values import ACCOUNT, NEW, STORE, codes, enabled

DICOM = Wanted(extract=("dicom",))


def extracting(*extractors: str, messages: int = 0, dead: int = 0) -> BucketFacts:
    """A bucket as it stands when `enable-bucket --extract` has ended."""
    facts = enabled()
    made = [
        QueueFacts(name, f"https://sqs/{name}", queues.queue_arn("aws", "eu-central-1", ACCOUNT, name), {})
        for name in (queues.extract_queue_name("scans"), queues.extract_dead_letter_name("scans"))
    ]
    facts = replace(facts, extract_queue=made[0], extract_dead_letters=made[1])
    tags = {queues.STORE_TAG: queues.store_tag(STORE)}
    queue, dead_letters = (
        replace(each, attributes={**settings, "ApproximateNumberOfMessages": str(count)}, tags=tags)
        for each, settings, count in zip(made, wanted_extract_settings(facts), (messages, dead), strict=True)
    )
    assert facts.config
    return replace(
        facts,
        extract_queue=queue,
        extract_dead_letters=dead_letters,
        config=replace(
            facts.config,
            extractors=extractors or ("dicom",),
            extract_queue_url=queue.url,
            extract_queue_arn=queue.arn,
            extract_dead_letter_queue_url=dead_letters.url,
        ),
    )


def test_a_new_bucket_gets_the_queues_before_versioning_and_the_extractors_after_registration() -> None:
    plan = make_plan(NEW, DICOM)
    assert codes(plan) == [
        *["make-queue"] * 4,
        "put-rule",
        "switch-versioning-on",
        "register",
        "set-extraction",
        "take-baseline",
    ]
    names = [getattr(step, "name", None) for step in plan.steps[2:4]]
    assert names == ["snapengine-scans-Extract-dead", "snapengine-scans-Extract"]


def test_a_bucket_that_is_enabled_gets_them_without_anything_being_listed_again() -> None:
    plan = make_plan(enabled(), DICOM)
    assert codes(plan) == ["make-queue", "make-queue", "set-extraction"]
    assert plan.steps[2].words == "have metadata extracted from every new version, by dicom"
    assert "snapengine extract scans" in plan.warnings[0]
    assert json.loads(json.dumps(plan.as_dict()))["steps"][2]["extractors"] == ["dicom"]


@pytest.mark.parametrize("wanted", [Wanted(), DICOM])
def test_asking_again_changes_nothing_and_warns_of_nothing(wanted: Wanted) -> None:
    plan = make_plan(extracting(), wanted)
    assert (plan.steps, plan.warnings, plan.refusals) == ((), (), ())


def test_other_extractors_take_the_place_of_those_before() -> None:
    plan = make_plan(extracting("dicom"), Wanted(extract=("images", "nifti")))
    (step,) = plan.steps
    assert isinstance(step, SetExtraction)
    assert step.extractors == ("images", "nifti")
    assert "by images, nifti, until now by dicom" in step.words
    assert len(plan.warnings) == 1


def test_fewer_extractors_leave_nothing_to_catch_up_with() -> None:
    plan = make_plan(extracting("dicom", "images"), DICOM)
    assert (codes(plan), plan.warnings) == (["set-extraction"], ())


@pytest.mark.parametrize("extract", [("images",), ()])
def test_an_extractor_that_is_left_out_loses_its_further_columns_and_a_warning_says_so(
    extract: tuple[str, ...],
) -> None:
    facts = extracting("dicom", "images")
    assert facts.config
    config = replace(facts.config, extractor_columns={"dicom": ("FilterType", "00091001")})
    plan = make_plan(replace(facts, config=config), Wanted(extract=extract))
    assert "dicom is to extract no more, and loses its further columns" in plan.warnings[0]
    assert "--columns dicom=FilterType,00091001" in plan.warnings[0]
    kept = make_plan(replace(facts, config=config), Wanted(extract=("images", "dicom")))
    assert not any("loses" in warning for warning in kept.warnings)


def test_ending_it_unregisters_first_and_then_lets_the_queues_go() -> None:
    plan = make_plan(extracting(), Wanted(extract=()))
    assert codes(plan) == ["set-extraction", "delete-queue", "delete-queue"]
    assert "no more" in plan.steps[0].words


def test_ending_it_again_goes_on_with_the_queues_that_were_kept() -> None:
    facts = extracting()
    assert facts.config
    ended = replace(facts, config=replace(facts.config, extractors=()))
    assert codes(make_plan(ended, Wanted(extract=()))) == ["delete-queue", "delete-queue"]
    assert codes(make_plan(ended, Wanted())) == []
    assert codes(make_plan(enabled(), Wanted(extract=()))) == []


def test_a_queue_that_is_gone_or_was_changed_is_drift_and_is_set_right() -> None:
    facts = extracting()
    assert facts.extract_queue
    assert drift(facts) == []
    opened = {**facts.extract_queue.attributes, "Policy": "{}", "VisibilityTimeout": "30"}
    changed = replace(
        facts, extract_queue=replace(facts.extract_queue, attributes=opened), extract_dead_letters=None
    )
    assert drift(changed) == [
        "Policy, VisibilityTimeout of the extraction queue is not as it was set",
        "the extraction dead-letter queue is gone: new versions wait to be handed on",
    ]
    plan = make_plan(changed, Wanted())
    assert codes(plan) == ["make-queue", "set-queue", "set-extraction"]
    step = plan.steps[1]
    assert isinstance(step, SetQueue)
    assert step.attributes["VisibilityTimeout"] == "900"


def test_queues_of_another_log_are_refused() -> None:
    facts = extracting()
    assert facts.extract_queue
    theirs = replace(facts.extract_queue, tags={queues.STORE_TAG: "dynamodb://other"})
    (refusal,) = make_plan(replace(facts, extract_queue=theirs), Wanted()).refusals
    assert "snapengine-scans-Extract feeds another log" in refusal


def test_a_bucket_that_was_disabled_has_its_extractors_again_once_it_is_enabled() -> None:
    facts = extracting()
    assert facts.config
    config = replace(
        facts.config,
        enabled=False,
        extract_queue_url=None,
        extract_queue_arn=None,
        extract_dead_letter_queue_url=None,
    )
    off = replace(facts, config=config, notification={}, extract_queue=None, extract_dead_letters=None)
    assert codes(make_plan(off, Wanted())) == [
        "make-queue",
        "make-queue",
        "put-rule",
        "register",
        "set-extraction",
        "take-baseline",
    ]


def test_disabling_lets_the_extraction_queues_go_after_those_that_feed_them() -> None:
    facts = extracting(messages=3)
    assert facts.config
    found = facts.queue, facts.dead_letters, facts.extract_queue, facts.extract_dead_letters
    plan = make_disable_plan(facts.config, None, found, STORE)
    assert [getattr(step, "name", step.code) for step in plan.steps] == [
        "deregister",
        "snapengine-scans",
        "snapengine-scans-dead",
        "snapengine-scans-Extract",
        "snapengine-scans-Extract-dead",
    ]
    assert "Extract holds about 3 messages" in plan.warnings[0]


def test_the_extraction_queue_is_for_its_account_alone_and_gives_fifteen_minutes_and_five_tries() -> None:
    facts = extracting()
    settings, dead = wanted_extract_settings(facts)
    (statement,) = json.loads(settings["Policy"])["Statement"]
    assert statement["Principal"] == {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}
    assert settings["VisibilityTimeout"] == "900"
    assert settings["SqsManagedSseEnabled"] == dead["SqsManagedSseEnabled"] == "true"
    assert facts.extract_queue
    assert facts.extract_dead_letters
    assert json.loads(settings["RedrivePolicy"]) == {
        "deadLetterTargetArn": facts.extract_dead_letters.arn,
        "maxReceiveCount": 5,
    }
    assert json.loads(dead["RedriveAllowPolicy"])["sourceQueueArns"] == [facts.extract_queue.arn]


ENDINGS = st.sampled_from(["", "-extract", "-dead", "-extract-dead", ".extract"])
MODERN = st.builds(
    lambda text, ending: (
        f"b{text}"[: 63 - len(ending)].rstrip(".-") + "0" + ending
        if len(text) < 50
        else f"b{text}"[:62].rstrip(".-") + "0"
    ),
    st.text("abc019.-", max_size=62),
    ENDINGS,
)
OLD = st.text("abcH_-.019", min_size=3, max_size=255)


@given(st.lists(MODERN | OLD, min_size=1, max_size=30, unique=True))
def test_no_two_queues_of_any_buckets_have_one_name(buckets: list[str]) -> None:
    names: list[Any] = [name for bucket in buckets for name in queues.queue_names(bucket).values()]
    assert len(set(names)) == 4 * len(buckets)
    assert all(len(name) <= 80 and name.replace("-", "").replace("_", "").isalnum() for name in names)


COLUMNS = {"dicom": ("ContentSequence", "00091001")}


def with_columns(facts: BucketFacts) -> BucketFacts:
    assert facts.config
    return replace(facts, config=replace(facts.config, extractor_columns=COLUMNS))


def test_further_columns_are_in_the_plan_and_what_was_extracted_before_is_warned_of() -> None:
    plan = make_plan(extracting(), Wanted(columns=COLUMNS))
    words = "by dicom (usual columns and ContentSequence, 00091001), until now by dicom"
    assert plan.steps == (
        SetExtraction(f"have metadata extracted from every new version, {words}", ("dicom",), COLUMNS),
    )
    (warning,) = plan.warnings
    assert "keeps its columns" in warning
    assert "snapengine extract scans" in warning
    assert json.loads(json.dumps(plan.as_dict()))["steps"][0]["columns"] == {
        "dicom": ["ContentSequence", "00091001"]
    }


@pytest.mark.parametrize("wanted", [Wanted(), DICOM, Wanted(columns=COLUMNS)])
def test_further_columns_stay_until_others_are_named(wanted: Wanted) -> None:
    plan = make_plan(with_columns(extracting()), wanted)
    assert (plan.steps, plan.warnings) == ((), ())


def test_no_further_columns_are_asked_for_by_naming_none() -> None:
    plan = make_plan(with_columns(extracting()), Wanted(columns={"dicom": ()}))
    (step,) = plan.steps
    assert isinstance(step, SetExtraction)
    assert step.columns == {}


def test_an_extractor_that_is_named_no_more_takes_its_columns_along() -> None:
    plan = make_plan(with_columns(extracting("dicom", "images")), Wanted(extract=("images",)))
    (step,) = plan.steps
    assert isinstance(step, SetExtraction)
    assert step.columns == {}


def test_columns_of_an_extractor_that_the_bucket_lacks_are_refused_with_the_way_out() -> None:
    with pytest.raises(UsageError, match="--extract dicom,object too"):
        make_plan(extracting(), Wanted(columns={"object": ("tag:site",)}))
