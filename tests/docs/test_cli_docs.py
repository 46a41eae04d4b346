"""Every command and option, every setting and every error code has its line in the documents."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from snapengine import Settings, errors
from snapengine.cli.failures import CODES
from snapengine.cli.main import app
from snapengine.cli.plugins import PluginCommand

DOCS = Path(__file__).parents[2] / "docs"
ROOT: Any = typer.main.get_command(app)


def leaves(group: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every command that does something, by its words."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from leaves(command, f"{path}{name} ")
        else:
            yield path + name, command.loaded() if isinstance(command, PluginCommand) else command


COMMANDS: dict[str, Any] = dict(leaves(ROOT))


def read(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def section(command: str) -> str:
    """What docs/cli.md says under a command's heading, or its group's."""
    _, _, rest = read("cli.md").partition(f"\n## `{command.partition(' ')[0]}`\n")
    return rest.partition("\n## ")[0]


def shell_lines(text: str) -> list[str]:
    """The `snapengine ...` lines of a document's shell blocks."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if "snapengine " in line]


def options_of(command: Any) -> list[str]:
    return [name for parameter in command.params for name in parameter.opts if name.startswith("-")]


def parse(line: str) -> None:
    """Parse a documented command line without running it; raises for one that is wrong."""
    words = shlex.split(line.partition(" | ")[0].partition(" > ")[0])
    words = words[words.index("snapengine") + 1 :]
    while words and words[0].startswith("-"):
        assert words[0] in {"--help", "--version", *options_of(ROOT)}
        words = words[1:]
    if words:
        if words[0] == "runs" and words[1] != "note":
            words.insert(1, "list")
        count = 1 if words[0] in COMMANDS else 2
        name = " ".join(words[:count])
        COMMANDS[name].make_context(name, words[count:])


def test_these_are_the_commands() -> None:
    assert list(COMMANDS) == [
        "ls",
        "get",
        "slice",
        "diff",
        "audit",
        "verify",
        "pin",
        "unpin",
        "enable-bucket",
        "disable-bucket",
        "reconcile",
        "archive",
        "forget",
        "rebuild",
        "status",
        "init",
        "audit-log",
        "dev",
        "demo",
        "snapshot create",
        "snapshot list",
        "snapshot show",
        "snapshot delete",
        "runs list",
        "runs note",
        "export",
        "extract",
        "extract-worker",
        "metadata",
        "rollback",
        "worker",
    ]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_documented_by_an_example_with_all_its_options(name: str) -> None:
    text = section(name)
    examples = [line for line in shell_lines(text) if f"snapengine {name.removesuffix(' list')}" in line]
    assert examples, f"docs/cli.md has no example of `snapengine {name}`"
    missing = [
        option for option in options_of(COMMANDS[name]) if not re.search(rf"(?<![\w-]){option}\b", text)
    ]
    assert not missing, f"docs/cli.md, `{name}`, says nothing of {missing}"


def test_the_options_of_the_root_are_documented() -> None:
    introduction = read("cli.md").partition("\n## ")[0]
    assert [option for option in options_of(ROOT) if option not in introduction] == []


@pytest.mark.parametrize("line", shell_lines(read("cli.md")))
def test_every_documented_command_line_is_one_that_the_program_takes(line: str) -> None:
    parse(line)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_has_an_example_that_the_program_takes_and_fits_a_line(name: str) -> None:
    command = COMMANDS[name]
    examples = (command.epilog or "").splitlines()
    assert examples
    for line in examples:
        parse(line)
    summary, _, _ = command.help.partition("\n")
    assert len(summary) <= 75
    assert all(getattr(parameter, "help", None) for parameter in command.params)


def test_every_setting_has_its_line() -> None:
    lines = read("settings.md").splitlines()
    for name, field in Settings.model_fields.items():
        (line,) = [text for text in lines if text.startswith(f"| `SNAPENGINE_{name.upper()}` | `{name}` |")]
        if field.default is not None and field.default_factory is None:
            assert f"| {field.default} |" in line


def _error_codes() -> dict[str, type[errors.SnapEngineError]]:
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.SnapEngineError)
    ]
    return {kind.code: kind for kind in kinds}


@pytest.mark.parametrize("code", [*_error_codes(), *CODES])
def test_every_error_code_has_its_line_with_a_remedy(code: str) -> None:
    rows = [line for line in read("errors.md").splitlines() if line.startswith(f"| `{code}` |")]
    assert len(rows) == 1
    cells = [cell.strip() for cell in rows[0].strip("|").split("|")]
    assert len(cells) == 4
    assert all(cells)
    if code in _error_codes():
        assert cells[1] == f"`{_error_codes()[code].__name__}`"


def test_codes_that_mean_bad_usage_are_documented_as_such() -> None:
    text = read("errors.md").partition("## Bad usage")[2].partition("\n## ")[0]
    documented = set(re.findall(r"^\| `([a-z-]+)` \| `", text, re.MULTILINE))
    assert documented == {code for code, kind in _error_codes().items() if kind.exit_code == 2}


def test_no_error_code_is_documented_that_does_not_exist() -> None:
    documented = set(re.findall(r"^\| `([a-z-]+)` \|", read("errors.md"), re.MULTILINE))
    assert documented == {*_error_codes(), *CODES}
