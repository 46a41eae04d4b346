"""Objects extracted together have the outcomes and values that each has by itself, whatever the others do."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pytest

from metadata_extractors.base import ObjectFacts
from metadata_extractors.packing import extract_pack
from metadata_extractors.packs import Pack, Told, believed, kept
from metadata_extractors.ranged import FIRST_BYTES, RangedReader
from metadata_extractors.sandbox import ExtractorSpec, Limits, Sandbox, spec_of
from snapengine.errors import UsageError, VersionGone
from tests.dicom_files import FILES
from tests.hostile_dicom import claims_4_gb, nested, random_after_magic
from tests.hostile_extractors import SECRET

HOSTILE = ExtractorSpec("hostile", "tests.hostile_extractors:Hostile")
LIMITS = Limits(cpu_seconds=1, wall_seconds=1)

Answered = tuple[str, tuple[str, ...], dict[str, object]]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox([HOSTILE, spec_of("dicom")], LIMITS) as made:
        yield made


class Stored:
    """An object, and the ranges that were read of it."""

    def __init__(self, data: bytes, key: str = "a/key", size: int | None = -1) -> None:
        self.data = data
        self.read: list[tuple[int, int]] = []
        self.reader = RangedReader(self._read, len(data) if size == -1 else size, key)

    def _read(self, start: int, end: int) -> bytes:
        self.read.append((start, end))
        return self.data[start:end]


def hostile(*deeds: str) -> list[RangedReader]:
    return [Stored(deed.encode(), f"key {place}").reader for place, deed in enumerate(deeds)]


def answers(pack: Pack) -> list[Answered | Exception]:
    assert pack.rows.num_rows == len(pack.found)
    rows = pack.rows.to_pylist()
    return [
        each if isinstance(each, Exception) else (each.outcome, each.problems, row)
        for each, row in zip(pack.found, rows, strict=True)
    ]


def alone(sandbox: Sandbox, name: str, reader: RangedReader) -> Answered:
    found = sandbox.extract(name, reader)
    nothing = dict.fromkeys(sandbox.faces[name].schema.names)
    return found.outcome, found.problems, nothing | dict(found.values)


def texts(pack: Pack) -> list[object]:
    return list(pack.rows.column("Text").to_pylist())


def test_objects_that_behave_share_a_message_and_a_child(sandbox: Sandbox) -> None:
    sandbox.close()
    alone(sandbox, "hostile", *hostile("well"))
    started = sandbox.started
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sandbox, "extract", None)
        pack = extract_pack(sandbox, "hostile", hostile("well", "other", "partly", "well"))
    assert answers(pack) == [
        ("ok", ("a remark",), {"Text": SECRET}),
        ("not_matched", (), {"Text": None}),
        ("partial", ("cut short",), {"Text": "a part"}),
        ("ok", ("a remark",), {"Text": SECRET}),
    ]
    assert sandbox.started == started
    assert pack.rows.schema.equals(sandbox.faces["hostile"].schema, check_metadata=True)


@pytest.mark.parametrize(
    "deed",
    [
        "segfault",
        "leave",
        "exit",
        "raise",
        "spin",
        "sleep",
        "hold_out",
        "eat",
        "lie",
        "invent",
        "flood",
        "run",
    ],
)
def test_what_one_object_does_is_its_own_outcome_in_whatever_place(sandbox: Sandbox, deed: str) -> None:
    well = ("ok", ("a remark",), {"Text": SECRET})
    expected = alone(sandbox, "hostile", hostile(deed)[0])
    assert expected[0] in {"failed", "timeout"}
    for place in (0, 2):
        deeds = ["well"] * 2
        deeds.insert(place, deed)
        found = answers(extract_pack(sandbox, "hostile", hostile(*deeds)))
        assert found[place] == expected
        assert found[:place] + found[place + 1 :] == [well, well]


def test_a_pack_of_the_worst_in_any_order_has_the_same_outcomes(sandbox: Sandbox) -> None:
    deeds = ["well", "segfault", "other", "leave", "raise", "partly", "lie", "eat", "invent", "long"]
    expected = {deed: alone(sandbox, "hostile", hostile(deed)[0]) for deed in deeds}
    for seed in range(2):
        random.Random(seed).shuffle(deeds)
        found = answers(extract_pack(sandbox, "hostile", hostile(*deeds)))
        assert dict(zip(deeds, found, strict=True)) == expected


def test_memory_that_others_of_the_pack_took_is_not_held_against_an_object() -> None:
    with Sandbox([HOSTILE], LIMITS) as sandbox:
        pack = extract_pack(sandbox, "hostile", hostile(*["nibble"] * 10))
    assert texts(pack) == ["nibbled"] * 10
    assert {each.outcome for each in pack.found if isinstance(each, Told)} == {"ok"}


def test_time_is_each_objects_own() -> None:
    with Sandbox([HOSTILE], Limits(cpu_seconds=1, wall_seconds=1)) as sandbox:
        pack = extract_pack(sandbox, "hostile", hostile(*["doze"] * 5))
    assert texts(pack) == ["dozed"] * 5


def test_an_extractor_that_uses_its_row_again_spoils_no_other(sandbox: Sandbox) -> None:
    pack = extract_pack(sandbox, "hostile", hostile(*["reuse"] * 3))
    assert texts(pack) == ["key 0", "key 1", "key 2"]
    inner = [1, [2, {"x": 3}]]
    values = kept({"list": inner, "text": "t"})
    inner[1][1]["x"] = 4  # type: ignore[index]  # a list
    inner.append(5)
    assert values == {"list": [1, [2, {"x": 3}]], "text": "t"}


def test_what_a_reader_raises_stands_in_the_objects_place_and_the_child_goes_on(sandbox: Sandbox) -> None:
    def gone(_start: int, _end: int) -> bytes:
        raise VersionGone("removed by a lifecycle rule", "gone", "v")

    def half(start: int, end: int) -> bytes:
        if start:
            raise TimeoutError("S3")
        return b"swallow".ljust(end, b"\0")

    sandbox.close()
    alone(sandbox, "hostile", *hostile("well"))  # a child that is young, and so is not replaced for its age
    started = sandbox.started
    first, last = hostile("well", "well")
    readers = [first, RangedReader(gone, 100_000), RangedReader(half, 100_000), last]
    pack = extract_pack(sandbox, "hostile", readers)
    assert [type(each) for each in pack.found] == [Told, VersionGone, TimeoutError, Told]
    assert texts(pack) == [SECRET, None, None, SECRET]
    assert sandbox.started == started


@pytest.mark.parametrize("size", [0, 7, FIRST_BYTES, FIRST_BYTES + 1, 300_000])
@pytest.mark.parametrize("told", [True, False])
def test_the_ranges_that_are_read_are_those_that_are_read_alone(
    sandbox: Sandbox, size: int, told: bool
) -> None:
    data = b"long".ljust(size, b"\0")[:size]
    ones = [Stored(data, size=size if told else None) for _ in range(3)]
    expected = alone(sandbox, "hostile", ones[0].reader)
    pack = extract_pack(sandbox, "hostile", [one.reader for one in ones[1:]])
    assert answers(pack) == [expected] * 2
    assert ones[0].read == ones[1].read == ones[2].read


@pytest.mark.parametrize("header_bytes", [50_000, 70_000])
def test_the_budget_of_bytes_is_each_objects_own(header_bytes: int) -> None:
    data = b"read_all".ljust(10**6, b"\0")
    with Sandbox([HOSTILE], Limits(header_bytes=header_bytes)) as sandbox:
        ones = [Stored(data) for _ in range(3)]
        expected = alone(sandbox, "hostile", ones[0].reader)
        pack = extract_pack(sandbox, "hostile", [one.reader for one in ones[1:]])
    assert expected[1] == ("the header costs more bytes or requests than allowed",)
    assert answers(pack) == [expected] * 2
    assert all(sum(end - start for start, end in one.read) <= header_bytes for one in ones)


def test_slow_reads_from_s3_are_not_the_extractors_time() -> None:
    def slowly(start: int, end: int) -> bytes:
        time.sleep(0.7)
        return b"long".ljust(100_000, b"\0")[start:end]

    with Sandbox([HOSTILE], Limits(cpu_seconds=1, wall_seconds=1)) as sandbox:
        readers = [RangedReader(slowly, 100_000) for _ in range(2)]
        pack = extract_pack(sandbox, "hostile", readers)
    assert texts(pack) == ["100000", "100000"]


def test_facts_are_those_of_the_object_that_is_asked_about() -> None:
    def of(kind: str) -> RangedReader:
        facts = ObjectFacts(3, 0, {"ContentType": kind})
        return RangedReader(lambda _start, _end: b"", 3, facts=lambda: facts)

    with Sandbox([spec_of("object", ["ContentType"])]) as sandbox:
        pack = extract_pack(sandbox, "object", [of("text/a"), of("text/b")])
    assert pack.rows.column("ContentType").to_pylist() == ["text/a", "text/b"]


def test_dicom_rows_of_packs_are_those_of_single_objects(sandbox: Sandbox) -> None:
    datas = [path.read_bytes() for path in FILES[::6]]
    datas[3:3] = [claims_4_gb(), random_after_magic()]
    datas.append(nested())
    for begin in range(0, len(datas), 16):
        some = datas[begin : begin + 16]
        found = answers(extract_pack(sandbox, "dicom", [Stored(data).reader for data in some]))
        assert found == [alone(sandbox, "dicom", Stored(data).reader) for data in some]


def test_an_extractor_that_there_is_not_is_an_error(sandbox: Sandbox) -> None:
    with pytest.raises((UsageError, KeyError)):
        extract_pack(sandbox, "none", hostile("well"))


SCHEMA = pa.schema([pa.field("Text", pa.string())])
ROW = pa.record_batch([["x"]], schema=SCHEMA).serialize().to_pybytes()


def test_an_answer_is_believed() -> None:
    found, rows = believed(b'\x0e\0\0\0[["ok", [7]]] ' + ROW, 1, SCHEMA)
    assert (found, rows.to_pylist()) == ([Told("ok", ("7",))], [{"Text": "x"}])


@pytest.mark.parametrize(
    "told",
    [
        b"",
        b"\xff\xff\xff\xff[]",
        b'\x0d\0\0\0[["ok", []]]  ' + ROW,
        b'\x0e\0\0\0[["fine", []]] ' + ROW,
        b'\x0e\0\0\0[["ok", []]]   ' + ROW[:-20],
        b'\x02\0\0\0[]' + ROW,
        b'\x0e\0\0\0[["ok", 7]]    ' + ROW,
        b'\x02\0\0\0{}' + ROW,
        b"\x04\0\0\0[[1]" + ROW,
    ],
)  # fmt: skip
def test_what_is_no_answer_is_not_believed(told: Sequence[int]) -> None:
    with pytest.raises(ValueError, match="no answer"):
        believed(bytes(told), 1, SCHEMA)
