"""The reference of the command line, from the typer application."""

from __future__ import annotations

import re
from enum import Enum
from typing import Any

import typer
from markdown import cell, code, page, prose, sentence, table

INTRO = """
Every command takes `-h` and `--home FOLDER`. A command that prints data writes it to stdout,
messages go to stderr, and most listings take `--json`. An error is a line `error:` and a line
`hint:`.
"""
OTHER_CODES = [
    ["0", "success"],
    ["1", "a check found something, or any other error"],
    ["2", "also wrong usage"],
    ["70", "an unforeseen error; its traceback is in the file that the message names"],
    ["130", "Ctrl-C"], ["143", "SIGTERM"],
]  # fmt: skip
WORDS = {"int": "INTEGER", "float": "NUMBER", "Path": "PATH", "str": "TEXT"}


def cli_page() -> str:
    """Return the page."""
    from curation.cli.main import app

    root = typer.main.get_command(app)
    commands = root.commands  # type: ignore[attr-defined]
    overview = table(
        ["command", "purpose"],
        (
            [f"[`layerloop {name}`](#{_anchor(name)})", _first(command.help)]
            for name, command in commands.items()
        ),
    )
    return page(
        "Command line",
        INTRO,
        overview,
        "## Exit codes",
        _exit_codes(),
        *(_command(name, command) for name, command in commands.items()),
    )


def _exit_codes() -> str:
    """Return the table of exit codes: those of the error classes, and the others."""
    from curation import errors

    rows: dict[str, list[str]] = {}
    for error_class in vars(errors).values():
        if (
            isinstance(error_class, type)
            and "exit_code" in vars(error_class)
            and error_class is not errors.LayerloopError
        ):
            rows.setdefault(str(error_class.exit_code), []).append(
                _first(error_class.__doc__).rstrip(".")
            )
    for number, meaning in OTHER_CODES:
        rows.setdefault(number, []).append(meaning)
    return table(
        ["exit code", "meaning"],
        ([number, "; ".join(rows[number])] for number in sorted(rows, key=int)),
    )


def _command(name: str, command: Any, level: int = 2) -> str:
    """Return the section of a command, or of a group with its commands."""
    head = f"{'#' * level} layerloop {name} {{#{_anchor(name)}}}\n\n"
    inner = getattr(command, "commands", None)
    if inner:
        # A group that is also a command, such as `worker`, has a usage of its own.
        runs = command.invoke_without_command
        parts = [head + (_usage(name, command) if runs else sentence(command.help or ""))]
        parts += [
            _command(f"{name} {verb}", subcommand, level + 1) for verb, subcommand in inner.items()
        ]
        return "\n\n".join(parts)
    return head + _usage(name, command)


def _usage(name: str, command: Any) -> str:
    """Return the help, the usage and the parameters of a command."""
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    options = [
        param
        for param in command.params
        if param.param_type_name == "option" and param.name != "help"
    ]
    usage = " ".join(
        [
            f"layerloop {name}",
            *(["[OPTIONS]"] if options else []),
            *(_metavar(param) for param in arguments),
        ]
    )
    rows = [[code(_metavar(param)), cell(_help(param)), ""] for param in arguments]
    rows += [[code(_spelling(param)), _help(param), code(_default(param))] for param in options]
    return "\n\n".join(
        part
        for part in (
            prose(command.help),
            f"```sh\n{usage}\n```",
            table(["parameter", "meaning", "default"], rows),
        )
        if part
    )


def _anchor(name: str) -> str:
    return name.replace(" ", "-")


def _first(text: str | None) -> str:
    return sentence((text or "").split("\n\n")[0])


def _metavar(argument: Any) -> str:
    name = argument.name.upper()
    return (
        f"[{name}]{'...' if argument.nargs == -1 else ''}"
        if not argument.required
        else name + ("..." if argument.nargs == -1 else "")
    )


def _spelling(option: Any) -> str:
    """Return an option's names and its value: an enumeration's choices, or its type's name."""
    names = ", ".join([*option.opts, *option.secondary_opts])
    if option.is_flag:
        return names
    kind = option.type_descriptor.annotation
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"{names} " + "|".join(str(member.value) for member in kind)
    found = re.search(r"int|float|Path|str", getattr(kind, "__name__", str(kind)))
    return f"{names} {WORDS.get(found[0] if found else '', 'VALUE')}"


def _help(parameter: Any) -> str:
    text = sentence(getattr(parameter, "help", None) or "")
    return text + (
        " May be repeated."
        if getattr(parameter, "multiple", False) and "repeat" not in text
        else ""
    )


def _default(option: Any) -> str:
    if (
        option.is_flag
        or option.default is None
        or callable(option.default)
        or option.default in ((), [])
    ):
        return ""
    return str(getattr(option.default, "value", option.default))
