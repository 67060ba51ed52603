"""Where errors of ``vtrain-profile`` end: one sentence on stderr; a traceback only where it is asked for."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

import typer

# Exit codes, as those of vtrain-sim.
REFUSED, INTERNAL = 2, 70
# Any value but an empty one: print the traceback before the sentence.
TRACEBACK = "VTRAIN_TRACEBACK"
# What the user's environment has, and vtrain does not install.
_OF_THE_USER = ("torch", "megatron")


def run(app: typer.Typer, name: str, arguments: Sequence[str] | None = None) -> None:
    """Run a command line and leave with its exit code. arguments: None: those of this process."""
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        code = int(app(words, prog_name=name, standalone_mode=False) or 0)
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing in _OF_THE_USER:
            code = _say(
                name,
                f"{missing} is not installed here: measure in the environment that trains "
                "(pip install 'vtrain[plugin]' beside its torch)",
                REFUSED,
            )
        else:
            code = _unforeseen(name, error)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        code = _say(name, f"{where}{error.strerror or error}", REFUSED)
    except Exception as error:
        code = _unforeseen(name, error)
    raise SystemExit(code)


def wants_traceback() -> bool:
    """Whether the user asked for tracebacks."""
    return bool(os.environ.get(TRACEBACK))


def _unforeseen(name: str, error: Exception) -> int:
    """The exit code of typer's own errors, and of those that nobody foresaw."""
    if type(error).__name__ == "Abort":
        return _say(name, "interrupted", 130)
    # Some versions of typer bring a click of their own, whose exceptions have no public name.
    said = getattr(error, "format_message", None)
    if said is None:
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return _say(name, f"internal error, please report it: {what} ({TRACEBACK}=1 shows where)", INTERNAL)
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else name
    sentence = said().strip().removesuffix(".")
    return _say(path, f"{sentence[:1].lower()}{sentence[1:]} ({path} --help lists what there is)", REFUSED)


def _say(name: str, sentence: str, code: int) -> int:
    if wants_traceback():
        traceback.print_exc()
    print(f"{name}: {' '.join(sentence.split())}", file=sys.stderr)
    return code
