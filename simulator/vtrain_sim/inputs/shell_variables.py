"""Variables of a shell script, and words with their values put in.

A reference whose value is not known (the environment's, a command's output, one that the script chooses) stays as it is
written: what reads the word refuses it where it matters.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from typing import TypeAlias

from vtrain_sim.inputs.shell_words import closing, words_of

# An array is a list. None: set, but not known.
Value: TypeAlias = str | list[str] | None

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|\d|[@*#?]")
_BRACED = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*|\d+|[@*])(\[[@*]\])?(?:(:?[-=])(.*))?\}$", re.DOTALL)
_WHOLE_ARRAY = re.compile(r'"\$(\{[A-Za-z_][A-Za-z0-9_]*\[[@*]\]\}|@|\{@\})"')
_LONGEST = 1 << 20
_LARGEST = 1 << 62


class TooLongError(ValueError):
    """Variables that grow beyond any command."""


class Variables:
    """The variables that a script has set so far."""

    def __init__(self, values: dict[str, Value] | None = None) -> None:
        self.values: dict[str, Value] = dict(values or {})

    def assign(self, name: str, raw: str, append: bool) -> None:
        """``name=raw``, or ``name+=raw``. Raises `OpenQuoteError`, `TooLongError`."""
        old = self.values.get(name) if name in self.values or not append else ""
        new: Value
        if raw.startswith("("):
            new = [word for item in words_of(raw[1:-1]) for word in self.expand(item)]
        else:
            new = self.text(raw)
        if append and (old is None or new is None):
            self.values[name] = None
        elif append and isinstance(new, list):
            self.values[name] = [*([old] if isinstance(old, str) and old else old or []), *new]
        elif append:
            self.values[name] = None if isinstance(old, list) else f"{old}{new}"
        else:
            self.values[name] = new
        if _length(self.values[name]) > _LONGEST:
            raise TooLongError(name)

    def text(self, raw: str) -> str | None:
        """A word as one text, its spaces included; None where a command's output is in it."""
        if "`" in raw or re.search(r"\$\((?!\()", raw):
            return None
        return "".join(piece for piece, _ in self._pieces(raw))

    def expand(self, raw: str) -> list[str]:
        """The words that a word becomes: those that unquoted references bring are split at spaces."""
        if _WHOLE_ARRAY.fullmatch(raw):
            raw = raw[1:-1]
            value = self._lookup(raw[1:])
            return list(value) if isinstance(value, list) else [raw if value is None else value]
        words, current, begun = [], "", False
        for piece, splits in self._pieces(raw):
            if not splits:
                current, begun = current + piece, True
                continue
            first, *rest = re.split(r"\s+", piece) if piece else [""]
            current, begun = current + first, begun or bool(first)
            for part in rest:
                if begun:
                    words.append(current)
                current, begun = part, bool(part)
        if sum(map(len, words)) > _LONGEST:
            raise TooLongError(raw)
        return [*words, current] if begun else words

    def _pieces(self, raw: str) -> list[tuple[str, bool]]:
        """Parts of a word without their quotes, with whether their spaces split it."""
        pieces: list[tuple[str, bool]] = []
        position, quoted, length = 0, False, 0
        while position < len(raw):
            length += len(pieces[-1][0]) if pieces else 0
            if length > _LONGEST:
                raise TooLongError(raw)
            character = raw[position]
            if character == '"':
                quoted, position = not quoted, position + 1
                pieces.append(("", False))
            elif character == "'" and not quoted:
                end = closing(raw, position)
                pieces.append((raw[position + 1 : end - 1], False))
                position = end
            elif character == "\\":
                following = raw[position + 1 : position + 2]
                kept = "\\" if quoted and following not in '$`"\\\n' else ""
                pieces.append((kept + following if following != "\n" else "", False))
                position += 2
            elif character == "$":
                text, position = self._reference(raw, position + 1)
                pieces.append((text, not quoted))
            elif character == "`":
                end = closing(raw, position)
                pieces.append((raw[position:end], False))
                position = end
            else:
                pieces.append((character, False))
                position += 1
        return pieces

    def _reference(self, raw: str, position: int) -> tuple[str, int]:
        """What ``$...`` stands for, and the position after it."""
        if raw.startswith("((", position):
            end = closing(raw, position)
            return self._arithmetic(raw[position + 2 : end - 2], raw[position - 1 : end]), end
        if raw.startswith(("(", "{"), position):
            end = closing(raw, position)
        else:
            name = _NAME.match(raw, position)
            if name is None:
                return "$", position
            end = name.end()
        written = raw[position:end]
        value = self._lookup(written)
        if value is None:
            return f"${written}", end
        return " ".join(value) if isinstance(value, list) else value, end

    def _lookup(self, written: str) -> Value:
        """Value of a reference without its dollar sign; None where it is not known."""
        if not written.startswith("{"):
            return self.values.get(written)
        braced = _BRACED.match(written)
        if braced is None:
            return None
        name, _, operator, default = braced.groups()
        if operator is None or (name in self.values and self.values[name] not in ("", [])):
            return self.values.get(name)
        # Not set: a default is taken, as where the environment does not set it either.
        value = self.text(default)
        if operator.endswith("="):
            self.values[name] = value
        return value

    def _arithmetic(self, expression: str, written: str) -> str:
        text = "".join(piece for piece, _ in self._pieces(expression))
        text = re.sub(r"[A-Za-z_]\w*", lambda name: str(self.values.get(name[0]) or name[0]), text).strip()
        try:
            return str(_evaluate(ast.parse(text.replace("/", "//"), mode="eval").body))
        except (SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError):
            return written


def _evaluate(node: ast.expr) -> int:
    """Sums, products and powers of whole numbers."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and not _is_power(node.operand):
        return -_evaluate(node.operand)
    if isinstance(node, ast.BinOp):
        left, right = _evaluate(node.left), _evaluate(node.right)
        if isinstance(node.op, ast.Pow) and 0 <= right < 64 and abs(left) ** right < _LARGEST:
            return int(left**right)
        if max(abs(left), abs(right)) < _LARGEST:
            if isinstance(node.op, ast.Add):
                return left + right
            if isinstance(node.op, ast.Sub):
                return left - right
            if isinstance(node.op, ast.Mult):
                return left * right
            # As a shell divides: towards zero.
            quotient = abs(left) // abs(right) if isinstance(node.op, (ast.FloorDiv, ast.Mod)) else 0
            quotient = quotient if (left < 0) == (right < 0) else -quotient
            if isinstance(node.op, ast.FloorDiv):
                return quotient
            if isinstance(node.op, ast.Mod):
                return left - right * quotient
    raise ValueError("not arithmetic of whole numbers")


def _is_power(node: ast.expr) -> bool:
    """A shell takes the sign of -2**2 before the power, Python after it."""
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow)


def _length(value: Value) -> int:
    return sum(map(len, value)) if isinstance(value, Sequence) and not isinstance(value, str) else len(value or "")
