"""`dev` and `demo`: the embedded cloud, to try everything without an account."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from snapengine.errors import UsageError

DEV_EXAMPLES = """\
snapengine dev > cloud.env &
snapengine dev --port 4599"""
DEMO_EXAMPLES = """\
snapengine demo"""


def dev(
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, metavar="N", help="The port; 0 is any that is free.")
    ] = 0,
) -> None:
    """Run S3, SQS and DynamoDB on this machine.

    All is in memory, until Ctrl-C or SIGTERM. It prints the `export NAME=value` lines that lead AWS
    clients to it.
    """
    with _extra():
        from snapengine.devcloud import serve
    serve(port, _announce)


def demo() -> None:
    """Show the main job on the embedded cloud.

    It needs no account and no Docker, and leaves nothing behind.
    """
    with _extra():
        from snapengine.devcloud.demo import run_demo
    run_demo()


def _announce(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()  # somebody is waiting for it


@contextmanager
def _extra() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise UsageError(
            f"The embedded cloud needs a package that is not installed: {error}. "
            "Run `pip install 'snapengine[devcloud]'`."
        ) from error
