"""Finds Megatron's arguments in a launch script without running it, or in a file that lists nothing else.

Where bash may run the script (`script_run`), that reads what this refuses: see `job_files`.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vtrain_sim.inputs.placeholders import filled_in
from vtrain_sim.inputs.process_count import processes, slurm_directives, slurm_variables, starts_many
from vtrain_sim.inputs.shell_branches import Script
from vtrain_sim.inputs.shell_unset import known_from_the_start, notes
from vtrain_sim.inputs.shell_variables import TooLongError, Variables
from vtrain_sim.inputs.shell_words import OpenQuoteError, commands
from vtrain_sim.inputs.sourced_files import prepares_environment
from vtrain_sim.inputs.training_programs import other_training, other_work
from vtrain_sim.specs.checks import SpecError
from vtrain_sim.text_file import read_text

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


@dataclass(frozen=True)
class Launch:
    """What a launch script starts.

    arguments: Megatron's. processes: how many it starts, 0 where it does not say. unknown: why the number cannot be
    read from what it says; may be empty. notes: sentences on what the arguments depend on.
    preset: the model, where the arguments do not say it.
    """

    arguments: tuple[str, ...]
    processes: int = 0
    unknown: str = ""
    notes: tuple[str, ...] = ()
    preset: str = ""


def read_launch(path: Path, text: str | None = None, script_arguments: Sequence[str] = ()) -> Launch:
    """Megatron's arguments in a file, and the number of processes that it starts, without running anything.

    A shell script's variables and arrays are put in; the arguments are those of the last command that runs a
    ``*.py`` file or a module. A variable whose value is not known stays as it is written. Raises `SpecError` where the
    file cannot be read or has no arguments. text: what the file holds, where it has been read. script_arguments: its
    own.
    """
    text = filled_in(read_script(path) if text is None else text)
    directives = slurm_directives(text)
    start = known_from_the_start(text, script_arguments)
    variables = Variables({**start, **slurm_variables(directives)})
    try:
        launched = _launched(Script(text, variables).run(), path)
    except OpenQuoteError:
        raise SpecError(f"{path} has a quotation mark or a bracket that is not closed") from None
    except TooLongError:
        raise SpecError(f"{path} puts variables into each other until they are longer than any command") from None
    except RecursionError:
        raise SpecError(f"{path} is nested too deeply") from None
    if launched is None:
        return read_list(text, path)
    before, arguments = launched
    if what := other_training(before[-1]):
        raise SpecError(f"{path} trains {what} ({before[-1]}), which is not simulated")
    if what := other_work(before[-1]):
        raise SpecError(f"{path} runs {before[-1]}: {what}, no training")
    environment = {name: value for name in _ALLOCATOR if isinstance(value := variables.values.get(name), str)}
    return Launch((*arguments, *allocates(environment)), *processes(before, directives), notes(text, start))


def read_script(path: Path) -> str:
    """The text of a launch script. Raises `SpecError`."""
    text = read_text(path)
    if len(text) > _LONGEST:
        raise SpecError(f"{path} has {len(text):,} characters, more than any launch script ({_LONGEST:,} at most)")
    if not text.strip():
        raise SpecError(f"{path} is empty: it takes a launch script, or a list of Megatron's arguments")
    if all(line.lstrip().startswith("#") for line in text.splitlines() if line.strip()):
        raise SpecError(f"{path} has nothing but comments: no command, and no arguments")
    return text


def allocates(environment: Mapping[str, str]) -> list[str]:
    """What variables of the environment say of memory, in a word of vtrain's own."""
    expandable = any("expandable_segments:True" in environment.get(name, "") for name in _ALLOCATOR)
    return ["--expandable-segments"] if expandable else []


def is_list(text: str) -> bool:
    """Whether a file lists arguments and nothing else."""
    lines = (line.strip() for line in text.splitlines())
    return next((line for line in lines if line and not line.startswith("#")), "").startswith("--")


def _launched(run: Iterable[tuple[list[str], bool]], path: Path) -> tuple[list[str], list[str]] | None:
    """Words before the script and after it, of the last command that runs one. Raises `SpecError` for a choice."""
    launched: tuple[list[str], list[str]] | None = None
    chosen = False
    sourced = ""
    for words, certain in run:
        if not words:
            continue
        if words[0] in ("source", ".") and len(words) > 1 and not prepares_environment(words[1]):
            sourced = words[1]
        command = _whole_commands(words)
        script = script_position(command)
        if script is None:
            continue
        parts = command[: script + 1], command[script + 1 :]
        if launched is not None and starts_many(launched[0]) and not starts_many(parts[0]):
            continue  # a tool that is run before or after the training
        if not certain and chosen and launched != parts:
            raise SpecError(
                f"{path} chooses between several commands that run a .py file: give one with its arguments in a file"
            )
        launched, chosen = parts, not certain
    if launched is not None and sourced:
        raise SpecError(f"{path} reads {sourced}, which is not followed where the script is not run: put it in there")
    return launched


def _whole_commands(words: Sequence[str]) -> list[str]:
    """Words of a command, those of commands in quotation marks too: of eval, of bash -c."""
    if words[0] == "eval":
        return _command_in(" ".join(words[1:]))
    plain: list[str] = []
    for word in words:
        if ".py " in word:
            plain += _command_in(word)
        elif word.startswith("--") and " " in word.strip():
            plain += _split(word)
        else:
            plain.append(word)
    return plain


def _command_in(text: str) -> list[str]:
    """Words of the command in a text that runs a script or a module; of the whole text where none does."""
    for command in commands(text):
        words = [each for word in command.words for each in _split(word)]
        if words and script_position(words) is not None:
            return words
    return _split(text)


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def script_position(words: Sequence[str]) -> int | None:
    """Position of the script, or of the module, that a command runs with arguments."""
    if not words or words[0] in _NAMING or not any(word.startswith("--") for word in words):
        return None
    script = next((i for i, word in enumerate(words) if word.endswith(".py")), None)
    if script is not None:
        return script
    modules = [i + 1 for i, word in enumerate(words[:-1]) if word == "-m"]
    return modules[-1] if modules else None


def read_list(text: str, path: Path) -> Launch:
    """The arguments of a file that lists nothing else. Raises `SpecError`."""
    try:
        tokens = shlex.split(text, comments=True)
    except ValueError:
        raise SpecError(f"{path} has a quotation mark that is not closed") from None
    tokens = [token for token in tokens if token.strip("\\\n")]
    start = next((i for i, token in enumerate(tokens) if token.startswith("--")), None)
    if start is None:
        raise SpecError(f"{path} has neither a command that runs a .py file nor arguments that begin with --")
    return Launch(tuple(tokens[start:]))
