"""What a run was made of and what that gave, noted beside its tables: an unchanged trace is not read again."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vtrain_sim.ingest.merged_tables import replaced_in

# Beside the tables: says what the run was made of where its own table is lost.
_NOTE = "imported.json"


@dataclass(frozen=True)
class Recorded:
    """What an earlier reading noted. made_of: its traces, and how they were read. tables: bytes of each file written.

    not_read: what could not be read of them. tables is None where a version of vtrain that did not note them wrote.
    """

    made_of: dict[str, object] = field(default_factory=dict)
    tables: dict[str, int] | None = None
    not_read: tuple[str, ...] = ()

    def is_whole(self, directory: Path) -> bool:
        """Whether everything that was written is there, as far as it was noted; in merged files, too."""
        if not list(directory.glob("table=runs/*.parquet")):
            return False
        sizes = _sizes(directory)
        lacking = {name for name, size in (self.tables or {}).items() if sizes.get(name) != size}
        for folder in {name.rpartition("/")[0] for name in lacking}:
            merged = {f"{folder}/{file.name}": file.bytes for file in replaced_in(directory / folder)}
            lacking -= {name for name, size in merged.items() if (self.tables or {}).get(name) == size}
        return not lacking

    def traces(self) -> set[str]:
        """Paths of the traces."""
        files = self.made_of.get("files")
        return {str(f.get("path")) for f in files if isinstance(f, dict)} if isinstance(files, list) else set()


def text_of(made_of: dict[str, object], directory: Path, not_read: list[str]) -> str:
    """The note for the tables that lie in a directory, which gets it as a file too."""
    text = json.dumps({**made_of, "tables": _sizes(directory), "not_read": not_read})
    (directory / _NOTE).write_text(text, encoding="utf-8")
    return text


def recorded(directory: Path) -> Recorded | None:
    """What an earlier reading noted about a run's files; None where there is no note."""
    places = [*sorted(directory.glob("table=runs/*.parquet")), directory / _NOTE]
    return next((noted for place in places if (noted := _parsed(place)) is not None), None)


def _parsed(place: Path) -> Recorded | None:
    """The note in a table of runs or in a file of its own."""
    try:
        if place.name == _NOTE:
            entries = json.loads(place.read_text(encoding="utf-8"))
        else:
            rows = pq.read_table(place, columns=["config_json"]).to_pylist()
            entries = json.loads(rows[0]["config_json"]) if rows else None
    except (OSError, TypeError, ValueError, pa.ArrowException):
        return None
    if not isinstance(entries, dict):
        return None
    tables, not_read = entries.pop("tables", None), entries.pop("not_read", None)
    return Recorded(
        entries,
        {str(k): int(v) for k, v in tables.items()} if isinstance(tables, dict) else None,
        tuple(map(str, not_read)) if isinstance(not_read, list) else (),
    )


def _sizes(directory: Path) -> dict[str, int]:
    """Bytes of every table file but the run's own, which holds the note."""
    files = (p for p in directory.glob("table=*/*.parquet") if p.parent.name != "table=runs")
    return {p.relative_to(directory).as_posix(): p.stat().st_size for p in sorted(files)}
