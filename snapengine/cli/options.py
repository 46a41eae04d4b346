"""Options that several commands share, and what their texts mean."""

from __future__ import annotations

from typing import Annotated

import typer

from snapengine.cli.output import printable
from snapengine.errors import UsageError

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line, for programs.")]
Bucket = Annotated[str, typer.Argument(metavar="BUCKET", help="The bucket's name.", show_default=False)]
BucketOrReference = Annotated[
    str,
    typer.Argument(metavar="BUCKET", help="A bucket, or a snap:// reference.", show_default=False),
]
At = Annotated[
    str | None,
    typer.Option(
        "--at", metavar="TIME", help="The instant, inclusive; now if not given.", show_default=False
    ),
]
Prefix = Annotated[
    str | None,
    typer.Option(
        "--prefix", metavar="P", help="Only keys that start with this, to the letter.", show_default=False
    ),
]
AsKnownAt = Annotated[
    str | None,
    typer.Option(
        "--epoch",
        metavar="E",
        help="As known at this epoch (a number, or a time); the newest if not given.",
        show_default=False,
    ),
]

TIMES = (
    "TIME is RFC 3339 with a zone (2026-11-20T09:00:00Z), a date (midnight UTC), `now`, a look-back (-90s, "
    "-24h, -7d), or epoch milliseconds."
)


def time_input(text: str) -> str | int:
    """A time as the library takes it: digits alone are epoch milliseconds."""
    return int(text) if _is_number(text) else text


def epoch_input(text: str | None) -> str | int | None:
    """Digits alone are an epoch's number; anything else is a time."""
    return int(text) if text is not None and _is_number(text) else text


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 18  # more digits than any number here has


def all_text(arguments: list[str]) -> None:
    """Raise `UsageError` for an argument that is not UTF-8: no key, bucket or path here is."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise UsageError(
                f"The argument {printable(argument)} is not UTF-8, as S3's keys are. Write it in UTF-8."
            ) from None
