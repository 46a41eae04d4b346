"""Rows of metadata: their payloads, one row a version, and views joined with them."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from snapengine.bulkfold import BECAME, VIEW_SCHEMA
from snapengine.errors import BadData, LogDamaged, SchemaTooNew
from snapengine.metadata_codec import MAX_BYTES, MAX_ROW_BYTES, MAX_ROWS, decode, encode, pack
from snapengine.metadata_rows import (
    ROW_FIELDS,
    conform,
    fold_rows,
    identifying_names,
    join_rows,
    joined_schema,
    plain_schema,
    row_schema,
    unify,
)
from snapengine.testing.row_contract import EXTRACTOR, SCHEMA, row, row_table
from snapengine.testing.store_contract import T

texts = st.none() | st.sampled_from(["", "a", "é", "a:b", "-", "1:a", "\0"]) | st.text(max_size=5)
outcomes = st.sampled_from(["ok", "partial", "not_matched", "failed", "timeout", "gone", "archived"])
rows = st.fixed_dictionaries(
    {
        "key": st.sampled_from(["a", "b", "é", "a\0b"]),
        "version_id": st.sampled_from(["v1", "v2", "null"]),
        "etag": st.none() | st.sampled_from(["e", "f", ""]),
        "sequencer": st.none() | st.sampled_from(["1", "2"]),
        "extractor_version": st.sampled_from(["1", "2"]),
        "outcome": outcomes,
        "error": texts,
        "extracted_at": st.integers(T, T + 2),
        "Modality": texts,
        "PatientName": texts,
        "Spacing": st.none()
        | st.lists(st.sampled_from([0.5, math.nan, -0.0, 0.0, math.inf, None]), max_size=2),
    }
)
RANK = {"ok": 2, "partial": 2, "not_matched": 2, "failed": 1, "timeout": 1, "gone": 0, "archived": 0}


def identity(of: dict[str, Any]) -> tuple[Any, ...]:
    """What one row a version means, in the plainest words."""
    if of["version_id"] == "null":
        return (of["key"], "null", of["etag"], of["sequencer"])
    return (of["key"], of["version_id"])


def as_text(table: pa.Table) -> list[str]:
    """Rows as text, in which NaN is equal to itself."""
    return [repr(found) for found in table.to_pylist()]


@given(st.lists(rows, max_size=12), st.randoms(use_true_random=False))
def test_any_order_and_repetition_of_rows_gives_the_same(
    found: list[dict[str, Any]], chance: random.Random
) -> None:
    again = found + [chance.choice(found) for _ in range(5) if found]
    chance.shuffle(again)
    assert as_text(fold_rows(row_table(again))) == as_text(fold_rows(row_table(found)))


@given(st.lists(rows, max_size=12), st.integers(0, 12))
def test_folding_parts_first_gives_the_same(found: list[dict[str, Any]], at: int) -> None:
    parts = [fold_rows(row_table(part)) for part in (found[:at], found[at:])]
    assert as_text(fold_rows(pa.concat_tables(parts))) == as_text(fold_rows(row_table(found)))


@given(st.lists(rows, max_size=12))
def test_each_version_has_the_row_of_the_highest_rank_and_then_the_latest(
    found: list[dict[str, Any]],
) -> None:
    table = row_table(found)
    folded = fold_rows(table).to_pylist()
    groups: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
    for one in table.to_pylist():
        standing = (RANK[one["outcome"]], one["extracted_at"], one["extractor_version"])
        groups.setdefault(identity(one), []).append(standing)
    assert len(folded) == len(groups)
    for one in folded:
        standing = (RANK[one["outcome"]], one["extracted_at"], one["extractor_version"])
        assert standing == max(groups[identity(one)])
        assert repr(one) in as_text(table)
    assert [one["key"] for one in folded] == sorted(one["key"] for one in folded)


@given(st.lists(rows, max_size=12))
def test_the_plain_rows_that_stand_are_those_of_the_full_rows_that_stand(found: list[dict[str, Any]]) -> None:
    full = row_table(found)
    plain = plain_schema(SCHEMA)
    assert as_text(fold_rows(full.select(plain.names))) == as_text(fold_rows(full).select(plain.names))


def test_a_failure_never_hides_what_was_read_and_a_gone_version_never_hides_a_failure() -> None:
    ok, failed, gone = (row(1, outcome=o, extracted_at=T + i) for i, o in enumerate(("ok", "failed", "gone")))
    assert fold_rows(row_table([gone, failed, ok]))["outcome"].to_pylist() == ["ok"]
    assert fold_rows(row_table([gone, failed]))["outcome"].to_pylist() == ["failed"]


def test_a_later_extraction_takes_the_place_of_an_earlier_one() -> None:
    old = row(1, Modality="MR", extractor_version="2")
    new = row(1, Modality=None, extractor_version="1", outcome="not_matched", extracted_at=T + 9)
    assert fold_rows(row_table([new, old])).to_pylist() == row_table([new]).to_pylist()


def test_a_null_version_s_rows_stand_apart_by_etag_and_sequencer() -> None:
    found = [
        row(1, version_id="null", etag=e, sequencer=s) for e in ("e", None, "") for s in ("1", None, "-")
    ]
    assert fold_rows(row_table(found)).num_rows == 9
    assert fold_rows(row_table([{**one, "version_id": "v"} for one in found])).num_rows == 1


# Joining with a view


def view_of(*versions: dict[str, Any]) -> pa.Table:
    base = {"size": 1, "event_time": T, "time": "event", "storage_class": None}
    return pa.Table.from_pylist([{**base, **v} for v in versions], schema=VIEW_SCHEMA)


def version(of: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**{name: of[name] for name in ("key", "version_id", "etag", "sequencer")}, **changes}


@given(st.lists(rows, max_size=8), st.lists(rows, max_size=8))
def test_every_object_of_a_view_is_there_once_with_the_row_of_exactly_its_version(
    found: list[dict[str, Any]], shown: list[dict[str, Any]]
) -> None:
    folded = fold_rows(row_table(found))
    view = view_of(*(version(one) for one in shown))
    joined = join_rows(view, folded)
    assert joined.schema.equals(joined_schema(SCHEMA), check_metadata=True)
    assert joined.select(VIEW_SCHEMA.names).equals(view)
    standing = {identity(one): one for one in folded.to_pylist()}
    for one, had in zip(shown, joined.to_pylist(), strict=True):
        wanted = standing.get(identity(one))
        for name in joined.schema.names[len(VIEW_SCHEMA) :]:
            assert repr(had[name]) == repr(wanted[name] if wanted else None)


def test_a_successor_of_a_null_version_never_inherits_its_row() -> None:
    old = row(1, version_id="null", etag="e1", sequencer="01")
    shown = view_of(version(old, etag="e2"), version(old, sequencer="02"), version(old, sequencer=None))
    assert join_rows(shown, fold_rows(row_table([old])))["outcome"].to_pylist() == [None, None, None]
    assert join_rows(view_of(version(old)), row_table([old]))["Modality"].to_pylist() == ["CT"]


def test_a_listed_version_has_the_row_that_an_event_s_had() -> None:
    one = row(1)
    joined = join_rows(view_of(version(one, etag=None, sequencer=None)), row_table([one]))
    assert joined["PatientName"].to_pylist() == ["name 1"]


def test_a_slice_of_all_versions_keeps_what_became_of_them() -> None:
    one = row(1)
    view = view_of(version(one)).append_column(BECAME, pa.array(["removed"]))
    joined = join_rows(view, row_table([one]).select(plain_schema(SCHEMA).names))
    assert joined["became"].to_pylist() == ["removed"]
    assert joined["Modality"].to_pylist() == ["CT"]
    assert "PatientName" not in joined.schema.names


# Schemas


def own(*fields: pa.Field[Any]) -> pa.Schema:
    return row_schema(pa.schema(list(fields)))


A = pa.field("A", pa.string())
N = pa.field("N", pa.float64(), metadata={"unit": "mm", "identifying": "false"})


def test_versions_of_an_extractor_have_one_schema_whatever_their_order() -> None:
    schemas = [own(A), own(N, A), own(A, pa.field("B", pa.list_(pa.int64()))), own(N)]
    one = unify(schemas, "dicom")
    assert set(one.names) == {*(f.name for f in ROW_FIELDS), "A", "N", "B"}
    for order in itertools.permutations(schemas):
        assert unify(order, "dicom").equals(one, check_metadata=True)
    padded = conform(row_table([row(1)], own(A)), one)
    assert padded["N"].to_pylist() == [None]
    assert padded.schema.equals(one)


def test_a_column_that_any_version_calls_identifying_is_so_in_all() -> None:
    marked = A.with_metadata({"identifying": "true", "tag": "(0010,0010)"})
    for schemas in ([own(A, N), own(marked)], [own(marked), own(A, N)]):
        one = unify(schemas, "dicom")
        assert identifying_names(one) == ["A"]
        assert "A" not in plain_schema(one).names


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (
            pa.field("N", pa.int64(), metadata={"unit": "mm"}),
            r"Column N of extractor dicom has type double in",
        ),
        (pa.field("N", pa.float64(), metadata={"unit": "cm"}), r"Column N .* has unit cm in .* and mm in"),
        (pa.field("N", pa.float64()), r"Column N .* has unit none in .* and mm in|unit mm in .* and none in"),
    ],
)
def test_a_column_of_two_types_or_units_is_refused_by_name(other: pa.Field[Any], said: str) -> None:
    for schemas in ([own(N), own(A, other)], [own(A, other), own(N)]):
        with pytest.raises(BadData, match=said):
            unify(schemas, "dicom")


@pytest.mark.parametrize("name", ["key", "KEY", "size", "outcome", "Event_Time", "epoch", "became", ""])
def test_no_column_may_be_taken_for_another(name: str) -> None:
    with pytest.raises(BadData, match="that name is taken"):
        own(pa.field(name, pa.string()))
    with pytest.raises(BadData, match="that name is taken"):
        own(A, pa.field("a", pa.string()))


# Payloads


@given(st.lists(rows, max_size=6))
def test_rows_are_had_back_as_they_were_written(found: list[dict[str, Any]]) -> None:
    table = row_table(found)
    packed = encode(EXTRACTOR, table)
    plain, full = decode(packed.plain), decode(packed.identifying or b"")
    assert (plain.extractor, full.extractor) == (EXTRACTOR, EXTRACTOR)
    assert as_text(full.table) == as_text(table)
    assert as_text(plain.table) == as_text(table.select(plain_schema(SCHEMA).names))
    for decoded in (plain, full):
        assert decoded.schema.equals(SCHEMA, check_metadata=True)


def test_an_extractor_without_identifying_columns_has_one_payload() -> None:
    table = row_table([row(1, N=0.5)], own(A, N))
    packed = encode("nifti", table)
    assert packed.identifying is None
    assert decode(packed.plain).table.equals(table)


def test_rows_are_packed_in_order_into_payloads_that_fit() -> None:
    chance = random.Random(5)
    noise = [chance.randbytes(1500).hex() for _ in range(1_100)]
    table = row_table([row(i, PatientName=noise[i]) for i in range(1_100)])
    packs = list(pack(EXTRACTOR, table))
    assert all(len(p.plain) <= MAX_BYTES and len(p.identifying or b"") <= MAX_BYTES for p in packs)
    assert max(p.rows for p in packs) <= MAX_ROWS
    assert pa.concat_tables([decode(p.identifying or b"").table for p in packs]).equals(table)
    assert [decode(p.plain).table.num_rows for p in packs] == [p.rows for p in packs]


def test_a_row_that_no_item_can_hold_says_that_it_failed_and_costs_no_other_its_place() -> None:
    large = random.Random(5).randbytes(MAX_ROW_BYTES).hex() * 3
    table = row_table([row(0), row(1, PatientName=large), row(2)])
    kept = pa.concat_tables([decode(p.identifying or b"").table for p in pack(EXTRACTOR, table)])
    assert kept["outcome"].to_pylist() == ["ok", "failed", "ok"]
    assert kept["PatientName"].to_pylist() == ["name 0", None, "name 2"]
    assert kept["key"].to_pylist() == ["k0000", "k0001", "k0002"]
    assert kept["extracted_at"].equals(table["extracted_at"])
    said = kept["error"][1].as_py()
    assert "380,000" in said
    assert large[:20] not in said


def test_a_large_row_that_fits_an_item_is_kept_whole() -> None:
    large = random.Random(5).randbytes(150_000).hex()
    (packed,) = pack(EXTRACTOR, row_table([row(1, PatientName=large)]))
    assert len(packed.plain) < MAX_BYTES
    assert decode(packed.identifying or b"").table["PatientName"].to_pylist() == [large]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"key": None}, "lack a value of key"),
        ({"extractor_version": None}, "lack a value of extractor_version"),
        ({"outcome": "splendid"}, "have the outcome 'splendid'"),
    ],
)
def test_rows_that_are_not_whole_are_refused(changes: dict[str, Any], said: str) -> None:
    loose = pa.schema([field.with_nullable(True) for field in SCHEMA])
    with pytest.raises(BadData, match=said):
        encode(EXTRACTOR, row_table([row(1), row(2, **changes)], loose))


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b", "x" * 65, "é"])
def test_a_name_that_is_none_for_a_folder_is_refused(name: str) -> None:
    with pytest.raises(BadData, match="is no name for an extractor"):
        encode(name, row_table([row(1)]))


def squeezed(table: pa.Table, **about: str) -> bytes:
    """A payload that nobody checked."""
    sink = pa.BufferOutputStream()
    told = {f"snapengine.{name}": value for name, value in {"format": "1", "extractor": "x", **about}.items()}
    schema = table.schema.with_metadata(told)
    with pa.CompressedOutputStream(sink, "zstd") as out, pa.ipc.new_stream(out, schema) as writer:
        writer.write_table(table.cast(schema))
    return bytes(sink.getvalue())


LOOSE = pa.schema([field.with_nullable(True) for field in SCHEMA])
HOSTILE = {
    "nothing": b"",
    "text": b"hello",
    "an empty stream": squeezed(pa.table({"key": ["a"]})),
    "no extractor": squeezed(row_table([row(1)]), extractor=""),
    "a path": squeezed(row_table([row(1)]), extractor="../x"),
    "not the full schema": squeezed(row_table([row(1)]), full="bm90aGluZw=="),
    "the full schema of nobody": squeezed(row_table([row(1)]), full=""),
    "a null key": squeezed(row_table([row(1, key=None)], LOOSE)),
    "an outcome of nobody": squeezed(row_table([row(1, outcome="fine")])),
    "a column twice": squeezed(row_table([row(1)]).append_column("Modality", pa.array(["x"]))),
    "a view's column": squeezed(row_table([row(1)]).append_column("size", pa.array([1]))),
}


@pytest.mark.parametrize("payload", HOSTILE.values(), ids=HOSTILE)
def test_a_payload_that_is_none_is_named_as_damage(payload: bytes) -> None:
    with pytest.raises(LogDamaged):
        decode(payload)


def test_a_payload_of_a_newer_snapengine_is_refused_as_such() -> None:
    with pytest.raises(SchemaTooNew, match="format 2"):
        decode(squeezed(row_table([row(1)]), format="2"))


def test_a_payload_that_inflates_without_end_is_not_inflated() -> None:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as out:
        for _ in range(300):
            out.write(bytes(1 << 20))
    with pytest.raises(LogDamaged, match="more than"):
        decode(bytes(sink.getvalue()))


def raw(payload: bytes) -> bytes:
    with pa.CompressedInputStream(pa.BufferReader(payload), "zstd") as stream:
        found: bytes = stream.read()
    return found


WHOLE = encode(EXTRACTOR, row_table([row(i) for i in range(3)]))


@settings(max_examples=300)
@given(st.integers(0, 10_000), st.integers(0, 255), st.booleans(), st.integers(0, 10_000))
@example(0, 0, False, 0)
def test_an_altered_or_cut_payload_is_damage_or_rows_and_nothing_else(
    at: int, byte: int, within: bool, cut: int
) -> None:
    inner = within
    data = bytearray(raw(WHOLE.plain) if inner else WHOLE.plain)
    data[at % len(data)] = byte
    if cut % 3 == 0:
        del data[cut % len(data) :]
    payload = bytes(data)
    if inner:
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as out:
            out.write(payload)
        payload = bytes(sink.getvalue())
    try:
        decoded = decode(payload)
    except (LogDamaged, SchemaTooNew):
        return
    assert fold_rows(decoded.table).num_rows <= decoded.table.num_rows
