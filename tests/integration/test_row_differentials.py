"""Rows of metadata by way of a differential: what a view shows with its rows is what the log alone tells."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from snapengine import Engine
from snapengine.archive.manifest import Differential
from snapengine.errors import ArchiveDamaged, ArchiveFileMissing, IdentifyingRefused
from snapengine.model import ObjectVersion, SnapshotRef
from snapengine.row_reading import extractors_of, joined, row_schema
from tests.archive_house import KEYS, House, sqlite_house
from tests.differential_house import eager, live_on, newest_differential, second, without_archive
from tests.row_answers import read
from tests.row_house import DICOM, DICOM_2, SECRET, SIZES, append, play_with_rows, rows_of
from tests.seed import T0

STEPS = 3


def shown(house: House) -> dict[str, ObjectVersion]:
    return {v.key: v for v in without_archive(house).view(house.bucket).versions()}


def extracted(house: House, step: int) -> None:
    """Rows of what is shown, old and new; of what is not shown any more; and of what is yet to come."""
    now = shown(house)
    some = [now[key] for key in sorted(now)[step::3]]
    append(house, "dicom", rows_of(some, DICOM_2 if step == 1 else DICOM, 7000 + step, Modality=f"S{step}"))
    append(house, "sizes", rows_of([now["ct/11"], now["mr/1"]], SIZES, 7000 + step, width=step))
    few = [f"ct/{(3 * (step + 1) + n) % 12:02d}" for n in range(3)]
    coming = [(key, f"p{step + 1}-{key}") for key in few] + [("é", "f-é"), ("mr/1", "f-mr/1")]
    later = [ObjectVersion(key, version, 10, f"etag-{version}", 0) for key, version in coming]
    append(house, "dicom", rows_of(later, DICOM, 8000 + step, Modality=f"L{step}"))
    append(house, "late", rows_of([now["ct/11"], *later], SIZES, 8000 + step))


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, and rounds that made two differentials since."""
    folder = tmp_path_factory.mktemp("played")
    house = sqlite_house(folder)
    with pytest.MonkeyPatch.context() as patch:
        eager(patch, share=1000)
        play_with_rows(house)
        assert house.round(compaction=False).checkpoint is not None
        for step in range(STEPS):
            live_on(house, step)
            extracted(house, step)
            house.round(compaction=False)
    return folder


@pytest.fixture
def house(played: Path, tmp_path: Path) -> House:
    """A copy of it, in which more has come since."""
    folder = tmp_path / "copy"
    shutil.copytree(played, folder)
    found = sqlite_house(folder)
    store = found.engine().store
    config = store.config("scans")
    assert config is not None
    store.put_config(replace(config, archive=found.archive))
    live_on(found, STEPS)
    extracted(found, STEPS)
    found.clock.now += 3_600_000
    return found


def answers(engine: Engine, refs: list[SnapshotRef]) -> dict[Any, Any]:
    """What each shows with its rows, of each extractor, plain and with all columns, some and all of them."""
    found: dict[Any, Any] = {}
    for ref in refs:
        epoch = engine.epoch("scans", ref.epoch)
        found[ref] = extractors_of(engine, "scans", epoch)
        for extractor in ("dicom", "sizes", "late"):
            schema = row_schema(engine, "scans", epoch, extractor)
            found[ref, extractor] = [(f.name, f.type, f.metadata) for f in schema]
            for columns in (None, ["Modality", "Rows"], ["PatientName"], []):
                for identifying in (False, True):
                    told = joined(engine, ref, epoch, extractor, identifying, columns).settled()
                    table = read(told)
                    found[ref, extractor, identifying, str(columns)] = table.schema.names, table.to_pylist()
    return found


def asked(epochs: list[int], *, slices: bool = False) -> list[SnapshotRef]:
    seconds = [3400, *(second(n) + by for n in range(STEPS + 1) for by in (-585, -300, 0))]
    views = [SnapshotRef("scans", "", T0 + 1000 * at, number) for number in epochs for at in seconds]
    if not slices:
        return views
    now = T0 + 1000 * second(STEPS)
    return [
        *(SnapshotRef("scans", prefix, now, epochs[0]) for prefix in ("ct/0", "new/", "none")),
        *(SnapshotRef("scans", "", now, epochs[0], T0 + 1000 * second(n)) for n in (0, STEPS - 1)),
    ]


