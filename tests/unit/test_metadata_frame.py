"""Metadata of objects that are read now: a row each, whatever happens to one of them."""

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

from metadata_extractors import registry
from metadata_extractors.base import column
from metadata_extractors.dicom import DicomExtractor
from metadata_extractors.registry import extractor_factory, extractors, make_extractors
from snapengine import Engine, View
from snapengine.errors import PermissionMissing, Unreachable, UsageError, VersionArchived, VersionGone
from snapengine.extractor_check import checked
from snapengine.model import ObjectVersion
from snapengine.stores.objects import VersionFacts
from tests.dicom_files import dicom
from tests.seed import T0, enable, engine_at, event, record

ASKED = ["Modality", "PatientSex", "PatientAge", "PatientAgeYears"]


@pytest.fixture
def view_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., View]:
    """Makes a view of objects, each given as its bytes or as the error that reading it raises."""

    def make(objects: dict[str, bytes | Exception]) -> View:
        engine = engine_at(tmp_path / "log.db")
        enable(engine)
        sizes = {key: len(held) if isinstance(held, bytes) else 1000 for key, held in objects.items()}
        record(engine, [event(key, f"v-{key}", 10, size=size) for key, size in sizes.items()])

        def read(_engine: Engine, _bucket: str, version: ObjectVersion, start: int, end: int | None) -> bytes:
            held = objects[version.key]
            if isinstance(held, Exception):
                raise held
            return held[start:end]

        monkeypatch.setattr(Engine, "read", read)
        monkeypatch.setattr(Engine, "facts", lambda *_: VersionFacts(5, T0, {"ContentType": "a/b"}))
        return engine.view("scans")

    return make


def test_each_object_has_a_row_with_what_its_header_says(view_of: Callable[..., View]) -> None:
    objects = {
        "ct/2": dicom(Modality="CT", PatientSex="F", PatientAge="018M"),
        "ct/1": dicom(Modality="MR", PatientSex="M", PatientAge="063Y"),
    }
    found = view_of(objects).metadata(columns=ASKED)
    assert found.to_dict("list") == {
        "key": ["ct/1", "ct/2"],
        "version_id": ["v-ct/1", "v-ct/2"],
        "size": [len(objects["ct/1"]), len(objects["ct/2"])],
        "event_time": [pd.Timestamp(T0 + 10_000, unit="ms", tz="UTC")] * 2,
        "Modality": ["MR", "CT"],
        "PatientSex": ["M", "F"],
        "PatientAge": ["063Y", "018M"],
        "PatientAgeYears": [63.0, 1.5],
    }


def test_what_happens_to_one_object_is_in_its_row_and_the_rest_are_read(
    view_of: Callable[..., View],
) -> None:
    view = view_of(
        {
            "archived": VersionArchived("in GLACIER; restore it", "archived", "v"),
            "denied": PermissionMissing("allow s3:GetObjectVersion", "s3:GetObjectVersion"),
            "empty": b"",
            "good": dicom(Modality="CT"),
            "gone": VersionGone("removed by a lifecycle rule", "gone", "v"),
            "notes.txt": b"nothing of the kind",
            "torn": dicom(Modality="CT", pixels=False)[:-1],
        }
    )
    found = view.metadata().set_index("key")
    assert found["outcome"].to_dict() == {
        "archived": "archived",
        "denied": "failed",
        "empty": "not_matched",
        "good": "ok",
        "gone": "gone",
        "notes.txt": "not_matched",
        "torn": "partial",
    }
    assert found["error"].dropna().to_dict() == {
        "archived": "the version is in an archived storage class",
        "denied": "permission-missing: allow s3:GetObjectVersion",
        "gone": "S3 no longer has this version",
        "torn": "an element claims more bytes than the object has",
    }
    assert found["Modality"].dropna().to_dict() == {"good": "CT"}


def test_an_outage_is_no_row(view_of: Callable[..., View]) -> None:
    with pytest.raises(Unreachable, match="S3 does not answer"):
        view_of({"a": dicom(), "b": Unreachable("S3 does not answer.")}).metadata()


def test_columns_have_the_same_types_for_one_file_and_none_and_nothing_but_nulls(
    view_of: Callable[..., View],
) -> None:
    asked = [
        *ASKED,
        "StudyDate",
        "StudyTime",
        "AcquisitionDateTime",
        "PixelSpacing",
        "Rows",
        "InstanceNumber",
    ]
    view = view_of({"a": dicom(StudyDate="20261120", Rows=2, PixelSpacing=[1, 2]), "b": b"no DICOM"})
    full, nulls, none = (view.select(keys).metadata(columns=asked) for keys in (["a"], ["b"], []))
    assert full.dtypes.to_dict() == nulls.dtypes.to_dict() == none.dtypes.to_dict()
    assert full.dtypes["StudyDate"] == pd.ArrowDtype(pa.date32())
    assert full.dtypes["Rows"] == pd.ArrowDtype(pa.int64())
    assert full.dtypes["PixelSpacing"] == pd.ArrowDtype(pa.list_(pa.float64()))
    assert (len(none), list(none.columns)) == (0, list(full.columns))


