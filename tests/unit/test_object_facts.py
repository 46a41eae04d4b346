"""What S3 says of an object, as columns."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from metadata_extractors.base import Extraction, ObjectFacts
from metadata_extractors.columns import pick
from metadata_extractors.objects import ObjectExtractor
from metadata_extractors.ranged import RangedReader, extract_from
from snapengine.errors import UsageError, VersionArchived

FACTS = ObjectFacts(
    size=12,
    last_modified=1_795_000_000_123,
    headers={"ContentType": "application/dicom", "ETag": '"e"'},
    metadata={"site": "Ålesund"},
    tags={"study": "7", "arm": "b"},
)


def unreadable(_start: int, _end: int) -> bytes:
    raise VersionArchived("in GLACIER; restore it", "archived", "v")


def extract(facts: ObjectFacts | None, columns: list[str] | None = None) -> Extraction:
    reader = RangedReader(unreadable, 12, "a", facts=None if facts is None else lambda: facts)
    return extract_from(ObjectExtractor(columns), reader)


def test_headers_user_metadata_and_tags_are_columns_without_a_byte_read() -> None:
    found = extract(FACTS)
    assert found.outcome == "ok"
    assert found.values["ContentType"] == "application/dicom"
    assert found.values["LastModified"] == datetime.fromtimestamp(1_795_000_000.123, UTC)
    assert json.loads(str(found.values["TagsJson"])) == FACTS.tags
    assert json.loads(str(found.values["UserMetadataJson"])) == FACTS.metadata
    assert found.values["ContentEncoding"] is None


def test_one_tag_or_one_user_value_can_be_a_column() -> None:
    found = extract(FACTS, ["tag:study", "meta:site", "tag:none"])
    assert found.values == {"tag:study": "7", "meta:site": "Ålesund", "tag:none": None}


def test_tags_that_may_not_be_read_are_a_problem_and_the_rest_is_there() -> None:
    found = extract(ObjectFacts(12, 0, {"ContentType": "text/plain"}))
    assert (found.outcome, found.problems) == ("ok", ("tags may not be read",))
    assert found.values["ContentType"] == "text/plain"
    assert extract(ObjectFacts(12, 0), ["ContentType"]).problems == ()


def test_where_s3_cannot_be_asked_the_outcome_says_so() -> None:
    assert extract(None).outcome == "failed"


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["tag:"], "'tag:site'"),
        (["Contenttype"], "did you mean 'ContentType'"),
        ("ContentType", "list of names"),
    ],
)
def test_unknown_columns_are_refused(names: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        ObjectExtractor(names)


def test_without_a_choice_all_columns_are_there_and_what_people_write_is_identifying() -> None:
    fields = pick(list(ObjectExtractor().schema), None)
    hidden = {field.name for field in fields if field.metadata[b"identifying"] == b"true"}
    assert hidden == {"ContentDisposition", "UserMetadataJson", "TagsJson"}
