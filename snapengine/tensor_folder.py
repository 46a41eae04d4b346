"""The folder with a machine's tensor snapshots: whose samples are in it, and which of them are forgotten.

Readers keep decoded samples there (`readers.tensor_cache`), and `snapengine forget` takes them out. It first
tells the folder what is forgotten, in a file of its own, and then deletes; who keeps a sample looks at that
file again when the sample is there. So of a sample and a forgetting that meet, one finds the other.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from typing import Final, NamedTuple

from snapengine.archive.cache import HEAD_BYTES
from snapengine.forgotten import Forgotten
from snapengine.model import ObjectVersion

_logger = logging.getLogger(__name__)

_FORMAT: Final = 1
_LENGTH: Final = 2
_MOST: Final = 16_384
"""More than any label has: a key has at most 1,024 bytes."""


class Label(NamedTuple):
    """Of which object a sample was made. Kept in clear: a forgotten prefix can be told by nothing less."""

    bucket: str
    key: str
    version_id: str
    etag: str | None


def labelled(bucket: str, version: ObjectVersion, data: bytes) -> bytes:
    """A sample's data with its label before it, as it is kept."""
    label = json.dumps([bucket, version.key, version.version_id, version.etag]).encode()
    return len(label).to_bytes(_LENGTH, "big") + label + data


def unlabelled(kept: bytes) -> tuple[Label, memoryview]:
    """The label, and the data or as much of it as there is. Raises `ValueError` if the label is not whole."""
    end = _LENGTH + int.from_bytes(kept[:_LENGTH], "big")
    label = json.loads(kept[_LENGTH:end])
    if not isinstance(label, list) or len(label) != len(Label._fields):
        raise ValueError("not a label")
    return Label(*label), memoryview(kept)[end:]


# What is forgotten, as the folder was told


class ForgottenHere:
    """What a folder was told is forgotten of a bucket; looked at anew whenever that has changed."""

    def __init__(self, folder: Path, bucket: str, store: str) -> None:
        """`store`: the table that told it, as the setting names it."""
        self._path = _told_in(folder, bucket, store)
        self._bucket = bucket
        self._warned = False
        self._seen: tuple[int, int] | None = None
        self._forgotten = Forgotten()

    def now(self) -> Forgotten | None:
        """None if it cannot be read: then anything may be forgotten."""
        try:
            status = self._path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return Forgotten()
        except OSError as error:
            self._warn(error)
            return None
        if (seen := (status.st_ino, status.st_mtime_ns)) != self._seen:
            found = _read(self._path)
            if found is None:
                self._warn("it is damaged, or of a newer snapengine")
                return None
            self._forgotten, self._seen = found, seen
        return self._forgotten

    def _warn(self, why: object) -> None:
        if not self._warned:
            text = (
                "%s says what is forgotten and cannot be read (%s): no sample of bucket %s is kept or given."
            )
            _logger.warning(text, self._path, why, self._bucket)
        self._warned = True

    def covers(self, version: ObjectVersion) -> bool:
        """Whether nothing of a version may be kept or given."""
        now = self.now()
        return now is None or now.covers(version.key, version.version_id, version.etag)


def forget_here(folder: Path, bucket: str, store: str, forgotten: Forgotten, *, once: bool = False) -> int:
    """Tell the folder what is forgotten and delete it there; how many samples went. `once`: not if that was
    done for as much before. Raises `OSError`."""
    if not forgotten.number:
        return 0
    path = _told_in(folder, bucket, store)
    if once and _cleared(path) >= forgotten.number:
        return 0
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _tell(path, forgotten)
    gone = count_samples(folder, bucket, forgotten, delete=True)
    partial = _cleared_in(path).with_suffix(f".{token_hex(8)}")
    partial.write_text(str(forgotten.number), encoding="ascii")
    partial.replace(_cleared_in(path))
    return gone


def _tell(path: Path, forgotten: Forgotten) -> None:
    with _locked(path.with_name(".telling")):
        before = _read(path) if path.exists() else Forgotten()
        if before is not None and before.number >= forgotten.number:
            return
        body = {"format": _FORMAT, "number": forgotten.number, "units": sorted(forgotten.units)}
        partial = path.with_suffix(f".{token_hex(8)}")
        partial.write_text(json.dumps(body), encoding="ascii")
        partial.replace(path)


def _cleared_in(path: Path) -> Path:
    return path.with_suffix(".cleared")


def _cleared(path: Path) -> int:
    try:
        return int(_cleared_in(path).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0


def _told_in(folder: Path, bucket: str, store: str) -> Path:
    return folder / f".forgotten-{sha256(f'{store}#{bucket}'.encode()).hexdigest()[:32]}.json"


def _read(path: Path) -> Forgotten | None:
    try:
        body = json.loads(path.read_bytes())
        if body["format"] != _FORMAT:
            return None
        return Forgotten(int(body["number"]), frozenset(map(str, body["units"])))
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


# Forgetting


def count_samples(folder: Path, bucket: str, forgotten: Forgotten, *, delete: bool = False) -> int:
    """How many samples of forgotten objects of a bucket there are. Raises `OSError`.

    With `delete` they go, and what has no whole label as well: a sample that is just being put, or was when
    its process was killed.
    """
    found = 0
    with suppress(FileNotFoundError):
        for path in [path for sub in folder.iterdir() if sub.is_dir() for path in sub.iterdir()]:
            label = _label_in(path)
            mine = label is not None and label.bucket == bucket
            if mine and label is not None and forgotten.covers(label.key, label.version_id, label.etag):
                found += 1
            elif label is not None:
                continue
            if delete:
                path.unlink(missing_ok=True)
    return found


def _label_in(path: Path) -> Label | None:
    try:
        with path.open("rb") as file:
            return unlabelled(file.read(_MOST)[HEAD_BYTES:])[0]
    except (ValueError, FileNotFoundError):
        return None
