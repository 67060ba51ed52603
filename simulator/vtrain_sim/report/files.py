"""Rows of results as CSV or Parquet."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from vtrain_sim.errors import UserError
from vtrain_sim.results import Result
from vtrain_sim.whole_file import check_place, write_file

FORMATS = (".csv", ".parquet")


class CsvRenderer:
    """The rows of a result as CSV, with a header."""

    name = "csv"

    def render(self, result: Result) -> str:
        """Comma-separated rows, ending in a line feed."""
        text = io.StringIO()
        writer = csv.DictWriter(text, result.columns(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(result.rows())
        return text.getvalue()


class ParquetRenderer:
    """The rows of a result as a Parquet file."""

    name = "parquet"

    def render(self, result: Result) -> bytes:
        """The bytes of the file."""
        import pyarrow.parquet as pq

        buffer = io.BytesIO()
        pq.write_table(result.to_arrow(), buffer)
        return buffer.getvalue()


def check_name(path: Path | None) -> None:
    """Refuse a file whose ending says no format that can be written, or whose directory does not exist."""
    if path is None:
        return
    if path.suffix not in FORMATS:
        raise UserError(f"{path} ends in neither {' nor '.join(FORMATS)}")
    check_place(path)


def write_rows(path: Path | None, result: Result) -> None:
    """Write the rows of a result, whole or not at all; without a path nothing is written."""
    if path is None:
        return
    check_name(path)
    data = ParquetRenderer().render(result) if path.suffix == ".parquet" else CsvRenderer().render(result).encode()
    write_file(path, lambda stream: stream.write(data))
