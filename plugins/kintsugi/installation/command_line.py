"""Common parts of the project's command lines: numbers, roles, commands, errors."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence

from kintsugi.core.errors import KintsugiError
from kintsugi.core.fleet import Role
from kintsugi.core.settings import Settings, load_settings
from kintsugi.db.patience import COMMAND, be_patient

Command = Callable[[argparse.Namespace, Settings], int]


def run_command(options: argparse.Namespace) -> int:
    """Run the command of ``options``. Exit code 0: done; 1: it failed, and said why in a line on stderr."""
    command: Command = options.command
    be_patient(COMMAND, lambda message: print(f"kintsugi: {message}", file=sys.stderr, flush=True))
    try:
        return command(options, load_settings())
    except KintsugiError as error:
        for line in str(error).splitlines():
            print(f"kintsugi: {line}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader has ended: `kintsugi status | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("kintsugi: interrupted; the same command goes on where it was", file=sys.stderr)
        return 130


def current_words(program: str, words: Sequence[str], renamed: Mapping[str, str]) -> list[str]:
    """Return ``words`` with the current name of the command that they begin with.

    ``renamed``: current names by old names. An old name works for one release; a line on stderr names the current one.
    """
    if not words or words[0] not in renamed:
        return list(words)
    print_new_name(f"{program} {words[0]}", f"{program} {renamed[words[0]]}")
    return [renamed[words[0]], *words[1:]]


def print_new_name(old: str, new: str) -> None:
    """Print on stderr what an old command is called now."""
    print(f"kintsugi: `{old}` is called `{new}` now", file=sys.stderr, flush=True)


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], command: Command
) -> argparse.ArgumentParser:
    """Add a command: its name is the function's in kebab-case, its help the first line of the docstring."""
    summary = (command.__doc__ or "").splitlines()[0]
    parser = commands.add_parser(command.__name__.replace("_", "-"), help=summary, description=summary)
    parser.set_defaults(command=command)
    return parser


def parse_role(text: str) -> Role:
    """Return a role, also in the spelling of its nodes' names (spark-master)."""
    return Role(text.replace("-", "_"))


def parse_count(text: str) -> int:
    """Return a number of at least 1."""
    return _at_least(1, text)


def parse_seed(text: str) -> int:
    """Return a number of at least 0, as numpy's generators need it."""
    return _at_least(0, text)


def _at_least(least: int, text: str) -> int:
    """Return the number; argparse reports an error as wrong usage."""
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if number < least:
        raise argparse.ArgumentTypeError(f"{text} is less than {least}")
    return number
