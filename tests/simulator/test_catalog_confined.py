"""SQL on a catalog reads the indexed files and nothing else, writes nothing, and ends."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from simulator.synthetic import write_profile
from vtrain_sim.catalog import Catalog, CatalogError, Limits, database
from vtrain_sim.catalog.read_only import deny_writing, run_read_only
from vtrain_sim.commands import catalog as command

MARKER = "what nobody may read"

# {file}: an indexed file; {folder}: where it is; {outside}: a folder beside the profiles; {catalog}: the catalog.
WRITES = (
    "COPY (SELECT * FROM kernels LIMIT 0) TO '{file}'",
    "COPY (SELECT 1 AS a) TO '{folder}/rank=00009.parquet' (FORMAT parquet)",
    "COPY (SELECT 1 AS a) TO '{outside}/new.csv'",
    "COPY (SELECT 1 AS a) TO '{outside}/parts' (PARTITION_BY (a))",
    "COPY (SELECT 1 AS a) TO '{file}' (FORMAT csv, HEADER false)",
    "COPY steps TO '{outside}/new.json' (FORMAT json)",
    "COPY files TO '/dev/stdout'",
    "COPY FROM DATABASE c TO memory",
    "EXPORT DATABASE '{outside}/export'",
    "IMPORT DATABASE '{outside}/export'",
    "CREATE TABLE t AS SELECT 1 AS a",
    "CREATE TEMP TABLE t AS SELECT 1 AS a",
    "CREATE VIEW w AS SELECT 1 AS a",
    "CREATE OR REPLACE VIEW steps AS SELECT 1 AS a",
    "CREATE OR REPLACE TEMP VIEW steps AS SELECT 1 AS a",
    "CREATE MACRO f(x) AS x",
    "CREATE SECRET s (TYPE s3, KEY_ID 'a', SECRET 'b')",
    "CREATE SEQUENCE s",
    "CREATE SCHEMA s",
    "CREATE TYPE t AS ENUM ('a')",
    "INSERT INTO files VALUES ('r', 't', 0, 0, '/etc/passwd', false, 0, 0, 0, '', '')",
    "UPDATE files SET path = '/etc/passwd'",
    "DELETE FROM files",
    "MERGE INTO files USING (SELECT 1 AS rank) AS s ON files.rank = s.rank WHEN MATCHED THEN DELETE",
    "TRUNCATE files",
    "DROP TABLE files",
    "DROP VIEW steps",
    "ALTER TABLE files ADD COLUMN x INTEGER",
    "COMMENT ON TABLE files IS 'x'",
    "ATTACH '{outside}/new.duckdb' AS other",
    "ATTACH '{outside}/other.duckdb' AS other (READ_ONLY)",
    "ATTACH '{catalog}' AS other",
    "ATTACH ':memory:' AS other",
    "DETACH c",
    "USE memory",
    "INSTALL httpfs",
    "LOAD httpfs",
    "LOAD '{outside}/evil.duckdb_extension'",
    "FORCE INSTALL json FROM community",
    "UPDATE EXTENSIONS",
    "SET enable_external_access = true",
    "SET lock_configuration = false",
    "SET allowed_directories = ['/']",
    "SET temp_directory = '{outside}/spill'",
    "SET profiling_output = '{file}'",
    "SET log_query_path = '{file}'",
    "SET home_directory = '{outside}'",
    "SET VARIABLE x = 1",
    "RESET enable_external_access",
    "PRAGMA enable_profiling = 'json'",
    "PRAGMA profile_output = '{file}'",
    "PRAGMA database_list",
    "PRAGMA import_database('{outside}/export')",
    "CALL enable_logging(storage = 'file', storage_path = '{outside}/log')",
    "CALL force_checkpoint()",
    "CALL pragma_version()",
    "CHECKPOINT",
    "VACUUM",
    "BEGIN TRANSACTION",
    "PREPARE p AS COPY (SELECT 1) TO '{file}'",
    "EXECUTE p",
)
WRAPS = ("{0}", "EXPLAIN {0}", "EXPLAIN ANALYZE {0}", "EXPLAIN (ANALYZE, FORMAT json) {0}", "SELECT 1; {0}")
# Expressions of FROM that reach out.
READS = (
    "'{outside}/secret.csv'",
    "'{outside}/secret.parquet'",
    "'{outside}/secret.json'",
    "'{outside}/*.parquet'",
    "'{folder}/../../../outside/secret.parquet'",
    "'file://{outside}/secret.csv'",
    "'https://example.invalid/secret.parquet'",
    "'s3://example/secret.parquet'",
    "'/proc/self/environ'",
    "'/dev/stdin'",
    '"{outside}/secret.csv"',
    "read_csv('{outside}/secret.csv')",
    "read_csv_auto('{outside}/secret.csv')",
    "read_parquet('{outside}/secret.parquet')",
    "read_parquet(['{file}', '{outside}/secret.parquet'], union_by_name = true)",
    "parquet_scan('{outside}/secret.parquet')",
    "read_json('{outside}/secret.json')",
    "read_json_objects('{outside}/secret.json')",
    "read_ndjson('{outside}/secret.json')",
    "read_text('{outside}/secret.csv')",
    "read_blob('{outside}/secret.csv')",
    "read_text('/proc/self/environ')",
    "read_duckdb('{outside}/other.duckdb')",
    "sniff_csv('{outside}/secret.csv')",
    "glob('{outside}/*')",
    "parquet_metadata('{outside}/secret.parquet')",
    "parquet_schema('{outside}/secret.parquet')",
    "parquet_kv_metadata('{outside}/secret.parquet')",
    "query('SELECT * FROM read_text(''{outside}/secret.csv'')')",
    "query_table('{outside}/secret.csv')",
    "json_execute_serialized_sql(json_serialize_sql('SELECT * FROM read_text(''{outside}/secret.csv'')'))",
    "enable_logging(storage = 'file', storage_path = '{outside}/log')",
    "enable_profiling()",
    "force_checkpoint()",
    "checkpoint()",
    "duckdb_secrets()",
    "duckdb_settings()",
    "duckdb_logs()",
    "duckdb_external_file_cache()",
    "arrow_scan(1, 2, 3)",
    "python_arrow_scan(1, 2, 3)",
    "pandas_scan(1)",
    "main.read_text('{outside}/secret.csv')",
    "system.main.read_text('{outside}/secret.csv')",
    "READ_TEXT('{outside}/secret.csv')",
    "\"read_text\"('{outside}/secret.csv')",
    "secret_of_the_program",
)
AROUND = (
    "SELECT * FROM {0}",
    "EXPLAIN ANALYZE SELECT * FROM {0}",
    "WITH a AS (SELECT * FROM {0}) SELECT * FROM a",
    "SELECT (SELECT count(*) FROM {0})",
    "SUMMARIZE SELECT * FROM {0}",
    "SELECT 1 UNION ALL BY NAME SELECT * FROM {0}",
)
OTHERS = (
    "SELECT getenv('VTRAIN_TEST_SECRET')",
    "SELECT 'VTRAIN_TEST_SECRET'.getenv()",
    "SELECT list_transform(['VTRAIN_TEST_SECRET'], x -> getenv(x))",
    "SELECT current_setting('secret_directory')",
    "SELECT write_log('x')",
    "SELECT nextval('s')",
    "SELECT sleep_ms(1)",
    "WITH a AS (INSERT INTO files SELECT * FROM files RETURNING *) SELECT * FROM a",
    "WITH a AS (DELETE FROM files RETURNING *) SELECT * FROM a",
    "WITH a AS (UPDATE files SET rows = 0 RETURNING *) SELECT * FROM a",
    "WITH a AS (COPY (SELECT 1) TO '{file}') FROM a",
    "WITH a AS MATERIALIZED (COPY (SELECT 1) TO '{outside}/x.csv') SELECT 1",
    "/* SELECT */ COPY (SELECT 1) TO '{file}'",
    "EXPLAIN /* a */ ANALYZE -- b\n COPY (SELECT 1) TO '{file}'",
    "EXPLAIN EXPLAIN ANALYZE COPY (SELECT 1) TO '{file}'",
    "EXPLAIN ANALYZE WITH a AS (COPY (SELECT 1) TO '{file}') FROM a",
    "EXPLAIN ANALYZE SELECT 1; COPY (SELECT 1) TO '{file}'",
    ";;COPY (SELECT 1) TO '{file}';",
    "FROM steps SELECT * ; DROP VIEW steps",
    "SELECT 1 INTO t",
    "DESCRIBE '{outside}/secret.csv'",
    "SHOW ALL; CHECKPOINT",
    "SELECT * FROM '{outside}/secret.csv' LIMIT 0",
    "SELECT * FROM (PIVOT '{outside}/secret.csv' ON a IN ('x'))",
    "SELECT histogram(a) FROM '{outside}/secret.csv'",
    "SELECT 1 FROM steps, LATERAL (SELECT * FROM read_text('{outside}/secret.csv'))",
    "SELECT 1 WHERE EXISTS (FROM glob('{outside}/*'))",
    "SELECT 1 ORDER BY (SELECT content FROM read_text('{outside}/secret.csv'))",
    "VALUES ((SELECT content FROM read_text('{outside}/secret.csv')))",
    "WITH RECURSIVE a AS (SELECT 1 AS x UNION ALL SELECT 2 FROM a, read_text('{outside}/secret.csv')) FROM a",
)
ATTEMPTS = (
    *(wrap.format(statement) for statement in WRITES for wrap in WRAPS),
    *(query.format(source) for source in READS for query in AROUND),
    *OTHERS,
)


class Place:
    """A catalog, its files, and what lies beside them."""

    def __init__(self, root: Path) -> None:
        self.root, self.outside = root, root / "outside"
        write_profile(root / "profiles")
        self.catalog = Catalog(root / "c.duckdb")
        self.catalog.add([str(root / "profiles")])
        self.file = root / "profiles/run_id=base/table=steps/rank=00000.parquet"
        self.outside.mkdir()
        (self.outside / "secret.csv").write_text(f"a,b\n1,{MARKER}\n")
        (self.outside / "secret.json").write_text(f'{{"a": "{MARKER}"}}\n')
        pq.write_table(pa.table({"a": [MARKER]}), self.outside / "secret.parquet")
        with duckdb.connect(str(self.outside / "other.duckdb")) as other:
            other.execute(f"CREATE TABLE t AS SELECT '{MARKER}' AS a")

    def fill(self, text: str) -> str:
        names = {"file": self.file, "folder": self.file.parent, "outside": self.outside, "catalog": self.catalog.path}
        for name, path in names.items():
            text = text.replace(f"{{{name}}}", str(path))
        return text

    def state(self) -> dict[str, str]:
        """Every file of the place with its content and its time."""
        return {
            str(path): f"{path.stat().st_mtime_ns} {hashlib.sha256(path.read_bytes()).hexdigest()}"
            for path in sorted(self.root.rglob("*"))
            if path.is_file()
        } | {str(path): "" for path in self.root.rglob("*") if path.is_dir()}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    made = Place(tmp_path_factory.mktemp("confined"))
    before, where = made.state(), os.getcwd()
    os.chdir(made.outside)
    os.environ["VTRAIN_TEST_SECRET"] = MARKER
    yield made
    del os.environ["VTRAIN_TEST_SECRET"]
    os.chdir(where)
    assert made.state() == before


def test_no_attempt_to_escape_writes_or_reads_anything(place: Place) -> None:
    assert len(set(ATTEMPTS)) > 500
    secret_of_the_program = pa.table({"a": [MARKER]})
    before = place.state()
    answered = []
    for attempt in ATTEMPTS:
        query = place.fill(attempt)
        try:
            answer = place.catalog.sql(query).to_pylist()
        except CatalogError as error:
            assert MARKER not in str(error)
            assert "\n" not in str(error)
        else:
            answered.append((query, answer))
        assert place.state() == before, query
    assert answered == []
    assert secret_of_the_program.num_rows == 1


def test_the_connection_itself_is_confined(place: Place) -> None:
    """What is behind the judgement of statements: the database's own settings."""
    before = place.state()
    with place.catalog.reading() as connection:
        for attempt in (*WRITES, *(f"SELECT * FROM {source}" for source in READS[:29])):
            if "{outside}" not in attempt and "files" not in attempt:
                continue
            with pytest.raises(duckdb.Error):
                connection.execute(place.fill(attempt)).fetchall()
    assert place.state() == before


