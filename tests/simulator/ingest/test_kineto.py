"""torch.profiler's traces by hand: what belongs to what, in which units, and what is reported."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.ingest.build import AUTOGRAD, BASE_NS, Kineto, training_step
from vtrain_sim.catalog.ingest.kineto import read_kineto
from vtrain_sim.catalog.ingest.notes import DROPPED, NOTED
from vtrain_sim.catalog.ingest.tables import tables_of
from vtrain_sim.catalog.ingest.trace import Trace
from vtrain_sim.errors import UserError

Rows = list[dict[str, Any]]


def ingest(trace: Kineto | str, rank: int | None = None) -> tuple[dict[str, Rows], Trace]:
    text = trace if isinstance(trace, str) else trace.text()
    read = read_kineto(io.BytesIO(text.encode()), "trace", rank)
    tables: dict[str, pa.Table] = dict(tables_of(read, "run"))
    return {name: table.to_pylist() for name, table in tables.items()}, read


def notes(tables: dict[str, Rows], outcome: str) -> dict[str, int]:
    return {n["reason"]: n["count"] for n in tables["ingest"] if n["outcome"] == outcome}


@pytest.fixture(scope="module")
def step() -> dict[str, Rows]:
    trace = Kineto(rank=1, world=2)
    training_step(trace)
    return ingest(trace)[0]


def test_operators_have_shapes_phases_and_device_times(step: dict[str, Rows]) -> None:
    shaped = {
        (o["kind"], o["phase"], o["m"], o["n"], o["k"]): (o["name"], o["duration_ns"])
        for o in step["operators"]
        if o["flops"]
    }
    assert shaped == {
        # The linear layer and its product are one: the innermost counts, with the kernel's time.
        ("gemm", "forward", 32, 128, 64): ("aten::addmm", 40_000),
        # On autograd's thread, named by the forward product of the same sequence number.
        ("gemm", "dgrad", 32, 128, 64): ("aten::mm", 30_000),
        ("gemm", "wgrad", 32, 128, 64): ("aten::mm", 50_000),
        ("optimizer", "update", 8320, None, None): ("aten::_fused_adamw_", 20_000),
    }  # fmt: skip
    assert all(o["dtype"] == "bfloat16" for o in step["operators"] if o["kind"] == "gemm" and o["flops"])


def test_kernels_know_their_launch_operator_span_and_kind(step: dict[str, Rows]) -> None:
    kernels = [(k["kind"], k["operator"], k["step"], k["launch_ns"] - BASE_NS, k["bytes"]) for k in step["kernels"]]
    assert kernels == [
        ("gemm", "aten::addmm", 5, 25_000, None), ("communication", "record_param_comms", 5, 65_000, None),
        ("gemm", "aten::mm", 5, 325_000, None), ("gemm", "aten::mm", 5, 355_000, None),
        ("optimizer", "aten::_fused_adamw_", 5, 720_000, None), ("memory", None, 5, 810_000, 4),
    ]  # fmt: skip
    spans = {s["span_id"]: s["name"] for s in step["spans"]}
    assert [spans.get(k["span_id"]) for k in step["kernels"]] == [
        "nn.Module: ColumnParallelLinear_0", "nn.Module: TransformerLayer_0", "## backward ##", "## backward ##",
        "Optimizer.step#AdamW.step", "ProfilerStep#5",
    ]  # fmt: skip


def test_spans_are_on_the_device_where_they_launched_something(step: dict[str, Rows]) -> None:
    spans = {s["name"]: s for s in step["spans"]}
    layer, linear = spans["nn.Module: TransformerLayer_0"], spans["nn.Module: ColumnParallelLinear_0"]
    assert (layer["kind"], layer["phase"], layer["layer_number"], linear["layer_number"]) == (
        "transformer_layer",
        "forward",
        1,
        1,
    )
    assert linear["parent_id"] == layer["span_id"]
    # Kernels at 100-140 and 150-250 us: 150 us in all, busy for 140, of which the product's 40 are the linear's.
    assert (layer["start_ns"] - BASE_NS, layer["duration_ns"], layer["busy_ns"], layer["self_ns"]) == (
        100_000,
        150_000,
        140_000,
        100_000,
    )
    assert (layer["host_duration_ns"], linear["duration_ns"]) == (90_000, 40_000)
    backward = spans["## backward ##"]
    assert (backward["kind"], backward["phase"], backward["busy_ns"]) == ("backward_step", "backward", 80_000)


def test_collectives_have_bytes_role_ranks_and_what_compute_hides(step: dict[str, Rows]) -> None:
    (call,) = step["collectives"]
    assert (call["op"], call["role"], call["bytes"], call["dtype"], call["group_ranks"]) == (
        "all_reduce",
        "tp",
        8192,
        "bfloat16",
        [0, 1],
    )
    # The all-reduce runs from 150 to 250 us; the two gradients compute from 200 to 280.
    assert (call["duration_ns"], call["exposed_ns"], call["nodes"], call["sequence"]) == (100_000, 50_000, 1, 0)


def test_steps_ranks_and_machine(step: dict[str, Rows]) -> None:
    (one,) = step["steps"]
    assert (one["step"], one["start_ns"], one["duration_ns"], one["interval_ns"]) == (5, BASE_NS, 1_000_000, None)
    assert step["ranks"][0]["rank"] == 1
    assert step["ranks"][0]["device_name"] == "NVIDIA A100-SXM4-80GB"


def test_older_spellings_of_a_collective_say_the_same() -> None:
    """No arguments on the kernel nor on the call: elements and type are the input sizes of the range around it."""
    trace = Kineto(world=2)
    trace.op("record_param_comms", 10, 30, [[], [], []], element="TensorList")
    trace.event(
        "user_annotation", "nccl:all_reduce", 12, 20, **{"Input Dims": [[4096]], "Input type": ["c10::BFloat16"]}
    )
    trace.kernel("ncclKernel_AllReduce_RING_LL_Sum_float(ncclDevComm*, unsigned long, ncclWork*)", 15, 50, 9, stream=20)
    # And the arguments of 2023: a group by number, its first rank and stride, sizes instead of counts.
    old = {"Collective name": "_reduce_scatter_base", "In msg size": 64, "Out msg size": 32, "dtype": "Float", "Group size": 2,
           "Global rank start": 0, "Global rank stride": 4, "Process Group ID": 7}  # fmt: skip
    trace.op("record_param_comms", 100, 30, None, **old)
    trace.kernel("ncclKernel_ReduceScatter_RING_LL_Sum_float(ncclDevComm*)", 110, 150, 9, stream=20)
    calls, _ = ingest(trace)
    first, second = calls["collectives"]
    assert (first["op"], first["bytes"], first["dtype"], first["group_ranks"]) == ("all_reduce", 8192, "bfloat16", None)
    assert (second["op"], second["bytes"], second["dtype"], second["group_ranks"]) == (
        "reduce_scatter",
        256,
        "float32",
        [0, 4],
    )


def test_groups_listed_in_the_header_complete_a_call() -> None:
    trace = Kineto(world=2)
    trace.metadata["distributedInfo"]["pg_config"] = [
        {"pg_name": "3", "pg_desc": "DATA_PARALLEL_GROUP", "ranks": [0, 1]}
    ]
    trace.op("record_param_comms", 10, 30, None, **{
        "Collective name": "allreduce", "In msg nelems": 8, "Out msg nelems": 8, "dtype": "Float", "Group size": 2, "Process Group Name": "3",
        "Process Group Ranks": "[0, ..., 1]",
    })  # fmt: skip
    trace.kernel("ncclDevKernel_AllReduce_Sum_f32_RING_LL()", 15, 50, 9, stream=20)
    ((call,), _) = (ingest(trace)[0]["collectives"], 0)
    assert (call["role"], call["group_ranks"], call["bytes"]) == ("dp", [0, 1], 32)


def test_ordinals_count_calls_of_a_group() -> None:
    trace = Kineto(world=4)
    for index, group in enumerate(("a", "b", "a", "a")):
        at = 100.0 * index
        trace.op("record_param_comms", at, 30, None, **{
            "Collective name": "allreduce", "In msg nelems": 8, "dtype": "Float", "Group size": 2, "Process Group Name": group,
            "Process Group Ranks": [0, 1] if group == "a" else [0, 2]})  # fmt: skip
        trace.kernel("ncclDevKernel_AllReduce_Sum_f32_RING_LL()", at + 5, at + 50, 9, stream=20)
    assert [c["sequence"] for c in ingest(trace)[0]["collectives"]] == [0, 0, 1, 2]


def test_expert_exchange_is_all_to_all_and_its_setup_is_no_collective() -> None:
    trace = Kineto(world=2)
    for index, name in enumerate(
        ("dispatch<false, 8>", "combine<false, 8>", "notify_dispatch<8>", "cached_notify<false>")
    ):
        trace.kernel(f"void deep_ep::internode::{name}(int4*)", 10 * index, 100 * index, 50, stream=27)
    tables, _ = ingest(trace)
    assert [c["op"] for c in tables["collectives"]] == ["all_to_all", "all_to_all"]
    assert {k["kind"] for k in tables["kernels"]} == {"communication"}


def test_communication_kernels_that_do_not_say_what_they_do_are_kept() -> None:
    trace = Kineto(world=2)
    trace.kernel("ncclDevKernel_Generic(ncclDevKernelArgsStorage<4096ul>)", 5, 50, 9, stream=20)
    trace.kernel("void (anonymous namespace)::multimem_all_reduce_kernel<c10::BFloat16, 16>(c10::BFloat16*)", 25, 70, 9)
    assert [c["op"] for c in ingest(trace)[0]["collectives"]] == ["unknown", "all_reduce"]


def test_a_call_without_a_kernel_is_kept_without_a_duration() -> None:
    trace = Kineto()
    trace.op("aten::mm", 0, 5, [[8, 8], [8, 8]])
    trace.kernel("gemm", 1, 2, 3)
    trace.op(
        "record_param_comms",
        10,
        30,
        None,
        **{"Collective name": "allreduce", "In msg nelems": 8, "dtype": "Float", "Group size": 1},
    )
    tables, _ = ingest(trace)
    assert [(c["op"], c["bytes"], c["duration_ns"]) for c in tables["collectives"]] == [("all_reduce", 32, None)]


def test_recomputation_and_fused_gradients() -> None:
    """A checkpointed layer: its second forward pass is recomputed; its weight gradient has no operator of its own."""
    trace = Kineto()
    gemm = "ampere_bf16_s16816gemm_bf16_128x256_ldg8_f2f_stages_64x3_tn"
    trace.op("LinearWithGradAccumulationAndAsyncCommunication", 0, 50, None, seq=3)
    trace.op("aten::mm", 5, 20, [[32, 64], [64, 128]])
    trace.kernel(gemm, 10, 10, 7)
    trace.op("autograd::engine::evaluate_function: CheckpointFunctionBackward", 100, 300, seq=9, tid=AUTOGRAD)
    trace.op("LinearWithGradAccumulationAndAsyncCommunication", 110, 50, None, seq=11, tid=AUTOGRAD)
    trace.op("aten::mm", 115, 20, [[32, 64], [64, 128]], tid=AUTOGRAD)
    trace.kernel(gemm, 120, 120, 8, tid=AUTOGRAD)
    trace.op(
        "autograd::engine::evaluate_function: LinearWithGradAccumulationAndAsyncCommunicationBackward",
        200,
        90,
        seq=11,
        tid=AUTOGRAD,
    )
    trace.op("LinearWithGradAccumulationAndAsyncCommunicationBackward", 205, 80, None, seq=11, tid=AUTOGRAD)
    trace.op("aten::mm", 210, 20, [[32, 128], [128, 64]], tid=AUTOGRAD)
    trace.kernel(gemm, 215, 215, 9, tid=AUTOGRAD)
    trace.kernel(gemm, 240, 240, 11, tid=AUTOGRAD)  # fused into the accumulation: launched without an operator
    tables, _ = ingest(trace)
    shaped = [(o["phase"], o["m"], o["n"], o["k"], o["duration_ns"]) for o in tables["operators"] if o["flops"]]
    assert sorted(shaped) == [
        ("dgrad", 32, 128, 64, 9_000), ("forward", 32, 128, 64, 7_000), ("recompute", 32, 128, 64, 8_000),
        ("wgrad", 32, 128, 64, 11_000),
    ]  # fmt: skip


def test_autograds_thread_belongs_to_the_range_that_waits_even_where_it_has_more_ranges() -> None:
    """Recomputed modules are ranges on autograd's thread: the training thread is the one with the steps."""
    trace = Kineto()
    trace.range("ProfilerStep#1", 0, 1000)
    trace.range("## backward ##", 100, 800)
    for index, at in enumerate((200, 400, 600)):
        trace.op("autograd::engine::evaluate_function: CheckpointFunctionBackward", at, 150, seq=index, tid=AUTOGRAD)
        trace.module(f"TransformerLayer_{index}", at + 5, 90, tid=AUTOGRAD)
        trace.op("aten::mm", at + 10, 20, [[8, 8], [8, 8]], tid=AUTOGRAD)
        trace.kernel("gemm", at + 15, at + 15, 10, tid=AUTOGRAD)
    tables, _ = ingest(trace)
    spans = {s["name"]: s for s in tables["spans"]}
    assert spans["## backward ##"]["busy_ns"] == 30_000
    layers = [spans[f"nn.Module: TransformerLayer_{i}"] for i in range(3)]
    assert [(s["phase"], s["layer_number"], s["busy_ns"]) for s in layers] == [
        ("recompute", i + 1, 10_000) for i in range(3)
    ]
    assert {s["parent_id"] for s in layers} == {spans["## backward ##"]["span_id"]}


