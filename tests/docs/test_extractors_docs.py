"""docs/extractors.md: its own extractor runs as it stands, and its tables are what is installed."""

from __future__ import annotations

import json
import re
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from metadata_extractors.base import Extractor
from metadata_extractors.dicom_header import MAX_INFLATED_BYTES
from metadata_extractors.ranged import MAX_REQUESTS, RangedReader, extract_from
from metadata_extractors.registry import GROUP
from metadata_extractors.sandbox import ExtractorSpec, Limits, Sandbox
from snapengine.extractor_check import checked

PAGE = (Path(__file__).parents[2] / "docs" / "extractors.md").read_text()


@pytest.fixture(scope="module")
def example() -> str:
    (found,) = re.findall(r"<!-- example -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


def made(example: str) -> Extractor:
    names: dict[str, Any] = {}
    exec(example, names)  # noqa: S102  # our own page
    found: Extractor = names["SafetensorsExtractor"](None)
    return found


def safetensors() -> bytes:
    header = {
        "__metadata__": {"author": "Doe"},
        "weight": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
        "bias": {"dtype": "F32", "shape": [2], "data_offsets": [16, 24]},
    }
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(100_000)


VALUES = {"TensorCount": 2, "Tensors": ["bias", "weight"], "ModelCard": '{"author": "Doe"}'}


def test_the_example_reads_headers_and_no_more(example: str) -> None:
    extractor = checked(made(example), "safetensors")
    data = safetensors()
    reader = RangedReader(lambda start, end: data[start:end], len(data), "model.safetensors")
    assert extract_from(extractor, reader).values == VALUES
    assert reader.fetched < 300


def test_the_example_knows_what_is_cut_and_what_is_no_such_file(example: str) -> None:
    extractor = made(example)
    for data, outcome in ((safetensors()[:60], "failed"), (b"PK\x03\x04" + bytes(60), "not_matched")):
        reader = RangedReader(lambda start, end, of=data: of[start:end], len(data), "a.safetensors")  # type: ignore[misc]  # a default binds it
        assert extract_from(extractor, reader).outcome == outcome


def test_the_example_runs_in_a_sandbox(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "page_example.py").write_text(example)
    monkeypatch.syspath_prepend(str(tmp_path))
    data = safetensors()
    reader = RangedReader(lambda start, end: data[start:end], len(data), "model.safetensors")
    with Sandbox([ExtractorSpec("safetensors", "page_example:SafetensorsExtractor")]) as sandbox:
        assert sandbox.extract("safetensors", reader).values == VALUES


def test_the_class_of_the_example_has_some_twenty_lines(example: str) -> None:
    body = example[example.index("class ") :]
    assert len([line for line in body.splitlines() if line.strip()]) <= 22


def test_the_page_names_every_extractor_that_is_installed() -> None:
    named = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    ours = [
        point.name for point in entry_points(group=GROUP) if point.value.startswith("metadata_extractors.")
    ]
    assert sorted(named) == sorted(ours)


def test_the_limits_on_the_page_are_those_of_the_code() -> None:
    limits = Limits()
    assert f"| bytes read of an object | {limits.header_bytes // 2**20} MiB |" in PAGE
    assert f"| inflated, DICOM | {MAX_INFLATED_BYTES // 2**20} MiB |" in PAGE
    assert f"| CPU time | {limits.cpu_seconds:g} s |" in PAGE
    assert f"| time, without that of reading S3 | {limits.wall_seconds:g} s |" in PAGE
    assert f"| address space of the child | {limits.memory_bytes // 2**30} GiB |" in PAGE
    assert f"or {MAX_REQUESTS} requests" in PAGE
