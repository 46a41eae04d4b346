"""Views that were kept: opened by their references, and named as snapshots."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import pyarrow as pa

from snapengine import selections
from snapengine.errors import NoSuchSelection, Refused, UsageError
from snapengine.model import Level, Snapshot, SnapshotRef
from snapengine.narrowing import NarrowedSource
from snapengine.reference import ParsedRef, parse_reference, render_reference
from snapengine.views import View

if TYPE_CHECKING:
    from snapengine.engine import Engine

_SHOWN: Final = 3
"""Views that a message names."""


def open_ref(engine: Engine, reference: str, *, require: Level, timeout: float) -> View:
    """The view or slice that a `snap://` reference names."""
    parsed = parse_reference(reference)
    view = _whole(engine, parsed, require, timeout)
    if not parsed.selection:
        return view
    ref = replace(view.ref, selection=parsed.selection)
    only_here = engine.is_only_here(ref)
    rows = engine.selected(ref)
    if not only_here:
        _check_base(engine, ref, view, rows)
    source = NarrowedSource(engine, ref, rows, only_here=only_here)
    return View(source, ref, engine.epoch(ref.bucket, ref.epoch), rows)


def _check_base(engine: Engine, ref: SnapshotRef, whole: View, rows: pa.Table) -> None:
    """Raise `NoSuchSelection` unless the rows were chosen from this very view: their digest does not say.

    Where nothing says from which they were, it has to show them.
    """
    known: dict[str, None] = {}
    for base in selections.bases(engine.store, ref):
        if base == whole.reference:
            return
        known[base] = None
    reference = render_reference(ref)
    if known:
        others = " and ".join([*list(known)[:_SHOWN], "others"] if len(known) > _SHOWN else known)
        raise NoSuchSelection(
            f"What {reference} selects was not chosen from {whole.reference} but from {others}. Use the "
            "reference as it was given, or select from that view."
        )
    if not whole.shows(rows):
        raise NoSuchSelection(
            f"What {reference} selects is not what {whole.reference} shows, and nothing says from which view "
            "it was chosen. Use the reference as it was given, or select from that view."
        )


def _whole(engine: Engine, parsed: ParsedRef, require: Level, timeout: float) -> View:
    """What a reference names, without what it selects."""
    if parsed.start is None:
        return engine.view(
            parsed.bucket,
            parsed.at,
            prefix=parsed.prefix,
            epoch=parsed.epoch,
            require=require,
            timeout=timeout,
            as_it_is=parsed.epoch is not None,
        )
    return engine.slice(
        parsed.bucket,
        parsed.start,
        parsed.at,
        prefix=parsed.prefix,
        epoch=parsed.epoch,
        versions="all" if parsed.all_versions else "last",
        require=require,
        timeout=timeout,
        as_it_is=parsed.epoch is not None,
    )


def name_snapshot(
    engine: Engine, view: View, name: str, *, creator: str, note: str, labels: Mapping[str, str]
) -> Snapshot:
    """Keep a view's reference and digest under a name. Raises `Refused` if the name is taken."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,254}", name):
        raise UsageError(
            f"{name!r} cannot name a snapshot: letters, digits, '.', '_', '/' and '-', at most 255."
        )
    snapshot = Snapshot(
        bucket=view.bucket,
        name=name,
        reference=view.reference,
        digest=view.digest(),
        created_at=engine.clock(),
        creator=creator,
        note=note,
        labels=dict(labels),
    )
    if not engine.store.put_snapshot(snapshot):
        raise Refused(f"Bucket {view.bucket} has a snapshot {name} already. Choose another name.")
    return snapshot
