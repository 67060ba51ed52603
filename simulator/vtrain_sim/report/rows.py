"""Rows of results as CSV or Parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from vtrain_sim.errors import UserError

FORMATS = (".csv", ".parquet")


def check_name(path: Path) -> None:
    """Refuse a file whose ending says no format that can be written."""
    if path.suffix not in FORMATS:
        raise UserError(f"{path} ends in neither {' nor '.join(FORMATS)}")


def write_rows(stream: IO[bytes], suffix: str, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows that all have the same keys."""
    if suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(list(rows)), stream)
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    stream.write(text.getvalue().encode())
