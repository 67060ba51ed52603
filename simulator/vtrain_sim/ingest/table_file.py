"""A table written to its file piece by piece."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vtrain_schemas import arrow_schema


def write_pieces(path: Path, name: str, pieces: Iterable[pa.Table]) -> int:
    """Write the rows of a table of this name; how many there were. The file is there even without any."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = 0
    with pq.ParquetWriter(path, arrow_schema(name), compression="zstd") as writer:
        for piece in pieces:
            writer.write_table(piece)
            rows += piece.num_rows
    return rows
