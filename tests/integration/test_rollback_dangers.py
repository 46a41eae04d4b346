"""What a rollback must not do: hide what may have been there, or write where nothing keeps what was."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse, HeadersDict
from moto.s3.models import s3_backends

from readers.rollback import Rollback
from snapengine.devcloud import DevCloud
from snapengine.devcloud.cloud import ACCOUNT_ID
from snapengine.errors import Refused
from tests.export_house import MIB, House

PARTS = (bytes(5 * MIB), b"end")


@pytest.fixture(scope="module")
def cloud() -> Iterator[DevCloud]:
    with DevCloud() as cloud:
        yield cloud


@pytest.fixture
def house(cloud: DevCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    return House(tmp_path / "log.db")


def test_what_came_in_parts_is_left_unless_the_log_knows_that_it_came_later(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3 dates it from its beginning, so that alone does not tell whether it was there."""
    house.put("a", b"old")
    house.put("b", b"old")
    with monkeypatch.context() as patch:
        patch.setattr(house, "_tell", lambda *_: None)
        house.upload("a", *PARTS)
        house.upload("unknown", *PARTS)
    time.sleep(2.1)  # S3 dates in whole seconds
    view = house.view(at=house.later())
    house.put("b", b"new")
    house.upload("late", *PARTS)
    late = s3_backends[ACCOUNT_ID]["aws"].buckets[house.bucket].keys["late"]
    late.last_modified -= timedelta(minutes=1)  # as S3 does if it was begun then
    with Rollback(house.engine, view) as work:
        planned, counts = work.plan(), work.carry_out()
    assert [step.key for step in planned.samples["unsure"]] == ["a", "unknown"]
    assert all("does not say" in step.detail for step in planned.samples["unsure"])
    assert counts == {"unsure": 2, "copied": 1, "marked": 1}
    assert house.live(house.bucket).keys() == {"a", "b", "unknown"}


def test_what_was_there_at_the_instant_beneath_what_came_later_and_the_log_does_not_know_is_left(
    house: House,
) -> None:
    house.put("copied", b"old")
    house.put("known", b"old")
    house.put("lost and shown", b"older")
    house.delete("known")
    for key in ("lost", "lost and shown"):
        house.s3.put_object(Bucket=house.bucket, Key=key, Body=b"unheard of")
    time.sleep(2.1)  # S3 dates in whole seconds
    view = house.view(at=house.later())
    for key in ("copied", "known", "lost", "lost and shown", "new"):
        house.put(key, b"new")
    with Rollback(house.engine, view) as work:
        planned, counts = work.plan(), work.carry_out()
    assert [step.key for step in planned.samples["unsure"]] == ["lost", "lost and shown"]
    assert counts == {"unsure": 2, "copied": 1, "marked": 2}
    assert house.live(house.bucket) == {"copied": b"old", "lost": b"new", "lost and shown": b"new"}


def test_a_rollback_stops_when_versioning_is_suspended_meanwhile(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [f"{number:04d}" for number in range(250)]
    house.put(keys[0], b"old")
    view = house.view(at=house.later())
    for key in keys:
        house.s3.put_object(Bucket=house.bucket, Key=key, Body=b"new")
    with Rollback(house.engine, view) as work:
        assert work.plan().to_do == len(keys)
        check = work._check_versioning

        def checked() -> None:
            check()
            house.versioning("Suspended")

        monkeypatch.setattr(work, "_check_versioning", checked)
        with pytest.raises(Refused, match=r"no version id of its own.*run it again"):
            work.carry_out()
    assert len(house.live(house.bucket)) > 150, "what had not begun was not done"


def test_a_key_deleted_just_before_its_copy_was_changed_and_its_version_is_not_gone(house: House) -> None:
    """On condition of an ETag S3 answers with 404 where nothing is at the copy's place any more."""
    house.put("a", b"old")
    view = house.view(at=house.later())
    house.put("a", b"new")
    with Rollback(house.engine, view) as work:
        work.plan()
        work._client.meta.events.register("before-send.s3.CopyObject", lambda **_: deleted(house, "a"))
        told: list[Any] = []
        assert work.carry_out(told.append) == {"changed": 1}
    assert "changed since the plan" in told[0].detail
    assert house.live(house.bucket) == {}


def deleted(house: House, key: str) -> AWSResponse:
    """S3's answer to a copy onto a key that has been deleted a moment ago."""
    house.s3.delete_object(Bucket=house.bucket, Key=key)
    raw: Any = io.BytesIO()
    raw.stream = lambda *_, **__: iter(
        [b"<Error><Code>NoSuchKey</Code><Message>No such key</Message></Error>"]
    )
    headers: Any = HeadersDict({"Content-Type": "application/xml"})
    return AWSResponse("http://s3", 404, headers, raw)