def test_a_file_beside_the_indexed_ones_is_not_visible(place: Place) -> None:
    with place.catalog.reading() as connection, pytest.raises(duckdb.PermissionException):
        connection.execute(f"SELECT * FROM '{place.file.parent}/rank=00077.parquet'")


@pytest.mark.parametrize(
    "query",
    [
        "SELECT count(*) FROM steps",
        "FROM steps",
        "TABLE steps",
        "VALUES (1)",
        "WITH a AS (SELECT * FROM steps) SELECT * FROM a",
        "WITH RECURSIVE a AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM a WHERE x < 3) SELECT * FROM a",
        "SELECT 1; SELECT 2",
        "SHOW TABLES",
        "SHOW ALL TABLES",
        "DESCRIBE steps",
        "SUMMARIZE steps",
        "EXPLAIN SELECT * FROM steps",
        "EXPLAIN ANALYZE SELECT * FROM steps",
        "-- a comment\nEXPLAIN /* another */ ANALYZE SELECT 1;",
        "SELECT * FROM duckdb_views()",
        "SELECT * FROM pragma_table_info('steps')",
        "SELECT * FROM information_schema.tables",
        "SELECT * FROM range(3), unnest([1, 2])",
        "SELECT list_sum([1, 2])",
        "PIVOT steps ON rank IN (0) USING count(*)",
        "SELECT step, row_number() OVER (ORDER BY step) FROM steps QUALIFY row_number() OVER () < 3",
    ],
)
def test_queries_run(place: Place, query: str) -> None:
    assert place.catalog.sql(query).num_rows > 0


