"""A view as files or as objects elsewhere: planned first, carried out so that a second run goes on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final, TextIO

from readers.export_copying import LARGEST_COPY, PART, Copier
from readers.export_files import Folder, folder
from readers.export_objects import SCHEME, Job, Prefix, prefix_of
from readers.export_order import done_ahead
from readers.export_outcomes import Outcome, Tally
from snapengine.digest import digest_batches
from snapengine.errors import CannotExpressKey, PermissionMissing, UsageError
from snapengine.instants import render
from snapengine.model import ObjectVersion

if TYPE_CHECKING:
    from snapengine.engine import Engine
    from snapengine.views import View

_SHOWN: Final = 5
"""Keys that a message names."""
_HOPELESS: Final = 50
"""So many denials without one success, and the rest is not tried."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a view is exported."""

    overwrite: bool = False
    """Replace what is at the destination and is another object."""
    leave_out: bool = False
    """Leave out keys that the destination cannot name exactly, instead of refusing them all."""
    workers: int | None = None
    """Objects at once; None: 8 to a folder, 24 to a bucket."""
    copy_limit: int = LARGEST_COPY
    """Bytes: a larger object is copied in parts."""
    part: int = PART
    """Bytes of a part, where an object did not come in parts."""


@dataclass(slots=True)
class Planned:
    """What an export would do."""

    reference: str
    digest: str
    destination: str
    objects: int = 0
    bytes: int = 0
    standing: Counter[str] = field(default_factory=Counter)
    """Objects: `new`, `there` (of the same size, and ETag where it has one), `other`; and `beside`: what is
    at the destination and not in the view. It stays."""
    standing_bytes: Counter[str] = field(default_factory=Counter)
    odd: dict[str, str] = field(default_factory=dict)
    """Keys that the destination cannot name exactly, with the reason."""
    warnings: list[str] = field(default_factory=list)

    def fields(self) -> dict[str, Any]:
        """As `--json` has it."""
        return {
            "reference": self.reference,
            "digest": self.digest,
            "destination": self.destination,
            "objects": self.objects,
            "bytes": self.bytes,
            **{kind: self.standing[kind] for kind in ("new", "there", "other", "beside")},
            **{f"{kind}_bytes": self.standing_bytes[kind] for kind in ("new", "there", "other")},
            "odd": self.odd,
            "warnings": self.warnings,
        }


@dataclass(frozen=True, slots=True)
class Exported:
    """What came of an export."""

    planned: Planned
    tally: Tally
    manifest: str
    """Where the manifest is: JSON lines, see docs/reading.md."""


