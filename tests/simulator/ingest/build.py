"""Traces by hand: torch.profiler's JSON and Nsight Systems' SQLite, with the fields that the real ones have."""

from __future__ import annotations

import gzip
import json
import sqlite3
import struct
from pathlib import Path
from typing import Any

MAIN, AUTOGRAD = 100, 101
BASE_NS = 1_700_000_000_000_000_000


class Kineto:
    """A trace of one rank. Times in microseconds after the base time."""

    def __init__(self, rank: int = 0, world: int = 1, device: str = "NVIDIA A100-SXM4-80GB") -> None:
        self.events: list[dict[str, Any]] = []
        self.metadata: dict[str, Any] = {
            "schemaVersion": 1,
            "deviceProperties": [{"id": i, "name": device, "totalGlobalMem": 85 << 30} for i in range(8)]
            if device
            else [],
            "distributedInfo": {"backend": "nccl", "rank": rank, "world_size": world, "nccl_version": "2.21.5"},
            "baseTimeNanoseconds": BASE_NS,
        }
        self._correlation = 1000

    def event(
        self, cat: str, name: str, ts: float, dur: float, pid: int = 1, tid: int = MAIN, **args: Any
    ) -> dict[str, Any]:
        event = {"ph": "X", "cat": cat, "name": name, "pid": pid, "tid": tid, "ts": ts, "dur": dur, "args": args}
        self.events.append(event)
        return event

    def range(self, name: str, ts: float, dur: float, tid: int = MAIN) -> None:
        self.event("user_annotation", name, ts, dur, tid=tid)

    def module(self, name: str, ts: float, dur: float, tid: int = MAIN) -> None:
        self.event("python_function", f"nn.Module: {name}", ts, dur, tid=tid)

    def op(
        self,
        name: str,
        ts: float,
        dur: float,
        dims: Any = None,
        element: str = "c10::BFloat16",
        seq: int | None = None,
        tid: int = MAIN,
        **args: Any,
    ) -> None:
        if dims is not None:
            args |= {"Input Dims": dims, "Input type": [element if d else "Scalar" for d in dims]}
        if seq is not None:
            args |= {"Sequence number": seq, "Fwd thread id": 0}
        self.event("cpu_op", name, ts, dur, tid=tid, **{"External id": len(self.events) + 1, **args})

    def kernel(
        self,
        name: str,
        launch: float,
        ts: float,
        dur: float,
        stream: int = 7,
        tid: int = MAIN,
        cat: str = "kernel",
        **args: Any,
    ) -> None:
        """A kernel and the call that launches it."""
        self._correlation += 1
        self.event("cuda_runtime", "cudaLaunchKernel", launch, 1, tid=tid, correlation=self._correlation, cbid=211)
        self.event(
            cat, name, ts, dur, pid=0, tid=stream, stream=stream, correlation=self._correlation, device=0, **args
        )

    def text(self, indent: int | None = None) -> str:
        return json.dumps({**self.metadata, "traceEvents": self.events}, indent=indent)

    def write(self, path: Path, indent: int | None = None) -> Path:
        data = self.text(indent).encode()
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
        return path


