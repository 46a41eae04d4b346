"""Copies that S3 refuses, encrypts otherwise, or answers too late: each told for what it is, and no more."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse, HeadersDict

from readers.export import Options, export
from readers.rollback import Rollback
from snapengine import Engine
from snapengine.cli.main import run
from snapengine.devcloud import DevCloud
from snapengine.errors import Unreachable
from snapengine.model import RunNote
from tests.export_house import MIB, House


@pytest.fixture(scope="module")
def cloud() -> Iterator[DevCloud]:
    with DevCloud() as cloud:
        yield cloud


@pytest.fixture
def house(cloud: DevCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    return House(tmp_path / "log.db")


def hooked(engine: Engine, event: str, handler: Callable[..., Any]) -> None:
    """Have the engine's new S3 clients ask the handler."""
    make = engine.client

    def client(service: Any) -> Any:
        made = make(service)
        made.meta.events.register(event, handler)
        return made

    engine.client = client  # type: ignore[method-assign]  # a fault on the way to S3


def refusal(url: str, status: int, code: str) -> AWSResponse:
    body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
    raw: Any = io.BytesIO(body)
    raw.stream = lambda *_, **__: iter([body])
    headers: Any = HeadersDict({"content-type": "application/xml"})
    return AWSResponse(url, status, headers, raw)


@pytest.mark.parametrize(
    ("status", "code", "kind", "says"),
    [
        (403, "AccessDenied", "denied", "s3:PutObjectTagging"),
        (400, "KMS.DisabledException", "unreadable", "its KMS key is disabled"),
        (404, "NoSuchVersion", "gone", "is gone from S3"),
        (403, "InvalidObjectState", "archived", "restore it"),
        (412, "PreconditionFailed", "conflict", "changed meanwhile"),
        (400, "InvalidRequest", "unreadable", "InvalidRequest"),
    ],
)
def test_a_refusal_of_one_object_is_told_and_the_others_are_copied(
    house: House, status: int, code: str, kind: str, says: str
) -> None:
    for key in ("a", "b", "c"):
        house.put(key, key.encode())
    hooked(
        house.engine,
        "before-send.s3.CopyObject",
        lambda request, **_: refusal(request.url, status, code) if request.url.endswith("/b") else None,
    )
    done = house.export(house.view())
    assert done.tally.counts == {"copied": 2, kind: 1}
    assert house.bodies() == {"a": b"a", "c": b"c"}
    (line,) = [line for line in house.manifest(done) if line["event"] == "problem"]
    assert (line["key"], line["outcome"]) == ("b", kind)
    assert says in line["detail"]


def test_a_server_that_keeps_failing_ends_the_export(house: House) -> None:
    house.put("a", b"a")
    hooked(
        house.engine,
        "before-send.s3.CopyObject",
        lambda request, **_: refusal(request.url, 503, "SlowDown"),
    )
    with pytest.raises(Unreachable, match="SlowDown"):
        house.export(house.view())
    assert house.bodies() == {}


