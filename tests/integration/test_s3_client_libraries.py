"""Libraries that take an S3 client take a view's, and code written for a plain client runs as it is."""

from __future__ import annotations

import copy
import io
import multiprocessing
import os
import pickle
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3.s3.transfer
import pytest
import smart_open
from boto3.exceptions import S3UploadFailedError
from boto3.s3.transfer import S3Transfer, TransferConfig
from botocore.exceptions import ClientError
from s3transfer.manager import TransferConfig as ManagerConfig
from s3transfer.manager import TransferManager

from snapengine.devcloud import DevCloud
from snapengine.errors import UsageError
from tests.integration.s3_client_house import House

MIB = 1 << 20
SMALL_PARTS = TransferConfig(multipart_threshold=MIB, multipart_chunksize=MIB, max_concurrency=4)
BIG = random.Random(7).randbytes(5 * MIB + 12345)


@pytest.fixture(scope="module")
def cloud() -> Iterator[DevCloud]:
    with DevCloud() as cloud:
        yield cloud


@pytest.fixture(params=["devcloud", pytest.param("seaweedfs", marks=pytest.mark.services)])
def house(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    """`big.bin`, `notes.txt` and `a b/é` are in the view `old`, and were overwritten since."""
    name = "cloud" if request.param == "devcloud" else "seaweedfs_server"
    house = House(request.getfixturevalue(name).environment(), tmp_path / "log.db", monkeypatch, "Enabled")
    for key, body in (("big.bin", BIG), ("notes.txt", b"one\ntwo\n"), ("a b/é", b"accents")):
        house.put(key, body)
    house.old = house.view()
    for key in ("big.bin", "notes.txt", "a b/é"):
        house.put(key, b"NEWER " * 400_000)
    return house


def code_of(error: ClientError) -> str:
    return str(error.response["Error"]["Code"])


# boto3's own


@pytest.mark.parametrize("config", [None, SMALL_PARTS, TransferConfig(use_threads=False)])
def test_files_are_downloaded_whole_or_in_parts(house: House, tmp_path: Path, config: Any) -> None:
    client, seen, lock = house.old.client(), [0], threading.Lock()

    def count(amount: int) -> None:
        with lock:
            seen[0] += amount

    client.download_file(house.bucket, "big.bin", str(tmp_path / "big"), Callback=count, Config=config)
    assert (tmp_path / "big").read_bytes() == BIG
    assert seen == [len(BIG)]
    into = io.BytesIO()
    client.download_fileobj(house.bucket, "big.bin", into, Config=config)
    assert into.getvalue() == BIG


def test_a_download_may_name_the_views_version_and_no_other(house: House, tmp_path: Path) -> None:
    client = house.old.client()
    newer = house.view()["big.bin"].version_id
    client.download_file(
        house.bucket, "big.bin", str(tmp_path / "big"), {"VersionId": house.old["big.bin"].version_id}
    )
    assert (tmp_path / "big").read_bytes() == BIG
    with pytest.raises(ClientError) as error:
        client.download_file(house.bucket, "big.bin", str(tmp_path / "x"), {"VersionId": newer})
    assert code_of(error.value) == "NoSuchVersion"
    with pytest.raises(ClientError) as error:
        client.download_file(house.bucket, "none", str(tmp_path / "x"))
    assert code_of(error.value) == "404"
    assert not (tmp_path / "x").exists()


def test_transfer_managers_take_the_client(house: House, tmp_path: Path) -> None:
    client = house.old.client()
    parts: Any = SMALL_PARTS
    S3Transfer(client, parts).download_file(house.bucket, "big.bin", str(tmp_path / "one"))
    with TransferManager(client, ManagerConfig(multipart_threshold=MIB, multipart_chunksize=MIB)) as manager:
        futures = [manager.download(house.bucket, "big.bin", str(tmp_path / f"{n}")) for n in range(3)]
        for future in futures:
            future.result()
    assert all((tmp_path / name).read_bytes() == BIG for name in ("one", "0", "1", "2"))


def test_a_body_is_streamed_and_not_held(house: House) -> None:
    body = house.old.client().get_object(Bucket=house.bucket, Key="big.bin")["Body"]
    assert body.read(10) == BIG[:10]
    assert b"".join(body.iter_chunks(100_000)) == BIG[10:]
    lines = house.old.client().get_object(Bucket=house.bucket, Key="notes.txt")["Body"].iter_lines()
    assert list(lines) == [b"one", b"two"]


def test_a_null_object_in_parts_that_is_overwritten_midway_is_no_mixture(
    house: House, tmp_path: Path
) -> None:
    house.versioning("Suspended")
    house.put("null.bin", BIG)
    client = house.view().client()
    parts = [0]

    def overwrite(**_: Any) -> None:
        parts[0] += 1
        if parts[0] == 2:
            house.put("null.bin", bytes(len(BIG)))

    client.meta.events.register_last("before-call.s3.GetObject", overwrite)
    one_by_one = TransferConfig(multipart_threshold=MIB, multipart_chunksize=MIB, use_threads=False)
    with pytest.raises(ClientError) as error:
        client.download_file(house.bucket, "null.bin", str(tmp_path / "x"), Config=one_by_one)
    assert code_of(error.value) == "NoSuchVersion"
    assert not (tmp_path / "x").exists()


def test_waiters_wait_for_what_the_view_has(house: House) -> None:
    client = house.old.client()
    client.get_waiter("bucket_exists").wait(Bucket=house.bucket)
    client.get_waiter("object_exists").wait(Bucket=house.bucket, Key="notes.txt")
    client.get_waiter("object_not_exists").wait(Bucket=house.bucket, Key="none")


# Writes, and what a view cannot say


def test_every_write_is_refused_and_changes_nothing(house: House, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    client, bucket = house.old.client(), house.bucket
    here = {"Bucket": bucket, "Key": "notes.txt"}
    before = house.s3.list_object_versions(Bucket=bucket)["Versions"]
    writes: dict[str, dict[str, Any]] = {
        "put_object": {**here, "Body": b"x"},
        "delete_object": here,
        "delete_objects": {"Bucket": bucket, "Delete": {"Objects": [{"Key": "notes.txt"}]}},
        "copy_object": {**here, "CopySource": here},
        "create_multipart_upload": here,
        "put_object_tagging": {**here, "Tagging": {"TagSet": []}},
        "restore_object": here,
        "put_bucket_versioning": {"Bucket": bucket, "VersioningConfiguration": {"Status": "Suspended"}},
        "delete_bucket": {"Bucket": bucket},
        "create_bucket": {"Bucket": "another"},
    }
    for name, asked in writes.items():
        with pytest.raises(ClientError, match="changes nothing") as error:
            getattr(client, name)(**asked)
        assert code_of(error.value) == "AccessDenied"
        assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    with pytest.raises(S3UploadFailedError, match="AccessDenied"):
        client.upload_file(str(tmp_path / "f"), bucket, "notes.txt")
    with pytest.raises(ClientError, match="changes nothing"):
        client.upload_fileobj(io.BytesIO(b"x" * 9 * MIB), bucket, "notes.txt")
    with pytest.raises(ClientError, match="changes nothing"):
        client.copy(here, bucket, "copy")
    with pytest.raises(ClientError, match="changes nothing"):
        client.generate_presigned_post(bucket, "notes.txt")
    with pytest.raises(ClientError, match="changes nothing"):
        client.generate_presigned_url("delete_object", Params=here)
    assert house.s3.list_object_versions(Bucket=bucket)["Versions"] == before


def test_no_operation_of_s3_goes_through_but_those_that_are_known(house: House) -> None:
    client = house.old.client()
    known = {"get_object", "head_object", "get_object_attributes", "get_object_tagging", "head_bucket"}
    known |= {"list_objects", "list_objects_v2", "get_bucket_location"}
    sent: list[str] = []
    client.meta.events.register_first("before-send.s3", lambda event_name, **_: sent.append(event_name))
    for name in set(client.meta.method_to_api_mapping) - known:
        with pytest.raises(ClientError) as error:
            getattr(client, name)()
        assert code_of(error.value) in {"AccessDenied", "NotImplemented"}, name
    assert sent == []


def test_another_bucket_is_refused_and_never_asked(house: House) -> None:
    other = f"{house.bucket}-2"
    house.s3.create_bucket(Bucket=other)
    house.s3.put_object(Bucket=other, Key="notes.txt", Body=b"live")
    client = house.old.client()
    for name, more in (
        ("get_object", {"Key": "notes.txt"}),
        ("head_object", {"Key": "notes.txt"}),
        ("list_objects_v2", {}),
        ("list_objects", {}),
        ("head_bucket", {}),
    ):
        for bucket in (other, f"arn:aws:s3:us-east-1:123456789012:accesspoint/{house.bucket}"):
            with pytest.raises(ClientError, match="no other bucket") as error:
                getattr(client, name)(Bucket=bucket, **more)
            assert code_of(error.value) == "AccessDenied"


def test_the_engines_other_clients_are_what_they_were(house: House) -> None:
    house.old.client()
    for plain in (house.engine.s3, house.engine.client("s3"), boto3.client("s3")):
        plain.put_object(Bucket=house.bucket, Key="written", Body=b"x")
        assert plain.get_object(Bucket=house.bucket, Key="notes.txt")["Body"].read(6) == b"NEWER "


def test_a_narrowed_view_has_a_client_of_what_it_shows(house: House) -> None:
    client = house.old.select(["notes.txt", "a b/é"]).client()
    listed = client.list_objects_v2(Bucket=house.bucket)["Contents"]
    assert [row["Key"] for row in listed] == ["a b/é", "notes.txt"]
    assert client.get_object(Bucket=house.bucket, Key="notes.txt")["Body"].read() == b"one\ntwo\n"
    with pytest.raises(client.exceptions.NoSuchKey):
        client.get_object(Bucket=house.bucket, Key="big.bin")


def test_a_slice_of_all_versions_has_no_client(house: House) -> None:
    with pytest.raises(UsageError, match="several objects of one key"):
        house.engine.slice(house.bucket, 0, versions="all").client()


def test_transfers_never_go_to_the_aws_crt_which_would_read_what_is_there_now(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Crt:
        """An awscrt that takes this machine for one it is made for, as boto3 asks it."""

        __version__ = "9.9.9"
        s3 = type("s3", (), {"is_optimized_for_system": staticmethod(lambda: True)})

    asked: list[str] = []
    monkeypatch.setattr(boto3.s3.transfer, "HAS_CRT", True)
    monkeypatch.setattr(boto3.s3.transfer, "awscrt", Crt, raising=False)
    monkeypatch.setattr(
        boto3.s3.transfer, "create_crt_transfer_manager", lambda *_: asked.append("crt"), raising=False
    )
    house.s3.download_file(house.bucket, "notes.txt", str(tmp_path / "plain"))
    assert asked == ["crt"], "the plain client's would"
    for config in (None, TransferConfig()):
        house.old.client().download_file(house.bucket, "notes.txt", str(tmp_path / "x"), Config=config)
        assert (tmp_path / "x").read_bytes() == b"one\ntwo\n"
    assert asked == ["crt"]
    assert house.old.client()._get_credentials() is None, "without them S3Transfer itself does not either"


# Other libraries


def test_smart_open_reads_through_the_client(house: House) -> None:
    options = {"client": house.old.client()}

    def opened(key: str, mode: str = "rb", **more: Any) -> Any:
        return smart_open.open(f"s3://{house.bucket}/{key}", mode, transport_params=options, **more)

    with opened("notes.txt", "r", encoding="utf-8") as lines:
        assert list(lines) == ["one\n", "two\n"]
    with opened("big.bin") as file:
        assert file.read(10) == BIG[:10]
        file.seek(-7, io.SEEK_END)
        assert file.read() == BIG[-7:]
        file.seek(3 * MIB)
        assert file.read(5) == BIG[3 * MIB : 3 * MIB + 5]
    with opened("a b/é") as file:
        assert file.read() == b"accents"
    with pytest.raises(OSError, match="none"):
        opened("none")
    with pytest.raises(ValueError, match="changes nothing"):
        opened("new", "wb")


def train(client: Any, bucket: str) -> dict[str, int]:
    """As a script has it that knows of no view."""
    sizes = {}
    for page in client.get_paginator("list_objects_v2").paginate(
        Bucket=bucket, PaginationConfig={"PageSize": 2}
    ):
        for entry in page.get("Contents", []):
            body = client.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read()
            assert len(body) == entry["Size"]
            sizes[entry["Key"]] = len(body)
    try:
        client.head_object(Bucket=bucket, Key="config.json")
    except ClientError as error:
        if error.response["Error"]["Code"] != "404":
            raise
    try:
        client.get_object(Bucket=bucket, Key="config.json")
    except client.exceptions.NoSuchKey:
        return sizes
    raise AssertionError


EXPECTED = {"a b/é": 7, "big.bin": len(BIG), "notes.txt": 8}


def test_a_script_for_a_plain_client_sees_the_view_in_every_thread(house: House) -> None:
    client = house.old.client()
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: train(client, house.bucket), range(4))) == [EXPECTED] * 4


def test_a_client_pickles_as_its_view(house: House) -> None:
    client = house.old.client()
    for again in (pickle.loads(pickle.dumps(client)), copy.deepcopy(client), copy.copy(client)):  # noqa: S301  # our own
        assert again.view == house.old
        assert again is not client
        assert train(again, house.bucket) == EXPECTED
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(train, client, house.bucket).result(60) == EXPECTED


def test_a_forked_process_opens_connections_of_its_own(house: House) -> None:
    client = house.old.client()
    assert train(client, house.bucket) == EXPECTED
    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = 0 if all(train(client, house.bucket) == EXPECTED for _ in range(3)) else 2
            finally:
                os._exit(code)
        children.append(child)
    found = [train(client, house.bucket) for _ in range(3)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert found == [EXPECTED] * 3
