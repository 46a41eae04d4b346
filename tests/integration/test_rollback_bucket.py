"""A bucket rolled back shows again what it showed; nothing of its past is gone, nobody's change is lost."""

from __future__ import annotations

import io
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse, HeadersDict
from moto.s3.models import s3_backends

from readers.rollback import Rollback
from readers.rollback_outcomes import Planned, Restoring
from snapengine import View
from snapengine.cli.main import run
from snapengine.devcloud import DevCloud
from snapengine.devcloud.cloud import ACCOUNT_ID
from snapengine.errors import Refused, UsageError
from tests.export_house import AWKWARD, MIB, House, requests_seen
from tests.integration.cli_calls import at_a_terminal


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


def roll_back(house: House, view: View, **options: Any) -> tuple[Planned, Counter[str]]:
    with Rollback(house.engine, view, **options) as work:
        return work.plan(), work.carry_out()


def versions(house: House) -> set[tuple[str, str]]:
    """All versions and markers that S3 has of the bucket."""
    pages = house.s3.get_paginator("list_object_versions").paginate(Bucket=house.bucket)
    return {
        (found["Key"], found["VersionId"])
        for page in pages
        for found in (*page.get("Versions", ()), *page.get("DeleteMarkers", ()))
    }


def test_keys_that_look_alike_are_each_brought_back_exactly(house: House) -> None:
    for key in AWKWARD:
        house.put(key, b"old " + key.encode())
    old = house.view(at=house.later())
    for key in AWKWARD[::2]:
        house.put(key, b"newer " + key.encode())
    for key in AWKWARD[1::2]:
        house.delete(key)
    for key in ("b", "/b", "b/", "b//c"):
        house.put(key, b"later")
    before = versions(house)
    planned, counts = roll_back(house, old)
    assert (planned.counts, counts) == (
        {"copy": len(AWKWARD), "mark": 4},
        {"copied": len(AWKWARD), "marked": 4},
    )
    assert house.live(house.bucket) == {key: b"old " + key.encode() for key in AWKWARD}
    assert before < versions(house), "nothing was removed"
    assert len(versions(house)) == len(before) + len(AWKWARD) + 4


@pytest.mark.parametrize("status", [None, "Suspended"])
def test_null_versions_are_brought_back_while_they_are_there_and_told_when_they_are_not(
    in_cloud: None, tmp_path: Path, status: str | None
) -> None:
    house = House(tmp_path / "log.db", versioning=status)
    for key in AWKWARD:
        house.put(key, b"null " + key.encode())
    old = house.view(at=house.later())
    house.put("a", b"another null")
    with pytest.raises(Refused, match="would destroy"):
        roll_back(house, old)
    house.versioning("Enabled")
    for key in AWKWARD[1:]:
        house.put(key, b"newer " + key.encode())
    planned, counts = roll_back(house, old)
    assert counts == {"copied": len(AWKWARD) - 1, "gone": 1}
    assert planned.samples["gone"][0].key == "a"
    expected = {key: b"null " + key.encode() for key in AWKWARD[1:]} | {"a": b"another null"}
    assert house.live(house.bucket) == expected


def test_a_second_run_finds_nothing_to_do_and_a_rollback_can_be_rolled_back(house: House) -> None:
    house.put("a", b"one")
    house.put("b", b"one")
    first = house.view(at=house.later())
    house.put("a", b"two")
    house.delete("b")
    house.put("c", b"two")
    second = house.view(at=house.later())
    assert roll_back(house, first)[1] == {"copied": 2, "marked": 1}
    planned, counts = roll_back(house, first)
    assert (planned.counts, planned.to_do, counts) == ({"equal": 2, "absent": 1}, 0, {})
    assert roll_back(house, second)[1] == {"copied": 2, "marked": 1}
    assert house.live(house.bucket) == {"a": b"two", "c": b"two"}


def test_metadata_tags_and_storage_class_come_back_with_the_bytes_and_so_do_etags(house: House) -> None:
    told: dict[str, Any] = {
        "ContentType": "application/dicom",
        "Metadata": {"study": "7"},
        "Tagging": "study=7",
        "StorageClass": "STANDARD_IA",
    }
    house.put("plain", b"bytes", **told)
    etag = house.upload("parts", b"a" * (5 * MIB + 7), b"b" * (5 * MIB + 7), b"c", **told)
    old = house.view(at=house.later())
    house.put("plain", b"other")
    house.delete("parts")
    assert roll_back(house, old)[1] == {"copied": 2}
    for key in ("plain", "parts"):
        head = house.s3.head_object(Bucket=house.bucket, Key=key)
        assert (head["ContentType"], head["Metadata"], head["StorageClass"]) == (
            "application/dicom",
            {"study": "7"},
            "STANDARD_IA",
        )
        tags = house.s3.get_object_tagging(Bucket=house.bucket, Key=key)["TagSet"]
        assert tags == [{"Key": "study", "Value": "7"}]
        assert head["ETag"] == f'"{old[key].etag}"'
    assert etag.endswith("-3")