class Export:
    """One export of one view; inside a `with`, as it has threads."""

    def __init__(self, engine: Engine, view: View, destination: str, options: Options | None = None) -> None:
        """Raises `UsageError` for a destination that cannot be one, and for a slice of all versions."""
        self.options = options or Options()
        self._engine = engine
        self.view = view
        if view.ref.versions == "all":
            raise UsageError("A slice of all versions may hold several objects of one key: export a view.")
        self._copier = Copier(engine.client("s3"), self.options.copy_limit, self.options.part)
        make = prefix_of if destination.startswith(SCHEME) else folder
        self.to: Folder | Prefix = make(destination, view, self._copier, overwrite=self.options.overwrite)

    def __enter__(self) -> Export:
        return self

    def __exit__(self, *_: object) -> None:
        self._copier.close()

    def plan(self) -> Planned:
        """Look at all keys and at the destination; writes nothing.

        Raises `CannotExpressKey` for keys that the destination cannot name exactly, unless they are left out.
        """
        counted = Counter[str]()
        digest = digest_batches(self._counted(counted))
        planned = Planned(self.view.reference, digest, str(self.to), counted["objects"], counted["bytes"])
        planned.odd = dict(self.to.odd(iter(self.view)))
        if planned.odd and not self.options.leave_out:
            raise CannotExpressKey(_about_odd(planned))
        for version, state in self.to.standing(self._versions(planned)):
            planned.standing[state] += 1
            planned.standing_bytes[state] += (version.size or 0) if version is not None else 0
        planned.warnings = self._warnings()
        return planned

    def carry_out(self, planned: Planned, tell: Callable[[Outcome], None] = lambda _: None) -> Exported:
        """Do what was planned, telling each outcome in key order, and write the manifest.

        Raises `Unreachable` and its kin, and the first of many denials where nothing succeeds; run it again.
        """
        tally = Tally()
        name = f"{sha256(planned.reference.encode()).hexdigest()[:16]}.jsonl"
        with self.to.held(), TemporaryDirectory(prefix="snapengine-export-") as here:
            spooled = Path(here) / name
            with spooled.open("w", encoding="ascii") as lines:
                _write(lines, self._head(planned))
                for outcome in self._outcomes(planned):
                    tally.add(outcome)
                    _check_hope(tally, outcome)
                    _write(lines, outcome.fields())
                    tell(outcome)
                _write(lines, {"event": "end", "ended": render(self._engine.clock()), **tally.fields()})
            return Exported(planned, tally, self.to.keep_manifest(spooled, name))

    def _counted(self, counted: Counter[str]) -> Iterator[Any]:
        import pyarrow.compute as pc

        for batch in self.view.to_batches():
            counted["objects"] += batch.num_rows
            counted["bytes"] += pc.sum(batch["size"]).as_py() or 0
            yield batch

    def _versions(self, planned: Planned) -> Iterator[ObjectVersion]:
        return (version for version in self.view.versions() if version.key not in planned.odd)

    def _outcomes(self, planned: Planned) -> Iterator[Outcome]:
        for version in self._left_out(planned):
            yield Outcome("left-out", version, self.to.name(version.key), detail=planned.odd[version.key])
        jobs: Iterator[ObjectVersion | Job] = iter(self.to.jobs(self._versions(planned)))
        put: Callable[[Any], Outcome] = self.to.put
        with closing(done_ahead(put, jobs, self.options.workers or self.to.workers)) as done:
            for _, outcome in done:
                yield outcome

    def _left_out(self, planned: Planned) -> Iterator[ObjectVersion]:
        return (self.view[key] for key in planned.odd)

    def _head(self, planned: Planned) -> dict[str, Any]:
        return {
            "event": "export",
            "format": 1,
            "reference": planned.reference,
            "digest": planned.digest,
            "objects": planned.objects,
            "bytes": planned.bytes,
            "destination": planned.destination,
            "begun": render(self._engine.clock()),
        }

    def _warnings(self) -> list[str]:
        if not isinstance(self.to, Prefix):
            return []
        config = self._engine.store.config(self.to.bucket)
        watched = config is not None and config.enabled
        if not watched or config is None or not _overlap(config.prefix, self.to.prefix):
            return []
        warning = (
            f"Bucket {self.to.bucket} is watched itself: what is exported to {self.to} becomes part of its "
            "history, and costs what other events cost."
        )
        return [warning]


def export(engine: Engine, view: View, destination: str, options: Options | None = None) -> Exported:
    """Export a view to a folder, or to `s3://BUCKET/PREFIX/`. Its `tally` has the problems; see `Export`."""
    with Export(engine, view, destination, options) as work:
        return work.carry_out(work.plan())


def _overlap(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)


def _about_odd(planned: Planned) -> str:
    told = "; ".join(f"{key!r} {reason}" for key, reason in islice(planned.odd.items(), _SHOWN))
    more = f"; and {len(planned.odd) - _SHOWN:,} more" if len(planned.odd) > _SHOWN else ""
    return (
        f"{planned.destination} cannot name every key exactly: {told}{more}. Nothing was written. "
        "Leave them out with --leave-out, which reports each; a bucket takes nearly every key."
    )


def _check_hope(tally: Tally, outcome: Outcome) -> None:
    done = tally.counts.total() - tally.counts["left-out"]
    if outcome.kind == "denied" and tally.counts["denied"] == done == _HOPELESS:
        raise PermissionMissing(f"The first {done} objects were all denied. {outcome.detail}")


def _write(lines: TextIO, fields: dict[str, Any]) -> None:
    lines.write(json.dumps(fields) + "\n")
