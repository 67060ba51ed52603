"""Finds Megatron's arguments in a launch script, or in a file that lists nothing else."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vtrain_sim.inputs.process_count import processes, slurm_directives, slurm_variables, starts_many
from vtrain_sim.inputs.shell_branches import Script
from vtrain_sim.inputs.shell_variables import TooLongError, Variables
from vtrain_sim.inputs.shell_words import OpenQuoteError
from vtrain_sim.specs.checks import SpecError

# Commands that name files without running them.
_NAMING = (
    "echo",
    "printf",
    "cat",
    "cp",
    "mv",
    "ls",
    "rm",
    "sed",
    "grep",
    "test",
    "[",
    "[[",
    "cd",
    "chmod",
    "source",
    ".",
)
# PyTorch's settings of its caching allocator, by its old and its new name.
_ALLOCATOR = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
_LONGEST = 1_000_000
_REDIRECTIONS = (">", "1>", "2>", "&>", "<")


@dataclass(frozen=True)
class Launch:
    """What a launch script starts.

    arguments: Megatron's. processes: how many it starts, 0 where it does not say. unknown: why the number cannot be
    read from what it says; may be empty.
    """

    arguments: tuple[str, ...]
    processes: int = 0
    unknown: str = ""


def read_launch(path: Path) -> Launch:
    """Megatron's arguments in a file, and the number of processes that it starts.

    A shell script's variables and arrays are put in; the arguments are those of the last command that runs a
    ``*.py`` file or a module. A variable whose value is not known stays as it is written. Raises `SpecError` where the
    file cannot be read or has no arguments.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is not text'}") from None
    if len(text) > _LONGEST:
        raise SpecError(f"{path} has {len(text):,} characters, more than any launch script ({_LONGEST:,} at most)")
    directives = slurm_directives(text)
    variables = Variables(dict(slurm_variables(directives)))
    try:
        launched = _launched(Script(text, variables).run(), path)
    except OpenQuoteError:
        raise SpecError(f"{path} has a quotation mark or a bracket that is not closed") from None
    except TooLongError:
        raise SpecError(f"{path} puts variables into each other until they are longer than any command") from None
    except RecursionError:
        raise SpecError(f"{path} is nested too deeply") from None
    if launched is None:
        return Launch(tuple(_plain(text, path)))
    before, arguments = launched
    # What the environment says of memory, in a word of vtrain's own.
    allocator = [variables.values.get(name) for name in _ALLOCATOR]
    expandable = any(isinstance(value, str) and "expandable_segments:True" in value for value in allocator)
    allocates = ["--expandable-segments"] if expandable else []
    return Launch((*arguments, *allocates), *processes(before, directives))


def _launched(run: Iterable[tuple[list[str], bool]], path: Path) -> tuple[list[str], list[str]] | None:
    """Words before the script and after it, of the last command that runs one. Raises `SpecError` for a choice."""
    launched: tuple[list[str], list[str]] | None = None
    chosen = False
    for words, certain in run:
        command = _whole_commands(words)
        script = _script(command)
        if script is None:
            continue
        parts = command[: script + 1], _arguments(command[script + 1 :])
        if launched is not None and starts_many(launched[0]) and not starts_many(parts[0]):
            continue  # a tool that is run before or after the training
        if not certain and chosen and launched != parts:
            raise SpecError(
                f"{path} chooses between several commands that run a .py file: give one with its arguments in a file"
            )
        launched, chosen = parts, not certain
    return launched


def _whole_commands(words: Sequence[str]) -> list[str]:
    """Words of a command, those of commands in quotation marks too: of eval, of bash -c."""
    plain: list[str] = []
    for word in words:
        if ".py " in word or (word.startswith("--") and " " in word.strip()):
            try:
                plain += shlex.split(word)
            except ValueError:
                plain += word.split()
        else:
            plain.append(word)
    return plain


def _script(words: Sequence[str]) -> int | None:
    """Position of the script, or of the module, that a command runs with arguments."""
    if not words or words[0] in _NAMING or not any(word.startswith("--") for word in words):
        return None
    script = next((i for i, word in enumerate(words) if word.endswith(".py")), None)
    if script is not None:
        return script
    modules = [i + 1 for i, word in enumerate(words[:-1]) if word == "-m"]
    return modules[-1] if modules else None


def _arguments(words: Sequence[str]) -> list[str]:
    end = next((i for i, word in enumerate(words) if word.startswith(_REDIRECTIONS)), len(words))
    return list(words[:end])


def _plain(text: str, path: Path) -> list[str]:
    """The arguments of a file that lists nothing else."""
    try:
        tokens = shlex.split(text, comments=True)
    except ValueError:
        raise SpecError(f"{path} has a quotation mark that is not closed") from None
    tokens = [token for token in tokens if token.strip("\\\n")]
    start = next((i for i, token in enumerate(tokens) if token.startswith("--")), None)
    if start is None:
        raise SpecError(f"{path} has neither a command that runs a .py file nor arguments that begin with --")
    return tokens[start:]