def test_a_prefix_is_rolled_back_alone(house: House) -> None:
    for key in ("ct/a", "mr/a"):
        house.put(key, b"old")
    instant = house.later()
    for key in ("ct/a", "ct/b", "mr/a", "mr/b"):
        house.put(key, b"new")
    assert roll_back(house, house.view(at=instant, prefix="ct/"))[1] == {"copied": 1, "marked": 1}
    assert house.live(house.bucket) == {"ct/a": b"old", "mr/a": b"new", "mr/b": b"new"}


def test_what_somebody_changes_after_the_plan_is_left_and_told(house: House) -> None:
    for key in ("a", "b", "c", "d"):
        house.put(key, b"old")
    old = house.view(at=house.later())
    for key in ("a", "b", "new-1", "new-2"):
        house.put(key, b"new")
    house.delete("c")
    house.delete("d")
    told = {}
    with Rollback(house.engine, old) as work:
        assert work.plan().to_do == 6
        house.put("a", b"theirs")
        house.put("b", b"old")
        house.put("c", b"theirs")
        house.put("new-1", b"theirs")
        house.delete("new-2")
        counts = work.carry_out(lambda outcome: told.update({outcome.step.key: outcome.fate}))
    assert told == {
        "a": "changed",
        "b": "there",
        "c": "changed",
        "d": "copied",
        "new-1": "changed",
        "new-2": "there",
    }
    assert counts == {"changed": 3, "there": 2, "copied": 1}
    assert house.live(house.bucket) == {
        "a": b"theirs",
        "b": b"old",
        "c": b"theirs",
        "d": b"old",
        "new-1": b"theirs",
    }


def test_every_change_is_asked_for_on_condition_of_what_the_plan_saw(house: House) -> None:
    house.put("a", b"old")
    house.put("b", b"old")
    old = house.view(at=house.later())
    house.put("a", b"new")
    house.delete("b")
    house.put("c", b"new")
    now = house.view()
    with requests_seen(house.engine, "CopyObject", "DeleteObject") as asked:
        roll_back(house, old)
    said = {each["Key"]: (each.get("IfMatch"), each.get("IfNoneMatch")) for each in asked}
    assert said == {
        "a": (f'"{now["a"].etag}"', None),
        "b": (None, "*"),
        "c": (f'"{now["c"].etag}"', None),
    }
    assert all("VersionId" not in each for each in asked), "a delete by version id would remove"


def test_the_plan_is_made_of_the_bucket_as_it_is_and_not_of_what_the_log_knows(house: House) -> None:
    house.put("a", b"old")
    old = house.view(at=house.later())
    house.s3.put_object(Bucket=house.bucket, Key="a", Body=b"unheard of")
    house.s3.put_object(Bucket=house.bucket, Key="b", Body=b"unheard of")
    assert house.view().keys() == {"a"}
    assert roll_back(house, old)[1] == {"copied": 1, "marked": 1}
    assert house.live(house.bucket) == {"a": b"old"}


def test_what_s3_shows_since_before_the_instant_and_the_log_does_not_know_is_left(house: House) -> None:
    house.put("known", b"old")
    house.s3.put_object(Bucket=house.bucket, Key="known", Body=b"unheard of")
    house.s3.put_object(Bucket=house.bucket, Key="unknown", Body=b"unheard of")
    house.put("undeleted", b"old")
    house.delete("deleted again")
    under = house.delete("undeleted")
    time.sleep(2.1)  # S3 dates in whole seconds
    view = house.view(at=house.later())
    house.s3.delete_object(Bucket=house.bucket, Key="undeleted", VersionId=under)
    before = versions(house)
    planned, counts = roll_back(house, view)
    assert [step.key for step in planned.samples["unsure"]] == ["known", "unknown"]
    assert counts == {"unsure": 2, "marked": 1}
    assert len(versions(house) - before) == 1
    assert house.live(house.bucket) == {"known": b"unheard of", "unknown": b"unheard of"}


def test_gone_versions_are_told_and_the_others_come_back(house: House) -> None:
    version = house.put("a", b"old")
    house.put("b", b"old")
    old = house.view(at=house.later())
    house.put("a", b"new")
    house.put("b", b"new")
    house.s3.delete_object(Bucket=house.bucket, Key="a", VersionId=version)
    planned, counts = roll_back(house, old)
    assert (planned.missing, counts) == (1, {"gone": 1, "copied": 1})
    assert house.live(house.bucket) == {"a": b"new", "b": b"old"}


