"""Answers from metadata are the same from the log, from the archive and from both."""

from __future__ import annotations

import asyncio
import pickle
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from moto.server import ThreadedMotoServer

from snapengine import View
from snapengine.cautions import MetadataMissing
from snapengine.errors import ArchiveDamaged, UsageError
from snapengine.log import EpochCutter, RowWriter
from snapengine.metadata_rows import conform, fold_rows, join_rows, row_schema
from snapengine.model import Epoch, ObjectVersion
from tests.archive_house import DAY, INSTANTS, House, dynamodb_house, play, sqlite_house
from tests.seed import T0

SECRET = "Zebra^Marked"


def column(name: str, kind: pa.DataType, *, identifying: bool = False) -> pa.Field[Any]:
    return pa.field(name, kind, metadata={"identifying": str(identifying).lower(), "tag": name.upper()})


OWN = [
    column("Modality", pa.string()),
    column("Spacing", pa.list_(pa.float64())),
    column("PatientName", pa.string(), identifying=True),
]
FIRST = row_schema(pa.schema(OWN))
SECOND = row_schema(
    pa.schema([*OWN, column("Rows", pa.int64()), column("Born", pa.date32(), identifying=True)])
)


def rows_of(versions: Iterable[ObjectVersion], schema: pa.Schema, seconds: float, **values: Any) -> pa.Table:
    """A row of each version, extracted so many seconds after T0."""
    rows = [
        {
            "key": version.key,
            "version_id": version.version_id,
            "etag": version.etag,
            "sequencer": version.sequencer,
            "extracted_at": T0 + round(1000 * seconds),
            "extractor_version": "1",
            "outcome": "ok",
            "Modality": "CT",
            "Spacing": [1.0, float(number)],
            "PatientName": SECRET,
        }
        | values
        for number, version in enumerate(versions)
    ]
    kept = [{name: row.get(name) for name in schema.names} for row in rows]
    return pa.Table.from_pylist(kept, schema=schema)


def append(house: House, table: pa.Table) -> Epoch:
    """Commit rows, and cut an epoch."""

    async def run() -> Epoch:
        engine = house.engine()
        async with engine.log() as log:
            await RowWriter(log, "extractor", engine.clock).append(house.bucket, "dicom", table)
            return await EpochCutter(log, house.bucket, engine.clock).cut()

    return asyncio.run(run())


def play_with_rows(house: House) -> list[pa.Table]:
    """A history with rows: of most objects, of some by a newer version, of versions that are no more."""
    play(house)
    early, late = (
        list(house.engine().view(house.bucket, at).versions()) for at in (INSTANTS[2], INSTANTS[-1])
    )
    told = [
        rows_of(early, FIRST, 5000),
        rows_of(late[2:], FIRST, 5001),
        rows_of(late[3:6], SECOND, 6000, Modality="MR", extractor_version="2", Rows=512),
    ]
    for table in told:
        append(house, table)
    return told


CONDITIONS: list[Any] = [
    None,
    "Modality = 'CT' AND Spacing[2] > 3",
    "Modality = 'MR' OR Rows > 1",
    f"PatientName = '{SECRET}' AND size IS NOT NULL AND key > 'ct/03'",
    pc.field("Modality") == "CT",
]


@pytest.fixture(scope="module")
def moto_url() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["sqlite", "dynamodb"])
def house(
    request: pytest.FixtureRequest, moto_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> House:
    return sqlite_house(tmp_path) if request.param == "sqlite" else dynamodb_house(moto_url, monkeypatch)


@pytest.fixture(autouse=True)
def quietly() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MetadataMissing)
        yield


def views(house: House, epochs: tuple[int, ...]) -> Iterator[View]:
    engine = house.engine()
    for epoch in epochs:
        for at in INSTANTS[2::5]:
            yield engine.view(house.bucket, at, epoch=epoch)
            yield engine.view(house.bucket, at, epoch=epoch, prefix="ct/0")
        yield engine.slice(house.bucket, INSTANTS[2], INSTANTS[-2], epoch=epoch)


def answers(house: House, epochs: tuple[int, ...]) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for view in views(house, epochs):
        for number, where in enumerate(CONDITIONS):
            try:
                frame = view.metadata(where=where, missing="warn")
            except UsageError as error:  # an epoch that has no such column yet
                found[view.reference, number] = str(error)
                continue
            found[view.reference, number] = (frame.attrs, frame.astype(str).to_dict("list"))
    return found


