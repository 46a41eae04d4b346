"""`snapengine metadata` shows, writes or selects what the library finds, and says what is missing."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
import pytest

from snapengine import Engine
from snapengine.cli.main import run
from snapengine.errors import PermissionMissing, Unreachable
from snapengine.stores.sqlite import SQLiteStore
from snapengine.stores.sqlite_log import SQLiteLog
from tests.rows_fake import FakeRows, rows_of
from tests.seed import T0, enable, engine_at, event, record

KEYS = [f"ct/{n}" for n in range(6)]
ROWS = {
    key: {
        "Modality": "CT" if n % 2 else "MR",
        "PatientID": f"MARK-{n}",
        "PatientSex": "M",
        "PatientAgeYears": 40.0 + 10 * n,
        "PixelSpacing": [0.5, 0.5],
        "StudyDate": 20_000,
    }
    for n, key in enumerate(KEYS[:5])
}
WHERE = ["--where", "Modality = 'CT' AND PatientAgeYears >= 50"]


class Done(NamedTuple):
    code: int
    out: str
    err: str


Call = Callable[..., Done]


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    engine = engine_at(tmp_path / "log.db")
    enable(engine)
    record(engine, [event(key, f"v-{key}", 10, size=2048) for key in KEYS])
    FakeRows(rows_of(ROWS)).into(monkeypatch)
    monkeypatch.setenv("SNAPENGINE_STORE", engine.settings.store)
    monkeypatch.setenv("SNAPENGINE_DEIDENTIFY_KEY", "ab" * 16)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Done:
        code = run(["metadata", *arguments])
        return Done(code, *capsys.readouterr())

    return call


def test_the_screen_shows_a_line_an_object_with_what_the_condition_speaks_of(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    done = call("scans", *WHERE)
    header, *rows = [line.split() for line in done.out.splitlines()]
    assert header == ["SIZE", "EVENT_TIME", "outcome", "Modality", "PatientAgeYears", "KEY"]
    assert rows == [
        ["2048", "2023-11-14T22:13:30.000Z", "ok", "CT", f"{age:.1f}", key]
        for key, age in (("ct/1", 50.0), ("ct/3", 70.0))
    ]
    assert "2 of 6 objects, in snap://scans@" in done.err
    assert "Warning: 1 of 6 objects" in done.err
    assert done.code == 0


def test_json_has_the_rows_alone_on_stdout_and_the_warning_on_stderr(call: Call) -> None:
    done = call("scans", *WHERE, "--columns", "PatientID, PixelSpacing,StudyDate", "--json")
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert rows[0] == {
        "key": "ct/1",
        "version_id": "v-ct/1",
        "size": 2048,
        "event_time": "2023-11-14T22:13:30.000Z",
        "PatientID": "MARK-1",
        "PixelSpacing": [0.5, 0.5],
        "StudyDate": "2024-10-04",
    }
    (warning,) = [json.loads(line) for line in done.err.splitlines()]
    assert "1 of 6 objects" in warning["warning"]


def test_files_have_all_columns_and_appear_whole(call: Call, tmp_path: Path) -> None:
    done = call("scans", *WHERE, "--csv", "rows.csv")
    assert done.code == 0
    assert "2 of 6 objects to rows.csv, in snap://scans@" in done.err
    rows = list(csv.DictReader(io.StringIO((tmp_path / "rows.csv").read_text())))
    assert [(row["key"], row["Modality"], row["PixelSpacing"], row["error"]) for row in rows] == [
        ("ct/1", "CT", "[0.5, 0.5]", ""),
        ("ct/3", "CT", "[0.5, 0.5]", ""),
    ]
    done = call("scans", *WHERE, "--parquet", "rows.parquet")
    assert "to rows.parquet" in done.err
    table = pq.read_table(tmp_path / "rows.parquet")
    assert table["PatientID"].to_pylist() == ["MARK-1", "MARK-3"]
    assert json.loads(table.schema.metadata[b"snapengine"])["matched"] == 2
    assert call("scans", "--csv", "no/such/folder/x.csv").code == 1
    assert call("scans", "--csv", ".").code == 2
    assert sorted(path.name for path in tmp_path.glob("*rows*")) == ["rows.csv", "rows.parquet"]


def test_a_selection_is_a_reference_that_every_command_opens(
    call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    done = call("scans", "--at", str(T0 + 60_000), *WHERE, "--select")
    reference = done.out.strip()
    assert "?select=sha256:" in reference
    assert "2 objects, digest sha256:" in done.err
    as_json = json.loads(call("scans", "--at", str(T0 + 60_000), *WHERE, "--select", "--json").out)
    assert (as_json["reference"], as_json["objects"], as_json["where"]) == (reference, 2, WHERE[1])
    assert run(["ls", reference, "--json"]) == 0
    assert [json.loads(line)["key"] for line in capsys.readouterr().out.splitlines()] == ["ct/1", "ct/3"]
    assert run(["snapshot", "create", "scans", "chosen", "--at", reference]) == 0
    capsys.readouterr()
    narrowed = call(reference, "--where", "PatientAgeYears >= 60", "--json")
    assert [json.loads(line)["key"] for line in narrowed.out.splitlines()] == ["ct/3"]
    assert run(["ls", "scans", "--at", "snapshot:chosen", "--summary", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["digest"] == as_json["digest"]


def audit_lines() -> list[tuple[str, str, str, str]]:
    return [(line.action, line.target, line.outcome, line.detail) for line in Engine().store.audit_log()]


def test_a_selection_has_its_audit_lines_and_what_only_reads_has_none(call: Call) -> None:
    for reading in ([], ["--csv", "rows.csv"], ["--missing", "error"]):
        call("scans", *WHERE, *reading)
    assert call("scans", "--where", "nothing", "--select").code == 2
    assert audit_lines() == []
    reference = call("scans", "--at", str(T0 + 60_000), *WHERE, "--select").out.strip()
    of = f"of {reference.partition('?')[0]}"
    assert audit_lines() == [
        ("metadata --select", "scans", "started", of),
        ("metadata --select", "scans", "ok", reference),
    ]
    assert call("scans", *WHERE, "--select", "--missing", "error").code == 1
    action, target, outcome, _ = audit_lines()[-1]
    assert (action, target, outcome) == ("metadata --select", "scans", "failed: not-yet-complete")
    assert len(audit_lines()) == 3


def test_nothing_is_selected_whose_audit_line_cannot_be_written(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise Unreachable("The table is away. Try again later.")

    def kept(*_: object) -> None:
        pytest.fail("it was kept")

    monkeypatch.setattr(SQLiteStore, "append_audit", away)
    monkeypatch.setattr(Engine, "keep", kept)
    done = call("scans", *WHERE, "--select")
    assert (done.code, done.out) == (1, "")
    assert "metadata --select scans was not begun, as its audit line could not be written" in done.err
    assert call("scans", *WHERE).code == 0


def test_a_selection_that_the_table_does_not_keep_fails_and_says_so(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> bool:
        raise PermissionMissing("allow dynamodb:PutItem", "dynamodb:PutItem")

    monkeypatch.setattr(SQLiteLog, "put_entry", refuse)
    done = call("scans", *WHERE, "--select")
    assert (done.code, done.out) == (1, "")
    assert "dynamodb:PutItem" in done.err
    assert [outcome for _, _, outcome, _ in audit_lines()] == ["started", "failed: error"]


def test_what_is_missing_can_fail_the_command(call: Call) -> None:
    done = call("scans", *WHERE, "--missing", "error")
    assert (done.code, done.out) == (1, "")
    assert "(not-yet-complete)" in done.err


def test_rows_can_be_de_identified(call: Call) -> None:
    done = call("scans", "--columns", "PatientID,PatientSex", "--deidentify", "--json")
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert len({row["PatientID"] for row in rows}) == 5
    assert "MARK" not in done.out
    assert {row["PatientSex"] for row in rows} == {None}
    kept = call(
        "scans", *WHERE, "--profile-option", "patient characteristics", "--columns", "PatientAgeYears"
    )
    assert "De-identified: PS3.15" in kept.err
    assert len(kept.out.splitlines()) == 2


def test_the_setting_is_the_default_and_can_be_overruled(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNAPENGINE_DEIDENTIFY", "on")
    assert "MARK" not in call("scans", "--columns", "PatientID").out
    assert "MARK" in call("scans", "--columns", "PatientID", "--identified").out


@pytest.mark.parametrize(
    "arguments",
    [
        ["--json", "--csv", "x"],
        ["--select"],
        ["--where", "true", "--select", "--columns", "key"],
        ["--where", "true", "--select", "--parquet", "x"],
        ["--identified", "--profile-option", "uids"],
        ["--profile-option", "none of them"],
        ["--missing", "perhaps"],
        ["--columns", "Modalit"],
        ["--where", "true; DROP TABLE x"],
        ["--extractor", "dicom", "--where", "PatientID = 'MARK-1' AND nothing"],
    ],
)
def test_what_cannot_be_meant_is_refused(call: Call, arguments: list[str]) -> None:
    done = call("scans", *arguments)
    assert (done.code, done.out) == (2, "")
    assert "MARK" not in done.err


def test_an_engine_is_made_of_the_environment(call: Call) -> None:
    assert Engine().settings.deidentify == "off"
    assert call("other").code == 1
