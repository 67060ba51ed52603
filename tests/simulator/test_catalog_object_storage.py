"""The same catalog over object storage: a real server that speaks S3, started by the test."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from simulator.synthetic import write_profile
from simulator.test_catalog_many_files import write_ranks
from vtrain_sim.catalog import Catalog, CatalogError
from vtrain_sim.errors import Notice, UserError

moto = pytest.importorskip("moto.server", reason="needs moto, which serves S3")
fs = pytest.importorskip("pyarrow.fs")
pytestmark = pytest.mark.skipif(not hasattr(fs, "S3FileSystem"), reason="this pyarrow has no S3")

BUCKET = "profiles"
RANKS = 34


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """host:port of an empty object store, where the environment has the keys."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=True)
        server.start()
        host, port = server.get_host_and_port()
        yield f"{host}:{port}"
        server.stop()


@pytest.fixture
def storage(endpoint: str, request: pytest.FixtureRequest) -> tuple[fs.S3FileSystem, str]:
    """A bucket of the test's own, and how a URI asks this server for it."""
    name = f"{BUCKET}-{abs(hash(request.node.name)) % 10**8}"
    system = fs.S3FileSystem(endpoint_override=endpoint, scheme="http", region="us-east-1", allow_bucket_creation=True)
    system.create_dir(name)
    return system, f"s3://{name}/team?endpoint_override={endpoint}&scheme=http&region=us-east-1"


def upload(local: Path, system: fs.S3FileSystem, uri: str) -> str:
    """Copy a directory to where the URI says; the path there."""
    inner = uri.removeprefix("s3://").partition("?")[0]
    fs.copy_files(str(local), inner, fs.LocalFileSystem(), system)
    return inner


def test_runs_in_object_storage_are_queried_like_local_ones(
    storage: tuple[fs.S3FileSystem, str], tmp_path: Path
) -> None:
    system, uri = storage
    write_profile(tmp_path / "p", "far")
    write_ranks(tmp_path / "p", "wide", RANKS)
    upload(tmp_path / "p", system, uri)
    write_profile(tmp_path / "near", "near")
    here, there = Catalog(tmp_path / "here.duckdb"), Catalog(tmp_path / "there.duckdb")
    here.add([str(tmp_path / "p"), str(tmp_path / "near")])
    report = there.add([uri, str(tmp_path / "near")])
    assert report.runs == ("far", "near", "wide")
    assert there.add([uri]).files_added == 0
    for query in (
        "SELECT * FROM steps ORDER BY ALL",
        "SELECT * FROM operator_times ORDER BY ALL",
        "SELECT sum(duration_ns) FROM steps WHERE run_id = 'wide' AND rank = 3",
        "SELECT run_id, count(*) FROM spans WHERE rank >= 30 GROUP BY 1",
        "SELECT count(*) FROM kernels",
    ):
        assert there.sql(query).to_pylist() == here.sql(query).to_pylist()
    assert [p.what for p in there.check()] == [p.what for p in here.check()]
    paths = {row["path"] for row in there.sql("SELECT path FROM files WHERE remote").to_pylist()}
    assert all(path.startswith("s3://") and path.endswith("region=us-east-1") for path in paths)


def test_of_a_rank_that_is_asked_for_no_other_file_is_opened(
    storage: tuple[fs.S3FileSystem, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    system, uri = storage
    write_ranks(tmp_path / "p", "wide", RANKS)
    upload(tmp_path / "p", system, uri)
    catalog = Catalog(tmp_path / "c.duckdb")
    catalog.add([uri])
    with catalog.reading() as connection, caplog.at_level(logging.INFO, logger="werkzeug"):
        caplog.clear()
        rows = connection.execute("SELECT count(step) FROM steps WHERE run_id = 'wide' AND rank = 3").fetchall()
    assert rows == [(2,)]
    read = set(re.findall(r"GET \S*/table(?:=|%3D)steps/(\S+)", caplog.text))
    assert {unquote(name) for name in read} == {f"rank=00003.part00{step}.parquet" for step in (0, 1)}


def test_what_is_gone_from_object_storage_costs_itself(storage: tuple[fs.S3FileSystem, str], tmp_path: Path) -> None:
    system, uri = storage
    for run in ("a", "b"):
        write_profile(tmp_path / "p", run)
    inner = upload(tmp_path / "p", system, uri)
    catalog = Catalog(tmp_path / "c.duckdb")
    catalog.add([uri])
    system.delete_dir(f"{inner}/run_id=a")
    with pytest.warns(Notice, match="run a"):
        assert catalog.sql("SELECT DISTINCT run_id FROM steps").to_pylist() == [{"run_id": "b"}]
    assert catalog.repair().runs_removed == ("a",)
    with pytest.raises(CatalogError, match="is in object storage: only runs on a local disk are merged"):
        catalog.compact("b")


def test_a_store_that_does_not_answer_is_named(tmp_path: Path, storage: tuple[fs.S3FileSystem, str]) -> None:
    _, uri = storage
    with pytest.raises(UserError, match=r"there is no directory|cannot list"):
        Catalog(tmp_path / "c.duckdb").add([uri.replace("/team", "/nobody")])


@pytest.mark.parametrize(
    "uri", ["s3://key:secret@bucket/p", "s3://bucket/p?access_key=a&secret_key=b", "s3://key@bucket/p"]
)
def test_secrets_are_not_kept_in_a_catalog(uri: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds credentials: leave them to the environment") as refused:
        Catalog(tmp_path / "c.duckdb").add([uri])
    assert "secret" not in str(refused.value)
    assert not os.path.exists(tmp_path / "c.duckdb")