def test_no_answer_changes_when_the_archive_takes_over(house: House) -> None:
    play_with_rows(house)
    newest = house.engine().store.newest_epoch(house.bucket)
    assert newest is not None
    epochs = (newest.number - 1, newest.number)
    before = answers(house, epochs)
    house.clock.now = T0 + 3_600_000
    house.round(checkpoint_now=True)
    assert _in_files(house) > 0
    assert answers(house, epochs) == before
    shown = list(house.engine().view("scans", INSTANTS[-1]).versions())
    later = append(house, rows_of(shown[2:5], SECOND, 7000, Modality="US"))
    assert answers(house, epochs) == before
    frame = house.engine().view("scans", INSTANTS[-1], epoch=later.number).metadata(where="Modality = 'US'")
    assert frame["key"].tolist() == [version.key for version in shown[2:5]]


def _in_files(house: House) -> int:
    return len(house.engine().view("scans").joined("dicom", identifying=True).files)


def test_answers_are_what_pandas_makes_of_all_rows(house: House) -> None:
    folded = fold_rows(pa.concat_tables([conform(table, SECOND) for table in play_with_rows(house)]))
    house.clock.now = T0 + 3_600_000
    for archived in (False, True):
        if archived:
            house.round(checkpoint_now=True)
            house.clock.now += DAY
        for view in views(house, (house.engine().view("scans").epoch,)):
            rows = join_rows(view.to_arrow(), folded).to_pandas()
            with_row = rows[rows.outcome.notna()]
            wanted = with_row[(with_row.Modality == "CT") & (with_row.PatientName == SECRET)]
            found = view.metadata(
                where=f"Modality = 'CT' AND PatientName = '{SECRET}'", missing="warn", numbers=True
            )
            assert found["key"].tolist() == wanted.key.tolist()
            assert found["version_id"].tolist() == wanted.version_id.tolist()
            assert found.attrs["without_row"] == len(rows) - len(with_row)
            assert found.attrs["outcomes"] == with_row.outcome.value_counts().to_dict()


def test_a_narrowed_view_opens_for_ever(house: House) -> None:
    play_with_rows(house)
    where = f"PatientName = '{SECRET}' AND Modality = 'MR'"
    view = house.engine().view("scans", INSTANTS[-1])
    some = view.where(where)
    assert 0 < len(some) < len(view)
    house.clock.now = T0 + 3_600_000
    house.round(checkpoint_now=True)
    append(house, rows_of(view.values(), FIRST, 9000, Modality="US"))
    again = house.engine().open_ref(some.reference)
    assert again == some
    assert again.to_arrow().equals(some.to_arrow())
    assert again.query == where
    assert again.metadata(columns=["Modality"])["Modality"].unique().tolist() == ["MR"]
    copy = pickle.loads(pickle.dumps(again))  # noqa: S301  # made here
    assert copy.metadata(columns=["Modality"])["key"].tolist() == list(some)
    assert again.where("key < 'ct/05'") == view.select([key for key in some if key < "ct/05"])
    assert view.select(again.metadata(columns=[])) == some


def test_a_damaged_file_gives_no_answer(tmp_path: Path) -> None:
    house = sqlite_house(tmp_path)
    play_with_rows(house)
    house.clock.now = T0 + 3_600_000
    house.round(checkpoint_now=True)
    root = house.root()
    paths = [stored.path for stored in root.paths("scans/") if "/live-" in stored.path]
    assert len(paths) >= 2
    view = house.engine().view("scans", INSTANTS[-1])
    assert len(view.metadata(where="Modality = 'CT'", columns=["Spacing"]))
    for path in paths:
        data = bytearray(root.read(path))
        data[len(data) // 3] ^= 0xFF
        (Path(house.archive.removeprefix("file://")) / path).write_bytes(bytes(data))
    with pytest.raises(ArchiveDamaged):
        house.engine().view("scans", INSTANTS[-1]).metadata(where="Modality = 'CT'")


def test_types_are_those_of_the_extractor_whatever_the_rows(house: House) -> None:
    play_with_rows(house)
    view = house.engine().view("scans", INSTANTS[-1])
    many, none = view.metadata(), view.metadata(where="false")
    assert many.dtypes.to_dict() == none.dtypes.to_dict()
    assert isinstance(many.dtypes["Born"], pd.ArrowDtype)
