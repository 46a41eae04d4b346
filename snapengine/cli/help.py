"""How `--help` looks: plain, short, with examples that can be pasted."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup

from snapengine.cli.plugins import plugin_commands

HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}


class Command(TyperCommand):
    """A command whose epilog is its examples, one a line, shown as they are written."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        # Upper case says that it is a variable: {BUCKET} says it twice.
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if parameter.param_type_name == "argument":
                # typer would add the type, which is text for each of ours.
                name = str(parameter.metavar or parameter.name)
                sections.setdefault("Arguments", []).append((name, str(getattr(parameter, "help", ""))))

            elif record := parameter.get_help_record(ctx):
                sections.setdefault("Options", []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002  # click's signature
        if self.epilog:
            with formatter.section("Examples"):
                for line in self.epilog.splitlines():
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")


class Group(TyperGroup):
    """Commands in sections: their `rich_help_panel`."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            section = sections.setdefault(command.rich_help_panel or "Commands", [])
            section.append((name, command.get_short_help_str(limit=80)))
        width = max(len(name) for name in self.list_commands(ctx))
        for title, rows in sections.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), text) for name, text in rows])


class Root(Group):
    """The root: plug-ins are among its commands."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for plugin in plugin_commands(cls=Command, context_settings=HELP_OPTIONS):
            if plugin.name not in self.commands:  # no package can take a name of ours
                self.add_command(plugin)