ENDLESS = "SELECT sum(a.range * b.range) FROM range(10000000) a, range(10000000) b"


@pytest.mark.parametrize("query", [ENDLESS, "EXPLAIN ANALYZE " + ENDLESS, f"{ENDLESS}; SELECT 1"])
def test_a_query_ends_at_its_time_limit(place: Place, query: str) -> None:
    with pytest.raises(CatalogError, match=r"longer than 0\.3 s"):
        place.catalog.sql(query, Limits(timeout_s=0.3))
    assert not [t for t in threading.enumerate() if t.name == "vtrain-query-limit"]


@pytest.mark.parametrize("query", ["SELECT list(range) FROM range(100000000)", "SELECT range FROM range(100000000)"])
def test_a_query_ends_at_its_memory_limit(place: Place, query: str) -> None:
    before = place.state()
    with pytest.raises(CatalogError, match="memory limit 50MB"):
        place.catalog.sql(query, Limits(memory="50MB"))
    assert place.state() == before


@pytest.mark.parametrize(("seconds", "memory"), [(-1.0, "1GB"), (float("nan"), "1GB"), (1.0, "much"), (1.0, "'")])
def test_limits_that_are_none_are_refused(place: Place, seconds: float, memory: str) -> None:
    with pytest.raises(CatalogError, match="limit is"):
        place.catalog.sql("SELECT 1", Limits(seconds, memory))


