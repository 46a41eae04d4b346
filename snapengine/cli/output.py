"""How results look: text for people, one JSON object a line for programs.

Rows and results go to stdout; remarks, progress and errors go to stderr, so that a pipe gets rows alone.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TextIO

from snapengine.instants import render

if TYPE_CHECKING:
    from rich.progress import Progress

    from snapengine.model import ObjectVersion

BOLD: Final = "1"
DIM: Final = "2"
RED: Final = "31"
GREEN: Final = "32"
YELLOW: Final = "33"
CYAN: Final = "36"
LEVEL_COLOURS: Final = {"provisional": YELLOW, "settled": CYAN, "verified": GREEN}


def printable(text: str) -> str:
    """The text with everything that could steer a terminal or hide in it (ESC, CR, line breaks, bidirectional
    overrides, lone surrogates) as `\\x1b`, `\\u202e`. Text that is plain comes back as it is."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(text: str) -> str:
    """A message as one printable line."""
    return printable(" ".join(text.split()))


def json_line(fields: Mapping[str, Any]) -> str:
    """One object as JSON in ASCII: any text survives to the letter, and none of it can steer a terminal."""
    return json.dumps(fields, ensure_ascii=True)


def version_fields(version: ObjectVersion) -> dict[str, Any]:
    """A version as JSON shows it."""
    return {
        "key": version.key,
        "version_id": version.version_id,
        "size": version.size,
        "etag": version.etag,
        "event_time": render(version.event_time),
        "time": version.time,
        "storage_class": version.storage_class,
    }


def in_colour(stream: TextIO) -> bool:
    """At a terminal that knows colours, unless NO_COLOR (https://no-color.org) is set and not empty."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def is_terminal(stream: TextIO) -> bool:
    """Whether people read it there: FORCE_COLOR (https://force-color.org) says so of a pipe too."""
    return stream.isatty() or bool(os.environ.get("FORCE_COLOR"))


def paint(text: str, style: str, *, colour: bool) -> str:
    """The text in an ANSI style, if there is to be colour."""
    return f"\x1b[{style}m{text}\x1b[0m" if colour and text else text


class Output:
    """Where one command writes."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.terminal = is_terminal(sys.stdout)
        self._colour = in_colour(sys.stdout)
        self._colour_notes = in_colour(sys.stderr)

    @property
    def interactive(self) -> bool:
        """Whether somebody is there to be asked."""
        return not self.as_json and sys.stdin.isatty() and sys.stderr.isatty()

    def line(self, text: str = "") -> None:
        """A line of text on stdout, as it is: what came from outside has been through `printable`."""
        sys.stdout.write(text + "\n")

    def json(self, fields: Mapping[str, Any]) -> None:
        sys.stdout.write(json_line(fields) + "\n")

    def note(self, text: str) -> None:
        """A remark for people, on stderr; programs that asked for JSON get none."""
        if not self.as_json:
            sys.stdout.flush()  # rows before remarks, where both go to one place
            sys.stderr.write(text + "\n")

    def warn(self, text: str) -> None:
        """What must not go unseen, on stderr in either form."""
        sys.stdout.flush()
        if self.as_json:
            sys.stderr.write(json_line({"warning": text}) + "\n")
        else:
            sys.stderr.write(f"{self.paint_note('Warning:', YELLOW)} {one_line(text)}\n")

    def paint(self, text: str, style: str) -> str:
        return paint(text, style, colour=self._colour)

    def paint_note(self, text: str, style: str) -> str:
        return paint(text, style, colour=self._colour_notes)

    def table(self, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Aligned columns; the header only at a terminal, where it is no row to whoever reads the pipe."""
        body = [[printable(cell) for cell in row] for row in rows]
        shown = [list(header), *body] if self.terminal else body
        widths = [max(len(cell) for cell in column) for column in zip(*shown, strict=True)][:-1]
        for number, row in enumerate(shown):
            text = "  ".join([*map(str.ljust, row[:-1], widths), row[-1]]).rstrip()
            self.line(self.paint(text, DIM) if self.terminal and number == 0 else text)

    def facts(self, rows: Iterable[tuple[str, str]]) -> None:
        """`name  value` lines."""
        shown = [(name, printable(value)) for name, value in rows]
        width = max(len(name) for name, _ in shown)
        for name, value in shown:
            self.line(f"{self.paint(name.ljust(width), DIM)}  {value}")

    @contextmanager
    def progress(self, *columns: str) -> Iterator[Progress | None]:
        """A progress display on stderr; None where nobody would see it move."""
        if self.as_json or not sys.stderr.isatty():
            yield None
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True, no_color=not self._colour_notes, highlight=False)
        shown = [TextColumn(column) for column in columns]
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            *shown,
            TimeRemainingColumn(),
            console=console,
            transient=True,
        ) as progress:
            yield progress