def encrypting(checksums: bool) -> Callable[..., None]:
    """HEAD replies as of a destination whose KMS key gives ETags that are no MD5s."""

    def change(parsed: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
        key, copies = "ChecksumCRC32", context["input_params"]["Bucket"].startswith("o-")
        if not checksums:
            parsed.pop(key, None)
        elif key in parsed:
            parsed["ChecksumType"] = "FULL_OBJECT"
        if copies and "ETag" in parsed:
            parsed |= {"ETag": f'"{"0" * 32}"', "ServerSideEncryption": "aws:kms"}

    return change


@pytest.mark.parametrize(("checksums", "checked"), [(True, ["checksum"]), (False, [])])
def test_a_copy_under_a_kms_key_is_checked_by_checksum_or_said_to_be_by_size_alone(
    house: House, checksums: bool, checked: list[str]
) -> None:
    house.put("a", b"bytes")
    hooked(house.engine, "after-call.s3.HeadObject", encrypting(checksums))
    done = house.export(house.view())
    (line,) = [line for line in house.manifest(done) if line["event"] == "object"]
    assert line["checked"] == ["size", *checked, "source"]
    assert done.tally.by_size_alone == int(not checksums)


def test_a_copy_that_is_not_as_its_version_is_told(house: House) -> None:
    house.put("a", b"bytes")

    def change(parsed: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
        if context["input_params"]["Bucket"] == house.other:
            parsed["ETag"] = f'"{"0" * 32}"'
            parsed.pop("ChecksumCRC32", None)

    hooked(house.engine, "after-call.s3.HeadObject", change)
    assert house.export(house.view()).tally.counts == {"different": 1}


def test_a_copy_of_another_version_is_never_taken_for_the_right_one(house: House) -> None:
    house.put("a", b"bytes")

    def change(parsed: dict[str, Any], **_: Any) -> None:
        parsed["CopySourceVersionId"] = "another"

    hooked(house.engine, "after-call.s3.CopyObject", change)
    done = house.export(house.view())
    assert done.tally.counts == {"different": 1}


def test_an_upload_that_fails_half_way_leaves_no_parts_to_be_paid_for(house: House) -> None:
    house.upload("parts", b"a" * 5 * MIB, b"b" * 5 * MIB, b"c")
    hooked(
        house.engine,
        "before-send.s3.UploadPartCopy",
        lambda request, **_: (
            refusal(request.url, 403, "AccessDenied") if "partNumber=2" in request.url else None
        ),
    )
    assert house.export(house.view()).tally.counts == {"denied": 1}
    assert house.s3.list_multipart_uploads(Bucket=house.other).get("Uploads", []) == []


def test_a_rollback_whose_replies_are_lost_counts_what_landed_as_done(house: House) -> None:
    house.put("a", b"old")
    old = house.view(at=house.later())
    house.put("a", b"new")
    house.put("b", b"new")
    sent: list[str] = []

    def doubled(request: Any, event_name: str, **_: Any) -> None:
        """Sends the request once more before it is sent: what a retry after a lost reply comes to."""
        operation = event_name.rpartition(".")[2]
        if operation in sent:
            return
        sent.append(operation)
        if operation == "CopyObject":
            house.s3.copy_object(
                Bucket=house.bucket,
                Key="a",
                CopySource={"Bucket": house.bucket, "Key": "a", "VersionId": old["a"].version_id},
            )
        else:
            house.s3.delete_object(Bucket=house.bucket, Key="b")

    for operation in ("CopyObject", "DeleteObject"):
        hooked(house.engine, f"before-send.s3.{operation}", doubled)
    with Rollback(house.engine, old) as work:
        work.plan()
        counts = work.carry_out()
    assert house.live(house.bucket) == {"a": b"old"}
    assert set(counts) <= {"copied", "marked", "there"}


def test_what_a_run_saw_is_exported_if_it_is_one_view(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SNAPENGINE_STORE", house.store)
    house.put("a", b"then")
    view = house.view()
    house.put("a", b"now")
    store = house.engine.store
    store.put_note(RunNote("r1", house.bucket, "scans", view.reference, 1, 1, view.digest()))
    out = tmp_path / "out"
    assert run(["export", "run:/r1", str(out)]) == 0
    assert (out / "a").read_bytes() == b"then"
    assert run(["export", "run:/r1", str(out), "--at", "now"]) == 2
    store.put_note(RunNote("r1", house.bucket, "scans/ct/", house.view(prefix="ct/").reference, 1, 1))
    capsys.readouterr()
    assert run(["export", "run:/r1", str(out)]) == 2
    assert view.reference in capsys.readouterr().err
    store.put_note(RunNote("r2", house.bucket, "scans", view.reference, 1, 1, f"sha256:{'0' * 64}"))
    assert run(["export", "run:/r2", str(out)]) == 1
    assert "digest-differs" in capsys.readouterr().err


def test_a_full_disk_ends_an_export_to_a_folder_without_half_a_file(house: House, tmp_path: Path) -> None:
    for key in ("a", "b"):
        house.put(key, key.encode())
    view = house.view()
    read = view.read_version

    def full(version: Any, start: int = 0, end: int | None = None) -> bytes:
        if version.key == "b":
            raise OSError(28, "No space left on device")
        return read(version, start, end)

    view.read_version = full  # type: ignore[method-assign]  # a fault of the disk, as near as a test comes
    with pytest.raises(OSError, match="No space left"):
        export(house.engine, view, str(tmp_path / "out"), Options())
    assert [path.name for path in (tmp_path / "out").glob("[!.]*")] in ([], ["a"])
    assert list((tmp_path / "out").glob(".snapengine-export/partial-*")) == []
