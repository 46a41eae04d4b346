"""Metadata of a view's objects as a DataFrame: a row each, whatever happens to one of them."""

from __future__ import annotations

import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from metadata_extractors import frame, registry
from metadata_extractors.base import column
from metadata_extractors.dicom import DicomExtractor
from metadata_extractors.frame import metadata_frame, metadata_table
from metadata_extractors.registry import checked, extractor_factory, extractors, make_extractors
from snapengine import Engine
from snapengine.errors import PermissionMissing, UsageError, VersionArchived, VersionGone
from snapengine.model import ObjectVersion
from tests.dicom_files import dicom
from tests.seed import T0, enable, engine_at, event, record

ASKED = ["Modality", "PatientSex", "PatientAge"]


class FakeView:
    """A view of objects in memory. An object is its bytes, or the error that reading it raises."""

    def __init__(self, objects: dict[str, bytes | Exception]) -> None:
        self.objects = objects
        self.read: list[tuple[str, int, int]] = []

    def __str__(self) -> str:
        return "snap://scans@2026-11-20T09:00:00.000Z~7/"

    def items(self) -> list[tuple[str, ObjectVersion]]:
        return [(key, self.version(key)) for key in sorted(self.objects, key=str.encode)]

    def version(self, key: str) -> ObjectVersion:
        content = self.objects[key]
        size = len(content) if isinstance(content, bytes) else 1000
        return ObjectVersion(key, f"v-{key}", size, "etag", T0)

    def read_range(self, key: str, start: int, end: int) -> bytes:
        self.read.append((key, start, end))
        content = self.objects[key]
        if isinstance(content, Exception):
            raise content
        return content[start:end]


def test_each_object_has_a_row_with_what_its_header_says() -> None:
    view = FakeView(
        {
            "ct/2": dicom(Modality="CT", PatientSex="F", PatientAge="018M"),
            "ct/1": dicom(Modality="MR", PatientSex="M", PatientAge="063Y"),
        }
    )
    found = metadata_frame(view, columns=ASKED)
    assert found.to_dict("list") == {
        "key": ["ct/1", "ct/2"],
        "version_id": ["v-ct/1", "v-ct/2"],
        "size": [len(view.objects["ct/1"]), len(view.objects["ct/2"])],  # type: ignore[arg-type]  # bytes both
        "event_time": [pd.Timestamp(T0, unit="ms", tz="UTC")] * 2,
        "outcome": ["ok", "ok"],
        "error": [None, None],
        "Modality": ["MR", "CT"],
        "PatientSex": ["M", "F"],
        "PatientAge": ["063Y", "018M"],
        "PatientAgeYears": [63.0, 1.5],
    }


def test_what_happens_to_one_object_is_in_its_row_and_the_rest_are_read() -> None:
    view = FakeView(
        {
            "archived": VersionArchived("in GLACIER; restore it", "archived", "v"),
            "broken": RuntimeError("Doe^Jane"),
            "denied": PermissionMissing("allow s3:GetObjectVersion", "s3:GetObjectVersion"),
            "empty": b"",
            "good": dicom(Modality="CT"),
            "gone": VersionGone("removed by a lifecycle rule", "gone", "v"),
            "notes.txt": b"nothing of the kind",
            "torn": dicom(Modality="CT", pixels=False)[:-1],
        }
    )
    found = metadata_frame(view, columns=ASKED).set_index("key")
    assert found["outcome"].to_dict() == {
        "archived": "archived",
        "broken": "failed",
        "denied": "failed",
        "empty": "not_matched",
        "good": "ok",
        "gone": "gone",
        "notes.txt": "not_matched",
        "torn": "partial",
    }
    assert found["error"].dropna().to_dict() == {
        "archived": "in GLACIER; restore it",
        "broken": "RuntimeError while reading",
        "denied": "permission-missing: allow s3:GetObjectVersion",
        "gone": "removed by a lifecycle rule",
        "torn": "an element claims more bytes than the object has",
    }
    assert found["Modality"].dropna().to_dict() == {"good": "CT"}


def test_columns_have_the_same_types_for_one_file_and_none_and_nothing_but_nulls() -> None:
    asked = [
        *ASKED,
        "StudyDate",
        "StudyTime",
        "AcquisitionDateTime",
        "PixelSpacing",
        "Rows",
        "InstanceNumber",
    ]
    full = metadata_frame(
        FakeView({"a": dicom(StudyDate="20261120", Rows=2, PixelSpacing=[1, 2])}), columns=asked
    )
    nulls = metadata_frame(FakeView({"a": b"no DICOM"}), columns=asked)
    none = metadata_frame(FakeView({}), columns=asked)
    assert full.dtypes.to_dict() == nulls.dtypes.to_dict() == none.dtypes.to_dict()
    assert full.dtypes["StudyDate"] == pd.ArrowDtype(pa.date32())
    assert full.dtypes["Rows"] == pd.ArrowDtype(pa.int64())
    assert full.dtypes["PixelSpacing"] == pd.ArrowDtype(pa.list_(pa.float64()))
    assert (len(none), list(none.columns)) == (0, list(full.columns))


