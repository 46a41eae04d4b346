"""Where the archive's files are: a prefix in S3, or a folder. Both behave alike, errors included."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol
from urllib.parse import quote, unquote

from botocore.exceptions import BotoCoreError, ClientError

from snapengine.aws_errors import code_of, translate, translated
from snapengine.errors import (
    ArchiveDamaged,
    ArchiveFileMissing,
    BadData,
    PermissionMissing,
    SnapEngineError,
    UsageError,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_MULTIPART: Final = 64 * 1024 * 1024
"""From how many bytes on a file goes up in parts."""
_ATTEMPTS: Final = 3
"""How often a reply that breaks off is asked for; botocore repeats only what fails before the first byte."""
_MISSING: Final = {"NoSuchKey", "404", "NotFound"}
_SHORTER: Final = {"InvalidRange", "416"}


class Stored(NamedTuple):
    """A file as the root lists it."""

    path: str
    size: int
    """Bytes."""
    modified: int
    """UTC milliseconds, by the root's clock."""


class Root(Protocol):
    """A place for files. A path is relative, its parts separated by `/`; `BadData` for any other."""

    @property
    def url(self) -> str:
        """Without a slash at its end. `<url>/<path>` names a file in messages."""
        ...

    def put(self, path: str, source: Path) -> None:
        """Upload a local file; it is there whole or not at all. After a lost reply the same call again gives
        the same end."""
        ...

    def put_bytes(self, path: str, data: bytes) -> None:
        """As `put`."""
        ...

    def read(self, path: str, start: int = 0, end: int | None = None) -> bytes:
        """Bytes `[start, end)`, all of them (`end=None`: to the file's end).

        Raises `ArchiveFileMissing`, or `ArchiveDamaged` if the file is shorter.
        """
        ...

    def size(self, path: str) -> int | None:
        """Bytes; None if there is no such file."""
        ...

    def paths(self, prefix: str = "") -> Iterator[Stored]:
        """All files whose paths start with `prefix`, in order. A folder also shows the hidden `.partial`
        files that a killed process leaves."""
        ...

    def delete(self, path: str) -> None:
        """Safe to repeat."""
        ...

    def local(self, path: str) -> Path | None:
        """The file's own place on this machine's disk, whether it is there or not; None where it has none."""
        ...


def open_root(url: str, s3: Callable[[], S3Client]) -> Root:
    """The root at `s3://bucket/prefix` or `file:///folder`. `s3` makes a client; called for the former only.

    Raises `UsageError` for what is neither.
    """
    scheme, separator, rest = url.partition("://")
    if separator and scheme == "s3":
        bucket, _, prefix = rest.partition("/")
        parts = [part for part in prefix.split("/") if part]
        if bucket and not {".", ".."} & set(parts):
            return S3Root(s3(), bucket, "/".join(parts))
    if separator and scheme == "file" and rest.startswith("/") and rest.strip("/"):
        return FileRoot(Path(os.path.normpath(unquote(rest))))
    raise UsageError(
        f"{url!r} is no root for an archive. Give s3://BUCKET/PREFIX or file:///FOLDER (an absolute path)."
    )


def checked_path(path: str) -> str:
    """The path itself. Raises `BadData` for one that could name something outside the root."""
    if not path or "\0" in path or any(part in {"", ".", ".."} for part in path.split("/")):
        raise BadData(f"{path!r} is no path of a file in an archive.")
    return path


def _checked_prefix(prefix: str) -> str:
    if prefix:
        checked_path(prefix.removesuffix("/"))
    return prefix


def _missing(name: str) -> ArchiveFileMissing:
    return ArchiveFileMissing(f"{name}, a file of the archive, is missing. Restore it from a copy.")


def _short(name: str, start: int, end: int | None, got: int) -> ArchiveDamaged:
    wanted = f"bytes {start} to {end}" if end is not None else f"all bytes from {start} on"
    return ArchiveDamaged(
        f"{name}, a file of the archive, gave {got} bytes when asked for {wanted}: it was cut short. "
        "Restore it from a copy."
    )


