"""What the catalog's verbs return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vtrain_sim.catalog.problems import Problem
from vtrain_sim.catalog.reports import AddReport, CompactReport, Detail, RepairReport
from vtrain_sim.catalog.spread import MOST_ROWS, device_spread, rank_spread, slowest_ranks, step_spread
from vtrain_sim.results import Document, Result, Row

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, repr=False)
class Added(Result):
    """What ``add`` did: runs, files and rows that are indexed now, and what could not be."""

    catalog: str
    report: AddReport

    def summary(self) -> dict[str, object]:
        """Runs, files and rows."""
        report = self.report
        return {
            "runs": len(report.runs),
            "files_added": report.files_added,
            "files_unchanged": report.files_unchanged,
            "rows_added": report.rows_added,
            "problems": len(report.problems),
        }

    def rows(self) -> list[Row]:
        """One row per run."""
        return [{"run_id": run} for run in self.report.runs]

    def to_dict(self) -> Document:
        """Runs, counts, problems and notices."""
        report = self.report
        return {
            **self.summary(),
            "catalog": self.catalog,
            "runs": list(report.runs),
            "problems": [vars(p) for p in report.problems],
            "notices": list(report.notices),
        }


@dataclass(frozen=True, repr=False)
class Removed(Result):
    """A run that is no longer indexed; its files are where they were."""

    catalog: str
    run_id: str
    files: int

    def summary(self) -> dict[str, object]:
        """The run and its files."""
        return {"run_id": self.run_id, "files_removed": self.files}

    def rows(self) -> list[Row]:
        """One row for the run."""
        return [self.summary()]

    def to_dict(self) -> Document:
        """Catalog, run and files."""
        return {"catalog": self.catalog, **self.summary()}


@dataclass(frozen=True, repr=False)
class Repaired(Result):
    """What ``repair`` did: files that are gone are off the index, changed ones are judged anew."""

    catalog: str
    report: RepairReport

    def summary(self) -> dict[str, object]:
        """How many runs, files and problems."""
        report = self.report
        return {
            "runs_removed": len(report.runs_removed),
            "files_removed": report.files_removed,
            "files_updated": report.files_updated,
            "problems": len(report.problems),
        }

    def rows(self) -> list[Row]:
        """One row per problem that is left."""
        return [vars(p) for p in self.report.problems]

    def to_dict(self) -> Document:
        """Catalog, runs, counts and problems."""
        return {
            **self.summary(),
            "catalog": self.catalog,
            "runs_removed": list(self.report.runs_removed),
            "problems": self.rows(),
        }


@dataclass(frozen=True, repr=False)
class Compacted(Result):
    """What ``compact`` did to each run; bytes_before and bytes_after in bytes."""

    catalog: str
    reports: tuple[CompactReport, ...]

    def summary(self) -> dict[str, object]:
        """Number of runs, and of their files before and after."""
        return {
            "runs": len(self.reports),
            "files_before": sum(report.files_before for report in self.reports),
            "files_after": sum(report.files_after for report in self.reports),
        }

    def rows(self) -> list[Row]:
        """One row per run."""
        return [vars(report) for report in self.reports]

    def to_dict(self) -> Document:
        """Catalog, and the rows."""
        return {"catalog": self.catalog, "runs": self.rows()}


@dataclass(frozen=True, repr=False)
class Runs(Result):
    """The runs of a catalog: id, source, device, layout, ranks and steps captured; step_s in seconds."""

    runs: tuple[Row, ...]

    def summary(self) -> dict[str, object]:
        """Number of runs."""
        return {"runs": len(self.runs)}

    def rows(self) -> list[Row]:
        """One row per run."""
        return list(self.runs)

    def to_dict(self) -> Document:
        """All runs."""
        return {"runs": self.rows()}

    def document(self) -> object:
        """The list of runs."""
        return self.rows()


@dataclass(frozen=True, repr=False)
class RunDetail(Result):
    """One run: its configuration, tables, ranks, steps, time on the GPU, notes and problems."""

    run_id: str
    detail: Detail

    def summary(self) -> dict[str, object]:
        """The columns of the run that are set."""
        run = self.detail["run"] or {"run_id": self.run_id}
        return {name: value for name, value in run.items() if value is not None and name != "config_json"}

    def rows(self) -> list[Row]:
        """One row per step and rank; duration_ns in nanoseconds, memory in bytes."""
        return list(self.detail["steps"])

    def tables(self) -> dict[str, list[Row]]:
        """Files of each table, steps, and where the time on the GPU went; of many ranks or steps, their spread."""
        detail = self.detail
        titled = {"tables": detail["tables"], **self._of_ranks()}
        return {title: list(rows) for title, rows in titled.items() if rows}

    def _of_ranks(self) -> dict[str, list[Row]]:
        detail = self.detail
        steps, devices = detail["steps"], detail["gpu"]
        return {
            "ranks": rank_spread(detail["ranks"]) if len(detail["ranks"]) > MOST_ROWS else [],
            "steps": step_spread(steps) if len(steps) > MOST_ROWS else steps,
            "slowest ranks": slowest_ranks(steps, detail["ranks"]) if len(steps) > MOST_ROWS else [],
            "time on the device": device_spread(devices) if len(devices) > MOST_ROWS else devices,
        }

    def to_dict(self) -> Document:
        """Everything about the run."""
        return {**self.detail, "problems": [vars(p) for p in self.detail["problems"]]}


@dataclass(frozen=True, repr=False)
class RunProfile(Result):
    """What a run says of layers and communication. layers: a row per layer, nanoseconds of one microbatch.

    collectives: a row per operation, number of ranks and payload: transfer_s, and bus bandwidth in bytes per second as
    measured and as fitted. latency_s, bandwidth (bytes/s): the fit; 0 where no collective was measured.
    """

    run_id: str
    layers: tuple[Row, ...]
    collectives: tuple[Row, ...] = ()
    latency_s: float = 0.0
    bandwidth: float = 0.0

    def summary(self) -> dict[str, object]:
        """How much there is."""
        return {"run": self.run_id, "layers": len(self.layers), "collectives": len(self.collectives)}

    def rows(self) -> list[Row]:
        """One row per layer."""
        return list(self.layers)

    def tables(self) -> dict[str, list[Row]]:
        """Layers and collectives."""
        return {"layers": self.rows(), "collectives": list(self.collectives)}

    def to_dict(self) -> Document:
        """Layers, collectives and the fit."""
        return {**self.summary(), **self.tables(), "latency_s": self.latency_s, "bandwidth": self.bandwidth}


@dataclass(frozen=True, repr=False)
class Problems(Result):
    """Problems of the indexed runs; false where there is none."""

    problems: tuple[Problem, ...]

    def __bool__(self) -> bool:
        return bool(self.problems)

    def summary(self) -> dict[str, object]:
        """Number of problems."""
        return {"problems": len(self.problems)}

    def rows(self) -> list[Row]:
        """One row per problem."""
        return [vars(p) for p in self.problems]

    def to_dict(self) -> Document:
        """All problems."""
        return {"problems": self.rows()}


@dataclass(frozen=True, repr=False)
class QueryResult(Result):
    """Rows that SQL returned, as an Arrow table with the query's columns."""

    table: pa.Table

    def summary(self) -> dict[str, object]:
        """Rows and columns."""
        return {"rows": self.table.num_rows, "columns": ", ".join(self.table.column_names)}

    def rows(self) -> list[Row]:
        """One dictionary per row."""
        rows: list[Row] = self.table.to_pylist()
        return rows

    def columns(self) -> list[str]:
        """Columns of the query, also where it returned no rows."""
        return list(self.table.column_names)

    def to_arrow(self) -> pa.Table:
        """The table, not copied."""
        return self.table

    def to_dict(self) -> Document:
        """Columns and rows."""
        return {"columns": list(self.table.column_names), "rows": self.rows()}

    def document(self) -> object:
        """The list of rows."""
        return self.rows()


@dataclass(frozen=True, repr=False)
class Schema(Result):
    """Tables and views with their columns, types and meanings."""

    described: tuple[Row, ...]

    def summary(self) -> dict[str, object]:
        """How many tables and views, and columns."""
        return {"tables": len({c["table_name"] for c in self.described}), "columns": len(self.described)}

    def rows(self) -> list[Row]:
        """One row per column."""
        return list(self.described)

    def tables(self) -> dict[str, list[Row]]:
        """The columns of each table or view."""
        by_table: dict[str, list[Row]] = {}
        for column in self.described:
            title = f"{column['table_name']}: {column['table_comment'] or ''}"
            shown = {"column": column["column_name"], "type": column["data_type"], "meaning": column["comment"]}
            by_table.setdefault(title, []).append(shown)
        return by_table

    def to_dict(self) -> Document:
        """All columns."""
        return {"columns": self.rows()}
