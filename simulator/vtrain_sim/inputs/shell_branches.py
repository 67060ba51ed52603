"""Which commands of a shell script run, as far as its conditions are known, and what its variables are then."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from vtrain_sim.inputs.shell_variables import Value, Variables
from vtrain_sim.inputs.shell_words import Command, commands

_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(\[[^\]]*\])?(\+?)=(.*)$", re.DOTALL)
_DECLARING = ("export", "local", "declare", "readonly", "typeset")
# Commands that set variables in ways that are not followed.
_SETTING = ("let", "read", "unset", "mapfile", "readarray", "getopts")
_OPENING, _CLOSING = ("if", "for", "while", "until", "case", "select"), ("fi", "done", "esac")
_SKIPPED = ("then", "do", "{", "}", "!", "time", "function")
_COMPARED = {"=": "==", "==": "==", "!=": "!=", "-eq": "==", "-ne": "!="}
_ORDERED = {"-gt": 1, "-ge": 0, "-lt": 1, "-le": 0}


@dataclass
class _Block:
    """A conditional, a loop or a case that is open. known: its branch is; runs: this branch may; taken: one was."""

    known: bool
    runs: bool
    taken: bool
    before: dict[str, Value] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)

    def end_branch(self, variables: Variables) -> None:
        """The next branch begins with the variables of before the block, where it is not known which one runs."""
        if self.known:
            return
        names = {*self.before, *variables.values}
        self.changed |= {n for n in names if variables.values.get(n, "") != self.before.get(n, "")}
        variables.values = dict(self.before)

    def end(self, variables: Variables) -> None:
        """What some branch changed is not known after the block."""
        self.end_branch(variables)
        variables.values.update(dict.fromkeys(self.changed))


class Script:
    """A script, command by command."""

    def __init__(self, text: str, variables: Variables) -> None:
        self._text = text
        self._variables = variables
        self._blocks: list[_Block] = []

    def run(self) -> Iterator[tuple[list[str], bool]]:
        """Words of each command that may run, values put in, and whether it is known to run.

        Raises `OpenQuoteError`, `TooLongError`.
        """
        assigned_before = True
        for command in commands(self._text):
            words = self._control(command)
            if not words or not all(block.runs for block in self._blocks):
                continue
            # What follows && or || may run, or not: unless assignments alone are before it, which succeed.
            certain = command.after not in ("&&", "||") or (assigned_before and command.after == "&&")
            before = dict(self._variables.values)
            words = self._assign(words)
            assigned_before = not words
            if not certain:
                for name, value in self._variables.values.items():
                    if before.get(name, "") != value:
                        self._variables.values[name] = None
            if words:
                expanded = [each for word in words for each in self._variables.expand(word)]
                yield expanded, certain and all(block.known for block in self._blocks)

    def _control(self, command: Command) -> list[str]:
        """The words of a command after those that open, divide and close blocks."""
        words = list(command.words)
        while words:
            word = words[0]
            if word in ("if", "elif"):
                self._branch(word == "if", self._condition(words[1:]))
                return []
            if word in _OPENING:
                if word in ("for", "select") and len(words) > 1:
                    self._variables.values[words[1]] = None
                self._open(None)
                return []
            if word == "else" and self._blocks:
                self._branch(False, True)
            elif word in _CLOSING and self._blocks:
                self._blocks.pop().end(self._variables)
            elif word not in _SKIPPED:
                break
            words.pop(0)
        if command.after == ";;" and self._blocks:
            self._blocks[-1].end_branch(self._variables)
        return words

    def _open(self, holds: bool | None) -> None:
        self._blocks.append(_Block(holds is not None, holds is not False, bool(holds), dict(self._variables.values)))

    def _branch(self, opens: bool, holds: bool | None) -> None:
        """A branch of a conditional begins. holds: whether its condition does, None where that is not known."""
        if opens or not self._blocks:
            self._open(holds)
            return
        block = self._blocks[-1]
        block.end_branch(self._variables)
        if not block.known:
            return
        if block.taken:
            block.runs = False
        elif holds is None:
            block.known, block.runs, block.before = False, True, dict(self._variables.values)
        else:
            block.runs = block.taken = holds

    def _condition(self, words: Sequence[str]) -> bool | None:
        """Whether ``[ ... ]`` or ``[[ ... ]]`` holds: comparisons of what is known."""
        if len(words) < 3 or (words[0], words[-1]) not in (("[", "]"), ("[[", "]]")):
            return None
        parts = []
        for word in words[1:-1]:
            text = self._variables.text(word)
            if text is None or "$" in text or any(c in text for c in "*?"):
                return None
            parts.append(text)
        if len(parts) == 2 and parts[0] in ("-z", "-n"):
            return (parts[1] == "") == (parts[0] == "-z")
        if len(parts) != 3:
            return None
        left, operator, right = parts
        if operator in _COMPARED:
            return (left == right) == (_COMPARED[operator] == "==")
        if operator in _ORDERED and left.isdecimal() and right.isdecimal():
            difference = int(left) - int(right) if operator.startswith("-g") else int(right) - int(left)
            return difference >= _ORDERED[operator]
        return None

    def _assign(self, words: list[str]) -> list[str]:
        """Take in what a command assigns; the words that are left."""
        if words[0] in _SETTING:
            names = [re.match(r"[A-Za-z_]\w*", word.strip("'\"")) for word in words[1:]]
            self._variables.values.update({name[0]: None for name in names if name})
            return []
        declares = words[0] in _DECLARING
        rest = words[1:] if declares else words
        pairs = []
        while rest and (declares or _ASSIGNMENT.match(rest[0])):
            pairs.append(_ASSIGNMENT.match(rest.pop(0)))
        if rest:
            # Only of the command's own environment.
            return rest
        for pair in pairs:
            if pair is not None:
                self._set(*pair.groups())
        return []

    def _set(self, name: str, item: str | None, append: str, raw: str) -> None:
        if item:
            self._variables.values[name] = None
        else:
            self._variables.assign(name, raw, bool(append))
