"""The README's Python runs as it stands, and its commands are ones that there are."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pydicom.data
import pytest

import snapengine
from snapengine.devcloud import DevCloud
from snapengine.instants import to_millis
from tests.seed import enable, engine_at, event, record

README = (Path(__file__).parents[2] / "README.md").read_text()


@pytest.fixture
def scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A bucket `scans` that has held a CT image and a table for a while."""
    at = to_millis("2026-11-19T00:00:00Z", now=1 << 60)
    body = (Path(pydicom.data.__file__).parent / "test_files" / "CT_small.dcm").read_bytes()
    with DevCloud() as cloud:
        for name, value in cloud.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("SNAPENGINE_STORE", f"sqlite:///{tmp_path}/log.db")
        s3: Any = boto3.client("s3", **cloud.client_arguments())
        s3.create_bucket(Bucket="scans")
        s3.put_bucket_versioning(Bucket="scans", VersioningConfiguration={"Status": "Enabled"})
        engine = engine_at(tmp_path / "log.db", now=at)
        enable(engine)
        for key, data in (("ct/0001.dcm", body), ("ct/index.csv", b"key,slices\nct/0001.dcm,1\n")):
            reply = s3.put_object(Bucket="scans", Key=key, Body=data)
            put = event(key, reply["VersionId"], 0, size=len(data), etag=reply["ETag"].strip('"'))
            record(engine, [put._replace(event_time=at)])
        yield


def test_the_python_in_the_readme_runs_as_it_stands(scans: None) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)  # noqa: S102  # our own README
    assert isinstance(names["view"], snapengine.View)
    assert list(names["view"]) == ["ct/0001.dcm", "ct/index.csv"]


def test_every_page_that_the_readme_links_to_is_there() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) > 10
    assert [link for link in links if not (Path(__file__).parents[2] / link).exists()] == []


def test_what_the_pages_install_is_a_checkout_with_extras_that_there_are() -> None:
    root = Path(__file__).parents[2]
    known = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    pages = [root / "README.md", *root.glob("docs/**/*.md")]
    told = [name for page in pages for name in re.findall(r"pip install '(.*?)'", page.read_text())]
    assert ".[all]" in told
    for name in told:  # no package index has it
        assert (found := re.fullmatch(r"\.\[([a-z,-]+)\]", name)), name
        assert set(found[1].split(",")) <= known.keys(), name


def test_every_make_target_that_the_readme_names_is_there() -> None:
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    named = set(re.findall(r"^make (\w+)", README, re.MULTILINE))
    assert {"demo", "test"} <= named
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in named)
