"""PURE: how views and diffs look in a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from itertools import islice
from typing import TYPE_CHECKING

import pyarrow.compute as pc

from snapengine.instants import render

if TYPE_CHECKING:
    from snapengine.diff import Diff
    from snapengine.views import View

_ROWS = 8
_CARD = (
    "font-family:ui-sans-serif,system-ui,sans-serif;border:1px solid #8884;border-radius:8px;"
    "padding:12px 16px;max-width:960px;display:inline-block"
)
_MONO = "font-family:ui-monospace,monospace;font-size:12px"
_BADGES = {"provisional": "#b45309", "settled": "#1d4ed8", "verified": "#15803d"}


def view_html(view: View) -> str:
    """A card: the reference, its level, what it holds, and the first rows."""
    table = view.rows_if_few()
    level = view.completeness
    rows = [
        (v.key, "—" if v.size is None else human_bytes(v.size), render(v.event_time), v.version_id)
        for v in islice(view.versions(), _ROWS)
    ]
    if table is None:  # to count them would take reading them all
        held = f"at most {view.bound():,} objects"
        left = "and more" if len(rows) == _ROWS else ""
    else:
        held = f"{table.num_rows:,} objects · {human_bytes(pc.sum(table['size']).as_py() or 0)}"
        left = f"and {table.num_rows - len(rows):,} more" if table.num_rows > len(rows) else ""
    facts = f"{held} · epoch {view.epoch:,} · {render(view.ref.at)}"
    return (
        f'<div style="{_CARD}"><div style="{_MONO};font-weight:600">{escape(view.reference)}</div>'
        f'<div style="margin:6px 0"><span title="{escape(level.reason)}" style="background:'
        f"{_BADGES[level.level]};color:#fff;border-radius:999px;padding:1px 9px;font-size:12px"
        f'">{level.level}</span> {escape(facts)}</div>'
        f"{_table(('key', 'size', 'since', 'version'), rows)}"
        + (f'<div style="opacity:.7">… {left}</div>' if left else "")
        + "</div>"
    )


def diff_html(diff: Diff) -> str:
    """A card: what was compared, the counts, and the first changes."""
    rows = [
        (
            change.kind,
            change.key,
            change.before.version_id if change.before else "—",
            change.after.version_id if change.after else "—",
        )
        for change in islice(diff, _ROWS)
    ]
    left = len(diff) - len(rows)
    return (
        f'<div style="{_CARD}"><div style="{_MONO}">{escape(diff.before)}<br>→ {escape(diff.after)}</div>'
        f'<div style="margin:6px 0;font-weight:600">{escape(str(diff))}</div>'
        f"{_table(('change', 'key', 'before', 'after'), rows)}"
        + (f'<div style="opacity:.7">… and {left:,} more</div>' if left else "")
        + "</div>"
    )


def human_bytes(count: int) -> str:
    """`1.5 MiB`; binary units."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} PiB"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cell = 'style="text-align:left;padding:2px 12px 2px 0"'
    head = "".join(f"<th {cell}>{escape(name)}</th>" for name in header)
    body = "".join(
        "<tr>" + "".join(f"<td {cell}>{escape(value)}</td>" for value in row) + "</tr>" for row in rows
    )
    return f'<table style="{_MONO};border-collapse:collapse"><tr>{head}</tr>{body}</table>'
