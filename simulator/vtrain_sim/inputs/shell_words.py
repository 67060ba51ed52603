"""Cuts a shell script into commands of words, as they are written: quotes and references stay in them.

What is read is what launch scripts are made of: quotes, comments, continued lines, arrays, here-documents and lists
of commands. It is no shell: nothing is run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# What ends a command; the longer ones first.
_ENDS = (";;", "&&", "||", "|&", ";", "|", "&", "\n")
_BLANK = " \t"
# Of a redirection: the operator, and what may be written before it.
_OPERATOR = re.compile(r"<<<|<<-?|<>|>\||>>|>&|<&|[<>]")
_DESCRIPTOR = re.compile(r"\d+|&")


class OpenQuoteError(ValueError):
    """A quotation mark or a bracket that is not closed."""


@dataclass(frozen=True)
class Command:
    """Words as they are written, but redirections. after: what is between the command before and this one: "&&" for
    example."""

    words: tuple[str, ...]
    after: str


def commands(text: str) -> Iterator[Command]:
    """The commands of a script, in the order of the text. Raises `OpenQuoteError`."""
    text = text.replace("\r\n", "\n")
    words: list[str] = []
    line: list[str] = []
    position, after = 0, "\n"
    while position < len(text):
        character = text[position]
        if text.startswith("\\\n", position):
            position += 2
        elif character in _BLANK:
            position += 1
        elif character == "#":
            position = _line_end(text, position)
        elif end := _end_at(text, position):
            if words or end == ";;":
                yield Command(_without_redirections(words), after)
            position += len(end)
            if end == "\n":
                position, line = _after_documents(text, position, line), []
            words, after = [], end
        elif text.startswith("((", position) and not words:
            # Arithmetic, in which "<" compares.
            end_of_word = closing(text, position)
            words, position = [text[position:end_of_word]], end_of_word
        elif character in "()" and (not words or text.startswith("()", position) or character == ")"):
            # A subshell, the pattern of a case, or a function.
            yield Command(_without_redirections(words), after)
            position += 2 if text.startswith("()", position) else 1
            words, after = [], "\n"
        else:
            end_of_word = _word_end(text, position)
            words.append(text[position:end_of_word])
            line.append(words[-1])
            position = end_of_word
    if words:
        yield Command(_without_redirections(words), after)


def words_of(text: str) -> list[str]:
    """The words of a list that goes over several lines: the items of an array. Raises `OpenQuoteError`."""
    return [word for command in commands(text) for word in command.words]


def _without_redirections(words: Sequence[str]) -> tuple[str, ...]:
    """Words of a command, but operators such as "2>&1" or ">" and the files that they name. In "[[ a < b ]]" there are
    none."""
    kept: list[str] = []
    for part, opener, follower in () if words[:1] == ["[["] else _parts(words):
        if opener or (follower and (not part or _DESCRIPTOR.fullmatch(part))):
            continue
        kept.append(part.removesuffix("&") if follower else part)
    return tuple(words) if words[:1] == ["[["] else tuple(kept)


def _parts(words: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """What stands between redirections: each part with the operator whose file it names, and the one behind it in its
    word; empty: none."""
    opener = ""
    for word in words:
        rest = word
        while rest:
            at = _operator_at(rest)
            operator = _OPERATOR.match(rest, at)
            follower = operator[0] if operator else ""
            part, rest = rest[:at], rest[at + len(follower) :]
            if part or not opener:
                yield part, opener, follower
                opener = ""
            opener = follower or opener


def _operator_at(text: str) -> int:
    """Position of the first redirection that is not in quotation marks; the length of the text if there is none."""
    position = 0
    while position < len(text):
        if text.startswith(("<(", ">("), position):
            position += 1
        elif text[position] in "<>":
            return position
        past = closing(text, position) if text[position] == "(" else _past_quoted(text, position)
        position = max(past, position + 1)
    return len(text)


def _past_quoted(text: str, position: int) -> int:
    """Position after the escape, the quotation or the substitution that begins there; there, where none does."""
    if text[position] == "\\":
        return position + 2
    if text[position] in "'\"`":
        return closing(text, position)
    return closing(text, position + 1) if text.startswith(("$(", "${"), position) else position


def closing(text: str, position: int) -> int:
    """Position after what the quotation mark or bracket at `position` opens. Raises `OpenQuoteError`."""
    opener = text[position]
    if opener == "'":
        return _find(text, "'", position + 1)
    if opener == "`":
        return _find(text, "`", position + 1)
    closer = {"(": ")", "{": "}", '"': '"'}[opener]
    position += 1
    while position < len(text):
        character = text[position]
        if character == closer:
            return position + 1
        if character == "\\":
            position += 2
        elif text.startswith(("$(", "${"), position):
            position = closing(text, position + 1)
        elif character == "`" or (opener != '"' and character in "'\"(") or (opener == "{" and character == "{"):
            position = closing(text, position)
        elif opener == "(" and character == "#" and text[position - 1] in " \t\n(":
            position = _line_end(text, position)
        else:
            position += 1
    raise OpenQuoteError(opener)


def _find(text: str, mark: str, position: int) -> int:
    at = text.find(mark, position)
    if at < 0:
        raise OpenQuoteError(mark)
    return at + 1


def _line_end(text: str, position: int) -> int:
    end = text.find("\n", position)
    return len(text) if end < 0 else end


def _end_at(text: str, position: int) -> str:
    """What ends the command here, or nothing: "2>&1" and "&>" are redirections."""
    end = next((end for end in _ENDS if text.startswith(end, position)), "")
    if end == "&" and text.startswith("&>", position):
        return ""
    return end


def _word_end(text: str, position: int) -> int:
    while position < len(text):
        character = text[position]
        if text.startswith("\\\n", position):
            return position
        if (past := _past_quoted(text, position)) > position:
            position = past
        elif _opens_list(text, position):
            position = closing(text, position)
        elif text.startswith((">&", "&>", ">|", "<&"), position):
            position += 2
        elif character in _BLANK or character in "()" or _end_at(text, position):
            return position
        else:
            position += 1
    return len(text)


def _opens_list(text: str, position: int) -> bool:
    """An array, or brackets in a value; "()" is a function, unless it is an array without items."""
    return text[position] == "(" and (text[position - 1] == "=" or not text.startswith("()", position))


def _after_documents(text: str, position: int, words: list[str]) -> int:
    """Position after the here-documents that a line's words begin."""
    for delimiter, indented in _documents(words):
        while position < len(text):
            end = _line_end(text, position)
            line, position = text[position:end], end + 1
            if (line.lstrip("\t") if indented else line) == delimiter:
                break
    return min(position, len(text))


def _documents(words: list[str]) -> Iterator[tuple[str, bool]]:
    """Of each here-document that words begin, the line that ends it, and whether tabs may stand before that."""
    for part, opener, _ in _parts(words):
        if opener in ("<<", "<<-"):
            yield re.sub(r"[\\'\"]", "", part), opener == "<<-"
