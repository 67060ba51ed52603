"""Nsight Systems exports: true schema, several processes, what is missing, what is damaged."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simulator.ingest.build import (
    BASE_NS,
    NCCL_DOMAIN,
    SCHEMA,
    START_END,
    Nsight,
    communicator_payload,
    nccl_payload,
    nsight_report,
)
from vtrain_sim.catalog import Catalog
from vtrain_sim.errors import UserError
from vtrain_sim.ingest.nsys import read_nsys
from vtrain_sim.ingest.tables import tables_of

Rows = list[dict[str, Any]]


def ingest(path: Path) -> list[dict[str, Rows]]:
    return [{name: table.to_pylist() for name, table in tables_of(trace, "run")} for trace in read_nsys(path)]


@pytest.fixture
def ranks(tmp_path: Path) -> list[dict[str, Rows]]:
    return ingest(nsight_report(tmp_path / "r.sqlite"))


def test_processes_become_ranks_in_the_order_of_their_gpus(ranks: list[dict[str, Rows]]) -> None:
    assert [r["ranks"][0]["rank"] for r in ranks] == [0, 1]
    # Process 501 was written first, but 500 used GPU 0: its all-reduce ends at 7,000.
    assert [r["collectives"][0]["duration_ns"] for r in ranks] == [2_000, 2_001]
    assert {r["ranks"][0]["host"] for r in ranks} == {"node-7"}
    assert ranks[0]["ranks"][0]["device_name"] == "NVIDIA A100-SXM4-80GB"


def test_kernels_copies_and_times(ranks: list[dict[str, Rows]]) -> None:
    kernels = [
        (k["kind"], k["start_ns"] - BASE_NS, k["duration_ns"], k["launch_ns"] - BASE_NS, k["bytes"], k["step"])
        for k in ranks[0]["kernels"]
    ]
    assert kernels == [
        ("gemm", 1_000, 2_000, 300, None, 3),
        ("communication", 5_000, 2_000, 4_400, None, 3),
        ("memory", 8_100, 100, 8_000, 4, 3),
    ]
    assert ranks[0]["kernels"][2]["name"] == "Memcpy Device-to-Host"
    assert {k["launch_duration_ns"] for k in ranks[0]["kernels"]} == {5}


def test_marks_of_pytorch_are_operators_with_shapes(ranks: list[dict[str, Rows]]) -> None:
    (operator,) = ranks[0]["operators"]
    assert (operator["name"], operator["kind"], operator["m"], operator["n"], operator["k"]) == (
        "aten::mm",
        "gemm",
        32,
        128,
        64,
    )
    # NVTX says no element type: the kernel's name does.
    assert (operator["dtype"], operator["sequence_number"], operator["duration_ns"]) == ("bfloat16", 41, 2_000)


def test_ranges_by_id_and_by_text_push_pop_and_start_end(ranks: list[dict[str, Rows]]) -> None:
    spans = {s["name"]: s for s in ranks[0]["spans"]}
    assert set(spans) == {"iteration 3", "decoder.layers.0"}
    layer = spans["decoder.layers.0"]
    assert (layer["kind"], layer["layer_number"], layer["duration_ns"], layer["host_duration_ns"]) == (
        "transformer_layer",
        1,
        2_000,
        3_900,
    )
    assert [s["step"] for s in ranks[0]["steps"]] == [3]


def test_nccl_payloads_give_bytes_to_the_kernel_of_the_group(ranks: list[dict[str, Rows]]) -> None:
    (call,) = ranks[0]["collectives"]
    assert (call["op"], call["bytes"], call["dtype"], call["group_ranks"]) == ("all_reduce", 8192, "bfloat16", None)


def test_communicators_tell_the_ranks_of_their_groups(tmp_path: Path) -> None:
    """Made by both processes in the report: NCCL's ranks are in the order of its own numbers. Others stay unknown."""
    report = Nsight(tmp_path / "r.sqlite")
    for process, device, place in ((500, 0, 1), (501, 1, 0)):
        report.domain(NCCL_DOMAIN, "NCCL", process)
        for index, (group, size) in enumerate(((1 << 63 | 7, 2), (9, 4))):
            at = 1000 * index
            report.nvtx(
                "ncclCommInitRankConfig",
                at + 10,
                at + 20,
                process,
                domain=NCCL_DOMAIN,
                payload=communicator_payload(group, size, place),
            )
            report.nvtx(
                "ncclAllReduce", at + 100, at + 200, process, domain=NCCL_DOMAIN, payload=nccl_payload(group, 4096)
            )
            report.kernel("ncclDevKernel_AllReduce_Sum_bf16_RING_LL()", at + 150, at + 300, at + 400, process, device)
    for rank in ingest(report.close()):
        assert [(c["op"], c["bytes"], c["group_ranks"]) for c in rank["collectives"]] == [
            ("all_reduce", 4096, [1, 0]),
            ("all_reduce", 4096, None),
        ]