def last_epoch(engine: Engine) -> int:
    epoch = engine.store.newest_epoch("scans")
    assert epoch is not None
    return epoch.number


def now(
    house: House, *, identifying: bool, extractor: str = "dicom", columns: list[str] | None = None
) -> Any:
    engine = house.engine()
    epoch = engine.epoch("scans", None)
    ref = SnapshotRef("scans", "", T0 + 1000 * second(STEPS), epoch.number)
    return joined(engine, ref, epoch, extractor, identifying, columns).settled()


def rows_in(house: House, one: Differential, role: str) -> list[dict[str, Any]]:
    """Of what is no extractor's, or of the first one's."""
    reader = house.engine().reader(house.archive)
    files = [f for f in one.files if f.role == role and f.extractor in {"", "dicom"}]
    return [row for f in files for row in reader.read(f).to_pylist()]


def test_every_view_with_its_rows_is_that_of_a_table_without_an_archive(house: House) -> None:
    archive = house.manifests()
    assert (len(archive.checkpoints), len(archive.differentials)) == (1, 2)
    roles = {"live", "live_identifying", "pending", "pending_identifying"}
    for one in archive.differentials:
        assert roles <= {f.role for f in one.files}
        assert one.extractors == ("dicom", "sizes")
    last = last_epoch(house.engine())
    refs = [*asked([last]), *asked([last], slices=True), *asked([archive.last_epoch - 2])[::4]]
    expected = answers(without_archive(house), refs)
    assert answers(house.engine(), refs) == expected
    told = {row["Modality"] for row in expected[refs[-1], "dicom", True, "None"][1]}
    assert len(told) > 2


