"""Rows of DICOM metadata for the made bucket of `_big_bucket`, as an extract worker would have written them.

Every created version has one. Modality, sex and the like follow from the key, the age also from the version
id, so that a row of another version of the same key would be noticed.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from metadata_extractors.registry import make_extractor
from snapengine.metadata_rows import row_schema

EXTRACTOR: Final = "dicom"
COLUMNS: Final = (
    "PatientID",
    "PatientSex",
    "PatientAge",
    "PatientAgeYears",
    "StudyDate",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "Modality",
    "Manufacturer",
    "BodyPartExamined",
    "SliceThickness",
    "KVP",
    "Rows",
    "Columns",
    "InstanceNumber",
)
QUESTION: Final = "Modality = 'CT' AND PatientSex = 'M' AND PatientAgeYears > 50"

_MODALITIES: Final = pa.array(["CT", "MR", "US", "PT", "MR", "US", "MR", "CR", "CT", "MR"])
"""Of the ten series of a patient."""
_MAKERS: Final = pa.array(["Maker A", "Maker B", "Maker C"])
_PARTS: Final = pa.array(["CHEST", "ABDOMEN", "HEAD", "PELVIS"])

Numbers = np.ndarray[Any, Any]


def rows_of(created: pa.Table) -> pa.Table:
    """A row for each version that these observations (one at least) tell, by the extractor's full schema."""
    extractor = make_extractor(EXTRACTOR, COLUMNS)
    schema = row_schema(extractor.schema)
    patient, series, image = (_numbers(created["key"], *place) for place in ((11, 6), (25, 2), (31, 4)))
    age = _ages(patient, created["version_id"])
    study = pc.binary_join_element_wise("2.25.1", _text(patient), ".")
    columns: dict[str, Any] = {
        "extractor_version": _same(extractor.version, created),
        "outcome": _same("ok", created),
        "extracted_at": pc.add(created["event_time"], pa.scalar(60_000, pa.duration("ms"))),
        "PatientID": pc.binary_join_element_wise("P", _text(patient), ""),
        "PatientSex": pa.array(["F", "M", "O"]).take(pa.array(_sexes(patient))),
        "PatientAge": pc.binary_join_element_wise(pc.utf8_lpad(_text(age), 3, "0"), "Y", ""),
        "PatientAgeYears": pa.array(age.astype(np.float64)),
        "StudyDate": pa.array((18_000 + patient % 2000).astype(np.int32)).cast(pa.date32()),
        "StudyInstanceUID": study,
        "SeriesInstanceUID": pc.binary_join_element_wise(study, _text(series), "."),
        "Modality": _MODALITIES.take(pa.array(series)),
        "Manufacturer": _MAKERS.take(pa.array(patient % len(_MAKERS))),
        "BodyPartExamined": _PARTS.take(pa.array(series % len(_PARTS))),
        "SliceThickness": pa.array(np.take([0.625, 1.25, 2.5, 5.0], patient % 4)),
        "KVP": pa.array(np.take([80.0, 100.0, 120.0], patient % 3)),
        "Rows": _same(512, created),
        "Columns": _same(512, created),
        "InstanceNumber": pa.array(image.astype(np.int64)),
    }
    own = {name: created[name] for name in ("key", "version_id", "etag", "sequencer")}
    arrays = [(own | columns).get(field.name, pa.nulls(created.num_rows, field.type)) for field in schema]
    return pa.table(
        [_cast(array, field.type) for array, field in zip(arrays, schema, strict=True)], schema=schema
    )


def answers(live: pa.Table) -> Numbers:
    """Of live objects (with `key` and `version_id`) whether they answer `QUESTION`: found without any SQL."""
    patient, series = (_numbers(live["key"], *place) for place in ((11, 6), (25, 2)))
    ct = np.isin(series, np.flatnonzero(np.array(_MODALITIES.to_pylist()) == "CT"))
    found: Numbers = ct & (_sexes(patient) == 1) & (_ages(patient, live["version_id"]) > 50)
    return found


def _sexes(patient: Numbers) -> Numbers:
    """0, 1 or 2, for F, M and O."""
    return np.take([0, 1, 0, 1, 0, 1, 0, 1, 2, 0], patient * 7 % 10)


def _ages(patient: Numbers, version_id: pa.ChunkedArray) -> Numbers:
    """Years: another version of an object may say another age."""
    last = _letters(version_id)[:, -1]
    years: Numbers = 1 + patient * 13 % 89 + last % 2
    return years


def _letters(texts: pa.ChunkedArray) -> Numbers:
    """ASCII texts of one length, as a matrix."""
    found: Numbers = np.array(texts.to_pylist(), np.bytes_).view(np.uint8).reshape(len(texts), -1)
    letters: Numbers = found.astype(np.int64)
    return letters


def _numbers(keys: pa.ChunkedArray, start: int, width: int) -> Numbers:
    """The digits at one place of all keys."""
    digits = _letters(keys)[:, start : start + width] - ord("0")
    found: Numbers = digits @ (10 ** np.arange(width - 1, -1, -1))
    return found


def _text(numbers: Numbers) -> pa.Array[Any]:
    return pa.array(numbers).cast(pa.string())


def _same(value: str | int, beside: pa.Table) -> pa.Array[Any]:
    return pa.repeat(pa.scalar(value), beside.num_rows)


def _cast(array: Any, kind: pa.DataType) -> Any:
    return array if array.type == kind else array.cast(kind)
