"""`get`: the bytes of exact versions, to a file, to stdout, or a whole view into a folder."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from snapengine.cli import options
from snapengine.cli.output import Output, printable, version_fields
from snapengine.cli.views import open_view
from snapengine.errors import CannotExpressKey, UsageError

if TYPE_CHECKING:
    from snapengine.engine import Engine
    from snapengine.model import ObjectVersion
    from snapengine.views import View

EXAMPLES = """\
snapengine get scans ct/0001.dcm --at 2026-11-20T09:00:00Z
snapengine get scans ct/0001.dcm --at -7d -o before.dcm
snapengine get scans labels.csv -o - | head
snapengine get scans --at 2026-11-20 --prefix ct/ --to data/
snapengine get snap://scans@2026-11-20T09:00:00.000Z~1234/ct/ --to data/"""

STDOUT = "-"


def get(
    bucket: options.BucketOrReference,
    key: Annotated[
        str | None, typer.Argument(metavar="KEY", help="The object, to the letter.", show_default=False)
    ] = None,
    at: options.At = None,
    epoch: options.AsKnownAt = None,
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="The file to write, - for stdout; if not given, the key's last part, unless that exists.",
            show_default=False,
        ),
    ] = None,
    prefix: options.Prefix = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="DIR", help="Write every object of the view to DIR/KEY.", show_default=False
        ),
    ] = None,
    require: options.Require = None,
    timeout: options.Timeout = 300,
    as_json: options.Json = False,
) -> None:
    """Read one object or all of them, as of an instant."""
    if (key is None) == (to is None) or (key is not None and prefix) or (to is not None and output):
        raise UsageError(
            "Write `snapengine get BUCKET KEY [-o FILE]` for one object, or `snapengine get BUCKET --to DIR` "
            "for all that the view holds."
        )
    wanted = options.wanted(require, timeout)
    out = Output(as_json=as_json)
    counter = _Counter()
    view = open_view(_counting_engine(counter), out, bucket, at, prefix, epoch, wanted)
    if to is not None:
        _get_all(out, view, Path(to), counter)
    elif key is not None:
        _get_one(out, view, key, output, counter)


def _get_one(out: Output, view: View, key: str, output: str | None, counter: _Counter) -> None:
    from snapengine.download import write_file

    path = None if output == STDOUT else Path(output) if output is not None else _named_after(key)
    target = None if path is None else _behind(path)
    version = view[key]
    with view.open(key) as file, counter.shown(out, key, version.size):
        if target is None:
            _copy(file, sys.stdout.buffer)
        elif target.exists() and not target.is_file():
            with target.open("wb") as special:
                _copy(file, special)
        else:
            write_file(version, target, lambda _, start, end: _read(file, start, end))
    if path is None:
        return
    if out.as_json:
        out.json(version_fields(version) | {"path": str(path)})
    out.note(f"{printable(key)} (version {printable(version.version_id)}) is in {printable(str(path))}")


def _get_all(out: Output, view: View, folder: Path, counter: _Counter) -> None:
    from snapengine.notebook import human_bytes

    versions = list(view.versions())
    total = sum(version.size or 0 for version in versions)
    with counter.shown(out, f"{len(versions):,} objects", total):
        paths = view.download(folder)
    if out.as_json:
        for version, path in zip(versions, paths, strict=True):
            out.json(version_fields(version) | {"path": str(path)})
    objects = "1 object" if len(paths) == 1 else f"{len(paths):,} objects"
    out.note(f"{objects}, {human_bytes(total)}, from {printable(view.reference)} in {printable(str(folder))}")


def _behind(path: Path) -> Path:
    """The file that a path leads to, so that a link stays one when its file is replaced.

    A device or a FIFO cannot be replaced: it is written into, by the path as it was given, since what is
    behind `/dev/stdout` may have no name. Raises `OSError` for a folder, and for a file in no folder.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "This is a folder, and no file", str(path))
    if path.exists() and not path.is_file():
        return path
    real = Path(os.path.realpath(path)) if path.is_symlink() else path
    if not real.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "There is no such folder", str(real.parent))
    return real


def _named_after(key: str) -> Path:
    """A file in the working directory; never over one that is there."""
    name = key.rpartition("/")[2]
    if _dubious(name):
        raise CannotExpressKey(f"The key {key!r} gives no good file name. Choose one with `-o FILE`.")
    if Path(name).exists():
        raise UsageError(f"The file {name} exists. Replace it with `-o {name}`, or write `-o OTHER`.")
    return Path(name)


def _dubious(name: str) -> bool:
    return (
        name in {"", ".", ".."}
        or not name.isprintable()
        or Path(name).name != name
        or len(name.encode()) > 255
    )


def _copy(file: io.BufferedReader, target: BinaryIO) -> None:
    from snapengine.download import CHUNK

    while data := file.read(CHUNK):
        target.write(data)
    target.flush()


def _read(file: io.BufferedReader, start: int, end: int | None) -> bytes:
    file.seek(start)
    return file.read() if end is None else file.read(end - start)


class _Counter:
    """Counts the bytes as they arrive, from whatever thread."""

    def __init__(self) -> None:
        self.arrived: Callable[[int], None] = lambda _: None

    @contextmanager
    def shown(self, out: Output, what: str, total: int | None) -> Iterator[None]:
        """While inside, what is counted moves a progress bar."""
        with out.progress() as progress:
            if progress is not None:
                from rich.markup import escape

                task = progress.add_task(escape(printable(what)), total=total)
                self.arrived = lambda count: progress.advance(task, count)
            yield


def _counting_engine(counter: _Counter) -> Engine:
    from snapengine.engine import Engine

    class CountingEngine(Engine):
        def read(self, bucket: str, version: ObjectVersion, start: int, end: int | None) -> bytes:
            data = super().read(bucket, version, start, end)
            counter.arrived(len(data))
            return data

    return CountingEngine()
