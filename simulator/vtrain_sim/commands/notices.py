"""What commands say beside their result, on stderr: nothing where ``--quiet`` is given."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from contextvars import ContextVar

import typer

_QUIET: ContextVar[bool] = ContextVar("quiet", default=False)
_OPTION = typer.Option(False, "--quiet", "-q", help="Print the result alone: no notes, no progress.")


def is_quiet() -> bool:
    """Whether the command that runs was given ``--quiet``."""
    return _QUIET.get()


def printable(text: str) -> str:
    """The text without what a terminal would obey: names and words of files are in sentences."""
    return "".join(character if character.isprintable() else "?" for character in text)


def notice(line: str) -> None:
    """Print a line on stderr."""
    if not is_quiet():
        print(printable(line), file=sys.stderr)


def with_quiet(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the option ``--quiet``."""

    @functools.wraps(command)
    def wrapped(*arguments: object, quiet: bool, **options: object) -> None:
        token = _QUIET.set(quiet)
        try:
            command(*arguments, **options)
        finally:
            _QUIET.reset(token)

    signature = inspect.signature(command)
    option = inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=_OPTION, annotation=bool)
    wrapped.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), option]
    )
    wrapped.__annotations__ = {**command.__annotations__, "quiet": bool}
    return wrapped
