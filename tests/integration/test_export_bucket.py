"""A view exported to another bucket: exact versions with all they carry, checked, never over another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from readers.export import Export, export
from snapengine.devcloud import DevCloud
from snapengine.errors import BucketUnknown, UsageError
from tests.export_house import AWKWARD, MIB, House, requests_seen
from tests.seed import enable, record, removal


@pytest.fixture(scope="module")
def cloud() -> Iterator[DevCloud]:
    with DevCloud() as cloud:
        yield cloud


@pytest.fixture
def in_cloud(cloud: DevCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def house(in_cloud: None, tmp_path: Path) -> House:
    return House(tmp_path / "log.db")


@pytest.mark.parametrize("status", ["Enabled", "Suspended", None])
def test_keys_that_look_alike_are_each_copied_exactly(
    in_cloud: None, tmp_path: Path, status: str | None
) -> None:
    house = House(tmp_path / "log.db", versioning=status)
    for key in AWKWARD:
        house.put(key, b"old " + key.encode())
    old = house.view()
    for key in AWKWARD:
        house.put(key, b"newer " + key.encode())
    done = house.export(house.view(), "new/")
    assert done.tally.counts == {"copied": len(AWKWARD)}
    assert house.bodies("new/") == {key: b"newer " + key.encode() for key in AWKWARD}
    done = house.export(old, "old/")
    if status == "Enabled":
        assert house.bodies("old/") == {key: b"old " + key.encode() for key in AWKWARD}
    else:  # the null versions were overwritten: each is told, and none is replaced by its successor
        assert done.tally.counts == {"gone": len(AWKWARD)}
        assert house.bodies("old/") == {}


def test_metadata_headers_and_tags_travel_with_a_copy_made_at_once_and_with_one_made_in_parts(
    house: House,
) -> None:
    told: dict[str, Any] = {
        "ContentType": "application/dicom",
        "ContentEncoding": "gzip",
        "ContentLanguage": "de",
        "ContentDisposition": 'attachment; filename="x.dcm"',
        "CacheControl": "max-age=60",
        "Metadata": {"study": "7", "site": "a b"},
        "Tagging": "study=7&site=a%20%2B%20b",
    }
    house.put("plain", b"bytes", **told)
    etag = house.upload("parts", b"a" * (5 * MIB + 1), b"b" * (5 * MIB + 1), b"c", **told)
    done = house.export(house.view(), "x/")
    assert done.tally.by_size_alone == 0
    for key in ("plain", "parts"):
        head = house.s3.head_object(Bucket=house.other, Key=f"x/{key}")
        assert {name: head[name] for name in told if name != "Tagging"} == {
            name: value for name, value in told.items() if name != "Tagging"
        }
        tags = house.s3.get_object_tagging(Bucket=house.other, Key=f"x/{key}")["TagSet"]
        assert {tag["Key"]: tag["Value"] for tag in tags} == {"study": "7", "site": "a + b"}
    assert house.s3.head_object(Bucket=house.other, Key="x/parts")["ETag"] == f'"{etag}"'
    checks = {line["key"]: line["checked"] for line in house.manifest(done) if line["event"] == "object"}
    assert checks == {"plain": ["size", "etag", "source"], "parts": ["size", "etag"]}


def test_what_is_larger_than_the_limit_of_a_copy_is_copied_in_parts_and_says_how_it_was_checked(
    house: House,
) -> None:
    body = bytes(i % 251 for i in range(11 * MIB))
    house.put("big", body)
    done = house.export(house.view(), copy_limit=5 * MIB, part=5 * MIB)
    assert house.bodies() == {"big": body}
    (line,) = [line for line in house.manifest(done) if line["event"] == "object"]
    assert line["checked"] == ["size", "parts"]
    assert line["destination_etag"].endswith("-3")
    assert line["etag"] == house.view()["big"].etag
    assert done.tally.by_size_alone == 1
    again = house.export(house.view(), copy_limit=5 * MIB, part=5 * MIB)
    assert again.tally.counts == {"there": 1}
    (line,) = [line for line in house.manifest(again) if line["event"] == "object"]
    assert line["checked"] == ["size", "bytes"], "the ETags differ, so that both were read"


def test_the_manifest_names_the_view_and_what_became_of_each_object(house: House) -> None:
    for key in ("a", "b", "c"):
        house.put(key, key.encode() * 3)
    view = house.view()
    house.s3.delete_object(Bucket=house.bucket, Key="b", VersionId=view["b"].version_id)
    record(house.engine, [removal("b", view["b"].version_id, 500)], house.bucket)
    done = house.export(view, "x/")
    head, *lines, end = house.manifest(done)
    assert (head["reference"], head["digest"]) == (view.reference, view.digest())
    assert (head["destination"], head["objects"], head["bytes"]) == (f"s3://{house.other}/x/", 3, 9)
    assert [(line["outcome"], line["key"]) for line in lines] == [
        ("copied", "a"),
        ("gone", "b"),
        ("copied", "c"),
    ]
    assert "ObjectRemoved:Delete" in lines[1]["detail"]
    assert lines[0]["version_id"] == view["a"].version_id
    assert lines[0]["destination"] == f"s3://{house.other}/x/a"
    assert (end["event"], end["copied"], end["gone"]) == ("end", 2, 1)
    assert done.tally.problems == 1


def test_a_second_run_copies_nothing_and_one_after_a_new_version_only_that(house: House) -> None:
    for key in ("a", "b"):
        house.put(key, b"one")
    assert house.export(house.view()).tally.counts == {"copied": 2}
    with requests_seen(house.engine, "CopyObject", "HeadObject") as asked:
        assert house.export(house.view(), overwrite=True).tally.counts == {"there": 2}
    assert asked == [], "the listing of what is there told enough"
    house.put("b", b"two")
    assert house.export(house.view()).tally.counts == {"there": 1, "conflict": 1}
    assert house.bodies() == {"a": b"one", "b": b"one"}
    assert house.export(house.view(), overwrite=True).tally.counts == {"there": 1, "copied": 1}
    assert house.bodies() == {"a": b"one", "b": b"two"}


def test_every_copy_is_asked_for_on_condition_of_its_source_and_of_what_is_at_its_place(
    house: House,
) -> None:
    house.put("new", b"1")
    house.put("other", b"2")
    house.upload("parts", b"a" * 5 * MIB, b"b")
    view = house.view()
    there = house.s3.put_object(Bucket=house.other, Key="other", Body=b"3")["ETag"]
    operations = ("CopyObject", "UploadPartCopy", "CompleteMultipartUpload")
    with requests_seen(house.engine, *operations) as asked:
        assert house.export(view, overwrite=True).tally.counts == {"copied": 3}
    placed = [
        (one["Key"], one.get("IfMatch"), one.get("IfNoneMatch")) for one in asked if "PartNumber" not in one
    ]
    assert sorted(placed, key=str) == [
        ("new", None, "*"),
        ("other", there, None),
        ("parts", None, "*"),
    ]
    copied = {(one["CopySource"], one["CopySourceIfMatch"]) for one in asked if "CopySource" in one}
    assert copied == {
        (f"{house.bucket}/{key}?versionId={version.version_id}", f'"{version.etag}"')
        for key, version in view.items()
    }


def test_archived_versions_are_told_and_the_rest_is_exported(house: House) -> None:
    house.put("a", b"a")
    house.put("frozen", b"f", StorageClass="GLACIER")
    done = house.export(house.view())
    assert done.tally.counts == {"copied": 1, "archived": 1}
    assert house.bodies() == {"a": b"a"}


def test_a_slice_and_a_narrowed_view_are_exported_as_they_are(house: House) -> None:
    house.put("a", b"a")
    house.put("b", b"b")
    view = house.view()
    narrowed = house.engine.open_ref(view.select(["b"]).reference)
    assert house.export(narrowed, "n/").tally.counts == {"copied": 1}
    assert house.bodies("n/") == {"b": b"b"}
    ingested = house.engine.slice(house.bucket, view["b"].event_time, "now")
    assert house.export(ingested, "s/").tally.counts == {"copied": 1}
    assert house.bodies("s/") == {"b": b"b"}
    every = house.engine.slice(house.bucket, view["a"].event_time, "now", versions="all")
    with pytest.raises(UsageError, match="several objects of one key"):
        house.export(every)


def test_a_place_within_the_view_is_refused_and_a_watched_one_is_warned_of(house: House) -> None:
    house.put("ct/a", b"a")
    view = house.engine.view(house.bucket, prefix="ct/")
    for prefix in ("", "ct/", "ct/x/"):
        with pytest.raises(UsageError, match="share keys"):
            export(house.engine, view, f"s3://{house.bucket}/{prefix}")
    with pytest.raises(UsageError, match="ends in a slash"):
        export(house.engine, view, f"s3://{house.other}/x")
    with pytest.raises(BucketUnknown):
        export(house.engine, view, "s3://there-is-no-such-bucket/")
    with Export(house.engine, view, f"s3://{house.bucket}/mr/") as work:
        assert "is watched itself" in work.plan().warnings[0]
    enable(house.engine, house.other, prefix="watched/")
    with Export(house.engine, view, f"s3://{house.other}/watched/x/") as work:
        assert "is watched itself" in work.plan().warnings[0]
    with Export(house.engine, view, f"s3://{house.other}/else/") as work:
        assert work.plan().warnings == []


def test_a_plan_counts_what_is_there_and_writes_nothing(house: House) -> None:
    for key in ("a", "b", "c"):
        house.put(key, key.encode() * 10)
    house.s3.put_object(Bucket=house.other, Key="a", Body=b"a" * 10)
    house.s3.put_object(Bucket=house.other, Key="b", Body=b"another")
    with Export(house.engine, house.view(), f"s3://{house.other}/") as work:
        planned = work.plan()
    assert planned.standing == {"new": 1, "there": 1, "other": 1}
    assert (planned.objects, planned.bytes, planned.standing_bytes["new"]) == (3, 30, 10)
    assert house.bodies() == {"a": b"a" * 10, "b": b"another"}


def test_what_another_view_left_at_the_prefix_stays_and_is_told(house: House) -> None:
    for key in ("a", "b", "c"):
        house.put(key, key.encode())
    house.export(house.view(), "p/")
    house.delete("b")
    with Export(house.engine, house.view(), f"s3://{house.other}/p/") as work:
        planned = work.plan()
    assert planned.standing == {"there": 2, "beside": 1}
    assert planned.fields()["beside"] == 1
    assert house.bodies("p/").keys() == {"a", "b", "c"}


def test_keys_that_would_be_too_long_are_refused_or_left_out(house: House) -> None:
    house.put("k" * 1000, b"long")
    house.put("a", b"a")
    with pytest.raises(UsageError, match="more than 1,024 bytes"):
        house.export(house.view(), "p" * 30 + "/")
    done = house.export(house.view(), "p" * 30 + "/", leave_out=True)
    assert done.tally.counts == {"left-out": 1, "copied": 1}
