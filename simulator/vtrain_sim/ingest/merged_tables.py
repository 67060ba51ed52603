"""Tables that were written once and whose rows are in merged files since: they are there, and are not made again."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vtrain_schemas.layout import parse_file_name
from vtrain_schemas.merged import Replaced, replaced_of


def replaced_in(folder: Path) -> frozenset[Replaced]:
    """Files of the directory of a table whose rows merged ones in it hold."""
    files: set[Replaced] = set()
    for path in folder.glob("rank*.parquet"):
        if parse_file_name(path.name) is None:
            continue
        try:
            files.update(replaced_of(pq.read_schema(path).metadata))
        except (OSError, ValueError, pa.ArrowException):
            # Damaged: whoever adds it to a catalog says so.
            continue
    return frozenset(files)
