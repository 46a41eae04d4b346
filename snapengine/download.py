"""Writing a view's objects as files: each whole or not at all, and only under a name that is its key."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from secrets import token_hex

from snapengine.errors import CannotExpressKey
from snapengine.model import ObjectVersion

CHUNK = 16 << 20
"""Bytes a request, so that memory stays bounded whatever the objects' sizes."""

Read = Callable[[ObjectVersion, int, int | None], bytes]


def download(objects: Sequence[ObjectVersion], folder: Path, read: Read, *, workers: int) -> list[Path]:
    """Write each object to `folder/KEY`, and return the paths in the same order.

    Raises `CannotExpressKey` before anything is written. After another error files that were finished stay.
    """
    paths = plan_paths([version.key for version in objects], folder)

    def fetch(job: tuple[ObjectVersion, Path]) -> Path:
        return write_file(*job, read)

    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="snapengine-get") as pool:
        return list(pool.map(fetch, zip(objects, paths, strict=True)))


def plan_paths(keys: Sequence[str], folder: Path) -> list[Path]:
    """PURE. A path for each key that names it exactly, or `CannotExpressKey`."""
    seen: dict[str, str] = {}
    for key in keys:
        parts = key.split("/")
        if (
            any(part in {"", ".", ".."} or len(part.encode()) > 255 for part in parts)
            or "\0" in key
            or (os.sep != "/" and os.sep in key)
        ):
            raise CannotExpressKey(
                f"The key {key!r} cannot be written as a file path without changing it. "
                "Read it with `view.open(key)`, or download a prefix that leaves it out."
            )
        twin = seen.setdefault(key.casefold(), key)
        if twin != key:
            raise CannotExpressKey(
                f"The keys {twin!r} and {key!r} differ only in case and may be one file on this disk."
            )
    files = {key.casefold() for key in keys}
    for key in keys:
        for cut in (i for i, letter in enumerate(key) if letter == "/"):
            if key[:cut].casefold() in files:
                raise CannotExpressKey(
                    f"The key {key[:cut]!r} is an object and the folder of {key!r} as well."
                )
    return [folder.joinpath(*key.split("/")) for key in keys]


def write_file(version: ObjectVersion, path: Path, read: Read) -> Path:
    """Write one object to `path`, through a temporary file beside it that is renamed when whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".snapengine-{token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            if version.size is None or version.size <= CHUNK:
                file.write(read(version, 0, None))
            else:
                for start in range(0, version.size, CHUNK):
                    file.write(read(version, start, min(start + CHUNK, version.size)))
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path