def test_a_large_result_comes_without_a_warning(place: Place) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert place.catalog.sql("SELECT range FROM range(3000000)").num_rows == 3_000_000


def test_threads_read_a_catalog_at_a_time(place: Place) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: place.catalog.sql("SELECT count(*) AS n FROM steps").to_pylist(), range(12)))
    assert answers == [[{"n": 1}]] * 12


def test_ctrl_c_stops_a_query(place: Place) -> None:
    program = [sys.executable, "-m", "vtrain_sim.commands.catalog", "sql", ENDLESS, "-c", str(place.catalog.path)]
    with subprocess.Popen(program, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        # So much work: the query runs.
        while time.monotonic() < deadline and _processor_seconds(process.pid) < 4:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in said


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _kernel_denies_writing() -> bool:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(deny_writing).result()


@pytest.mark.skipif(not _kernel_denies_writing(), reason="this kernel has no Landlock")
def test_the_kernel_refuses_what_nobody_thought_of(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Were every statement taken for a query, and every place open to DuckDB: nothing is written, made or removed."""
    monkeypatch.setattr("vtrain_sim.catalog.querying.queries", lambda connection, text: [text])
    monkeypatch.setattr(database, "_CONFINED", {})
    before = place.state()
    for query in (
        "COPY (SELECT 1) TO '{outside}/new.parquet'",
        "COPY (SELECT * FROM steps LIMIT 0) TO '{file}'",
        "ATTACH '{outside}/new.duckdb' (READ_WRITE)",
        "EXPORT DATABASE '{outside}/export'",
    ):
        with pytest.raises(SystemExit) as left:
            command.main(["sql", place.fill(query), "-c", str(place.catalog.path)])
        assert left.value.code == 2
        assert "ermission" in capsys.readouterr().err
        assert place.state() == before
    # Who asked can write on.
    (place.outside / "of the program").write_text("")
    (place.outside / "of the program").unlink()


def test_a_query_is_stopped_from_another_thread(place: Place) -> None:
    assert not place.catalog.interrupt()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(place.catalog.sql, ENDLESS)
        while not place.catalog.interrupt():
            time.sleep(0.05)
        deadline = time.monotonic() + 60
        # One between two statements is lost.
        while not answer.done() and time.monotonic() < deadline:
            place.catalog.interrupt()
            time.sleep(0.1)
        with pytest.raises(KeyboardInterrupt):
            answer.result(0)


@pytest.mark.parametrize("begun", [True, False])
def test_ctrl_c_ends_what_was_asked_for(begun: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a query runs there is nothing to stop: whoever waits goes."""
    go, waits = threading.Event(), []
    wait = threading.Event.wait

    def pressed_once(event: threading.Event, timeout: float | None = None) -> bool:
        if threading.current_thread() is threading.main_thread() and timeout is not None and not waits:
            waits.append(event)
            raise KeyboardInterrupt
        return wait(event, timeout)

    def interrupt() -> bool:
        go.set()
        return begun

    monkeypatch.setattr("vtrain_sim.catalog.read_only.deny_writing", lambda: True)
    monkeypatch.setattr(threading.Event, "wait", pressed_once)
    if begun:
        assert run_read_only(lambda: go.wait(30), interrupt)
    else:
        with pytest.raises(KeyboardInterrupt):
            run_read_only(lambda: go.wait(30) and time.sleep(1), interrupt)