def test_many_ranges_of_keys_give_the_same(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    last = last_epoch(house.engine())
    expected = answers(without_archive(house), asked([last])[-3:])
    monkeypatch.setattr("snapengine.row_folding.RANGE_ROWS", 3)
    monkeypatch.setattr("snapengine.changed_objects.RANGE_ROWS", 3)
    monkeypatch.setattr("snapengine.ranges.GROUP_ROWS", 2)
    monkeypatch.setattr("snapengine.archiving.live_rows.ROW_FILE_ROWS", 4)
    monkeypatch.setattr("snapengine.archiving.live_rows.LIVE_GROUP_ROWS", 2)
    monkeypatch.setattr("snapengine.archiving.run.differential_due", lambda _: True)
    assert answers(house.engine(), asked([last])[-3:]) == expected
    house.round(compaction=False)
    assert len(house.manifests().differentials) == 3
    assert len([f for f in newest_differential(house).files if f.role == "live_identifying"]) > 1
    assert answers(house.engine(), asked([last])[-3:]) == expected


def test_all_rows_come_as_batches_where_too_much_has_changed(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [read(now(house, identifying=hidden)).to_pylist() for hidden in (False, True)]
    monkeypatch.setattr("snapengine.row_reading.MOST_CHANGED", 1)
    found = [now(house, identifying=hidden) for hidden in (False, True)]
    assert [one.files for one in found] == [(), ()]
    assert [read(one).to_pylist() for one in found] == expected


def test_a_checkpoint_that_is_made_by_way_of_a_differential_has_the_rows_too(house: House) -> None:
    refs = asked([last_epoch(house.engine())])[-3:]
    expected = answers(without_archive(house), refs)
    house.cut(T0 + 1000 * second(STEPS + 1))
    house.clock.now += 3_600_000
    house.cut(T0 + 1000 * second(STEPS + 2))
    house.round(compaction=False, checkpoint_now=True)
    newest = house.manifests().checkpoints[-1]
    assert newest.extractors == ("dicom", "late", "sizes")
    later = [replace(ref, at=newest.at, epoch=newest.epoch) for ref in refs[-1:]]
    assert answers(house.engine(), later) == answers(without_archive(house), later)
    for one in house.manifests().differentials:
        assert one.base != newest.name
    assert answers(house.engine(), refs) == expected


def test_a_key_of_which_only_the_row_is_new_is_in_it_with_that_row(house: House) -> None:
    one = newest_differential(house)
    live = {row["key"]: row for row in rows_in(house, one, "live_identifying")}
    objects = {row["key"] for row in rows_in(house, one, "objects")}
    alone = [key for key, row in live.items() if key not in objects and row["Modality"].startswith("S")]
    assert alone
    assert {row["PatientName"] for row in live.values() if row["outcome"]} == {SECRET}
    assert not {*live} & {row["key"] for row in rows_in(house, one, "gone")}
    plain = rows_in(house, one, "live")
    assert [row["key"] for row in plain] == sorted(live)
    assert all("PatientName" not in row for row in plain)


def test_its_rows_are_among_the_batches_and_the_files_are_the_checkpoint_s(house: House) -> None:
    one = newest_differential(house)
    (base,) = house.manifests().checkpoints
    found = now(house, identifying=False)
    assert [path.name for path in found.files] == [
        f.path.rpartition("/")[2] for f in base.live("dicom", full=False)
    ]
    changed = found.changed.to_pylist()
    gone = {row["key"] for row in rows_in(house, one, "gone")}
    assert {row["key"] for row in rows_in(house, one, "live")} | gone <= {*changed}
    assert changed == sorted({*changed})
    batches = [row["key"] for row in pa.Table.from_batches(found.batches()).to_pylist()]
    assert {*batches} == {*changed} & shown(house).keys()
    assert "new/00" in gone & {*changed}


def test_an_extractor_that_came_after_the_checkpoint_is_read_as_if_there_were_no_differential(
    house: House,
) -> None:
    assert not [f for one in house.manifests().differentials for f in one.files if f.extractor == "late"]
    found = now(house, identifying=True, extractor="late")
    assert found.files == ()
    rows = {row["key"]: row["width"] for row in read(found).to_pylist() if row["outcome"]}
    assert "ct/11" in rows
    assert len(rows) > 2


@pytest.mark.parametrize("role", ["live", "pending", "live_identifying", "pending_identifying"])
def test_a_damaged_file_of_rows_is_named_by_who_reads_it_and_harms_no_later_view(
    house: House, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = newest_differential(house)
    (path,) = [f.path for f in one.files if f.extractor == "dicom" and f.role == role]
    refs = asked([last_epoch(house.engine())])[-1:]
    expected = answers(without_archive(house), refs)
    file = Path(house.archive.removeprefix("file://")) / path
    data = bytearray(file.read_bytes())
    data[20] ^= 2
    file.write_bytes(data)
    with pytest.raises(ArchiveDamaged, match=path):
        read(now(house, identifying="identifying" in role))
    assert read(now(house, identifying="identifying" not in role)).num_rows == len(shown(house))

    monkeypatch.setattr("snapengine.archiving.run.differential_due", lambda _: True)
    house.round(compaction=False)
    again = newest_differential(house)
    assert again.epoch > one.epoch
    dropped = one.name in {retired.name for retired in house.manifests().retired}
    assert dropped == ("identifying" in role)  # the plain ones are made of those with all columns
    assert again.at <= refs[0].at
    assert answers(house.engine(), refs) == expected


def test_who_asks_for_no_identifying_column_needs_none_of_its_identifying_files(house: House) -> None:
    plain = [read(now(house, identifying=False, columns=c)).to_pylist() for c in (None, ["Modality"], [])]
    root = house.root()
    hidden = [p.path for p in root.paths("scans/identifying/") if "differential=" in p.path]
    assert len(hidden) >= 4
    for path in hidden:
        root.delete(path)
    again = [read(now(house, identifying=False, columns=c)).to_pylist() for c in (None, ["Modality"], [])]
    assert again == plain
    with pytest.raises(ArchiveFileMissing, match="identifying/extractor=dicom/differential="):
        now(house, identifying=True)


def test_who_may_not_read_its_identifying_files_is_refused(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.open

    def opened(path: Path, *arguments: Any, **options: Any) -> Any:
        if "/identifying/" in str(path) and "differential=" in str(path):
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(IdentifyingRefused, match="identifying columns of extractor dicom"):
        read(now(house, identifying=True))
    assert read(now(house, identifying=False)).num_rows == len(shown(house))


def test_nothing_identifying_is_in_it_but_under_its_own_prefix(house: House) -> None:
    root = house.root()
    files = [f for one in house.manifests().differentials for f in one.files]
    secrets = 0
    for file in files:
        told = SECRET in str(house.engine().reader(house.archive).read(file).to_pylist())
        assert told <= file.path.startswith("scans/identifying/"), file.path
        assert root.size(file.path) == file.size
        secrets += told
    assert secrets >= 4
    assert len(KEYS) == 16