def test_marked_ranges_are_no_operators_though_pytorch_numbers_them(tmp_path: Path) -> None:
    report = Nsight(tmp_path / "r.sqlite")
    for index, name in enumerate(
        (
            "ProfilerStep#4, op_id = 1",
            "FSDP::pre_forward (layer.1), op_id = 2",
            "my own range, op_id = 3",
            "autograd::engine::evaluate_function: MmBackward0, seq = 3, op_id = 4",
            "FlashAttnFunc, op_id = 5",
        )
    ):
        report.nvtx(name, 10 * index, 1000 - 10 * index, 5)
    report.kernel("gemm", 100, 200, 300, 5)
    (rank,) = ingest(report.close())
    assert [s["name"] for s in rank["spans"]] == ["ProfilerStep#4", "FSDP::pre_forward (layer.1)", "my own range"]
    assert [o["name"] for o in rank["operators"]] == [
        "autograd::engine::evaluate_function: MmBackward0",
        "FlashAttnFunc",
    ]
    assert rank["operators"][1]["phase"] == "backward"


def test_payload_as_json_text_and_point_to_point_in_a_group(tmp_path: Path) -> None:
    report = Nsight(tmp_path / "r.sqlite")
    report.domain(3, "NCCL", 5)
    for name, at in (("ncclSend", 10), ("ncclRecv", 30)):
        report.nvtx(name, at, at + 5, 5, domain=3, text='{"payload": {"Message size [bytes]": 1024, "Peer rank": 1}}')
    report.nvtx("ncclGroupEnd", 50, 90, 5, domain=3)
    report.kernel("ncclDevKernel_SendRecv(ncclDevKernelArgsStorage<4096ul>)", 60, 100, 200, 5)
    (rank,) = ingest(report.close())
    assert [(c["op"], c["bytes"]) for c in rank["collectives"]] == [("p2p", 2048)]


@pytest.mark.parametrize(
    "table",
    [
        "NVTX_EVENTS",
        "CUPTI_ACTIVITY_KIND_RUNTIME",
        "CUPTI_ACTIVITY_KIND_MEMCPY",
        "CUPTI_ACTIVITY_KIND_MEMSET",
        "TARGET_INFO_GPU",
        "TARGET_INFO_SESSION_START_TIME",
        "TARGET_INFO_SYSTEM_ENV",
        "NVTX_PAYLOAD_SCHEMAS",
        "NVTX_PAYLOAD_SCHEMA_ENTRIES",
        "ENUM_CUDA_MEMCPY_OPER",
        "StringIds",
    ],
)
def test_missing_tables_are_fine(tmp_path: Path, table: str) -> None:
    path = nsight_report(tmp_path / "r.sqlite")
    with sqlite3.connect(path) as db:
        db.execute(f"DROP TABLE {table}")
    ranks = ingest(path)
    assert len(ranks) == 2
    assert next(k["kind"] for k in ranks[0]["kernels"]) == ("other" if table == "StringIds" else "gemm")


def test_columns_of_older_versions(tmp_path: Path) -> None:
    """Names as text, no process, no event types: one process, everything a range."""
    path = tmp_path / "old.sqlite"
    with sqlite3.connect(path) as db:
        db.executescript(
            """
            CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (start INT, end INT, streamId INT, correlationId INT, name TEXT);
            CREATE TABLE CUPTI_ACTIVITY_KIND_RUNTIME (start INT, end INT, globalTid INT, correlationId INT);
            CREATE TABLE NVTX_EVENTS (start INT, end INT, text TEXT, globalTid INT);
            INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES (100, 150, 7, 1, 'volta_sgemm_128x32_nt');
            INSERT INTO CUPTI_ACTIVITY_KIND_RUNTIME VALUES (20, 25, 9, 1);
            INSERT INTO NVTX_EVENTS VALUES (10, 60, 'forward', 9);
            """
        )
    (rank,) = ingest(path)
    assert [(k["kind"], k["duration_ns"]) for k in rank["kernels"]] == [("gemm", 50)]
    assert [(s["kind"], s["busy_ns"]) for s in rank["spans"]] == [("forward_step", 50)]


