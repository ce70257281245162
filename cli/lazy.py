"""A Typer app whose commands are imported when they are called."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup

from .options import Debug, Quiet


@dataclass(frozen=True)
class Entry:
    """Where a command is ("module:object" in this package), and its line in the list of commands."""

    target: str
    help: str


def lazy_app(root: Callable[..., None], entries: Mapping[str, Entry], epilog: str) -> LazyGroup:
    """Return the group of `entries`; `root` declares the options that come before a command."""
    base = typer.Typer(
        cls=LazyGroup,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        epilog=epilog,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    base.callback()(root)
    group = typer.main.get_command(base)
    assert isinstance(group, LazyGroup)
    for name, entry in entries.items():
        group.add_command(Placeholder(name, entry))
    return group


@final
class Placeholder(TyperCommand):
    """Stands in a list of commands for one that is not imported yet."""

    def __init__(self, name: str, entry: Entry) -> None:
        super().__init__(name, help=entry.help)
        self.entry = entry


@final
class LazyGroup(TyperGroup):
    """A group that imports a command when it is resolved for a call."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        if isinstance(command, Placeholder):
            command = load(command.name or "", command.entry)
        return name, command, rest


def load(name: str, entry: Entry) -> Any:
    """Import the command behind an entry and give it the options that every command takes."""
    module, _, attribute = entry.target.partition(":")
    found = getattr(importlib.import_module(f".{module}", __package__), attribute)
    if isinstance(found, typer.Typer):
        group: Any = typer.main.get_command(found)
        group.name = name
        for member in (group, *group.commands.values()):
            _add_common_options(member)
        return group
    single = _typer()
    single.command(name, help=None if found.__doc__ else entry.help)(found)
    command: Any = typer.main.get_command(single)
    _add_common_options(command)
    return command


def new_group(help: str) -> typer.Typer:
    """Return the Typer app of a group of commands, such as `presets`."""
    group = _typer(help=help, no_args_is_help=True)
    group.callback()(_no_options)
    return group


def _no_options() -> None:
    """A callback makes a group of an app that has a single command."""


def _typer(**settings: Any) -> typer.Typer:
    return typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, **settings)


def _common(quiet: Quiet = False, debug: Debug = False) -> None:
    """Declares what every command takes."""


def _add_common_options(command: Any) -> None:
    carrier = _typer()
    carrier.command("common")(_common)
    declared = {param.name for param in command.params}
    for param in typer.main.get_command(carrier).params:
        if param.name not in declared:
            # its callback notes it in the session; the function need not know
            param.expose_value = False
            command.params.append(param)