def test_grouped_calls_are_named_by_their_kernel() -> None:
    trace = Kineto(world=2)
    trace.kernel("ncclDevKernel_SendRecv(ncclDevKernelArgsStorage<4096ul>)", 5, 50, 9, stream=20, **{
        "Collective name": "coalesced", "In msg nelems": 8, "dtype": "Float", "Group size": 2})  # fmt: skip
    assert [(c["op"], c["bytes"]) for c in ingest(trace)[0]["collectives"]] == [("p2p", 32)]


def test_what_records_a_graph_inside_the_backward_pass_is_a_forward_pass() -> None:
    """Checkpoints that are not reentrant run the forward pass again inside the evaluation of any node; a loss may be
    computed within the range around the backward pass."""
    trace = Kineto()
    trace.range("## backward ##", 0, 1000)
    trace.op("aten::_log_softmax", 10, 20, [[8, 8]], seq=7)
    trace.kernel("softmax_warp_forward", 15, 15, 4)
    trace.op("autograd::engine::evaluate_function: AddmmBackward0", 200, 300, seq=5, tid=AUTOGRAD)
    trace.module("Linear_0", 210, 60, tid=AUTOGRAD)
    trace.op("aten::mm", 220, 30, [[32, 64], [64, 128]], seq=9, tid=AUTOGRAD)
    trace.kernel("gemm", 225, 225, 5, tid=AUTOGRAD)
    trace.op("AddmmBackward0", 300, 100, seq=5, tid=AUTOGRAD)
    trace.op("aten::mm", 310, 30, [[32, 128], [128, 64]], tid=AUTOGRAD)
    trace.kernel("gemm", 315, 315, 6, tid=AUTOGRAD)
    tables, _ = ingest(trace)
    phases = [(o["name"], o["phase"]) for o in tables["operators"] if o["name"].startswith("aten::")]
    assert phases == [("aten::_log_softmax", "forward"), ("aten::mm", "recompute"), ("aten::mm", "dgrad")]
    assert {s["name"]: s["phase"] for s in tables["spans"]} == {
        "## backward ##": "backward",
        "nn.Module: Linear_0": "recompute",
    }


