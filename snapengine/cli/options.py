"""Options that several commands share, and what their texts mean."""

from __future__ import annotations

from typing import Annotated, TypedDict, get_args

import typer

from snapengine.cli.output import printable
from snapengine.errors import UsageError
from snapengine.model import Level
from snapengine.reference import checked_bucket
from snapengine.run_notes import run_named

SCHEME = "snap://"
SNAPSHOT = "snapshot:"


def bucket_name(given: str | None) -> str | None:
    """What was given for BUCKET, if it can name one."""
    return given if given is None else checked_bucket(given)


def bucket_or_reference(given: str) -> str:
    """The same, where a reference may stand too."""
    return given if given.startswith(SCHEME) else checked_bucket(given)


def bucket_reference_or_run(given: str) -> str:
    """The same, where `run:/ID` may stand too."""
    return given if run_named(given) is not None else bucket_or_reference(given)


Json = Annotated[bool, typer.Option("--json", help="One JSON object a line, for programs.")]
Bucket = Annotated[
    str,
    typer.Argument(metavar="BUCKET", help="The bucket's name.", callback=bucket_name, show_default=False),
]
BucketOrReference = Annotated[
    str,
    typer.Argument(
        metavar="BUCKET",
        help="A bucket, or a snap:// reference.",
        callback=bucket_or_reference,
        show_default=False,
    ),
]
BucketReferenceOrRun = Annotated[
    str,
    typer.Argument(
        metavar="BUCKET",
        help="A bucket, a snap:// reference, or run:/ID: what an MLflow run saw.",
        callback=bucket_reference_or_run,
        show_default=False,
    ),
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
Require = Annotated[
    str | None,
    typer.Option(
        "--require",
        metavar="LEVEL",
        help="Fail unless the view is at least settled, or verified; waits for that, or lists the bucket.",
        show_default=False,
    ),
]
Timeout = Annotated[
    float,
    typer.Option("--timeout", metavar="SECONDS", help="How long to wait for the level of --require."),
]

TIMES = (
    "TIME is RFC 3339 with a zone (2026-11-20T09:00:00Z), a date (midnight UTC), `now`, a look-back (-90s, "
    "-24h, -7d), epoch milliseconds, snapshot:NAME, or run:/ID of an MLflow run."
)


_LONGEST = 7 * 86_400
"""Seconds: a week. Not a number and infinity are no timeouts."""


def time_input(text: str) -> str | int:
    """A time as the library takes it: digits alone are epoch milliseconds."""
    return int(text) if _is_number(text) else text


def epoch_input(text: str | None) -> str | int | None:
    """Digits alone are an epoch's number; anything else is a time."""
    return int(text) if text is not None and _is_number(text) else text


class Wanted(TypedDict):
    """How complete a view is to be, as the library takes it."""

    require: Level
    timeout: float


def wanted(require: str | None, timeout: float) -> Wanted:
    """What `--require` and `--timeout` say."""
    level = next((level for level in get_args(Level) if require in {level, None}), None)
    if level is None:
        raise UsageError(f"--require {printable(str(require))}: it is one of {', '.join(get_args(Level))}.")
    if not 0 <= timeout <= _LONGEST:
        raise UsageError(f"--timeout {timeout:g}: it is a number of seconds, from 0 to {_LONGEST:,}.")
    return {"require": level, "timeout": timeout}


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
