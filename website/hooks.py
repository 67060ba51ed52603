"""Hooks of MkDocs: equations become MathML when the site is built, and links show titles.

Browsers show MathML by themselves: a page needs no script and no font of another host. The arithmatex extension finds
``$...$`` and ``$$...$$`` and leaves ``\\(...\\)`` and ``\\[...\\]`` in elements of its class.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import Any

_EQUATION = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.S)
# Sizes of delimiters that the converter does not know: MathML stretches them to what they enclose.
_SIZES = re.compile(r"\\[bB]igg?[lr](?=\W)")


# What is under a maximum, where there is room for it.
_LIMIT = re.compile(r"<msub><mo>(max|min)</mo>(<mi>\w</mi>)</msub>")
# MkDocs looks for HTML in code as well, where the parser of Python ends at the lookbehind of a regular expression.
_LOOKBEHIND = "<!["
_STAND_IN = "\ue000["


# Links that a repository browser shows by the name of the file.
_FILE = re.compile(r"\[([\w-]+\.md)\](?=\(\1[#)])")


def on_page_markdown(markdown: str, config: Any, **_: Any) -> str:
    """The page with titles for names of files, and without what looks like a marked section of SGML."""
    titles = dict(_titles(config["nav"]))
    return _FILE.sub(lambda match: f"[{titles[match[1]]}]", markdown.replace(_LOOKBEHIND, _STAND_IN))


def _titles(entries: Any) -> Iterator[tuple[str, str]]:
    """File and title of each page of the navigation."""
    for entry in entries:
        for title, below in entry.items():
            if isinstance(below, str):
                yield below, title
            else:
                yield from _titles(below)


def on_page_content(content: str, **_: Any) -> str:
    """The page with each equation as MathML."""
    return _EQUATION.sub(_mathml, content.replace(_STAND_IN, html.escape(_LOOKBEHIND)))


def _mathml(match: re.Match[str]) -> str:
    from latex2mathml.converter import convert

    tex = html.unescape(match[3]).strip()
    display = "block" if match[2] == "[" else "inline"
    markup = convert(_SIZES.sub(lambda size: r"\left" if size[0][-1] == "l" else r"\right", tex), display=display)
    if display == "block":
        markup = _LIMIT.sub(r"<munder><mo>\1</mo>\2</munder>", markup)
    if "\\" in re.sub(r"<[^>]*>", "", markup):
        raise ValueError(f"an equation has a command that is not turned into MathML: {tex}")
    # The title is what a reader without MathML gets.
    kind = "equation" if display == "block" else "formula"
    return f'<span class="{kind}" title="{html.escape(tex)}">{markup}</span>'