def training_step(trace: Kineto, at: float = 0.0, step: int = 5, tp_group: bool = True) -> None:
    """One step: a linear layer forward and backward (the gradients on autograd's thread), a TP all-reduce
    that is half hidden, an optimizer. Device times in us: 40 forward, 30 and 50 backward, 100 all-reduce, 20."""
    gemm = "ampere_bf16_s16816gemm_bf16_128x256_ldg8_f2f_stages_64x3_tn"
    nccl = "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)"
    group = {
        "Collective name": "allreduce",
        "In msg nelems": 4096,
        "Out msg nelems": 4096,
        "dtype": "BFloat16",
        "Group size": 2,
        "Process Group Name": "12",
        "Process Group Description": "TENSOR_MODEL_PARALLEL_GROUP",
        "Process Group Ranks": "[0, 1]",
    }
    trace.range(f"ProfilerStep#{step}", at, 1000)
    trace.module("TransformerLayer_0", at + 10, 90)
    trace.module("ColumnParallelLinear_0", at + 15, 40)
    trace.op("aten::linear", at + 20, 30, [[4, 8, 64], [128, 64], []], seq=10 * step)
    trace.op("aten::addmm", at + 22, 20, [[128], [32, 64], [64, 128], [], []], seq=10 * step + 1)
    trace.kernel(gemm, at + 25, at + 100, 40)
    trace.op("record_param_comms", at + 60, 20, **(group if tp_group else {}))
    trace.range("nccl:all_reduce", at + 62, 15)
    trace.kernel(nccl, at + 65, at + 150, 100, stream=20, **(group if tp_group else {}))
    trace.range("## backward ##", at + 300, 200)
    trace.op("autograd::engine::evaluate_function: AddmmBackward0", at + 310, 80, seq=10 * step + 1, tid=AUTOGRAD)
    trace.op("AddmmBackward0", at + 315, 70, seq=10 * step + 1, tid=AUTOGRAD)
    trace.op("aten::mm", at + 320, 20, [[32, 128], [128, 64]], tid=AUTOGRAD)
    trace.kernel(gemm, at + 325, at + 200, 30, tid=AUTOGRAD)
    trace.op("aten::mm", at + 350, 20, [[128, 32], [32, 64]], tid=AUTOGRAD)
    trace.kernel(gemm, at + 355, at + 230, 50, tid=AUTOGRAD)
    trace.range("Optimizer.step#AdamW.step", at + 700, 100)
    trace.op("aten::_fused_adamw_", at + 710, 50, [[[128, 64], [128]], [[128, 64], [128]]], element="TensorList")
    trace.kernel("void multi_tensor_apply_kernel<TensorListMetadata<4>, AdamFunctor<float>>()", at + 720, at + 730, 20)
    trace.kernel("Memcpy DtoH (Device -> Pageable)", at + 810, at + 820, 5, cat="gpu_memcpy", bytes=4)


SCHEMA = """
CREATE TABLE StringIds (id INTEGER NOT NULL PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (start INTEGER NOT NULL, end INTEGER NOT NULL, deviceId INTEGER NOT NULL,
    contextId INTEGER NOT NULL, greenContextId INTEGER, streamId INTEGER NOT NULL, correlationId INTEGER, globalPid INTEGER,
    demangledName INTEGER NOT NULL, shortName INTEGER NOT NULL, mangledName INTEGER, gridX INTEGER, graphNodeId INTEGER);
CREATE TABLE CUPTI_ACTIVITY_KIND_RUNTIME (start INTEGER NOT NULL, end INTEGER NOT NULL, eventClass INTEGER NOT NULL,
    globalTid INTEGER, correlationId INTEGER, nameId INTEGER NOT NULL, returnValue INTEGER NOT NULL, callchainId INTEGER);
CREATE TABLE CUPTI_ACTIVITY_KIND_MEMCPY (start INTEGER NOT NULL, end INTEGER NOT NULL, deviceId INTEGER NOT NULL,
    contextId INTEGER NOT NULL, streamId INTEGER NOT NULL, correlationId INTEGER, globalPid INTEGER, bytes INTEGER NOT NULL,
    copyKind INTEGER NOT NULL);
CREATE TABLE CUPTI_ACTIVITY_KIND_MEMSET (start INTEGER NOT NULL, end INTEGER NOT NULL, deviceId INTEGER NOT NULL,
    contextId INTEGER NOT NULL, streamId INTEGER NOT NULL, correlationId INTEGER, globalPid INTEGER, value INTEGER NOT NULL,
    bytes INTEGER NOT NULL);
CREATE TABLE ENUM_CUDA_MEMCPY_OPER (id INTEGER NOT NULL PRIMARY KEY, name TEXT, label TEXT);
CREATE TABLE NVTX_EVENTS (start INTEGER NOT NULL, end INTEGER, eventType INTEGER NOT NULL, rangeId INTEGER, category INTEGER,
    color INTEGER, text TEXT, globalTid INTEGER, endGlobalTid INTEGER, textId INTEGER, domainId INTEGER, uint64Value INTEGER,
    int64Value INTEGER, doubleValue REAL, uint32Value INTEGER, int32Value INTEGER, floatValue REAL, jsonTextId INTEGER,
    jsonText TEXT, binaryData BLOB);
CREATE TABLE NVTX_PAYLOAD_SCHEMAS (domainId INTEGER, schemaId INTEGER, name TEXT, type INTEGER, flags INTEGER,
    numEntries INTEGER, payloadSize INTEGER, alignTo INTEGER);
CREATE TABLE NVTX_PAYLOAD_SCHEMA_ENTRIES (domainId INTEGER NOT NULL, schemaId INTEGER NOT NULL, idx INTEGER NOT NULL,
    flags INTEGER, type INTEGER, name TEXT, description TEXT, arrayOrUnionDetail INTEGER, offset INTEGER);
CREATE TABLE TARGET_INFO_GPU (vmId INTEGER NOT NULL, id INTEGER NOT NULL, name TEXT, totalMemory INTEGER, smCount INTEGER);
CREATE TABLE TARGET_INFO_SESSION_START_TIME (utcEpochNs INTEGER, utcTime TEXT, localTime TEXT, systemClockNs INTEGER);
CREATE TABLE TARGET_INFO_SYSTEM_ENV (globalVid INTEGER, devStateName TEXT NOT NULL, name TEXT NOT NULL,
    nameEnum INTEGER NOT NULL, value TEXT NOT NULL);
"""
PUSH_POP, START_END, DOMAIN, MARK = 59, 60, 75, 34
NCCL_DOMAIN = 3


