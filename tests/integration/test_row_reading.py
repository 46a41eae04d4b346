"""Reading rows of metadata: what is touched, what is refused, and what of the files is verified."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from botocore.exceptions import ClientError
from moto.server import ThreadedMotoServer

from snapengine import Engine, Settings
from snapengine.archive.planning import row_tail
from snapengine.archive.roots import S3Root
from snapengine.errors import ArchiveDamaged, ArchiveFileMissing, IdentifyingRefused, UsageError
from snapengine.model import Epoch, SnapshotRef
from snapengine.row_reading import Joined, extractors_of, joined, row_schema
from snapengine.row_windows import RowTail
from tests.archive_house import INSTANTS, House, dynamodb_house, sqlite_house
from tests.row_answers import read
from tests.row_house import DICOM, append, play_with_rows, row_answers, rows_of


@pytest.fixture(scope="module")
def moto_url() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def local(tmp_path: Path) -> House:
    house = sqlite_house(tmp_path)
    play_with_rows(house)
    return house


@pytest.fixture
def remote(moto_url: str, monkeypatch: pytest.MonkeyPatch) -> House:
    house = dynamodb_house(moto_url, monkeypatch)
    play_with_rows(house)
    return house


def newest(engine: Engine) -> Epoch:
    epoch = engine.store.newest_epoch("scans")
    assert epoch is not None
    return epoch


def now(engine: Engine, *, identifying: bool, extractor: str = "dicom") -> Joined:
    epoch = newest(engine)
    return joined(engine, SnapshotRef("scans", "", epoch.time, epoch.number), epoch, extractor, identifying)


def deny(monkeypatch: pytest.MonkeyPatch, engine: Engine) -> None:
    """As a policy does that denies whatever is identifying, in the table and in the root."""

    def denied(name: str) -> ClientError:
        return ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, name)

    real_get = S3Root._get

    def get(self: S3Root, key: str, options: dict[str, Any]) -> bytes:
        if "/identifying/" in key:
            raise denied("GetObject")
        return real_get(self, key, options)

    monkeypatch.setattr(S3Root, "_get", get)
    store: Any = engine.store
    real_query = store._client.query

    def query(**request: Any) -> Any:
        if "IDENTIFYING#" in str(request.get("ExpressionAttributeValues", "")):
            raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "Query")
        return real_query(**request)

    monkeypatch.setattr(store._client, "query", query)


# The right to identifying columns


@pytest.mark.parametrize("archived", [False, True])
def test_who_may_not_read_what_is_identifying_has_all_else_and_a_plain_refusal(
    remote: House, monkeypatch: pytest.MonkeyPatch, archived: bool
) -> None:
    if archived:
        remote.round(checkpoint_now=True)
    plain = row_answers(remote, some=True, full=False)
    engine = remote.engine()
    deny(monkeypatch, engine)
    with pytest.raises(IdentifyingRefused) as raised:
        next(now(engine, identifying=True).batches())
    assert raised.value.code == "identifying-refused"
    found = now(engine, identifying=False)
    assert bool(found.files) == archived
    assert read(found)["Modality"].null_count < len(read(found))
    assert "PatientName" in found.schema.names
    assert "PatientName" not in found.read.names
    assert "PatientName" in row_schema(engine, "scans", newest(engine), "dicom").names
    assert extractors_of(engine, "scans", newest(engine)) == ["dicom", "sizes"]
    # An extractor that has no such columns is read as ever, also by who asks for them.
    assert now(engine, identifying=True, extractor="sizes").read.names[-1] == "width"
    assert row_answers(remote, some=True, full=False) == plain


def test_plain_columns_are_read_though_nothing_identifying_is_there(local: House) -> None:
    local.round(checkpoint_now=True)
    before = row_answers(local, some=True, full=False)
    root = local.root()
    hidden = [stored.path for stored in root.paths("scans/identifying/")]
    assert hidden
    for path in hidden:
        root.delete(path)
    assert row_answers(local, some=True, full=False) == before
    with pytest.raises(ArchiveFileMissing, match="scans/identifying/"):
        now(local.engine(), identifying=True)


@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_folder_that_may_not_be_read_is_a_refusal_too(
    local: House, monkeypatch: pytest.MonkeyPatch, checkpoint: bool
) -> None:
    local.round(checkpoint_now=checkpoint, checkpoints=checkpoint)
    before = row_answers(local, some=True, full=False)
    real = Path.open

    def opened(path: Path, *arguments: Any, **options: Any) -> Any:
        if "/identifying/" in str(path):
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(IdentifyingRefused, match="identifying columns of extractor dicom"):
        next(now(local.engine(), identifying=True).batches())
    assert row_answers(local, some=True, full=False) == before


# Slices, prefixes


def test_a_slice_of_all_versions_has_no_one_row_a_key(local: House) -> None:
    engine = local.engine()
    view = engine.slice("scans", INSTANTS[1], INSTANTS[-1], versions="all")
    with pytest.raises(UsageError, match="no one version a key"):
        joined(engine, view.ref, newest(engine), "dicom", False)


def test_a_bucket_of_which_nothing_is_known_has_no_rows(tmp_path: Path) -> None:
    engine = sqlite_house(tmp_path).engine()
    engine.store.create()
    nothing = Epoch(0, 0, {})
    assert extractors_of(engine, "scans", nothing) == []
    found = joined(engine, SnapshotRef("scans", "", 0, 0), nothing, "dicom", True)
    assert [batch for batch in found.batches() if batch.num_rows] == []
    assert found.read.names[-1] == "extracted_at"


def test_what_has_changed_since_the_checkpoint_comes_as_batches_and_all_else_from_the_files(
    local: House,
) -> None:
    local.round(checkpoint_now=True)
    engine = local.engine()
    before = now(engine, identifying=False)
    assert len(before.changed) == 0
    shown = {v.key: v for v in engine.view("scans").versions()}
    local.clock.now += 1000
    again = [shown[key] for key in ("ct/03", "late")]
    append(local, "dicom", rows_of(again, DICOM, 9000, Modality="PT"))
    found = now(engine, identifying=False)
    assert found.changed.to_pylist() == ["ct/03", "late"]
    told = pa.Table.from_batches(found.batches(), found.read).to_pylist()
    assert [(row["key"], row["Modality"]) for row in told] == [("ct/03", "PT"), ("late", "PT")]
    assert found.files == before.files
    local.clock.now += 1000
    of_other = append(local, "sizes", rows_of(list(shown.values())[:1], DICOM, 9000))
    assert of_other.number == newest(engine).number
    assert len(now(engine, identifying=False).changed) == 2


def test_where_too_much_has_changed_all_comes_as_batches(
    local: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.round(checkpoint_now=True)
    shown = list(local.engine().view("scans").versions())
    local.clock.now += 1000
    append(local, "dicom", rows_of(shown[:5], DICOM, 9000, Modality="PT"))
    answer = read(now(local.engine(), identifying=True))
    monkeypatch.setattr("snapengine.row_reading.MOST_CHANGED", 4)
    found = now(local.engine(), identifying=True).settled()
    assert found.files == ()
    assert read(found).to_pylist() == answer.to_pylist()


def test_rows_of_the_same_instant_are_told_apart_by_all_columns_whatever_is_asked_for(local: House) -> None:
    local.round(checkpoint_now=True)
    engine = local.engine()
    shown = [v for v in engine.view("scans").versions() if v.key == "ct/03"]
    for outcome, modality in (("ok", "ZZ"), ("partial", "AA")):
        local.clock.now += 1000
        append(local, "dicom", rows_of(shown, DICOM, 9000, Modality=modality, outcome=outcome))
    epoch = newest(engine)
    ref = SnapshotRef("scans", "", epoch.time, epoch.number)
    for columns in (None, ["Spacing"]):
        found = joined(engine, ref, epoch, "dicom", False, columns)
        told = pa.Table.from_batches(found.batches()).to_pylist()
        assert [row["outcome"] for row in told if row["key"] == "ct/03"] == ["ok"], columns


@pytest.mark.parametrize("archived", [False, True])
def test_many_rows_of_the_log_are_joined_range_by_range(
    local: House, monkeypatch: pytest.MonkeyPatch, archived: bool
) -> None:
    if archived:
        local.round(checkpoint_now=True)
    engine = local.engine()
    shown = list(engine.view("scans").versions())
    local.clock.now += 1000
    append(local, "dicom", rows_of(shown, DICOM, 9000, Modality="PT"))
    answer = read(now(engine, identifying=True))
    monkeypatch.setattr("snapengine.archive.sorting.BATCH_ROWS", 2)
    monkeypatch.setattr("snapengine.row_folding.RANGE_ROWS", 2)
    found = now(engine, identifying=True)
    sizes = [batch.num_rows for batch in found.settled()._whole()]
    assert sum(sizes) == len(shown) > 9
    assert len(sizes) > 3
    assert read(found).to_pylist() == answer.to_pylist()


def test_schemas_of_the_log_are_kept_once_however_many_entries_have_them(local: House) -> None:
    engine = local.engine()
    shown = list(engine.view("scans").versions())
    for number in range(3):
        local.clock.now += 1000
        append(local, "dicom", rows_of(shown[:1], DICOM, 9000 + number))
    epoch = newest(engine)
    with ThreadPoolExecutor(2) as pool:
        tail = RowTail(engine.store, "scans", row_tail(engine.archive("scans"), epoch), None, pool)
    for schemas in tail.schemas.values():
        assert len(schemas) == len({schema.serialize().to_pybytes() for schema in schemas})


# Files


def test_an_altered_file_is_named_by_whoever_verifies_what_was_read(local: House) -> None:
    local.round(checkpoint_now=True)
    found = now(local.engine(), identifying=False)
    found.verify()
    (path,) = found.files
    assert str(path).startswith(local.archive.removeprefix("file://"))
    data = bytearray(path.read_bytes())
    data[100] ^= 0x40
    path.write_bytes(data)
    with pytest.raises(ArchiveDamaged, match=r"live-.*parquet.* was altered near byte"):
        found.verify()
    path.write_bytes(data[:-1])
    with pytest.raises(ArchiveDamaged, match="bytes any more"):
        found.verify(["Modality"])
    path.unlink()
    with pytest.raises(ArchiveFileMissing, match="live-"):
        found.verify()
    with pytest.raises(ArchiveFileMissing, match="live-"):
        now(local.engine(), identifying=False)


def test_files_of_a_root_in_s3_are_fetched_once_and_verified(
    remote: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote.round(checkpoint_now=True)
    folder = tmp_path / "cache"

    def engine() -> Engine:
        settings = Settings(store=remote.store, archive=remote.archive, cache=str(folder))
        return Engine(settings, clock=remote.clock)

    first = now(engine(), identifying=True)
    first.verify()
    (path,) = first.files
    assert path.is_relative_to(folder)
    data = path.read_bytes()
    path.write_bytes(data[:40] + b"\0" + data[41:])
    with pytest.raises(ArchiveDamaged, match="was altered near byte 0"):
        first.verify()
    path.unlink()
    real = S3Root.read

    def spoiled(self: S3Root, name: str, start: int = 0, end: int | None = None) -> bytes:
        found = real(self, name, start, end)
        return found if "live-" not in name else bytes(len(found))

    monkeypatch.setattr(S3Root, "read", spoiled)
    with pytest.raises(ArchiveDamaged, match="identifying/extractor=dicom/checkpoint"):
        now(engine(), identifying=True)
    assert not path.exists()


def test_without_a_cache_fetched_files_last_as_long_as_what_names_them(remote: House) -> None:
    remote.round(checkpoint_now=True)
    found = now(remote.engine(), identifying=True)
    (path,) = found.files
    assert path.exists()
    assert read(found).num_rows == 16
    assert path.parent.stat().st_mode & 0o077 == 0
    del found
    gc.collect()
    assert not path.exists()


def test_batches_that_do_not_fit_in_memory_come_from_the_disk_and_may_be_read_twice(
    local: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.round(checkpoint_now=True)
    shown = list(local.engine().view("scans").versions())
    local.clock.now += 1000
    append(local, "dicom", rows_of(shown, DICOM, 9000, Modality="PT"))
    before = read(now(local.engine(), identifying=True)).to_pylist()
    monkeypatch.setattr("snapengine.row_spool.MOST_BYTES", 10)
    found = now(local.engine(), identifying=True)
    one, other = found.batches(), found.batches()
    assert next(one).equals(next(other))
    assert list(one) == list(other)
    assert read(found).to_pylist() == before
