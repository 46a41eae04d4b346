"""fsspec's own tests of what reads, on a view of objects that a plain S3 client wrote to a real server."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.tests.abstract import AbstractFixtures, AbstractGetTests, AbstractOpenTests

from tests.fsspec_house import House
from tests.servers import Endpoint

pytestmark = pytest.mark.services


class Seeding:
    """What fsspec's fixtures write to: puts by the plain client, and to read a view of them."""

    def __init__(self, house: House) -> None:
        self.house = house

    def touch(self, path: str) -> None:
        self.house.put(path, b"")

    def pipe(self, path: str, value: bytes) -> None:
        self.house.put(path, value)

    def makedirs(self, path: str) -> None:
        """S3 has no folders; and a marker would be one more object."""

    mkdir = makedirs

    def rm(self, path: str, recursive: bool = False) -> None:
        """The bucket is the test's own."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.house.view().fs, name)


class OfView(AbstractFixtures):  # type: ignore[misc]  # fsspec tells no types
    """What fsspec asks of a filesystem that wants to be tested."""

    @pytest.fixture
    def fs(self, seaweedfs_server: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Seeding:
        return Seeding(House(seaweedfs_server.environment(), tmp_path / "log.db", monkeypatch))

    @pytest.fixture
    def fs_path(self) -> str:
        return "root"

    @pytest.fixture
    def supports_empty_directories(self) -> bool:
        return False

    @pytest.fixture
    def local_fs(self) -> LocalFileSystem:
        return LocalFileSystem(auto_mkdir=True)


class TestGettingFiles(OfView, AbstractGetTests):  # type: ignore[misc]  # fsspec tells no types
    pass


class TestOpeningFiles(OfView, AbstractOpenTests):  # type: ignore[misc]  # fsspec tells no types
    def test_open_exclusive(self, fs: Any, fs_target: str) -> None:
        """As fsspec has it, but that the plain client wrote, and every kind of writing is refused."""
        fs.pipe(fs_target, b"data")
        with fs.open(fs_target, "rb") as file:
            assert file.read() == b"data"
        for mode in ("wb", "xb", "ab"):
            with pytest.raises(OSError, match="read-only") as refused:
                fs.open(fs_target, mode)
            assert refused.value.errno == errno.EROFS
