"""Extraction in child processes: whatever an object does to one has an outcome, and the next goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from metadata_extractors.base import Extraction, ObjectFacts
from metadata_extractors.dicom import DicomExtractor
from metadata_extractors.ranged import RangedReader, extract_from
from metadata_extractors.sandbox import ExtractorSpec, Limits, Sandbox, Sandboxes, spec_of
from snapengine.errors import UsageError, VersionGone
from tests.dicom_files import FILES, dicom, explicit
from tests.hostile_dicom import (
    claims_4_gb,
    deflate_bomb,
    empty_items,
    nested,
    private_elements,
    random_after_magic,
)
from tests.hostile_extractors import SECRET

HOSTILE = ExtractorSpec("hostile", "tests.hostile_extractors:Hostile")
DICOM = ExtractorSpec(
    "dicom",
    "metadata_extractors.dicom:DicomExtractor",
    ("SOPInstanceUID", "Modality", "Rows", "ReferencedImageSequence"),
)
LIMITS = Limits(cpu_seconds=1, wall_seconds=4)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox([HOSTILE, DICOM], LIMITS) as made:
        yield made


def reader(data: bytes, max_bytes: int = 16 * 2**20) -> RangedReader:
    return RangedReader(lambda start, end: data[start:end], len(data), "a/key", max_bytes=max_bytes)


def extract(sandbox: Sandbox, deed: str) -> Extraction:
    return sandbox.extract("hostile", reader(deed.encode()))


def goes_on(sandbox: Sandbox) -> bool:
    return extract(sandbox, "well").values == {"Text": SECRET}


def test_a_row_comes_back_with_its_types(sandbox: Sandbox) -> None:
    assert extract(sandbox, "well") == Extraction("ok", {"Text": SECRET}, ("a remark",))
    assert extract(sandbox, "other").outcome == "not_matched"
    data = dicom(Modality="CT", Rows=512)
    assert sandbox.extract("dicom", reader(data)).values == {
        "SOPInstanceUID": "1.2.3.4",
        "Modality": "CT",
        "Rows": 512,
        "ReferencedImageSequence": None,
    }


def test_one_child_serves_many_objects(sandbox: Sandbox) -> None:
    assert goes_on(sandbox)
    started = sandbox.started
    assert all(goes_on(sandbox) for _ in range(50))
    assert sandbox.started == started


@pytest.mark.parametrize(
    ("deed", "outcome", "problem"),
    [
        ("segfault", "failed", "the extractor's process died (SIGSEGV)"),
        ("abort", "failed", "the extractor's process died (SIGABRT)"),
        ("leave", "failed", "the extractor's process died (exit code 3)"),
        ("exit", "failed", "the extractor raised SystemExit"),
        ("raise", "failed", "the extractor raised ValueError"),
        ("spin", "timeout", "took more than 1 s of CPU time"),
        ("sleep", "timeout", "took more than 4 s"),
        ("hold_out", "timeout", "took more than 4 s"),
        ("eat", "failed", "needs more than 1024 MiB of memory"),
        ("lie", "failed", "the extractor raised ArrowTypeError"),
        ("invent", "failed", "the extractor gives an outcome that there is not"),
        ("flood", "failed", "the extractor's process said what it should not"),
        ("read_file", "failed", "the extractor raised PermissionError"),
        ("write_file", "failed", "the extractor raised PermissionError"),
        ("connect", "failed", "the extractor raised PermissionError"),
        ("run", "failed", "the extractor raised PermissionError"),
    ],
)
def test_what_an_object_does_is_its_outcome_and_the_next_goes_on(
    sandbox: Sandbox, deed: str, outcome: str, problem: str
) -> None:
    begun = time.monotonic()
    found = extract(sandbox, deed)
    assert (found.outcome, found.values, found.problems) == (outcome, {}, (problem,))
    assert time.monotonic() - begun < 30
    assert goes_on(sandbox)
    assert not Path("left-behind").exists()


def test_memory_that_others_took_is_not_held_against_an_object() -> None:
    with Sandbox([HOSTILE], LIMITS) as sandbox:
        assert [extract(sandbox, "nibble").outcome for _ in range(10)] == ["ok"] * 10
        assert sandbox.started > 1


def test_what_an_extractor_prints_goes_nowhere(sandbox: Sandbox, capfd: pytest.CaptureFixture[str]) -> None:
    assert extract(sandbox, "print").values == {"Text": "printed"}
    assert goes_on(sandbox)
    assert SECRET not in "".join(capfd.readouterr())


def test_the_child_has_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("SNAPENGINE_STORE", "dynamodb://table")
    with Sandbox([HOSTILE]) as sandbox:
        names = str(extract(sandbox, "environ").values["Text"]).split()
    assert not [name for name in names if name.startswith(("AWS", "SNAPENGINE"))]


def test_no_more_than_the_budget_is_read_however_much_is_asked_for() -> None:
    fetched = []

    def read(start: int, end: int) -> bytes:
        fetched.append(end - start)
        return (b"read_all" + bytes(92) + bytes(10**6))[start:end]

    with Sandbox([HOSTILE], Limits(header_bytes=70_000)) as sandbox:
        found = sandbox.extract("hostile", RangedReader(read, 10**6, max_bytes=70_000))
    assert found.problems == ("the header costs more bytes or requests than allowed",)
    assert sum(fetched) <= 70_000


def test_an_object_that_is_gone_or_cannot_be_read_is_an_error_of_the_reader(sandbox: Sandbox) -> None:
    def gone(_start: int, _end: int) -> bytes:
        raise VersionGone("removed by a lifecycle rule", "gone", "v")

    def half(start: int, end: int) -> bytes:
        if start:
            raise TimeoutError("S3")
        return b"swallow".ljust(end, b"\0")

    assert goes_on(sandbox)
    started = sandbox.started
    with pytest.raises(VersionGone):
        sandbox.extract("hostile", RangedReader(gone, 100_000))
    with pytest.raises(TimeoutError):
        sandbox.extract("hostile", RangedReader(half, 100_000))
    assert goes_on(sandbox)
    assert sandbox.started == started  # it is not the child's fault


def test_slow_reads_from_s3_are_not_the_extractors_time() -> None:
    def slowly(start: int, end: int) -> bytes:
        time.sleep(1.2)
        return b"well"[start:end]

    with Sandbox([HOSTILE], Limits(cpu_seconds=1, wall_seconds=1)) as sandbox:
        assert sandbox.extract("hostile", RangedReader(slowly, 4)).outcome == "ok"


def test_facts_come_from_the_parent() -> None:
    facts = ObjectFacts(3, 0, {"ContentType": "text/plain"}, tags={"site": "Ålesund"})
    with Sandbox([spec_of("object", ["ContentType", "tag:site"])]) as sandbox:
        told = RangedReader(lambda _start, _end: b"", 3, facts=lambda: facts)
        assert sandbox.extract("object", told).values == {"ContentType": "text/plain", "tag:site": "Ålesund"}


def test_version_and_schema_are_known_without_importing_the_extractor(sandbox: Sandbox) -> None:
    face = sandbox.faces["dicom"]
    assert face.version == DicomExtractor().version
    assert face.schema.equals(DicomExtractor(DICOM.columns).schema, check_metadata=True)


def test_an_extractor_that_cannot_be_made_is_an_error_at_the_start() -> None:
    with Sandbox([ExtractorSpec("none", "no_such_module:Extractor")]) as sandbox:
        with pytest.raises(UsageError, match="none cannot be started"):
            _ = sandbox.faces
        with pytest.raises(UsageError, match="no extractor 'other'"):
            sandbox.extract("other", reader(b""))


def test_no_process_and_no_pipe_is_left() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    others = ours()
    with Sandboxes(2, [HOSTILE], LIMITS) as pool, pool.one() as first, pool.one() as second:
        assert goes_on(first)
        assert goes_on(second)
        assert extract(first, "segfault").outcome == "failed"
        assert len(ours() - others) == 1
    assert ours() == others
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def ours() -> set[int]:
    """The children of this process that run extractors."""
    return {
        child.pid
        for child in psutil.Process().children()
        if child.status() != psutil.STATUS_ZOMBIE and "metadata_extractors.child" in child.cmdline()
    }


# The hostile DICOM files


@pytest.mark.parametrize(
    ("make", "outcomes"),
    [
        (deflate_bomb, {"partial", "timeout"}),
        (empty_items, {"timeout"}),
        (private_elements, {"ok", "timeout", "failed"}),
        (nested, {"failed"}),
        (claims_4_gb, {"partial"}),
        (random_after_magic, {"failed", "partial"}),
    ],
)
def test_hostile_dicom_files_end_within_the_limits(
    sandbox: Sandbox, make: Callable[[], bytes], outcomes: set[str]
) -> None:
    data = make()
    begun = time.monotonic()
    found = sandbox.extract("dicom", reader(data))
    assert found.outcome in outcomes, found
    assert time.monotonic() - begun < 15
    assert goes_on(sandbox)


def test_no_value_of_a_patient_comes_with_a_failure(
    sandbox: Sandbox, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    said: list[str] = []
    for deed in ("raise", "exit", "lie", "write_file", "print", "leave"):
        found = extract(sandbox, deed)
        said += found.problems
    damaged = dicom(pixels=False, PatientName=SECRET) + explicit(0x00280010, "US", b"\1")[:-1]
    said += sandbox.extract("dicom", reader(damaged)).problems
    said += [*capfd.readouterr(), caplog.text]
    assert len(said) > 6
    assert SECRET not in " ".join(said)


def test_rows_are_those_that_are_read_without_a_sandbox() -> None:
    with Sandbox([spec_of("dicom")]) as sandbox:
        for path in FILES[::6]:
            data = path.read_bytes()
            assert sandbox.extract("dicom", reader(data)) == extract_from(DicomExtractor(), reader(data)), (
                path
            )
        assert sandbox.started == 1
