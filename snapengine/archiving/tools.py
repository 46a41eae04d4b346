"""What these tasks need of an engine besides what listings do. `snapengine.engine.Engine` has it all."""

from __future__ import annotations

from typing import Protocol

from snapengine.archive.reading import ArchiveReader
from snapengine.archive.roots import Root
from snapengine.buckets.tools import Tools


class ArchiveTools(Tools, Protocol):
    """The log, the archives' roots, and their files."""

    def root(self, url: str) -> Root:
        """Where an archive is kept."""
        ...

    def reader(self, url: str) -> ArchiveReader:
        """Reads the files below a root."""
        ...
