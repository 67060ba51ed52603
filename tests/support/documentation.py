"""Fenced blocks of the documentation, and the additions that CONTRIBUTING.md shows applied to a copy of the tree."""

from __future__ import annotations

import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))))
PACKAGES = ("plugin", "schemas", "simulator", "data")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.S | re.M)


@dataclass(frozen=True)
class Block:
    """One fenced block. section: the nearest heading above it."""

    page: str
    section: str
    language: str
    text: str

    @property
    def path(self) -> str:
        """The file that the first line names, in an addition; empty in other blocks."""
        first = self.text.split("\n", 1)[0]
        named = re.fullmatch(r"(?:# |\+\+\+ )((?:plugin|schemas|simulator|data)/\S+)", first)
        return named[1] if named else ""

    def commands(self) -> list[list[str]]:
        """Command lines of a console block (those after ``$``), or all lines of an sh block, as words."""
        lines = self.text.splitlines()
        if self.language == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        return [shlex.split(line, comments=True) for line in lines if line.strip()]


def headings(page: str) -> list[tuple[int, str]]:
    """Headings of a page, each with where it begins; lines of code that begin with # are none."""
    text = _FENCE.sub(lambda match: " " * len(match[0]), (ROOT / page).read_text())
    return [(match.start(), match[1]) for match in re.finditer(r"^#+ (.*)$", text, re.M)]


def blocks(page: str) -> list[Block]:
    """All fenced blocks of a page, in order."""
    titles = headings(page)
    return [
        Block(page, [title for start, title in titles if start < match.start()][-1], match[1], match[2])
        for match in _FENCE.finditer((ROOT / page).read_text())
    ]


def named(page: str, language: str) -> list[Block]:
    """Blocks of a page in one language."""
    return [block for block in blocks(page) if block.language == language]


def additions() -> dict[str, list[Block]]:
    """By section, the blocks of CONTRIBUTING.md that add to the tree."""
    sections: dict[str, list[Block]] = {}
    for block in blocks("CONTRIBUTING.md"):
        if block.path:
            sections.setdefault(block.section, []).append(block)
    return sections


def copy_of_tree(where: Path) -> None:
    """The packages, with every addition applied."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, where / package, ignore=shutil.ignore_patterns("__pycache__"))
    for section in additions().values():
        for block in section:
            apply(block, where / block.path)


def apply(block: Block, path: Path) -> None:
    """Write the new file of a block, or change the file that a diff names.

    The old lines of each hunk must be in the file exactly once.
    """
    if block.language != "diff":
        assert not path.exists(), f"{block.path} is there already: the example needs another name"
        path.write_text(block.text)
        return
    text = path.read_text()
    for hunk in block.text.split("@@\n")[1:]:
        lines = hunk.splitlines()
        before, after = (_side(lines, sign) for sign in "-+")
        count = text.count(before)
        assert count == 1, f"{block.path} has {count} times the lines\n{before}which CONTRIBUTING.md changes"
        text = text.replace(before, after)
    path.write_text(text)


def _side(lines: list[str], sign: str) -> str:
    return "".join(f"{line[1:]}\n" for line in lines if line[0] in (" ", sign))