class Nsight:
    """An export of several processes. Times in nanoseconds after the session's start."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.db = sqlite3.connect(path)
        self.db.executescript(SCHEMA)
        self._strings: dict[str, int] = {}
        self._correlation = 0
        self.insert("TARGET_INFO_SESSION_START_TIME", BASE_NS, "", "", 0)
        self.insert("TARGET_INFO_SYSTEM_ENV", 0, "Local", "Hostname", 1, "node-7")
        for gpu in range(2):
            self.insert("TARGET_INFO_GPU", 1, gpu, "NVIDIA A100-SXM4-80GB", 85 << 30, 108)
        self.insert("ENUM_CUDA_MEMCPY_OPER", 2, "CUDA_MEMCPY_KIND_DTOH", "Device-to-Host")
        # What NCCL registers: communicator and size.
        self.insert("NVTX_PAYLOAD_SCHEMAS", NCCL_DOMAIN, 17, None, 1, 0, 2, 16, 8)
        self.insert("NVTX_PAYLOAD_SCHEMA_ENTRIES", NCCL_DOMAIN, 17, 0, 0, 18, "NCCL communicator ID", None, None, None)
        self.insert("NVTX_PAYLOAD_SCHEMA_ENTRIES", NCCL_DOMAIN, 17, 1, 0, 22, "Message size [bytes]", None, None, 8)
        # And when a communicator is made: its size, and the rank of the process in it.
        for index, (kind, name, offset) in enumerate(
            ((18, "NCCL communicator ID", None), (5, "No. of ranks", 8), (5, "Rank", 12))
        ):
            self.insert("NVTX_PAYLOAD_SCHEMA_ENTRIES", NCCL_DOMAIN, 18, index, 0, kind, name, None, None, offset)

    def insert(self, table: str, *values: Any) -> None:
        self.db.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(values))})", values)

    def string(self, text: str) -> int:
        if text not in self._strings:
            self._strings[text] = len(self._strings) + 1
            self.insert("StringIds", self._strings[text], text)
        return self._strings[text]

    @staticmethod
    def pid(process: int) -> int:
        return (1 << 56) | (process << 24)

    def domain(self, number: int, name: str, process: int) -> None:
        self.nvtx(name, 0, None, process, kind=DOMAIN, domain=number)

    def nvtx(
        self,
        name: str,
        start: int,
        end: int | None,
        process: int,
        kind: int = PUSH_POP,
        domain: int = 0,
        by_id: bool = True,
        payload: bytes | None = None,
        text: str | None = None,
        thread: int = 1,
    ) -> None:
        tid = self.pid(process) | thread
        self.db.execute(
            "INSERT INTO NVTX_EVENTS (start, end, eventType, text, textId, globalTid, domainId, binaryData, jsonText) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                start,
                end,
                kind,
                None if by_id else name,
                self.string(name) if by_id else None,
                tid,
                domain,
                payload,
                text,
            ),
        )

    def runtime_call(self, name: str, start: int, tid: int) -> None:
        """A call of CUDA's runtime; what it launches has its correlation id."""
        self._correlation += 1
        self.insert(
            "CUPTI_ACTIVITY_KIND_RUNTIME", start, start + 5, 0, tid, self._correlation, self.string(name), 0, None
        )

    def kernel(
        self,
        name: str,
        launch: int,
        start: int,
        end: int,
        process: int,
        device: int = 0,
        stream: int = 7,
        thread: int = 1,
    ) -> None:
        self.runtime_call("cudaLaunchKernel", launch, self.pid(process) | thread)
        self.insert(
            "CUPTI_ACTIVITY_KIND_KERNEL",
            start,
            end,
            device,
            1,
            0,
            stream,
            self._correlation,
            self.pid(process),
            self.string(name),
            self.string(name.partition("<")[0]),
            None,
            1,
            None,
        )

    def copy(self, launch: int, start: int, end: int, process: int, nbytes: int) -> None:
        self.runtime_call("cudaMemcpyAsync", launch, self.pid(process) | 1)
        self.insert("CUPTI_ACTIVITY_KIND_MEMCPY", start, end, 0, 1, 7, self._correlation, self.pid(process), nbytes, 2)

    def drop(self, table: str) -> None:
        self.db.execute(f"DROP TABLE {table}")

    def close(self) -> Path:
        self.db.commit()
        self.db.close()
        return self.path


