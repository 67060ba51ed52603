"""torch.profiler's traces by hand: what belongs to what, in which units, and what is reported."""

from __future__ import annotations

import pytest

from simulator.ingest.build import AUTOGRAD, BASE_NS, Kineto, training_step
from simulator.ingest.reading import Rows, ingest, notes
from vtrain_sim.ingest.notes import DROPPED


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
    }
    assert all(o["dtype"] == "bfloat16" for o in step["operators"] if o["kind"] == "gemm" and o["flops"])


def test_kernels_know_their_launch_operator_span_and_kind(step: dict[str, Rows]) -> None:
    kernels = [(k["kind"], k["operator"], k["step"], k["launch_ns"] - BASE_NS, k["bytes"]) for k in step["kernels"]]
    assert kernels == [
        ("gemm", "aten::addmm", 5, 25_000, None),
        ("communication", "record_param_comms", 5, 65_000, None),
        ("gemm", "aten::mm", 5, 325_000, None),
        ("gemm", "aten::mm", 5, 355_000, None),
        ("optimizer", "aten::_fused_adamw_", 5, 720_000, None),
        ("memory", None, 5, 810_000, 4),
    ]
    assert {k["launch_duration_ns"] for k in step["kernels"]} == {1000}
    spans = {s["span_id"]: s["name"] for s in step["spans"]}
    assert [spans.get(k["span_id"]) for k in step["kernels"]] == [
        "nn.Module: ColumnParallelLinear_0",
        "nn.Module: TransformerLayer_0",
        "## backward ##",
        "## backward ##",
        "Optimizer.step#AdamW.step",
        "ProfilerStep#5",
    ]


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
    old = {
        "Collective name": "_reduce_scatter_base",
        "In msg size": 64,
        "Out msg size": 32,
        "dtype": "Float",
        "Group size": 2,
        "Global rank start": 0,
        "Global rank stride": 4,
        "Process Group ID": 7,
    }
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
    trace.op(
        "record_param_comms",
        10,
        30,
        None,
        **{
            "Collective name": "allreduce",
            "In msg nelems": 8,
            "Out msg nelems": 8,
            "dtype": "Float",
            "Group size": 2,
            "Process Group Name": "3",
            "Process Group Ranks": "[0, ..., 1]",
        },
    )
    trace.kernel("ncclDevKernel_AllReduce_Sum_f32_RING_LL()", 15, 50, 9, stream=20)
    ((call,), _) = (ingest(trace)[0]["collectives"], 0)
    assert (call["role"], call["group_ranks"], call["bytes"]) == ("dp", [0, 1], 32)


def test_ordinals_count_calls_of_a_group() -> None:
    trace = Kineto(world=4)
    for index, group in enumerate(("a", "b", "a", "a")):
        at = 100.0 * index
        trace.op(
            "record_param_comms",
            at,
            30,
            None,
            **{
                "Collective name": "allreduce",
                "In msg nelems": 8,
                "dtype": "Float",
                "Group size": 2,
                "Process Group Name": group,
                "Process Group Ranks": [0, 1] if group == "a" else [0, 2],
            },
        )
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
        ("dgrad", 32, 128, 64, 9_000),
        ("forward", 32, 128, 64, 7_000),
        ("recompute", 32, 128, 64, 8_000),
        ("wgrad", 32, 128, 64, 11_000),
    ]


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
    trace.kernel(
        "ncclDevKernel_SendRecv(ncclDevKernelArgsStorage<4096ul>)",
        5,
        50,
        9,
        stream=20,
        **{"Collective name": "coalesced", "In msg nelems": 8, "dtype": "Float", "Group size": 2},
    )
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
        found += [(o["fused"], o["causal"]) for o in ingest(trace)[0]["operators"]]
    assert found == [("flash", True), ("flash", False), ("flash", True)]


def test_kernels_of_one_graph_launch_share_its_operator() -> None:
    trace = Kineto()
    trace.range("ProfilerStep#1", 0, 100)
    trace.op("aten::mm", 0, 20)
    trace.event("cuda_runtime", "cudaGraphLaunch", 5, 1, correlation=77)
    for at in (10, 20, 30):
        trace.event("kernel", "gemm", at, 5, pid=0, stream=7, correlation=77)
    assert [k["operator"] for k in ingest(trace)[0]["kernels"]] == ["aten::mm"] * 3


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
    assert (alone["kind"], alone["phase"], alone["step"], alone["duration_ns"]) == ("optimizer", "update", -1, 10_000)
    assert (alone["host_duration_ns"], alone["parent_id"], alone["busy_ns"]) == (None, None, 10_000)
    assert len({s["span_id"] for s in tables["spans"]}) == 3
    assert (
        notes(tables, DROPPED)["copies of host ranges on the device's timeline: worked out from the kernels instead"]
        == 1
    )