class FileRoot:
    """A `Root` in a folder, which is made when the first file is put."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.url: Final = "file://" + quote(str(folder))

    def put(self, path: str, source: Path) -> None:
        with source.open("rb") as file:
            self._put(path, iter(lambda: file.read(1 << 20), b""))

    def put_bytes(self, path: str, data: bytes) -> None:
        self._put(path, iter((data,)))

    def _put(self, path: str, chunks: Iterator[bytes]) -> None:
        target = self._folder / checked_path(path)
        partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
        try:
            with _opened(partial) as file:
                for chunk in chunks:
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
            for folder in (target.parent, *target.parent.parents):
                _sync(folder)
                if folder == self._folder.parent:
                    break
        except OSError as error:
            raise _failed("written", f"{self.url}/{path}", error) from error
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)

    def read(self, path: str, start: int = 0, end: int | None = None) -> bytes:
        name = f"{self.url}/{path}"
        if end is not None and end <= start:
            return b""
        try:
            with (self._folder / checked_path(path)).open("rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                stop = size if end is None else end
                if stop > size or start > size:
                    raise _short(name, start, end, max(size - start, 0))
                data = _pread(file.fileno(), start, stop)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise _missing(name) from error
        except OSError as error:
            raise _failed("read", name, error) from error
        if len(data) != stop - start:
            raise _short(name, start, end, len(data))
        return data

    def size(self, path: str) -> int | None:
        try:
            return (self._folder / checked_path(path)).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _failed("read", f"{self.url}/{path}", error) from error

    def paths(self, prefix: str = "") -> Iterator[Stored]:
        parent, _, _ = _checked_prefix(prefix).rpartition("/")
        try:
            yield from self._below(f"{parent}/" if parent else "", prefix)
        except OSError as error:
            raise _failed("listed", f"{self.url}/{prefix}", error) from error

    def _below(self, parent: str, prefix: str) -> Iterator[Stored]:
        try:
            with os.scandir(self._folder / parent) as entries:
                found = [(f"{parent}{e.name}/" if e.is_dir() else f"{parent}{e.name}", e) for e in entries]
        except (FileNotFoundError, NotADirectoryError):  # there never was one, or it is gone meanwhile
            return
        for path, entry in sorted(found, key=lambda item: os.fsencode(item[0])):
            if path.endswith("/"):
                if path.startswith(prefix) or prefix.startswith(path):
                    yield from self._below(path, prefix)
            elif path.startswith(prefix):
                with suppress(FileNotFoundError):
                    status = entry.stat()
                    yield Stored(path, status.st_size, status.st_mtime_ns // 1_000_000)

    def local(self, path: str) -> Path | None:
        return self._folder / checked_path(path)

    def delete(self, path: str) -> None:
        target = self._folder / checked_path(path)
        try:
            with suppress(FileNotFoundError, NotADirectoryError):
                target.unlink()
        except OSError as error:
            raise _failed("deleted", f"{self.url}/{path}", error) from error
        with suppress(OSError):  # until one that is not empty
            for folder in target.parents:
                if folder == self._folder:
                    break
                folder.rmdir()


def _opened(partial: Path) -> Any:
    for _ in range(_ATTEMPTS):  # another process may remove the folder, empty as it still is
        partial.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            return partial.open("xb")
    return partial.open("xb")


def _pread(file: int, start: int, stop: int) -> bytes:
    """Fewer bytes if the file was cut meanwhile. One system call gives 2 GiB at most."""
    first = os.pread(file, stop - start, start)
    if len(first) == stop - start:
        return first
    pieces = [first]
    at = start + len(first)
    while at < stop and pieces[-1]:
        pieces.append(os.pread(file, stop - at, at))
        at += len(pieces[-1])
    return b"".join(pieces)


def _sync(folder: Path) -> None:
    """Make renames in the folder last, as far as it can be opened and its file system knows how."""
    with suppress(PermissionError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
                raise
        finally:
            os.close(descriptor)


def _failed(what: str, name: str, error: OSError) -> SnapEngineError:
    kind = PermissionMissing if isinstance(error, PermissionError) else SnapEngineError
    return kind(f"{name} could not be {what}: {error.strerror or error}.")


class S3Root:
    """A `Root` under a prefix of an S3 bucket. `client` is a boto3 S3 client."""

    def __init__(self, client: S3Client, bucket: str, prefix: str) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self.url: Final = f"s3://{bucket}/{prefix}".rstrip("/")

    def put(self, path: str, source: Path) -> None:
        name, key = self._named(path)
        size = source.stat().st_size
        with translated(name), source.open("rb") as file:
            if size < _MULTIPART:
                self._client.put_object(Bucket=self._bucket, Key=key, Body=file, ContentLength=size)
                return
            self._client.upload_fileobj(file, self._bucket, key)
            head = self._client.head_object(Bucket=self._bucket, Key=key)
        if head["ContentLength"] != size:
            raise _short(name, 0, size, head["ContentLength"])

    def put_bytes(self, path: str, data: bytes) -> None:
        name, key = self._named(path)
        with translated(name):
            self._client.put_object(Bucket=self._bucket, Key=key, Body=data)

    def read(self, path: str, start: int = 0, end: int | None = None) -> bytes:
        name, key = self._named(path)
        if end is not None and end <= start:
            return b""
        options: dict[str, Any] = {}
        if start or end is not None:
            options["Range"] = f"bytes={start}-" + ("" if end is None else str(end - 1))
        try:
            data = self._get(key, options)
        except (ClientError, BotoCoreError) as error:
            raise _unread(error, name, start, end) from error
        if end is not None and len(data) != end - start:
            raise _short(name, start, end, len(data))
        return data

    def _get(self, key: str, options: dict[str, Any]) -> bytes:
        for attempt in range(1, _ATTEMPTS + 1):
            reply = self._client.get_object(Bucket=self._bucket, Key=key, **options)
            try:
                return reply["Body"].read()
            except BotoCoreError:
                if attempt == _ATTEMPTS:
                    raise
        raise AssertionError("the last attempt returns or raises")

    def size(self, path: str) -> int | None:
        name, key = self._named(path)
        with translated(name):
            try:
                return self._client.head_object(Bucket=self._bucket, Key=key)["ContentLength"]
            except ClientError as error:
                if code_of(error) not in _MISSING:
                    raise
                return None

    def paths(self, prefix: str = "") -> Iterator[Stored]:
        whole = self._prefix + _checked_prefix(prefix)
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=whole)
        with translated(f"s3://{self._bucket}/{whole}"):
            for page in pages:
                for item in page.get("Contents", ()):
                    modified = int(item["LastModified"].timestamp() * 1000)
                    yield Stored(item["Key"].removeprefix(self._prefix), item["Size"], modified)

    def local(self, path: str) -> Path | None:
        checked_path(path)
        return None

    def delete(self, path: str) -> None:
        name, key = self._named(path)
        with translated(name):
            self._client.delete_object(Bucket=self._bucket, Key=key)

    def _named(self, path: str) -> tuple[str, str]:
        return f"{self.url}/{path}", self._prefix + checked_path(path)


def _unread(error: ClientError | BotoCoreError, name: str, start: int, end: int | None) -> SnapEngineError:
    code = code_of(error) if isinstance(error, ClientError) else ""
    if code in _MISSING:
        return _missing(name)
    if code in _SHORTER:
        return _short(name, start, end, 0)
    return translate(error, name)
