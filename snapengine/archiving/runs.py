"""What MLflow's runs noted, in the archive: a copy of the table's notes, for the day the table is lost.

`<bucket>/runs.jsonl` has lines of JSON: `{"format": 1}`, then one with the fields of `RunNote` for each note,
by run, then `{"notes": …, "sha256": "…"}`, of all lines before it. A newer snapengine may add fields.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from snapengine.archive.roots import Root
from snapengine.archiving import paths
from snapengine.archiving.leasing import Renew
from snapengine.archiving.tools import ArchiveTools
from snapengine.errors import ArchiveDamaged, ArchiveFileMissing, SchemaTooNew
from snapengine.model import RunNote

TASK: Final = "runs"
FORMAT: Final = 1
_AT_ONCE: Final = 8
_BATCH: Final = 256
"""Notes."""


def archive_runs(tools: ArchiveTools, root: Root, bucket: str, renew: Renew) -> int:
    """For who has the lease: copy the bucket's notes, if they are not as they were copied last; how many.

    Nothing deletes a note. So what a table that has not archived any yet finds in the archive it takes over.
    Raises `ArchiveDamaged`, `SchemaTooNew`, and what the store and the root raise.
    """
    path = paths.runs(bucket)
    saved = tools.store.progress(bucket, TASK)
    if saved is None and root.size(path) is not None:
        restore_runs(tools, root, bucket, renew)
    with TemporaryDirectory(prefix="snapengine-") as folder:
        file = Path(folder) / "runs.jsonl"
        count, digest = _write(file, tools.store.notes(bucket), renew)
        if saved is None and not count:
            return 0
        if saved is not None and saved["sha256"] == digest and root.size(path) == file.stat().st_size:
            return 0
        root.put(path, file)
    tools.store.save_progress(bucket, TASK, {"sha256": digest})
    return count


def _write(target: Path, notes: Iterator[RunNote], renew: Renew) -> tuple[int, str]:
    count, running = 0, sha256()
    with target.open("wb") as file:

        def put(told: dict[str, Any]) -> None:
            line = json.dumps(told, ensure_ascii=False, sort_keys=True).encode("utf-8", "surrogatepass")
            running.update(line + b"\n")
            file.write(line + b"\n")

        put({"format": FORMAT})
        for note in notes:
            if count % _BATCH == 0:
                renew()
            put(asdict(note))
            count += 1
        digest = running.hexdigest()
        put({"notes": count, "sha256": digest})
    return count, digest


def read_runs(root: Root, bucket: str) -> list[RunNote]:
    """What the archive has. Raises `ArchiveFileMissing`, `ArchiveDamaged` (cut, altered), `SchemaTooNew`."""
    name = f"{root.url}/{paths.runs(bucket)}"
    data = root.read(paths.runs(bucket))
    body, _, last = data.removesuffix(b"\n").rpartition(b"\n")
    if _told_hash(last) != sha256(body + b"\n").hexdigest():
        raise ArchiveDamaged(f"{name} is not as it was written. Restore it from a copy.")
    head, *lines = [json.loads(line) for line in body.decode("utf-8", "surrogatepass").split("\n")]
    if head["format"] > FORMAT:
        raise SchemaTooNew(f"{name} has format {head['format']}; this snapengine reads {FORMAT}. Upgrade it.")
    known = {field.name for field in fields(RunNote)}
    return [RunNote(**{key: told[key] for key in told if key in known}) for told in lines]


def _told_hash(last: bytes) -> str | None:
    """By the last line; None if it is none."""
    try:
        return str(json.loads(last)["sha256"])
    except (ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True, slots=True)
class NotesRestored:
    """What came back."""

    notes: int = 0
    remarks: tuple[str, ...] = ()
    """What did not, in words."""


def restore_runs(tools: ArchiveTools, root: Root, bucket: str, renew: Renew) -> int:
    """Put into the table what the archive has; how many notes. Safe to repeat. Raises as `read_runs` does."""
    notes = iter(read_runs(root, bucket))
    count = 0
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="snapengine-runs") as pool:
        while batch := list(islice(notes, _BATCH)):
            renew()
            count += len(list(pool.map(tools.store.put_note, batch)))
    return count


def restored_runs(tools: ArchiveTools, root: Root, bucket: str, renew: Renew) -> NotesRestored:
    """The same for a rebuild, which goes on where the copy is damaged, and tells."""
    try:
        return NotesRestored(restore_runs(tools, root, bucket, renew))
    except ArchiveFileMissing:  # no run had noted anything
        return NotesRestored()
    except ArchiveDamaged as error:
        return NotesRestored(0, (f"What MLflow's runs noted is not there again: {error}",))


def check_runs(tools: ArchiveTools, root: Root, bucket: str) -> tuple[int, int, dict[str, str]]:
    """Files, bytes, and by path what is not as it was written."""
    path = paths.runs(bucket)
    if tools.store.progress(bucket, TASK) is None:
        return 0, 0, {}
    try:
        read_runs(root, bucket)
    except ArchiveDamaged as error:
        return 1, 0, {path: str(error)}
    return 1, root.size(path) or 0, {}
