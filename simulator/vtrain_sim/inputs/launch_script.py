"""Finds Megatron's arguments in a launch script, or in a file that lists nothing else."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from vtrain_sim.specs.checks import SpecError

_REFERENCE = re.compile(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)(?:\[[@*]\])?(?::-([^}]*))?\}?")
_ARRAY = re.compile(r"^\s*(?:export\s+|declare\s+-a\s+)?([A-Za-z_][A-Za-z0-9_]*)(\+?)=\(([^)]*)\)", re.MULTILINE)
_SCALAR = re.compile(
    r"^\s*(?:export\s+|local\s+)?([A-Za-z_][A-Za-z0-9_]*)=((?:\"[^\"]*\"|'[^']*'|\\\n|[^\s;&|#])*)", re.MULTILINE
)
_DEEPEST = 20


def read_arguments(path: Path) -> tuple[list[str], int]:
    """Megatron's arguments in a file, and the number of processes that it starts (0 where it does not say).

    A shell script's variables and arrays are put in; the arguments are those of the command that runs a
    ``*.py`` file. Raises `SpecError` where the file cannot be read or has none.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is not text'}") from None
    variables = _variables(text)
    # The script itself may be a variable.
    expanded = [_expand(command, variables) for command in _commands(text)]
    commands = [c for c in expanded if re.search(r"\S+\.py\b", c) and "--" in c]
    if commands:
        tokens = _split(commands[-1], path)
        script = next(i for i, token in enumerate(tokens) if token.endswith(".py"))
        return tokens[script + 1 :], _processes(tokens[:script])
    tokens = [t for t in _split(_expand(text, variables), path) if t]
    start = next((i for i, token in enumerate(tokens) if token.startswith("--")), None)
    if start is None:
        raise SpecError(f"{path} has neither a command that runs a .py file nor arguments that begin with --")
    return tokens[start:], 0


def _variables(text: str) -> dict[str, str]:
    """Variables and arrays of a script, the last value of each."""
    variables: dict[str, str] = {}
    for match in sorted((*_SCALAR.finditer(text), *_ARRAY.finditer(text)), key=lambda m: m.start()):
        if match.re is _ARRAY:
            name, more, items = match.groups()
            lines = [line.split(" #")[0] if not line.lstrip().startswith("#") else "" for line in items.splitlines()]
            # A line that is continued goes on without its backslash.
            lines = [line.rstrip().removesuffix("\\") for line in lines]
            variables[name] = (variables.get(name, "") + " " if more else "") + " ".join(lines)
        elif not match[2].startswith("("):
            variables[match[1]] = match[2].strip("\"'").replace("\\\n", " ")
    return variables


def _commands(text: str) -> list[str]:
    joined = re.sub(r"\\\s*\n", " ", text)
    lines = [line for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    # An assignment is no command, also where its value names a script.
    return [line for line in lines if not re.match(r"\s*(export\s+|local\s+)?[A-Za-z_][A-Za-z0-9_]*\+?=", line)]


def _expand(text: str, variables: dict[str, str]) -> str:
    for _ in range(_DEEPEST):
        expanded = _REFERENCE.sub(lambda m: variables.get(m[1], m[2] if m[2] is not None else m[0]), text)
        if expanded == text:
            break
        text = expanded
    return text


def _split(text: str, path: Path) -> list[str]:
    try:
        tokens = shlex.split(text, comments=True)
    except ValueError:
        raise SpecError(f"{path} has a quotation mark that is not closed") from None
    plain: list[str] = []
    for token in tokens:
        if token in ("|", "&&", ";", "&", "||") or token.startswith((">", "2>", "&>", "<")):
            break
        # "${ARGS[@]}" inside quotation marks was one token.
        plain += token.split() if token.lstrip().startswith("--") and " " in token.strip() else [token]
    return [token for token in plain if token not in ("\\", "\n")]


def _processes(tokens: list[str]) -> int:
    """torchrun's --nproc_per_node times --nnodes."""
    text = " ".join(tokens)
    counts = [re.search(rf"--{name}[=\s]+(\d+)", text) for name in ("nproc[_-]per[_-]node", "nnodes")]
    if counts[0] is None:
        return 0
    return int(counts[0][1]) * (int(counts[1][1]) if counts[1] else 1)