def test_what_cannot_be_used_is_counted(tmp_path: Path) -> None:
    report = Nsight(tmp_path / "r.sqlite")
    report.kernel("gemm", 1, 100, 50, 5)  # ends before it begins
    report.kernel("gemm", 1, 100, 150, 5)
    report.nvtx("never closed", 10, None, 5, kind=START_END)
    report.domain(3, "NCCL", 5)
    report.nvtx("ncclAllReduce", 10, 20, 5, domain=3, payload=b"too short")
    (rank,) = ingest(report.close())
    reasons = {n["reason"]: n["count"] for n in rank["ingest"]}
    assert reasons["without an end, or ending before they begin"] == 1
    assert reasons["NVTX marks, names and domains: no ranges"] == 1
    assert reasons["have a payload that cannot be read"] == 1
    assert len(rank["kernels"]) == 1


def test_other_databases_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE t (a INT)")
    with pytest.raises(UserError, match="not an Nsight Systems export"):
        read_nsys(path)


def test_a_payload_is_what_its_schema_lays_out() -> None:
    from vtrain_sim.ingest.nvtx_payloads import Payloads

    rows = {
        "NVTX_PAYLOAD_SCHEMA_ENTRIES": [
            (17, 18, "NCCL communicator ID", None),
            (17, 22, "Message size [bytes]", 8),
            (17, 5, "Peer", 12),
        ]
    }
    payloads = Payloads(lambda table, columns: iter(rows[table]))
    binary = nccl_payload(0xABC, (5 << 32) | 77)
    assert payloads.read(binary, None) == {
        "NCCL communicator ID": 0xABC,
        "Message size [bytes]": (5 << 32) | 77,
        "Peer": 5,
    }
    assert payloads.read(binary.hex(), None) == payloads.read(binary, None)
    assert payloads.read(None, None) == {}
    assert payloads.unreadable == 0
    assert payloads.read(b"\x01" * 40, None) == payloads.read(None, "{broken") == {}
    assert payloads.unreadable == 2


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.floats(0, 1), noise=st.binary(min_size=1, max_size=200), cut=st.booleans())
def test_any_damage_is_a_report_or_a_sentence(tmp_path: Path, at: float, noise: bytes, cut: bool) -> None:
    path = tmp_path / "f.sqlite"
    path.unlink(missing_ok=True)
    content = nsight_report(path).read_bytes()
    place = int(at * len(content))
    path.write_bytes(content[:place] if cut else content[:place] + noise + content[place + len(noise) :])
    try:
        ingest(path)
    except UserError as error:
        assert str(path) in str(error)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_in_any_column(tmp_path: Path, data: st.DataObject) -> None:
    """SQLite holds any value in any column, whatever the schema says."""
    path = tmp_path / "v.sqlite"
    path.unlink(missing_ok=True)
    nsight_report(path)
    value = (
        st.none()
        | st.integers(-(1 << 63), (1 << 63) - 1)
        | st.text(max_size=8)
        | st.binary(max_size=40)
        | st.floats(allow_nan=False)
    )
    with sqlite3.connect(path) as db:
        table = data.draw(
            st.sampled_from(
                [
                    "CUPTI_ACTIVITY_KIND_KERNEL",
                    "CUPTI_ACTIVITY_KIND_RUNTIME",
                    "NVTX_EVENTS",
                    "NVTX_PAYLOAD_SCHEMA_ENTRIES",
                    "TARGET_INFO_GPU",
                ]
            )
        )
        columns = [(row[1], row[3]) for row in db.execute(f"PRAGMA table_info({table})")]
        column, needed = data.draw(st.sampled_from(columns))
        drawn = data.draw(value)
        db.execute(f"UPDATE {table} SET {column} = ?", (0 if drawn is None and needed else drawn,))
    try:
        ingest(path)
    except UserError as error:
        assert str(path) in str(error)


def test_the_schema_of_the_tests_is_valid(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "s.sqlite") as db:
        db.executescript(SCHEMA)