def test_square_products_are_told_apart_by_order() -> None:
    trace = Kineto()
    trace.op("aten::mm", 0, 20, [[64, 32], [32, 64]], seq=1)
    trace.kernel("gemm", 5, 5, 1)
    trace.op("autograd::engine::evaluate_function: MmBackward0", 100, 90, seq=1)
    for at in (110, 140):  # [64, 64] [64, 32] and [64, 64] [64, 32]: the sizes say nothing
        trace.op("aten::mm", at, 20, [[64, 64], [64, 32]])
        trace.kernel("gemm", at + 5, at + 5, 1)
    phases = [o["phase"] for o in ingest(trace)[0]["operators"] if o["flops"]]
    assert phases == ["forward", "dgrad", "wgrad"]


def test_attention_that_is_not_causal_is_another_operator() -> None:
    sizes = [[2, 128, 4, 64]] * 3
    found = []
    for causal in ("True", "False", None):
        trace = Kineto()
        more = {"Concrete Inputs": ["", "", "", "", "", "128", "128", "0.", causal]} if causal else {}
        trace.op("aten::_flash_attention_forward", 0, 20, sizes, **more)
        trace.kernel("void pytorch_flash::flash_fwd_kernel<64>()", 5, 5, 30)
        found += [o["fused"] for o in ingest(trace)[0]["operators"]]
    assert found == ["flash", "flash, not causal", "flash"]


