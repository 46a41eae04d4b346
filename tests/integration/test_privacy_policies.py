"""The policies of docs/privacy.md keep identifying columns from who may not have them, and nothing else."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from snapengine import Engine
from snapengine.archiving import paths
from snapengine.errors import IdentifyingRefused, PermissionMissing
from snapengine.log import EpochCutter
from snapengine.metadata_codec import decode
from snapengine.model import Epoch
from snapengine.stores import dynamodb_codec as codec
from tests.guarded_cloud import ACCOUNT, REGION, guarded_cloud
from tests.iam import Request, decide
from tests.marked_dicom import as_text, damaged, identifying, marked, shows
from tests.privacy_house import ADMINISTRATOR, ARCHIVE, BUCKET, NEVER, ROLES, TABLE, House

TABLE_ARN = f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/{TABLE}"
ODD_BUCKETS = ["scans", "identifying", "metadata", "objects", "a.b", "LOG", "observations", "listed"]
ODD_EXTRACTORS = ["dicom", "metadata", "objects", "identifying", "observations", "listed", "a..b"]


def may(role: str, action: str, resource: str, *partitions: str) -> bool:
    context = {"dynamodb:LeadingKeys": partitions} if partitions else {}
    return decide(ROLES[role], Request(action, resource, context)) == "allowed"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with guarded_cloud() as (cloud, guard):
        made = House(cloud, guard, tmp_path_factory.mktemp("privacy"))
        objects = {f"ct/{n:03}": marked(InstanceNumber=str(n)) for n in range(5)}
        objects |= {f"bad/{n:03} {what}": data for n, (what, data) in enumerate(damaged().items())}
        made.extract(made.put(objects), "dicom")
        yield made
        assert guard.unknown == []


# The policies by themselves


@pytest.mark.parametrize("role", ["reader", "researcher"])
def test_a_reader_may_have_every_partition_but_the_identifying_ones(role: str) -> None:
    for bucket in ODD_BUCKETS:
        for key in (
            codec.log_key(bucket, 0),
            codec.log_key(f"{bucket}#metadata", 0),
            codec.log_key(f"{bucket}#selection#aa", 0),
            codec.done_key(bucket, 0),
            codec.object_key(bucket, "IDENTIFYING#x"),
            codec.epoch_key(bucket),
            codec.bucket_key(bucket),
            codec.archive_key(bucket),
            codec.snapshot_key(bucket),
            "BUCKETS",
            "TABLE",
            "AUDIT",
        ):
            assert may(role, "dynamodb:Query", TABLE_ARN, key), key
            assert may(role, "dynamodb:GetItem", TABLE_ARN, key), key


@pytest.mark.parametrize("role", ["reader", "denied", "extractor"])
def test_no_partition_with_identifying_columns_is_open_to_who_may_not(role: str) -> None:
    for bucket in [*ODD_BUCKETS, "scans#selection#aa", "LOG#scans"]:
        key = codec.identifying_key(bucket, 0)
        for action in ("Query", "GetItem", "BatchGetItem", "DeleteItem", "UpdateItem"):
            assert not may(role, f"dynamodb:{action}", TABLE_ARN, key)
            assert not may(role, f"dynamodb:{action}", TABLE_ARN, codec.log_key(bucket, 0), key)


@pytest.mark.parametrize("role", ["reader", "researcher", "denied", "extractor"])
@pytest.mark.parametrize(
    "action",
    ["Scan", "PartiQLSelect", "ExportTableToPointInTime", "RestoreTableToPointInTime", "GetRecords"],
)
def test_no_way_round_the_partitions_is_open(role: str, action: str) -> None:
    for resource in (TABLE_ARN, f"{TABLE_ARN}/stream/2026-11-20T09:00:00.000", f"{TABLE_ARN}/backup/01"):
        assert not may(role, f"dynamodb:{action}", resource)


def test_a_request_that_names_no_partition_is_no_way_in() -> None:
    for role in ("reader", "researcher", "extractor"):
        assert not may(role, "dynamodb:Query", TABLE_ARN)
        assert not may(role, "dynamodb:GetItem", TABLE_ARN)


@pytest.mark.parametrize("bucket", ODD_BUCKETS)
@pytest.mark.parametrize("extractor", ODD_EXTRACTORS)
def test_the_archive_is_open_but_for_the_identifying_prefix(bucket: str, extractor: str) -> None:
    def arn(folder: str) -> str:
        return f"arn:aws:s3:::{ARCHIVE}/snapengine/{folder}/part-00000.parquet"

    points = [paths.Point(bucket, 1, 2, differential) for differential in (False, True)]
    hidden = [
        arn(paths.rows(bucket, extractor, 1, 2, identifying=True)),
        *(arn(paths.live(point, extractor, identifying=True)) for point in points),
    ]
    shown = [
        arn(paths.rows(bucket, extractor, 1, 2, identifying=False)),
        *(arn(paths.live(point, extractor, identifying=False)) for point in points),
        arn(paths.observations(bucket, 1, 2)),
        arn(paths.epochs(bucket, 1, 2)),
        *(arn(folder(point)) for point in points for folder in (paths.objects, paths.histories)),
    ]
    for role in ("reader", "denied"):
        assert not any(may(role, "s3:GetObject", one) for one in hidden)
        assert all(may(role, "s3:GetObject", one) for one in shown)
    assert all(may("researcher", "s3:GetObject", one) for one in shown)
    assert all(may("researcher", "s3:GetObject", one) is (bucket == BUCKET) for one in hidden)


def test_the_right_to_one_bucket_is_none_to_another() -> None:
    assert may("researcher", "dynamodb:Query", TABLE_ARN, "IDENTIFYING#scans#0")
    assert not may("researcher", "dynamodb:Query", TABLE_ARN, "IDENTIFYING#scans2#0")
    assert not may("researcher", "dynamodb:Query", TABLE_ARN, "IDENTIFYING#scans#0", "IDENTIFYING#other#0")


def test_a_deny_holds_whatever_else_a_role_is_given() -> None:
    every = [policy for role in ROLES.values() for policy in role]
    asked = Request("dynamodb:Query", TABLE_ARN, {"dynamodb:LeadingKeys": ["IDENTIFYING#scans#0"]})
    assert decide(every, asked) == "explicit deny"
    assert decide([*ROLES["researcher"], NEVER], asked) == "explicit deny"


# On every request that is made


def test_the_extract_worker_writes_what_it_cannot_read_back(house: House) -> None:
    written = [a for a in house.guard.asked if a.who == "extractor" and a.partitions]
    hidden = [a for a in written if any(key.startswith("IDENTIFYING#") for key in a.partitions)]
    assert {asked.request.action for asked in hidden} == {"dynamodb:PutItem"}
    assert not house.guard.denied("extractor")
    with house.acting("extractor") as engine, pytest.raises(IdentifyingRefused):
        list(engine.store.identifying(BUCKET, 0, 0, 9))


def test_the_ingest_worker_needs_nothing_of_identifying_columns(house: House) -> None:
    """Its cutter also completes rows of metadata whose writer died before they were DONE."""
    with house.acting(ADMINISTRATOR) as engine:

        async def left_by_the_dead() -> None:
            async with engine.log() as log:
                newest = await log.newest_epoch(BUCKET)
                assert newest is not None
                stream, number = next(iter(newest.rows.items()))
                standing = await log.get_entry(f"{BUCKET}#metadata", stream, number)
                assert standing is not None
                part = await log.get_identifying(BUCKET, stream, number, standing.nonce)
                assert part is not None
                entry = replace(standing, number=number + 1, nonce="d" * 24)
                await log.put_identifying(BUCKET, stream, number + 1, entry.nonce, part)
                assert await log.put_entry(entry)

        asyncio.run(left_by_the_dead())
        before = engine.store.newest_epoch(BUCKET)
    house.guard.asked.clear()
    house.put({"ct/later": b"no scan"})
    with house.acting("ingest") as engine:
        epoch = cut(engine)
    assert before is not None
    assert sum(epoch.rows.values()) == sum(before.rows.values()) + 1
    assert [one for one in house.guard.asked if one.who == "ingest"]
    assert not house.guard.denied("ingest")


def cut(engine: Engine) -> Epoch:
    async def run() -> Epoch:
        async with engine.log() as log:
            return await EpochCutter(log, BUCKET, engine.clock).cut()

    return asyncio.run(run())


@pytest.mark.parametrize("role", ["reader", "denied"])
def test_views_digests_and_diffs_need_no_right_to_identify(house: House, role: str) -> None:
    with house.acting(ADMINISTRATOR) as engine:
        expected = engine.view(BUCKET).digest()
    with house.acting(role) as engine:
        view = engine.view(BUCKET)
        assert view.digest() == expected
        assert len(list(view)) >= 5 + len(damaged())
        assert engine.slice(BUCKET, "2020-01-01").digest()
    assert not house.guard.denied(role)


@pytest.mark.parametrize("role", ["reader", "denied"])
def test_the_store_denies_identifying_columns_in_a_plain_sentence(house: House, role: str) -> None:
    with house.acting(role) as engine, pytest.raises(IdentifyingRefused) as refused:
        list(engine.store.identifying(BUCKET, 0, 0, 9))
    said = "This role may not have the identifying columns of bucket scans: DynamoDB table snapengine denied"
    assert str(refused.value).startswith(said)
    assert refused.value.code == "identifying-refused"
    house.guard.asked.clear()


def test_with_the_right_the_store_gives_them(house: House) -> None:
    with house.acting("researcher") as engine:
        newest = engine.store.newest_epoch(BUCKET)
        assert newest is not None
        payloads = [
            payload
            for stream, last in newest.rows.items()
            for _, _, payload in engine.store.identifying(BUCKET, stream, 0, last)
        ]
    texts = "".join(as_text(decode(payload).table) for payload in payloads)
    assert {value for value in identifying().values() if value in texts} >= {"Zqxmark^Jane", "Zqxmark long"}


def test_no_mark_is_outside_the_identifying_partitions(house: House) -> None:
    hidden = 0
    for item in house.items():
        told = repr(item)
        if item["PK"]["S"].startswith("IDENTIFYING#"):
            hidden += bool(shows(as_text(decode(bytes(item["payload"]["B"])).table)))
            continue
        if item.get("form", {}).get("S") == "metadata":
            decoded = decode(bytes(item["payload"]["B"]))
            told += as_text(decoded.table) + str(decoded.schema)
        assert shows(told) == [], item["PK"]
    assert hidden


def test_the_names_and_types_of_all_columns_are_in_the_plain_part(house: House) -> None:
    with house.acting("reader") as engine:
        newest = engine.store.newest_epoch(BUCKET)
        assert newest is not None
        entries = [
            entry
            for stream, last in newest.rows.items()
            for entry in engine.store.entries(f"{BUCKET}#metadata", stream, 0, last)
        ]
    for entry in entries:
        decoded = decode(entry.payload)
        assert set(identifying()) <= set(decoded.schema.names)
        assert not set(identifying()) & set(decoded.table.schema.names)


def test_the_archive_keeps_them_apart_too(house: House) -> None:
    house.archive(checkpoint_now=True)
    assert not house.guard.denied("archiver")
    seen: dict[str, Any] = {"identifying": [], "metadata": []}
    for path, data in house.files().items():
        kind = path.split("/")[1]
        text = ""
        if path.endswith(".parquet"):
            file = pq.ParquetFile(io.BytesIO(data))
            text = as_text(file.read()) + str(file.metadata.to_dict())
        found = shows(data) + shows(text)
        if kind == "identifying":
            seen[kind] += found
        else:
            seen.setdefault(kind, [])
            assert found == [], path
    assert seen["identifying"]
    assert {"observations", "epochs", "metadata", "identifying"} <= set(seen)


@pytest.mark.parametrize("role", ["reader", "researcher", "denied"])
def test_views_over_the_archive_need_no_right_to_identify(house: House, role: str) -> None:
    house.archive()
    house.guard.asked.clear()
    with house.acting(ADMINISTRATOR) as engine:
        expected = engine.view(BUCKET).digest()
    with house.acting(role) as engine:
        assert engine.view(BUCKET).digest() == expected
    read = [a.request.resource for a in house.guard.asked if a.request.action == "s3:GetObject"]
    assert read
    assert not any("/identifying/" in arn for arn in read)
    assert not house.guard.denied(role)


def test_the_archive_denies_a_reader_the_identifying_files(house: House) -> None:
    house.archive()
    path = next(path for path in house.files() if path.startswith(f"{BUCKET}/identifying/"))
    with house.acting("reader") as engine, pytest.raises(PermissionMissing):
        engine.root(f"s3://{ARCHIVE}/snapengine").read(path)
    with house.acting("researcher") as engine:
        assert engine.root(f"s3://{ARCHIVE}/snapengine").read(path)[:4] == b"PAR1"
    house.guard.asked.clear()


def test_a_reader_may_not_read_the_objects_themselves(house: House, tmp_path: Path) -> None:
    with house.acting("reader") as engine, pytest.raises(PermissionMissing):
        engine.view(BUCKET).open("ct/000").read()
    house.guard.asked.clear()
