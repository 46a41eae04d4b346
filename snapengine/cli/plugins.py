"""Commands that sibling packages bring, by entry point. None is imported before it is called.

An entry point names a function with typer's annotations. Its module may hold `EXAMPLES`, one a line, and the
`PANEL` of the help that it belongs to.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from snapengine.errors import SnapEngineError
from snapengine.plugins import load_one

GROUP = "snapengine.commands"


class PluginCommand(TyperCommand):
    """A command known by name, whose function is loaded when it is called or asked for its help."""

    def __init__(self, entry: EntryPoint, **settings: Any) -> None:
        about, panel = _read(entry)
        super().__init__(entry.name, short_help=about, rich_markup_mode=None)
        self._settings = settings
        self.rich_help_panel = panel

    def make_context(self, info_name: Any, args: Any, parent: Any = None, **extra: Any) -> Any:
        return self.loaded().make_context(info_name, args, parent=parent, **extra)

    def loaded(self) -> Any:
        """The command itself. Raises `SnapEngineError` if it cannot be loaded."""
        name = str(self.name)
        try:
            function = load_one(GROUP, name)
        except SnapEngineError:
            raise
        except Exception as error:
            raise SnapEngineError(
                f"The command {name!r} cannot be loaded ({type(error).__name__}: {error}). "
                "The other commands work; reinstall the package that brings it."
            ) from error
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        examples = getattr(sys.modules[function.__module__], "EXAMPLES", "")
        app.command(name, epilog=examples, **self._settings)(function)
        return typer.main.get_command(app)


def plugin_commands(**settings: Any) -> Iterator[PluginCommand]:
    """Every installed one. `settings` are those of `typer.Typer.command`."""
    return (PluginCommand(entry, **settings) for entry in entry_points(group=GROUP))


def _read(entry: EntryPoint) -> tuple[str, str]:
    """The first line of the function's docstring, and the panel, read from the source without running it."""
    try:
        spec = find_spec(entry.module)
        tree = ast.parse(Path(str(spec.origin)).read_bytes()) if spec else ast.Module([], [])
    except (ImportError, OSError, SyntaxError, ValueError):
        return "(cannot be loaded)", "Run"
    about, panel = "(cannot be loaded)", "Run"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == entry.attr:
            about = (ast.get_docstring(node) or "").partition("\n")[0]
        if isinstance(node, ast.Assign) and [ast.unparse(name) for name in node.targets] == ["PANEL"]:
            panel = str(ast.literal_eval(node.value))
    return about, panel