GPU_TABLES = ("KERNEL", "RUNTIME", "MEMCPY", "MEMSET")
OSRT = """
CREATE TABLE OSRT_API (start INTEGER NOT NULL, end INTEGER NOT NULL, eventClass INTEGER NOT NULL, globalTid INTEGER,
    correlationId INTEGER, nameId INTEGER NOT NULL, returnValue INTEGER NOT NULL, nestingLevel INTEGER,
    callchainId INTEGER NOT NULL);
INSERT INTO OSRT_API VALUES (10, 20, 27, 1, NULL, 1, 0, NULL, 0), (30, 40, 27, 1, NULL, 1, 0, NULL, 0);
"""


def without_gpu(path: Path, *dropped: str) -> Nsight:
    """A report of a process that launched nothing: the exporter makes no table of what there was none of."""
    report = Nsight(path)
    for table in (*(f"CUPTI_ACTIVITY_KIND_{word}" for word in GPU_TABLES), "ENUM_CUDA_MEMCPY_OPER", *dropped):
        report.drop(table)
    report.db.executescript(OSRT)
    return report


def test_a_report_without_gpu_work_has_its_ranges(tmp_path: Path) -> None:
    report = without_gpu(tmp_path / "r.sqlite", "TARGET_INFO_GPU")
    report.nvtx("iteration 3", 0, 10_000, 500)
    report.nvtx("aten::mm, seq = 41, op_id = 7, sizes = [[32, 64], [64, 128]]", 200, 900, 500)
    (rank,) = ingest(report.close())
    assert [(s["name"], s["step"], s["duration_ns"], s["busy_ns"]) for s in rank["spans"]] == [
        ("iteration 3", 3, 10_000, None)
    ]
    (operator,) = rank["operators"]
    assert (operator["kind"], operator["m"], operator["n"], operator["k"]) == ("gemm", 32, 128, 64)
    # Without a GPU a call takes as long as on the host.
    assert operator["duration_ns"] == 700
    assert [(s["step"], s["duration_ns"]) for s in rank["steps"]] == [(3, 10_000)]
    assert rank["kernels"] == []
    reasons = {n["reason"]: n["count"] for n in rank["ingest"]}
    assert reasons["calls of the operating system (OSRT_API): no place in the tables"] == 2


def test_a_report_of_system_calls_alone_is_a_run_of_nothing(tmp_path: Path) -> None:
    report = without_gpu(tmp_path / "r.sqlite", "NVTX_EVENTS")
    catalog = Catalog(tmp_path / "c.duckdb")
    catalog.add([str(report.close())])
    assert [t["table_name"] for t in catalog.show("r")["tables"]] == ["ingest", "ranks", "runs"]
    kept = catalog.sql("SELECT count FROM ingest WHERE reason LIKE 'calls of the operating system%'").to_pylist()
    assert kept == [{"count": 2}]


@pytest.mark.parametrize("epoch", [-5, 1 << 62, (1 << 63) - 1, "noon", 1.5])
def test_a_session_that_began_at_no_time_is_a_sentence(tmp_path: Path, epoch: object) -> None:
    path = nsight_report(tmp_path / "r.sqlite")
    with sqlite3.connect(path) as db:
        db.execute("UPDATE TARGET_INFO_SESSION_START_TIME SET utcEpochNs = ?", (epoch,))
    with pytest.raises(UserError, match=r"its session began at utcEpochNs .* which is no time"):
        read_nsys(path)


def test_a_session_without_a_start_has_no_date(tmp_path: Path) -> None:
    report = Nsight(tmp_path / "r.sqlite")
    report.drop("TARGET_INFO_SESSION_START_TIME")
    report.kernel("gemm", 1, 100, 150, 5)
    catalog = Catalog(tmp_path / "c.duckdb")
    catalog.add([str(report.close())])
    assert catalog.sql("SELECT created_ns FROM runs").to_pylist() == [{"created_ns": None}]
    assert catalog.sql("SELECT start_ns FROM kernels").to_pylist() == [{"start_ns": 100}]


def test_numbered_tables_are_read_as_the_plain_ones(tmp_path: Path) -> None:
    path = nsight_report(tmp_path / "r.sqlite")
    plain = ingest(path)
    with sqlite3.connect(path) as db:
        db.execute("ALTER TABLE NVTX_EVENTS RENAME TO NVTX_EVENTS_V2")
        db.execute("ALTER TABLE CUPTI_ACTIVITY_KIND_KERNEL RENAME TO CUPTI_ACTIVITY_KIND_KERNEL_V3")
    assert ingest(path) == plain
    assert plain[0]["spans"]
    assert plain[0]["kernels"]