def nccl_payload(communicator: int, nbytes: int) -> bytes:
    """An NVTX payload as Nsight Systems stores it: header, then NCCL's two fields."""
    return struct.pack("<IIIIQQ", NCCL_DOMAIN, 0, 17, 0, 16, 48) + struct.pack("<QQ", communicator, nbytes)


def communicator_payload(communicator: int, size: int, rank: int) -> bytes:
    """The payload of the call that makes a communicator."""
    return struct.pack("<IIIIQQ", NCCL_DOMAIN, 0, 18, 0, 16, 48) + struct.pack("<QII", communicator, size, rank)


def nsight_report(path: Path) -> Path:
    """Two processes on two GPUs: a step with a product that PyTorch marked, a grouped all-reduce, a copy."""
    report = Nsight(path)
    gemm = "void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_relu_bf16_128x128_32x4_nn_align8>(Params)"
    nccl = "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)"
    for process, device in ((501, 1), (500, 0)):
        report.domain(NCCL_DOMAIN, "NCCL", process)
        report.nvtx("iteration 3", 0, 10_000, process)
        report.nvtx("decoder.layers.0", 100, 4_000, process, kind=START_END, by_id=False)
        report.nvtx("aten::mm, seq = 41, op_id = 7, sizes = [[32, 64], [64, 128]]", 200, 900, process)
        report.kernel(gemm, 300, 1_000, 3_000, process, device)
        report.nvtx("ncclGroupStart", 4_100, 4_110, process, domain=NCCL_DOMAIN)
        report.nvtx("ncclAllReduce", 4_120, 4_200, process, domain=NCCL_DOMAIN, payload=nccl_payload(0xABC, 8192))
        report.nvtx("ncclGroupEnd", 4_300, 4_600, process, domain=NCCL_DOMAIN)
        report.kernel(nccl, 4_400, 5_000, 7_000 + device, process, device, stream=20)
        report.copy(8_000, 8_100, 8_200, process, 4)
        report.nvtx("a mark", 9_000, None, process, kind=MARK)
    return report.close()
