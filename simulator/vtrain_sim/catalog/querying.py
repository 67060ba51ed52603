"""Runs a query within limits of time and memory."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from vtrain_sim.catalog.errors import CatalogError
from vtrain_sim.catalog.statements import queries

_BATCH_ROWS = 1 << 16
# An interrupt between two statements is lost, so it is repeated.
_AGAIN_S = 0.2


@dataclass(frozen=True)
class Limits:
    """What a query may take.

    timeout_s: seconds; 0: no limit. memory: of the database, and of the result's rows each; as DuckDB writes it (4GB,
    500MB) or a share of the machine's memory (50%). Nothing is written to disk where that is not enough.
    """

    timeout_s: float = 300.0
    memory: str = "50%"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.timeout_s) and self.timeout_s >= 0):
            raise CatalogError(f"the time limit is {self.timeout_s}: it must be 0 (no limit) or more seconds")


def run_query(connection: duckdb.DuckDBPyConnection, query: str, limits: Limits) -> pa.Table:
    """The rows of the last statement. connection: a confined one whose memory is limited already.

    Raises `CatalogError` for what is no query, for an error in it and beyond a limit; `KeyboardInterrupt` where the
    user interrupts it.
    """
    try:
        texts = queries(connection, query)
        most = _bytes(connection)
        with _time_limit(connection, limits.timeout_s) as is_late:
            try:
                tables = [_rows(connection.sql(text), most) for text in texts]
            except duckdb.InterruptException:
                if is_late():
                    raise CatalogError(
                        f"the query took longer than {limits.timeout_s:g} s and was stopped: a longer time limit "
                        "(--timeout) or fewer rows may help"
                    ) from None
                raise KeyboardInterrupt from None
    except duckdb.OutOfMemoryException:
        raise _too_much(limits) from None
    except _TooLargeError:
        raise CatalogError(
            f"the result is larger than the memory limit {limits.memory}: select fewer columns or rows, or raise "
            "the limit (--memory)"
        ) from None
    except (duckdb.Error, RuntimeError, NotImplementedError, pa.ArrowException) as error:
        if "interrupted" in str(error).lower():
            raise KeyboardInterrupt from None
        raise CatalogError(f"the query failed: {sentence(error)}") from None
    return tables[-1]


def _too_much(limits: Limits) -> CatalogError:
    return CatalogError(
        f"the query needs more than the memory limit {limits.memory}: select fewer columns or rows, or raise the limit "
        "(--memory)"
    )


class _TooLargeError(Exception):
    """A result is larger than the memory limit."""


def _bytes(connection: duckdb.DuckDBPyConnection) -> float:
    """The memory limit of a connection, bytes."""
    ((text,),) = connection.execute("SELECT current_setting('memory_limit')").fetchall()
    number, _, unit = str(text).partition(" ")
    factor = {"bytes": 0, "KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40}.get(unit)
    return float(number) * 2**factor if factor is not None else math.inf


def _rows(result: Any, most: float) -> pa.Table:
    """All rows of a relation, as they come."""
    if result is None:
        raise CatalogError("the query returns no rows to show")
    reader = getattr(result, "to_arrow_reader", None) or result.fetch_record_batch
    batches = reader(_BATCH_ROWS)
    rows, size = [], 0
    for batch in batches:
        rows.append(batch)
        size += batch.nbytes
        if size > most:
            raise _TooLargeError
    return pa.Table.from_batches(rows, schema=batches.schema)


@contextmanager
def _time_limit(connection: duckdb.DuckDBPyConnection, seconds: float) -> Iterator[Callable[[], bool]]:
    """Interrupt what runs on a connection after so many seconds; what is yielded says whether that happened."""
    ended, late = threading.Event(), threading.Event()

    def watch() -> None:
        wait = seconds
        while not ended.wait(wait):
            late.set()
            connection.interrupt()
            wait = _AGAIN_S

    thread = threading.Thread(target=watch, name="vtrain-query-limit", daemon=True)
    if seconds:
        thread.start()
    try:
        yield late.is_set
    finally:
        ended.set()
        if seconds:
            thread.join()


def sentence(error: BaseException) -> str:
    """What a database error says, on one line."""
    text = str(error).split("\n\nLINE")[0].strip()
    return " ".join(text.split())
