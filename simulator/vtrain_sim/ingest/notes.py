"""What was kept of a trace, what was left out, and what its reader should know: counted, with reasons."""

from __future__ import annotations

from dataclasses import dataclass

KEPT, DROPPED, NOTED = "kept", "dropped", "noted"


@dataclass
class Note:
    """One line of the report."""

    subject: str
    outcome: str
    reason: str
    count: int = 0
    example: str = ""


class Notes:
    """Counts by subject, outcome and reason."""

    def __init__(self) -> None:
        self._notes: dict[tuple[str, str, str], Note] = {}

    def add(self, subject: str, outcome: str, reason: str, count: int = 1, example: str = "") -> None:
        """Count something; nothing is noted for a count of 0."""
        if count <= 0:
            return
        note = self._notes.setdefault((subject, outcome, reason), Note(subject, outcome, reason))
        note.count += int(count)
        note.example = note.example or example[:200]

    def lines(self) -> list[Note]:
        """The notes: what was kept first, then what was dropped, then the rest."""
        rank = {KEPT: 0, DROPPED: 1, NOTED: 2}
        return sorted(self._notes.values(), key=lambda n: (rank[n.outcome], n.subject, -n.count))

    def rows(self, run_id: str, rank: int) -> list[dict[str, object]]:
        """Rows of the ingest table."""
        return [
            {
                "run_id": run_id,
                "rank": rank,
                "subject": n.subject,
                "outcome": n.outcome,
                "count": n.count,
                "reason": n.reason,
                "example": n.example or None,
            }
            for n in self.lines()
        ]
