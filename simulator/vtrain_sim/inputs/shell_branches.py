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
_OPENING, _CLOSING = ("if", "for", "while", "until", "case", "select"), ("fi", "done", "esac", "}")
_SKIPPED = ("then", "do", "!", "time", "function")
_LISTS, _TESTS = ("&&", "||"), ("[", "[[", "test")
_COMPARED = {"=": "==", "==": "==", "!=": "!=", "-eq": "==", "-ne": "!="}
_ORDERED = {"-gt": 1, "-ge": 0, "-lt": 1, "-le": 0}


def _has_output(word: str) -> bool:
    """Whether a word has a command's output in it."""
    return "`" in word or "$(" in word


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


@dataclass
class _List:
    """Commands joined by && and ||. succeeded: what the last one that ran did, None where that is not known."""

    succeeded: bool | None = True
    may_fail: bool = False

    def reaches(self, after: str) -> bool | None:
        """Whether the command that comes `after` the last one runs, None where that is not known."""
        if after not in _LISTS:
            self.succeeded, self.may_fail = True, False
            return True
        if after == "&&":
            return self.succeeded
        return None if self.succeeded is None or self.may_fail else not self.succeeded

    def ended(self, succeeded: bool | None, may_fail: bool = False) -> None:
        """A command ran. may_fail: it is taken to succeed, as assignments do, and what it computes may fail."""
        self.succeeded, self.may_fail = succeeded, may_fail


@dataclass
class _Asked:
    """The condition of a branch, so far. taken: a branch before it was."""

    holds: bool | None
    taken: bool

    def add(self, after: str, holds: bool | None, script: Script) -> None:
        """A part more of the condition."""
        decisive = after == "||"
        if self.holds is not decisive:
            self.holds = decisive if holds is decisive else (None if None in (self.holds, holds) else not decisive)
        script.asks(self.holds, self.taken)


class Script:
    """A script, command by command."""

    def __init__(self, text: str, variables: Variables) -> None:
        self._text = text
        self._variables = variables
        self._blocks: list[_Block] = []
        self._list = _List()
        self._asked: _Asked | None = None

    def run(self) -> Iterator[tuple[list[str], bool]]:
        """Words of each command that may run, values put in, and whether it is known to run.

        Raises `OpenQuoteError`, `TooLongError`.
        """
        for command in commands(self._text):
            runs = self._list.reaches(command.after)
            words = self._control(command, runs)
            if not words:
                self._list.ended(None)
                continue
            if runs is False or not all(block.runs for block in self._blocks):
                continue
            if words[0] in _TESTS:
                self._list.ended(self._tested(command, words) if runs else None)
                continue
            before = dict(self._variables.values)
            may_fail = words[0] in _SETTING or any(map(_has_output, words))
            words = self._assign(words)
            self._list.ended(None if words or not runs else True, may_fail)
            if not runs:
                for name, value in self._variables.values.items():
                    if before.get(name, "") != value:
                        self._variables.values[name] = None
            if words:
                expanded = [each for word in words for each in self._variables.expand(word)]
                yield expanded, bool(runs) and all(block.known for block in self._blocks)

    def _control(self, command: Command, runs: bool | None) -> list[str]:
        """The words of a command after those that open, divide and close blocks. runs: whether it is known to run."""
        words = list(command.words)
        if self._asked is not None and command.after in _LISTS:
            # Another part of a condition.
            self._asked.add(command.after, self._condition(words), self)
            return []
        self._asked = None
        while words:
            word = words[0]
            if word in ("if", "elif"):
                holds = self._condition(words[1:]) if runs or word == "elif" else None
                taken = word == "elif" and bool(self._blocks) and self._blocks[-1].taken
                self._branch(word == "if", holds)
                self._asked = _Asked(holds, taken)
                return []
            if word in _OPENING:
                if word in ("for", "select") and len(words) > 1:
                    self._variables.values[words[1]] = None
                self._open(None)
                return []
            if word == "{":
                self._open(runs)
                # Within it, a list of its own.
                runs = True
            elif word == "else" and self._blocks:
                self._branch(False, True)
            elif word in _CLOSING and self._blocks:
                self._blocks.pop().end(self._variables)
            elif word not in _SKIPPED:
                break
            words.pop(0)
        if command.after == ";;" and self._blocks:
            self._blocks[-1].end_branch(self._variables)
        return words

    def _tested(self, command: Command, words: Sequence[str]) -> bool | None:
        """Whether a test that is a command of its own succeeds."""
        holds = self._condition(words)
        negated = command.words[: len(command.words) - len(words)].count("!") % 2
        return not holds if negated and holds is not None else holds

    def asks(self, holds: bool | None, taken: bool) -> None:
        """The condition of the branch that has just begun is another one. taken: a branch before it was."""
        block = self._blocks[-1]
        if taken or not block.known:
            return
        block.runs, block.taken, block.known = holds is not False, bool(holds), holds is not None
        block.before = dict(self._variables.values)

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
        """Whether ``[ ... ]``, ``[[ ... ]]`` or ``test ...`` holds: comparisons of what is known."""
        if words and words[0] == "test":
            words = ["[", *words[1:], "]"]
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