def test_the_frame_answers_questions_as_pandas_does(view_of: Callable[..., View]) -> None:
    ages = ["010Y", "020Y", "", "040Y"]
    view = view_of(
        {f"{i}": dicom(Modality="CT" if i else "MR", PatientAge=age) for i, age in enumerate(ages)}
    )
    found = view.metadata(columns=ASKED)
    assert found["PatientAgeYears"].mean() == pytest.approx(70 / 3)
    assert found[found["PatientAgeYears"] > 15]["key"].tolist() == ["1", "3"]
    assert found.groupby("Modality")["PatientAgeYears"].max().to_dict() == {"CT": 40.0, "MR": 10.0}


def test_rows_keep_the_order_of_keys_whoever_is_done_first(
    view_of: Callable[..., View], monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [f"{i:02}" for i in range(40)]
    view = view_of({key: dicom(Modality="CT") for key in keys})
    first_may_end, read = threading.Event(), Engine.read

    def slow(engine: Engine, bucket: str, version: ObjectVersion, start: int, end: int | None) -> bytes:
        if version.key == "00":
            assert first_may_end.wait(20)
        elif version.key == "03":
            first_may_end.set()
        return read(engine, bucket, version, start, end)

    monkeypatch.setattr(Engine, "read", slow)
    assert view.metadata(columns=["Modality"], workers=2)["key"].tolist() == keys


def test_every_column_of_the_table_says_whether_it_identifies_someone(view_of: Callable[..., View]) -> None:
    schema = view_of({}).metadata_table().schema
    own = [field for field in schema if field.name in DicomExtractor().schema.names]
    assert len(own) > 50
    assert all(field.metadata[b"identifying"] in {b"true", b"false"} for field in own)
    assert view_of({}).metadata(columns=[*ASKED, "PatientID"]).attrs["identifying"] == [
        "PatientSex",
        "PatientAge",
        "PatientAgeYears",
        "PatientID",
    ]


def test_a_past_view_gives_the_metadata_of_its_own_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = {"v1": dicom(PatientAge="063Y"), "v2": dicom(PatientAge="064Y")}
    engine = engine_at(tmp_path / "log.db")
    enable(engine)
    record(
        engine,
        [event("scan", v, 10 * n + 10, size=len(held)) for n, (v, held) in enumerate(versions.items())],
    )
    monkeypatch.setattr(
        Engine, "read", lambda _, __, version, start, end: versions[version.version_id][start:end]
    )
    before, after = engine.view("scans", T0 + 15_000), engine.view("scans", T0 + 25_000)
    assert before.metadata(columns=ASKED)["PatientAge"].tolist() == ["063Y"]
    assert after.metadata(columns=ASKED)["PatientAge"].tolist() == ["064Y"]


@pytest.mark.parametrize("name", ["dicom", "images", "nifti", "object", "parquet"])
def test_every_extractor_gives_frames_whose_types_do_not_depend_on_the_objects(
    view_of: Callable[..., View], name: str
) -> None:
    view = view_of({"a": dicom(Modality="CT"), "b": b"GIF89a" + bytes(30), "c": b""})
    some, none = view.metadata(name), view.select([]).metadata(name)
    assert len(some) == 3
    assert some.dtypes.to_dict() == none.dtypes.to_dict()
    assert set(some["outcome"]) <= {"ok", "failed", "not_matched"}
    if name == "object":
        assert some["ContentType"].tolist() == ["a/b"] * 3


# The registry


def offer(monkeypatch: pytest.MonkeyPatch, *offers: tuple[str, str]) -> None:
    points = [EntryPoint(name, value, registry.GROUP) for name, value in offers]
    monkeypatch.setattr(registry, "entry_points", lambda **which: points if which else [])


BROKEN = ("broken", "no_such_module_at_all:Extractor")
DICOM = ("dicom", "metadata_extractors.dicom:DicomExtractor")
NONE = ("frame", "metadata_extractors.frame:metadata_frame")


def test_a_broken_extractor_is_left_out_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, DICOM, BROKEN)
    with pytest.warns(UserWarning, match="'broken' .* cannot be loaded: ModuleNotFoundError"):
        assert list(extractors()) == ["dicom"]


def test_a_broken_extractor_does_not_disturb_who_asks_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, BROKEN, DICOM)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert extractor_factory("dicom")(["Modality"]).schema.names == ["Modality"]


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
    offer(monkeypatch, DICOM, NONE)
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
        extractor_factory("jpeg")


def test_extractors_come_in_the_order_of_their_names_whatever_the_order_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    offers = [("b", DICOM[1]), ("a", DICOM[1]), ("a", NONE[1])]
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
