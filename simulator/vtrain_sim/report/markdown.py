"""Results as a Markdown table."""

from __future__ import annotations

from vtrain_sim.report.tables import text
from vtrain_sim.results import Result


class MarkdownRenderer:
    """The rows of a result as one table."""

    name = "markdown"

    def render(self, result: Result) -> str:
        """A table with a line per row; bars in values are escaped."""
        columns = result.columns()
        lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        lines += [
            "| " + " | ".join(text(row.get(name)).replace("|", "\\|") for name in columns) + " |"
            for row in result.rows()
        ]
        return "\n".join(lines) + "\n"
