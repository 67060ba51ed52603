"""Results as HTML: a page with charts, without any other file; and a card of figures and tables for notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from vtrain_sim.errors import UserError
from vtrain_sim.report.page import page
from vtrain_sim.report.tables import text
from vtrain_sim.results import Result, Row, columns_of
from vtrain_sim.whole_file import check_place

# Longer tables are cut in a notebook cell; pages, files and Arrow have all rows.
MOST_ROWS = 200
_STYLE = (
    ".vtrain{font:14px system-ui,sans-serif;color:#1a1a1a;background:#fff;padding:8px}"
    ".vtrain h3{margin:0 0 6px}.vtrain table{border-collapse:collapse;margin:6px 0 12px}"
    ".vtrain caption{text-align:left;font-weight:600;padding:4px 0}"
    ".vtrain th,.vtrain td{padding:2px 10px;border-bottom:1px solid #ddd;text-align:right}"
    ".vtrain th:first-child,.vtrain td:first-child{text-align:left}"
    ".vtrain dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 14px;margin:0 0 10px}"
    ".vtrain dt{color:#666}.vtrain dd{margin:0}"
)


class HtmlRenderer:
    """A whole page: figures, charts and tables, with all that draws them inside."""

    name = "html"

    def render(self, result: Result) -> str:
        """The page as text."""
        return page(result)


def check_name(path: Path | None) -> None:
    """Refuse a file whose ending says that it is no page, or whose directory does not exist."""
    if path is None:
        return
    if path.suffix not in (".html", ".htm"):
        raise UserError(f"{path} is no name of a page: it must end in .html")
    check_place(path)


def fragment(result: Result) -> str:
    """Card and tables of a result, to stand in any page. All values are escaped."""
    tables = "".join(_table(title, rows) for title, rows in result.tables().items() if rows)
    title = escape(type(result).__name__)
    return f'<style>{_STYLE}</style><div class="vtrain"><h3>{title}</h3>{_card(result.summary())}{tables}</div>'


def _card(figures: Mapping[str, object]) -> str:
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text(value))}</dd>" for name, value in figures.items())
    return f"<dl>{items}</dl>"


def _table(title: str, rows: Sequence[Row]) -> str:
    columns = columns_of(rows)
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(text(row.get(name)))}</td>" for name in columns) + "</tr>"
        for row in rows[:MOST_ROWS]
    )
    more = f"<p>{len(rows) - MOST_ROWS:,} more rows</p>" if len(rows) > MOST_ROWS else ""
    return f"<table><caption>{escape(title)}</caption><tr>{head}</tr>{body}</table>{more}"
