"""How a command ends badly: an exit code, and one sentence on stderr (with `--json`, one object)."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

import typer

from snapengine.cli.output import RED, in_colour, json_line, one_line, paint
from snapengine.errors import SnapEngineError

# typer carries its own click since 0.20 and used the package before: the classes are reached from the one
# that typer exports in both cases.
CommandLineError: type[Exception] = typer.BadParameter.__mro__[2]

FAILED = 1
BAD_USAGE = 2
INTERRUPTED = 130
BROKEN_PIPE = 141
TERMINATED = 143
"""The last three are 128 and the signal's number, as a shell reports a process that the signal ended."""

CODES = {
    "os-error": "The machine refused a file, a folder or a port: the message has its words.",
    "interrupted": "Ctrl-C or SIGTERM ended the command.",
    "unexpected": "A fault of snapengine itself: run again with `--debug`, and report what it shows.",
}
"""What a command's `code` may be besides those of `snapengine.errors`."""

_REMEDIES = {
    "no-such-key": "See what it has with `snapengine ls`.",
    "no-such-epoch": "Leave out --epoch for the newest; `snapengine status BUCKET` shows its number.",
}
"""What a command adds where the library cannot know that there is a command."""


class Terminated(BaseException):
    """SIGTERM came."""


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether `--json` was given, even on a command line that cannot be parsed."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in options


def report(error: BaseException, *, command: str = "snapengine", as_json: bool, debug: bool) -> int:
    """Say what went wrong in `command`, and return the exit code."""
    if isinstance(error, BrokenPipeError):
        return _reader_has_gone()
    code, message, exit_code = describe(error, command)
    if debug:
        traceback.print_exception(error)
    if as_json:
        text = json_line({"code": code, "message": message})
    else:
        colour = in_colour(sys.stderr)
        text = f"{paint('Error', RED, colour=colour)} ({code}): {one_line(message)}"
    sys.stderr.write(text + "\n")
    return exit_code


def describe(error: BaseException, command: str = "snapengine") -> tuple[str, str, int]:
    """Code, message and exit code of an exception."""
    if isinstance(error, SnapEngineError):
        return error.code, f"{error} {_REMEDIES.get(error.code, '')}".strip(), error.exit_code
    if isinstance(error, CommandLineError):
        return "usage", _usage(error, command), BAD_USAGE
    if isinstance(error, Terminated):
        return "interrupted", "Terminated.", TERMINATED
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return "interrupted", "Interrupted.", INTERRUPTED
    if isinstance(error, OSError) and error.strerror:
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        return "os-error", f"{where}{error.strerror}. Check the path, its permissions and the disk.", FAILED
    said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return (
        "unexpected",
        f"An unexpected {said}. Run it again as `snapengine --debug ...`, and report what it shows.",
        FAILED,
    )


def _usage(error: Exception, command: str) -> str:
    """The parser's own message, and where to read on."""
    said = " ".join(str(error.format_message()).split())  # type: ignore[attr-defined]  # a click exception
    context = getattr(error, "ctx", None)
    path = context.command_path if context else command  # some of the parser's errors have no context
    return f"{said if said.endswith(('.', '?')) else f'{said}.'} See `{path} --help`."


def _reader_has_gone() -> int:
    """Whoever read our output has had enough, as `head` does: no failure to talk about."""
    # The interpreter flushes stdout once more as it ends, and would complain.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE
