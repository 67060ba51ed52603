"""Which SQL a catalog runs: queries alone, judged by DuckDB's own parse tree rather than by their text.

A statement that begins like a query may write: ``EXPLAIN ANALYZE COPY ...`` runs what it explains, a common table
expression may hold an INSERT or a COPY, and table functions open files or change settings. So every node of the tree
has to be one that reads, and every table function one that reaches nothing but its arguments and the catalog.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import duckdb

from vtrain_sim.catalog.errors import CatalogError

_QUERY_NODES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
# Table functions of a query that touch no file, no setting and no address in memory.
_TABLE_FUNCTIONS = frozenset(
    {
        *("range", "generate_series", "unnest", "repeat", "repeat_row", "json_each", "json_tree"),
        *("duckdb_columns", "duckdb_tables", "duckdb_views", "duckdb_functions", "duckdb_types", "duckdb_keywords"),
        *("duckdb_schemas", "duckdb_constraints", "pragma_table_info", "pragma_show", "pragma_version", "show_tables"),
    }
)
# Scalar functions that reach the environment, the settings or the log, or hold a worker for as long as they like.
_REFUSED_FUNCTIONS = frozenset(
    {"getenv", "current_setting", "write_log", "nextval", "setval", "sleep_ms", "pg_sleep", "sleep"}
)
_COMMENTS = r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/)*"
_EXPLAIN = re.compile(rf"{_COMMENTS}EXPLAIN\b{_COMMENTS}(ANALYZE\b|ANALYSE\b)?", re.IGNORECASE | re.DOTALL)


def queries(connection: duckdb.DuckDBPyConnection, text: str) -> list[str]:
    """The statements of a text, each of them a query. Raises `CatalogError` for any other, and for none at all."""
    statements = connection.extract_statements(text)
    if not statements:
        raise CatalogError("the query is empty")
    return [_checked(connection, _kind(s), s.query) for s in statements]


def _kind(statement: duckdb.Statement) -> str:
    try:
        return str(statement.type).rpartition(".")[2].removesuffix("_STATEMENT")
    except ValueError:  # one that DuckDB's own list for Python does not name
        return " ".join(statement.query.split()[:1]).upper() or "this"


def _checked(connection: duckdb.DuckDBPyConnection, kind: str, text: str) -> str:
    """The text to run for one statement."""
    if kind == "EXPLAIN":
        return _explained(connection, text)
    if kind == "MULTI":
        raise CatalogError("PIVOT is a query only where it names its values: PIVOT ... ON column IN (value, ...)")
    if kind != "SELECT":
        raise _not_a_query(kind)
    _check_tree(connection, text)
    return text


def _explained(connection: duckdb.DuckDBPyConnection, text: str) -> str:
    """EXPLAIN of a query, written anew: what is run is what was judged."""
    begin = _EXPLAIN.match(text)
    rest = text[begin.end() :] if begin else ""
    try:
        inner = connection.extract_statements(rest)
    except duckdb.Error:
        inner = []
    if begin is None or len(inner) != 1:
        raise CatalogError("EXPLAIN takes one query here, without options: EXPLAIN [ANALYZE] SELECT ...")
    if _kind(inner[0]) != "SELECT":
        raise _not_a_query(f"EXPLAIN of {_kind(inner[0])}")
    _check_tree(connection, inner[0].query)
    return f"EXPLAIN {'ANALYZE ' if begin.group(1) else ''}{inner[0].query}"


def _not_a_query(kind: str) -> CatalogError:
    return CatalogError(f"a catalog is read-only: {kind} is not allowed, only queries are")


def _check_tree(connection: duckdb.DuckDBPyConnection, text: str) -> None:
    ((tree,),) = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [text]).fetchall()
    document = json.loads(tree)
    if document.get("error", True) or not document.get("statements"):
        raise CatalogError("a catalog is read-only: this statement is not allowed, only queries are")
    for node in _nodes(document["statements"]):
        kind = str(node.get("type", ""))
        if kind.endswith("_NODE") and kind not in _QUERY_NODES:
            raise _not_a_query(kind.removesuffix("_NODE").removesuffix("_QUERY"))
        name = str(node.get("function_name", "")).lower()
        if name in _REFUSED_FUNCTIONS:
            raise CatalogError(f"the function {name} is not allowed: queries reach nothing but the catalog")
        if kind == "TABLE_FUNCTION":
            _check_table_function(node.get("function"))


def _check_table_function(call: object) -> None:
    name = str(call.get("function_name", "") if isinstance(call, dict) else "").lower()
    if name not in _TABLE_FUNCTIONS:
        raise CatalogError(
            f"the table function {name or '(unnamed)'} is not allowed: queries reach nothing but the tables and views "
            "of the catalog"
        )


def _nodes(tree: object) -> Iterator[dict[str, object]]:
    """Every object of a JSON document; without recursion, as a query may nest deeply."""
    waiting = [tree]
    while waiting:
        entry = waiting.pop()
        if isinstance(entry, dict):
            yield entry
            waiting.extend(entry.values())
        elif isinstance(entry, list):
            waiting.extend(entry)