@pytest.mark.parametrize(("scale", "base"), [(1, True), (1, False), (1000, False)])
def test_times_in_micro_and_nanoseconds_from_any_base(scale: int, base: bool) -> None:
    trace = Kineto()
    start = 0 if base else BASE_NS // 1000
    trace.event("kernel", "gemm", (start + 20) * scale, 2.5 * scale, stream=7)
    if not base:
        del trace.metadata["baseTimeNanoseconds"]
    tables, _ = ingest(trace)
    (kernel,) = tables["kernels"]
    assert (kernel["start_ns"], kernel["duration_ns"]) == (BASE_NS + 20_000, 2_500)


def test_a_base_that_is_already_in_the_times_is_left_out() -> None:
    trace = Kineto()
    trace.event("kernel", "gemm", BASE_NS // 1000 + 20, 2.5, stream=7)
    tables, _ = ingest(trace)
    assert tables["kernels"][0]["start_ns"] == BASE_NS + 20_000
    assert any("already" in reason for reason in notes(tables, NOTED))


def test_what_cannot_be_used_is_counted() -> None:
    trace = Kineto()
    trace.event("kernel", "gemm", 10, -4, stream=7)
    trace.event("kernel", "gemm", 20, 4, stream=7)
    trace.event("kernel", "gemm", 15, 3, stream=7)  # out of order
    del trace.event("kernel", "gemm", 30, 4)["dur"]
    trace.event("kernel", "a kernel of my own", 40, 4, stream=7)
    trace.event("something new", "x", 40, 4)
    trace.events.append({"ph": "B", "name": "begin", "ts": 1, "pid": 1, "tid": 1})
    trace.range("my range", 0, 50)
    trace.range("overlaps it", 40, 50)
    tables, _ = ingest(trace)
    dropped, noted = notes(tables, DROPPED), notes(tables, NOTED)
    assert dropped["with a negative duration"] == dropped["without a duration"] == 1
    assert dropped["category 'something new' has no place in the tables"] == 1
    assert dropped["phase 'B' is not one that torch.profiler writes"] == 1
    assert noted["stand out of the order of time in the file: sorted"] == 1
    assert sum("overlap" in reason for reason in noted) == 1
    example = {n["reason"]: n["example"] for n in tables["ingest"]}["have names that no rule knows: kind other"]
    assert example
    assert [k["start_ns"] - BASE_NS for k in tables["kernels"]] == [15_000, 20_000, 40_000]


def test_kernels_of_one_graph_launch_share_its_operator() -> None:
    trace = Kineto()
    trace.range("ProfilerStep#1", 0, 100)
    trace.op("aten::mm", 0, 20)
    trace.event("cuda_runtime", "cudaGraphLaunch", 5, 1, correlation=77)
    for at in (10, 20, 30):
        trace.event("kernel", "gemm", at, 5, pid=0, stream=7, correlation=77)
    assert [k["operator"] for k in ingest(trace)[0]["kernels"]] == ["aten::mm"] * 3


def test_links_of_old_traces_without_launch_calls() -> None:
    """Only an external id: the operator's. One that repeats the correlation id is no link."""
    trace = Kineto()
    trace.op("aten::mm", 0, 20, **{"External id": 5})
    trace.event("kernel", "gemm", 10, 5, pid=0, stream=7, correlation=900, **{"External id": 5})
    trace.event("kernel", "gemm", 20, 5, pid=0, stream=7, correlation=5, **{"External id": 5})
    assert [k["operator"] for k in ingest(trace)[0]["kernels"]] == ["aten::mm", None]


def test_ranges_on_the_device_are_kept_where_the_host_has_none() -> None:
    trace = Kineto()
    trace.range("ProfilerStep#1", 0, 100)
    trace.event("user_annotation", "## forward ##", 10, 20, **{"External id": 8})
    trace.kernel("gemm", 15, 40, 10)
    for name, external, at in (("## forward ##", 8, 40), ("Optimizer.step#SGD.step", 9, 60)):
        trace.event("gpu_user_annotation", name, at, 10, pid=0, tid=7, **{"External id": external})
    tables, _ = ingest(trace)
    spans = {s["name"]: s for s in tables["spans"]}
    assert set(spans) == {"ProfilerStep#1", "## forward ##", "Optimizer.step#SGD.step"}
    alone = spans["Optimizer.step#SGD.step"]
    assert (alone["kind"], alone["phase"], alone["step"], alone["duration_ns"]) == ("optimizer", "update", 1, 10_000)
    assert (alone["host_duration_ns"], alone["parent_id"], alone["busy_ns"]) == (None, None, 10_000)
    assert len({s["span_id"] for s in tables["spans"]}) == 3
    assert (
        notes(tables, DROPPED)["copies of host ranges on the device's timeline: worked out from the kernels instead"]
        == 1
    )


def test_memory_samples_make_the_peak_of_a_step() -> None:
    trace = Kineto()
    trace.range("ProfilerStep#1", 0, 100)
    for at, total in ((10, 500), (20, 900), (30, 700)):
        trace.events.append({"ph": "i", "cat": "cpu_instant_event", "name": "[memory]", "ts": at, "pid": 1, "tid": 1,
                             "args": {"Device Type": 1, "Device Id": 0, "Total Allocated": total, "Total Reserved": 2000}})  # fmt: skip
    (step,) = ingest(trace)[0]["steps"]
    assert (step["peak_allocated_bytes"], step["peak_reserved_bytes"]) == (900, 2000)


def test_steps_without_numbers_and_traces_without_steps() -> None:
    trace = Kineto()
    for at in (0, 200):
        trace.range("ProfilerStep", at, 100)
    trace.event("kernel", "gemm", 150, 5, stream=7)  # between the two
    tables, _ = ingest(trace)
    assert [s["step"] for s in tables["steps"]] == [0, 1]
    assert tables["kernels"][0]["step"] == -1
    bare = Kineto()
    bare.event("kernel", "gemm", 150, 5, stream=7)
    assert [s["step"] for s in ingest(bare)[0]["steps"]] == [0]


def test_an_empty_trace_is_a_trace() -> None:
    tables, _ = ingest('{"traceEvents": []}')
    assert [len(tables[name]) for name in ("kernels", "operators", "steps", "ranks")] == [0, 0, 0, 1]


def test_nothing_of_the_metadata_is_copied_but_what_is_named() -> None:
    """Profilers write environments, tokens included, into their files."""
    trace = Kineto()
    trace.metadata["metadata"] = {"env": {"HF_TOKEN": "secret-token"}}
    training_step(trace)
    tables, read = ingest(trace)
    assert "secret-token" not in json.dumps([tables, read.versions], default=str)


@settings(max_examples=150, deadline=None)
@given(at=st.floats(0, 1), noise=st.binary(min_size=1, max_size=12), cut=st.booleans())
def test_any_damage_is_a_report_or_a_sentence(at: float, noise: bytes, cut: bool) -> None:
    trace = Kineto()
    training_step(trace)
    data = trace.text(indent=1).encode()
    place = int(at * len(data))
    damaged = data[:place] if cut else data[:place] + noise + data[place + len(noise) :]
    try:
        read = read_kineto(io.BytesIO(damaged), "trace")
    except UserError as error:
        assert "is not a trace" in str(error)
        return
    tables = dict(tables_of(read, "run"))
    assert tables["ingest"].num_rows or not tables["kernels"].num_rows


def test_written_traces_are_read_back_from_disk(tmp_path: Path) -> None:
    trace = Kineto()
    training_step(trace)
    plain = trace.write(tmp_path / "t.json", indent=2)
    with plain.open("rb") as stream:
        assert len(read_kineto(stream, "t").device) == 6


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2), max_leaves=4,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_value_in_any_field(data: st.DataObject) -> None:
    """JSON holds any value anywhere: a trace with one odd value is still read, or refused with a sentence."""
    trace = Kineto(rank=1, world=2)
    training_step(trace)
    whole: Any = {**trace.metadata, "traceEvents": trace.events}
    at: Any = whole
    while True:
        key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        if isinstance(at[key], (dict, list)) and at[key] and data.draw(st.booleans()):
            at = at[key]
            continue
        at[key] = data.draw(JSON)
        break
    try:
        ingest(json.dumps(whole).replace("Infinity", "1e999"))
    except UserError as error:
        assert "is not a trace" in str(error)
