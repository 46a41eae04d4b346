"""Columns beside an extractor's usual ones: what they are called, which version their rows are of."""

from __future__ import annotations

from hashlib import sha256
from importlib.metadata import EntryPoint, EntryPoints

import pyarrow as pa
import pytest

from metadata_extractors.dicom import DicomExtractor
from metadata_extractors.objects import ObjectExtractor
from snapengine.buckets import further
from snapengine.buckets.further import checked_columns
from snapengine.errors import UsageError
from snapengine.further_columns import (
    Widened,
    extractor_of,
    further_of,
    use_of,
    versions_of_column,
)
from snapengine.metadata_rows import row_schema, unify


def test_a_use_is_taken_apart_as_it_was_put_together() -> None:
    use = use_of("dicom", ("ContentSequence", "00091001"))
    assert (extractor_of(use), further_of(use)) == ("dicom", ("ContentSequence", "00091001"))
    assert (use_of("dicom"), further_of("dicom"), extractor_of("dicom")) == ("dicom", (), "dicom")


def test_the_usual_columns_stay_and_keep_their_types() -> None:
    usual = DicomExtractor().schema
    wide = Widened(DicomExtractor, ("ContentSequence", "0009100a", "Modality")).schema
    assert wide.names == [*usual.names, "ContentSequence", "0009100A"]
    for field in usual:
        assert wide.field(field.name).equals(field, check_metadata=True)
    for name in ("ContentSequence", "0009100A"):
        field = wide.field(name)
        assert field.type == pa.string()
        assert field.metadata[b"identifying"] == b"true"


def test_rows_of_other_columns_are_of_another_version_whatever_the_order_of_names() -> None:
    def version(*names: str) -> str:
        return str(Widened(DicomExtractor, names).version)

    assert version("ContentSequence", "00091001") == version("00091001", "ContentSequence")
    assert version("00091001").startswith("1+")
    assert len({"1", version("00091001"), version("00091002"), version("00091001", "00091002")}) == 4


def test_columns_that_are_usual_make_no_other_version() -> None:
    wide = Widened(DicomExtractor, ("Modality",))
    assert (wide.version, wide.further) == ("1", ())


def test_a_further_column_says_of_which_versions_it_is_however_many_come_together() -> None:
    one, two = Widened(ObjectExtractor, ("tag:a", "tag:b")), Widened(ObjectExtractor, ("tag:b", "tag:c"))
    usual = ObjectExtractor()
    schemas = [row_schema(each.schema) for each in (usual, one, two)]
    for some in (schemas, schemas[::-1], [unify(schemas[:2], "object"), schemas[2]]):
        both = unify(some, "object")
        assert versions_of_column(both.field("tag:a")) == frozenset({one.version})
        assert versions_of_column(both.field("tag:b")) == frozenset({one.version, two.version})
        assert versions_of_column(both.field("tag:c")) == frozenset({two.version})
        assert versions_of_column(both.field("ContentType")) is None


def test_of_a_column_that_another_version_has_among_its_usual_ones_nothing_is_said() -> None:
    wide = row_schema(Widened(ObjectExtractor, ("tag:a",)).schema)
    usual = row_schema(ObjectExtractor(["tag:a"]).schema)
    assert versions_of_column(unify([wide, usual], "object").field("tag:a")) is None
    assert versions_of_column(unify([usual, wide], "object").field("tag:a")) is None


def test_columns_are_kept_as_the_extractor_calls_them_and_usual_ones_left_out() -> None:
    assert checked_columns("dicom", ["ContentSequence", "0009100a", "Modality"]) == (
        "ContentSequence",
        "0009100A",
    )
    assert checked_columns("object", ["tag:site"]) == ("tag:site",)


@pytest.mark.parametrize(
    ("extractor", "column", "near"),
    [("dicom", "ContentSequenc", "ContentSequence"), ("images", "Widht", "Width")],
)
def test_an_unknown_column_is_refused_with_the_nearest_one(extractor: str, column: str, near: str) -> None:
    with pytest.raises(UsageError, match=f"Further columns of {extractor}.*{column}.*{near}"):
        checked_columns(extractor, [column])


def test_columns_that_no_row_has_room_for_are_refused() -> None:
    names = [f"tag:{sha256(str(number).encode()).hexdigest()}" for number in range(5_000)]
    with pytest.raises(UsageError, match="Name fewer"):
        checked_columns("object", names)


def test_columns_whose_names_sql_takes_for_one_are_refused() -> None:
    with pytest.raises(UsageError, match="tag:SITE"):
        checked_columns("object", ["tag:site", "tag:SITE"])


def test_an_extractor_that_cannot_be_loaded_is_an_error_that_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = EntryPoints([EntryPoint("broken", "tests.no_such_module:X", further.EXTRACTORS)])
    monkeypatch.setattr("snapengine.plugins.entry_points", broken.select)
    with pytest.raises(UsageError, match="broken"):
        checked_columns("broken", ["a"])