def test_the_frame_answers_questions_as_pandas_does() -> None:
    ages = ["010Y", "020Y", "", "040Y"]
    view = FakeView(
        {f"{i}": dicom(Modality="CT" if i else "MR", PatientAge=age) for i, age in enumerate(ages)}
    )
    found = metadata_frame(view, columns=ASKED)
    assert found["PatientAgeYears"].mean() == pytest.approx(70 / 3)
    assert found[found["PatientAgeYears"] > 15]["key"].tolist() == ["1", "3"]
    assert found.groupby("Modality")["PatientAgeYears"].max().to_dict() == {"CT": 40.0, "MR": 10.0}


def test_only_keys_below_the_prefix_are_read() -> None:
    view = FakeView({key: dicom(Modality="CT") for key in ("ct/1", "ct/2", "mr/1")})
    assert metadata_frame(view, columns=ASKED, prefix="ct/")["key"].tolist() == ["ct/1", "ct/2"]
    assert {key for key, _, _ in view.read} == {"ct/1", "ct/2"}


def test_rows_keep_the_order_of_keys_whoever_is_done_first() -> None:
    first_may_end = threading.Event()

    class Slow(FakeView):
        def read_range(self, key: str, start: int, end: int) -> bytes:
            if key == "0":
                assert first_may_end.wait(20)
            elif key == "3":
                first_may_end.set()
            return super().read_range(key, start, end)

    view = Slow({str(i): dicom(Modality="CT") for i in range(8)})
    assert metadata_frame(view, columns=["Modality"], workers=2)["key"].tolist() == list("01234567")


def test_no_more_objects_are_begun_than_the_workers_need() -> None:
    view = FakeView({f"{i:03}": dicom(Modality="CT") for i in range(100)})
    rows = frame._rows(view, extractor_factory("dicom")(["Modality"]), "", workers=2)
    next(rows)
    rows.close()  # type: ignore[attr-defined]  # it is a generator
    assert len({key for key, _, _ in view.read}) <= 8


def test_many_rows_make_one_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame, "_BATCH_ROWS", 3)
    view = FakeView({str(i): dicom(Modality="CT") for i in range(8)})
    assert metadata_table(view, columns=["Modality"])["key"].to_pylist() == list("01234567")


def test_the_frame_names_its_view_and_what_identifies_someone() -> None:
    found = metadata_frame(FakeView({}), columns=[*ASKED, "PatientID"])
    assert found.attrs == {
        "reference": "snap://scans@2026-11-20T09:00:00.000Z~7/",
        "identifying": ["PatientSex", "PatientAge", "PatientAgeYears", "PatientID"],
    }


def test_every_column_of_the_table_says_whether_it_identifies_someone() -> None:
    schema = metadata_table(FakeView({})).schema
    assert all(field.metadata[b"identifying"] in {b"true", b"false"} for field in schema)


def test_a_slice_that_shows_a_key_twice_is_refused() -> None:
    class Twice(FakeView):
        def items(self) -> list[tuple[str, ObjectVersion]]:
            return [("a", self.version("a"))] * 2

    with pytest.raises(UsageError, match="'a' more than once"):
        metadata_frame(Twice({"a": b""}))


def test_no_workers_are_refused() -> None:
    with pytest.raises(UsageError, match="at least 1"):
        metadata_frame(FakeView({}), workers=0)


def test_an_unknown_column_is_refused_before_anything_is_read() -> None:
    view = FakeView({"a": dicom()})
    with pytest.raises(UsageError, match="did you mean 'PatientSex'"):
        metadata_frame(view, columns=["PatientSx"])
    assert view.read == []


def test_a_past_view_gives_the_metadata_of_its_own_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = dicom(Modality="CT", PatientAge="063Y"), dicom(Modality="MR", PatientAge="064Y")
    engine = engine_at(tmp_path / "log.db")
    enable(engine)
    record(
        engine,
        [event("scan", "v1", 10, size=len(old)), event("scan", "v2", 20, size=len(new))],
    )
    serve(monkeypatch, engine, {"v1": old, "v2": new})
    before, after = engine.view("scans", T0 + 15_000), engine.view("scans", T0 + 25_000)
    assert before.metadata(columns=ASKED)["PatientAge"].tolist() == ["063Y"]
    assert after.metadata(columns=ASKED)["PatientAge"].tolist() == ["064Y"]
    assert before.metadata(columns=ASKED).attrs["reference"] == str(before)