def test_archived_versions_are_told_or_restored_on_request_for_a_later_run(house: House) -> None:
    version = house.put("a", b"old", StorageClass="DEEP_ARCHIVE")
    old = house.view(at=house.later())
    house.put("a", b"new!")
    assert roll_back(house, old)[1] == {"archived": 1}
    asked: list[Any] = []
    make = house.engine.client

    def client(service: Any) -> Any:
        made = make(service)
        made.meta.events.register(
            "before-send.s3.RestoreObject", lambda request, **_: accepted(request, asked)
        )
        return made

    house.engine.client = client  # type: ignore[method-assign]  # the embedded cloud restores the latest only
    assert roll_back(house, old, restoring=Restoring(3, "Bulk"))[1] == {"restoring": 1}
    (request,) = asked
    assert f"versionId={version}" in request.url
    assert b"<Days>3</Days>" in request.body
    assert b"<Tier>Bulk</Tier>" in request.body
    assert house.live(house.bucket) == {"a": b"new!"}


def test_a_version_that_was_restored_is_copied_to_where_it_can_be_read(house: House) -> None:
    version = house.put("a", b"old", StorageClass="GLACIER")
    old = house.view(at=house.later())
    house.put("a", b"new!")
    backend: Any = s3_backends[ACCOUNT_ID]["aws"]
    backend.get_object(house.bucket, "a", version).restore(3)
    planned, counts = roll_back(house, old)
    assert (planned.counts, counts) == ({"copy": 1}, {"copied": 1})
    head = house.s3.head_object(Bucket=house.bucket, Key="a")
    assert "StorageClass" not in head, "it is to be read"
    assert house.live(house.bucket) == {"a": b"old"}


def accepted(request: Any, asked: list[Any]) -> AWSResponse:
    asked.append(request)
    raw: Any = io.BytesIO(b"")
    raw.stream = lambda *_, **__: iter([b""])
    headers: Any = HeadersDict({})
    return AWSResponse(request.url, 202, headers, raw)


def test_a_view_that_does_not_show_all_keys_is_no_measure_of_a_bucket(house: House) -> None:
    house.put("a", b"a")
    house.put("b", b"b")
    view = house.view()
    with pytest.raises(UsageError, match="neither a slice nor narrowed"):
        roll_back(house, view.select(["a"]))
    with pytest.raises(UsageError, match="neither a slice nor narrowed"):
        roll_back(house, house.engine.slice(house.bucket, view["b"].event_time, "now"))


def test_the_command_shows_its_plan_asks_and_leaves_an_audit_line(
    house: House, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SNAPENGINE_STORE", house.store)
    house.put("a", b"old")
    at = str(house.later())
    house.put("a", b"new")
    house.put("b", b"new")
    command = ["rollback", house.bucket, "--at", at, "--require", "provisional"]
    assert run(command) == 2, "nobody can be asked"
    assert run([*command[:4], "--yes", "--timeout", "0"]) == 1
    assert "not-yet-complete" in capsys.readouterr().err
    assert run([*command, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "1 to be brought back, 3 B" in shown
    assert "1 not there then, to get a delete marker" in shown
    assert house.live(house.bucket) == {"a": b"new", "b": b"new"}
    assert run([*command, "--dry-run", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["event"], line.get("step")) for line in lines] == [
        ("step", "copy"),
        ("step", "mark"),
        ("plan", None),
    ]
    assert run([*command, "--yes", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == ["plan", "key", "key", "done"]
    assert (lines[-1]["copied"], lines[-1]["marked"], lines[-1]["changed"]) == (1, 1, 0)
    assert house.live(house.bucket) == {"a": b"old"}
    records = [each for each in house.engine.store.audit_log() if each.action == "rollback"]
    assert [each.outcome for each in records][-2:] == ["started", "ok"]
    assert "1 copied, 1 marked" in records[-1].detail
    assert run([*command, "--yes"]) == 0
    assert "0 copied, 0 delete markers put" in capsys.readouterr().out


def test_at_a_terminal_the_name_of_the_bucket_is_asked_for(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SNAPENGINE_STORE", house.store)
    house.put("a", b"old")
    command = ["rollback", house.bucket, "--at", str(house.later()), "--require", "provisional"]
    house.put("a", b"new")
    code, shown = at_a_terminal(*command, typed="yes\n")
    assert (code, house.live(house.bucket)) == (1, {"a": b"new"})
    assert "Nothing was changed" in shown
    code, shown = at_a_terminal(*command, typed=f"{house.bucket}\n")
    assert (code, house.live(house.bucket)) == (0, {"a": b"old"})
    assert "1 copied, 0 delete markers put" in shown
