"""The one place where errors of a command line end: a sentence on stderr, and as JSON where JSON was asked for."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import typer

from vtrain_sim.commands.notices import notice, printable
from vtrain_sim.errors import Notice, UserError, nearest_flag

SCHEMA = "vtrain.error/1"
# Exit codes: bad input, as typer has it for malformed options; what should not happen, as sysexits.h has it.
REFUSED, INTERNAL = 2, 70
# Of what Ctrl-C ended, as a shell has it.
INTERRUPTED = 130
_ENDED = "interrupted; what is in files already stays"
# Any value but an empty one: print the traceback before the sentence.
TRACEBACK = "VTRAIN_TRACEBACK"
# What a value is not, and what it is then.
_VALID = re.compile(r"valid (integer|float|number)")
_WHOLE, _NUMBER = re.compile(r"[+-]?\d+"), re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def run(app: typer.Typer, name: str, arguments: Sequence[str] | None = None) -> None:
    """Run a command line and leave with its exit code; never with a traceback.

    arguments: without the name of the program; None: those of this process. With ``--json`` (or ``--format json``)
    an error is also a document on standard output, schema vtrain.error/1, so that what reads it always gets JSON.
    """
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", Notice)
            warnings.showwarning = functools.partial(_show_warning, warnings.showwarning, name, set())
            # Commands return nothing; where one leaves early, this is its exit code.
            code = int(app(words, prog_name=name, standalone_mode=False) or 0)
        if code == INTERRUPTED:
            # Some versions of typer make an exit code of it.
            raise KeyboardInterrupt
        if sys.stdout is not None:
            sys.stdout.flush()
    except UserError as error:
        code = _say(name, str(error), words, REFUSED)
    except BrokenPipeError:
        # The reader of a pipe (head, less) went away: nothing to report.
        sys.stderr.close()
        code = 0
    except SystemExit as left:
        # So does the library that prints help, in its own way.
        if not isinstance(left.__context__, BrokenPipeError):
            raise
        code = 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        code = _say(name, f"{where}{error.strerror or error}", words, REFUSED)
    except KeyboardInterrupt:
        code = _say(name, _ENDED, words, INTERRUPTED)
    except MemoryError:
        code = _say(name, "there is not enough memory for this", words, REFUSED)
    except Exception as error:
        code = _leave(name, error, words)
    raise SystemExit(code)


def _show_warning(
    usual: Callable[..., None],
    name: str,
    shown: set[str],
    message: Warning | str,
    category: type[Warning],
    *where: Any,
    **details: Any,
) -> None:
    """A notice of the library as a line on stderr, once; other warnings as Python shows them."""
    if issubclass(category, Notice):
        if str(message) not in shown:
            notice(f"{name}: {message}")
        shown.add(str(message))
    else:
        usual(message, category, *where, **details)


def _leave(name: str, error: Exception, words: Sequence[str]) -> int:
    """Exit code of the command line's own errors, and of those that nobody foresaw."""
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error)
        return REFUSED
    if type(error).__name__ == "Abort":
        return _say(name, _ENDED, words, INTERRUPTED)
    # Some versions of typer bring a click of their own, whose exceptions have no public name.
    said = getattr(error, "format_message", None)
    if said is None:
        where = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        place = f"{os.path.basename(where.filename)}, line {where.lineno}"
        return _say(
            name, f"internal error, please report it: {what} ({place}; {TRACEBACK}=1 shows all)", words, INTERNAL
        )
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else name
    sentence = (_no_number(error, words) or _no_option(error) or said()).strip().removesuffix(".")
    return _say(path, f"{sentence[:1].lower()}{sentence[1:]} ({path} --help lists what there is)", words, REFUSED)


def _no_number(error: Exception, words: Sequence[str]) -> str:
    """What an option takes whose value is no number, in the words that Megatron's arguments get; else nothing."""
    # The sentence is all that every version of typer gives.
    kind = _VALID.search(str(getattr(error, "message", "")))
    option = getattr(error, "param", None)
    if kind is None or option is None:
        return ""
    whole = kind[1] == "integer"
    for name in option.opts:
        for value in _values(name, words):
            if not (_WHOLE if whole else _NUMBER).fullmatch(value):
                return f"{name} is {value!r}: it takes a {'whole number' if whole else 'number'}"
    return ""


def _values(name: str, words: Sequence[str]) -> list[str]:
    """What a command line gives to an option."""
    pairs = zip(words, [*words[1:], ""], strict=True)
    return [
        following if word == name else word.removeprefix(f"{name}=")
        for word, following in pairs
        if word == name or word.startswith(f"{name}=")
    ]


def _no_option(error: Exception) -> str:
    """That there is no such option, with one that is much like it; nothing for another error."""
    name = getattr(error, "option_name", None)
    if type(error).__name__ != "NoSuchOption" or not isinstance(name, str):
        return ""
    return f"no such option: {name}{nearest_flag(name, getattr(error, 'possibilities', None) or ())}"


def _say(name: str, sentence: str, words: Sequence[str], code: int) -> int:
    if os.environ.get(TRACEBACK):
        traceback.print_exc()
    sentence = printable(" ".join(sentence.split()))
    print(f"{name}: {sentence}", file=sys.stderr)
    if wants_json(words):
        # Where standard output is what failed (a full disk), the sentence on stderr is all there is.
        with contextlib.suppress(OSError):
            print(json.dumps({"schema": SCHEMA, "error": sentence, "exit_code": code}), flush=True)
    return code


def wants_json(words: Sequence[str]) -> bool:
    """Whether a command line asks for JSON."""
    pairs = zip(words, [*words[1:], ""], strict=True)
    return any(word in ("--json", "--format=json") or (word == "--format" and value == "json") for word, value in pairs)