def serve(monkeypatch: pytest.MonkeyPatch, engine: Engine, versions: dict[str, bytes]) -> None:
    """Have the engine read these bytes where it would ask S3."""

    def read(_bucket: str, version: ObjectVersion, start: int, end: int | None) -> bytes:
        return versions[version.version_id][start:end]

    monkeypatch.setattr(engine, "read", read)


@pytest.mark.parametrize("name", ["dicom", "images", "nifti", "object", "parquet"])
def test_every_extractor_gives_frames_whose_types_do_not_depend_on_the_objects(name: str) -> None:
    objects: dict[str, bytes | Exception] = {"a": dicom(Modality="CT"), "b": b"GIF89a" + bytes(30), "c": b""}
    some, none = metadata_frame(FakeView(objects), name), metadata_frame(FakeView({}), name)
    assert len(some) == 3
    assert some.dtypes.to_dict() == none.dtypes.to_dict()
    assert set(some["outcome"]) <= {"ok", "failed", "not_matched"}


# The registry


def offer(monkeypatch: pytest.MonkeyPatch, *offers: tuple[str, str]) -> None:
    points = [EntryPoint(name, value, registry.GROUP) for name, value in offers]
    monkeypatch.setattr(registry, "entry_points", lambda **which: points if which else [])


BROKEN = ("broken", "no_such_module_at_all:Extractor")
DICOM = ("dicom", "metadata_extractors.dicom:DicomExtractor")


def test_a_broken_extractor_is_left_out_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, DICOM, BROKEN)
    with pytest.warns(UserWarning, match="'broken' .* cannot be loaded: ModuleNotFoundError"):
        assert list(extractors()) == ["dicom"]


def test_a_broken_extractor_does_not_disturb_who_asks_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, BROKEN, DICOM)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(metadata_frame(FakeView({}))) == 0


def test_a_broken_extractor_asked_for_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, BROKEN)
    with pytest.raises(UsageError, match="Reinstall or remove the package"):
        extractor_factory("broken")


def test_without_pydicom_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, ("dicom", "no_pydicom_here:DicomExtractor"))
    with pytest.raises(UsageError, match=r"pip install 'snapengine\[dicom\]'"):
        extractor_factory("dicom")
    assert extractors() == {}


def test_an_extractor_that_cannot_be_made_is_left_out_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, DICOM, ("frame", "metadata_extractors.frame:metadata_frame"))
    with pytest.warns(UserWarning, match="'frame' .* cannot be loaded"):
        assert list(make_extractors({"dicom": ["Modality"]})) == ["dicom"]


def test_columns_that_an_extractor_does_not_know_are_refused_not_left_out() -> None:
    with pytest.raises(UsageError, match="did you mean 'PatientSex'"):
        make_extractors({"dicom": ["PatientSx"]})
    with pytest.raises(UsageError, match="no extractor 'jpeg'"):
        make_extractors({"jpeg": ["Width"]})


class Careless(DicomExtractor):
    """An extractor with one field that is none of the contract's."""

    def __init__(self, field: pa.Field) -> None:
        super().__init__(["Modality"])
        self.field = field

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([*super().schema, self.field])


@pytest.mark.parametrize(
    ("field", "says"),
    [
        (pa.field("Age", pa.int64()), "does not say whether its column 'Age' is identifying"),
        (pa.field("Age", pa.int64(), metadata={"identifying": "true"}), "the source of its column 'Age'"),
        (column("Modality", pa.string(), "a test"), "a second column 'Modality'"),
        (column("outcome", pa.string(), "a test"), "a second column 'outcome'"),
    ],
)
def test_an_extractor_must_say_of_each_column_what_it_is(field: pa.Field, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        checked(Careless(field), "dicom")


def test_an_unknown_extractor_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(UsageError, match=r"no extractor 'jpeg'\. Installed: dicom, images, nifti, "):
        metadata_frame(FakeView({}), "jpeg")


def test_extractors_come_in_the_order_of_their_names_whatever_the_order_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    offers = [("b", DICOM[1]), ("a", DICOM[1]), ("a", "metadata_extractors.frame:metadata_frame")]
    loaded: list[dict[str, Callable[..., Any]]] = []
    for order in (offers, offers[::-1]):
        offer(monkeypatch, *order)
        loaded.append(dict(extractors()))
    assert list(loaded[0]) == ["a", "b"]
    assert loaded[0] == loaded[1]


@pytest.mark.parametrize("module", ["metadata_extractors", "metadata_extractors.registry"])
def test_importing_it_loads_neither_pydicom_nor_pandas(module: str) -> None:
    script = f"import {module}, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"pydicom", "pandas", "pyarrow"} & set(done.stdout.split())
