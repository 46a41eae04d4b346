"""What the command line prints, and how errors become words, as functions of values."""

from __future__ import annotations

import io
import json
import sys

import pytest
import typer

from snapengine import errors
from snapengine.cli.failures import CommandLineError, Terminated, describe, wants_json
from snapengine.cli.options import all_text, epoch_input, time_input
from snapengine.cli.output import Output, in_colour, json_line, one_line, printable, version_fields
from snapengine.cli.status import _behind
from snapengine.model import ObjectVersion

NASTY = "a\x1b]0;owned\x07\x1b[31m\r\n\x9b2J\u202egpj.exe\u2028\udce9ü 漢"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_nothing_that_steers_a_terminal_is_printed() -> None:
    shown = printable(NASTY)
    assert shown.isprintable()
    assert shown == r"a\x1b]0;owned\x07\x1b[31m\r\n\x9b2J\u202egpj.exe\u2028\udce9ü 漢"


@pytest.mark.parametrize("text", ["", "ct/0001.dcm", "a b/ü/漢/🫀", "back\\slash", "[bold]no markup[/]"])
def test_plain_text_is_printed_as_it_is(text: str) -> None:
    assert printable(text) == text


def test_a_message_is_one_line() -> None:
    assert one_line("first\n\tsecond  \x1b[2J") == r"first second \x1b[2J"


def test_json_keeps_a_key_to_the_letter_and_steers_no_terminal() -> None:
    line = json_line({"key": NASTY})
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line) == {"key": NASTY}


def test_a_version_as_json_has_times_as_text_and_sizes_as_numbers() -> None:
    version = ObjectVersion("k", "v", 12, "e", 1_700_000_000_123, "listed", "STANDARD", "00A1")
    assert version_fields(version) == {
        "key": "k",
        "version_id": "v",
        "size": 12,
        "etag": "e",
        "event_time": "2023-11-14T22:13:20.123Z",
        "time": "listed",
        "storage_class": "STANDARD",
    }


@pytest.mark.parametrize(
    ("stream", "variables", "expected"),
    [
        (Terminal(), {}, True),
        (Terminal(), {"NO_COLOR": "1"}, False),
        (Terminal(), {"NO_COLOR": ""}, True),
        (Terminal(), {"TERM": "dumb"}, False),
        (io.StringIO(), {}, False),
        (io.StringIO(), {"FORCE_COLOR": "1"}, True),
        (io.StringIO(), {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
    ],
)
def test_colour_is_for_terminals_and_can_be_had_or_not_by_the_usual_variables(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, variables: dict[str, str], expected: bool
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert in_colour(stream) is expected


def test_a_table_has_its_header_at_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    rows = [("short", "1"), ("much longer", "2\x1b")]
    Output(as_json=False).table(("NAME", "NUMBER"), rows)
    assert capsys.readouterr().out == "short        1\nmuch longer  2\\x1b\n"
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    Output(as_json=False).table(("NAME", "NUMBER"), rows)
    assert terminal.getvalue() == "NAME         NUMBER\nshort        1\nmuch longer  2\\x1b\n"


def test_programs_that_ask_for_json_get_no_remarks_but_do_get_warnings(
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = Output(as_json=True)
    out.note("3 objects")
    out.warn("mind this")
    assert capsys.readouterr() == ("", '{"warning": "mind this"}\n')


@pytest.mark.parametrize(
    ("error", "code", "exit_code"),
    [
        (errors.BadTime("no zone"), "bad-time", 2),
        (errors.VersionGone("gone"), "version-gone", 1),
        (typer.BadParameter("odd"), "usage", 2),
        (KeyboardInterrupt(), "interrupted", 130),
        (typer.Abort(), "interrupted", 130),
        (Terminated(), "interrupted", 143),
        (PermissionError(13, "Permission denied", "/data/x"), "os-error", 1),
        (ValueError("impossible"), "unexpected", 1),
        (AssertionError(), "unexpected", 1),
    ],
)
def test_every_exception_has_a_code_a_message_and_an_exit_code(
    error: BaseException, code: str, exit_code: int
) -> None:
    found, message, exits = describe(error)
    assert (found, exits) == (code, exit_code)
    assert message


def test_messages_name_the_file_the_fault_and_the_remedy() -> None:
    assert describe(PermissionError(13, "Permission denied", "/data/x"))[1].startswith(
        "/data/x: Permission denied. Check the path"
    )
    assert "ValueError: impossible" in describe(ValueError("impossible"))[1]
    assert "--debug" in describe(ValueError("impossible"))[1]
    assert "snapengine ls" in describe(errors.NoSuchKey("k", "snap://b@now/"))[1]


def test_a_usage_error_of_the_parser_is_one_of_the_command_lines() -> None:
    assert issubclass(typer.BadParameter, CommandLineError)
    assert not issubclass(typer.Exit, CommandLineError)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["ls", "x", "--json"], True),
        (["--json"], True),
        (["get", "b", "--", "--json"], False),
        (["ls"], False),
    ],
)
def test_json_is_asked_for_by_its_option_but_not_by_a_key_of_that_name(
    arguments: list[str], expected: bool
) -> None:
    assert wants_json(arguments) is expected


def test_digits_are_milliseconds_for_a_time_and_a_number_for_an_epoch() -> None:
    assert time_input("1700000000000") == 1_700_000_000_000
    assert time_input("-24h") == "-24h"
    assert time_input("٣") == "٣"
    assert time_input("9" * 5000) == "9" * 5000
    assert epoch_input("12") == 12
    assert epoch_input("2026-11-20") == "2026-11-20"
    assert epoch_input(None) is None


def test_an_argument_that_is_not_utf_8_is_refused_in_words() -> None:
    all_text(["ls", "ü"])
    with pytest.raises(errors.UsageError, match=r"caf\\udce9 is not UTF-8"):
        all_text(["ls", "caf\udce9"])


@pytest.mark.parametrize(
    ("millis", "expected"),
    [
        (None, "-"),
        (0, "0 s"),
        (119_999, "119 s"),
        (120_000, "2 min"),
        (7_200_000, "2 h"),
        (200_000_000, "2 d"),
    ],
)
def test_how_far_behind_is_said_in_the_unit_that_suits(millis: int | None, expected: str) -> None:
    assert _behind(millis) == expected
