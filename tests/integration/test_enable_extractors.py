"""Extractors that `enable-bucket --extract` names are tried before anything else: they must be usable."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pyarrow as pa
import pytest

from snapengine.devcloud import DevCloud
from snapengine.errors import UsageError
from tests.integration.bucket_site import Site, open_site

TOLD = {"identifying": "false", "source": "header"}


@pytest.fixture(scope="module")
def cloud() -> Iterator[DevCloud]:
    with DevCloud() as running:
        yield running


@pytest.fixture
def site(cloud: DevCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return open_site(cloud, tmp_path, monkeypatch)


@pytest.mark.parametrize("extractors", [("dicon",), ("dicom", "dicon")])
def test_an_extractor_that_is_not_installed_is_refused_before_anything_is_looked_at(
    site: Site, extractors: tuple[str, ...]
) -> None:
    calls: list[str] = []
    for client in site.clients():
        client.meta.events.register("before-call", lambda model, **_: calls.append(model.name))
    with pytest.raises(UsageError, match=r"no extractor 'dicon'.*dicom, images"):
        site.plan(extract=extractors)
    assert calls == []


class Tensors:
    """An extractor of another package, as `enable-bucket` sees it."""

    name = "safetensors"
    version = "1"
    schema = pa.schema(
        [pa.field("Dtype", pa.string(), metadata={"identifying": "false", "source": "header"})]
    )

    def __init__(self, columns: object = None) -> None:
        pass


class Silent(Tensors):
    """One that does not say of its column whether it identifies."""

    schema = pa.schema([pa.field("Dtype", pa.string())])


class Refusing(Tensors):
    def __init__(self, columns: object = None) -> None:
        raise OSError("no licence")


def offer(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    theirs = EntryPoint("safetensors", value, "snapengine.extractors")
    monkeypatch.setattr("snapengine.plugins.entry_points", lambda **_: EntryPoints([theirs]))


async def test_an_extractor_of_another_package_is_taken_by_its_name(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, f"{__name__}:Tensors")
    await site.enable(extract=("safetensors",))
    assert site.config().extractors == ("safetensors",)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("a_package_that_is_not_there:Extractor", "a_package_that_is_not_there"),
        (f"{__name__}:NoSuchExtractor", "'safetensors' cannot be used: AttributeError"),
        (f"{__name__}:Refusing", "'safetensors' cannot be used: OSError: no licence"),
        (f"{__name__}:Silent", "'safetensors' does not say whether its column 'Dtype' is identifying"),
    ],
)
def test_an_extractor_that_could_not_be_used_is_refused_before_anything_is_looked_at(
    site: Site, monkeypatch: pytest.MonkeyPatch, value: str, says: str
) -> None:
    offer(monkeypatch, value)
    calls: list[str] = []
    for client in site.clients():
        client.meta.events.register("before-call", lambda model, **_: calls.append(model.name))
    with pytest.raises(UsageError, match=says):
        site.plan(extract=("safetensors",))
    assert calls == []
