"""Arrow schema of every profile table, with the unit and the meaning of each column.

Source of the table set: the project's design; times are nanoseconds, sizes bytes. ``start_ns`` is
nanoseconds since the Unix epoch, so that ranks of one host line up (monotonic within a rank).
"""

from __future__ import annotations

from functools import cache

import pyarrow as pa

from vtrain_schemas.table import Column, Table
from vtrain_schemas.version import SCHEMA_VERSION

I16, I32, I64 = pa.int16(), pa.int32(), pa.int64()
F64, STR, BOOL = pa.float64(), pa.string(), pa.bool_()


def _key(name: str, type_: pa.DataType, doc: str, unit: str = "") -> Column:
    return Column(name, type_, doc, unit, nullable=False)


RUN_ID = _key("run_id", STR, "run that the row belongs to")
RANK = _key("rank", I32, "global rank of the process")
STEP = _key(
    "step",
    I32,
    "training step since the capture was armed (0: the first warm-up step), for work on a device the one that launched "
    "it; -1 in an imported trace: outside every step, or launched by a call that the trace lacks",
)
START = _key("start_ns", I64, "start, since the Unix epoch", "ns")
DURATION = _key("duration_ns", I64, "duration on the clock that `runs.clock_source` names", "ns")
DEVICE = Column("device", I64, "number of the device in its process, which may use several; null where it is not known")

RUNS = Table(
    "runs",
    "a capture",
    (
        RUN_ID,
        _key("schema_version", STR, "version of the profile schema, MAJOR.MINOR"),
        _key(
            "source",
            STR,
            "what wrote it: plugin, rank (fake world), ops, collectives; kineto or nsys: an imported trace",
        ),
        Column("created_ns", I64, "when the capture began, since the Unix epoch; null where nothing has a time", "ns"),
        _key("world_size", I32, "number of ranks of the (real or played) world"),
        Column("tensor_model_parallel_size", I32, "tensor parallel size (tp)"),
        Column("pipeline_model_parallel_size", I32, "pipeline parallel size (pp)"),
        Column("virtual_pipeline_chunks", I32, "model chunks per stage (vpp); 1 without interleaving"),
        Column("context_parallel_size", I32, "context parallel size (cp)"),
        Column("expert_model_parallel_size", I32, "expert parallel size (ep)"),
        Column("expert_tensor_parallel_size", I32, "tensor parallel size of the experts"),
        Column("data_parallel_size", I32, "data parallel size (dp), without context parallel ranks"),
        Column("sequence_parallel", BOOL, "sequence parallelism on"),
        Column("distributed_optimizer", BOOL, "optimizer state sharded over data parallel ranks"),
        Column("overlap_grad_reduce", BOOL, "gradient reduction overlapped with backward"),
        Column("overlap_param_gather", BOOL, "parameter gather overlapped with forward"),
        Column("overlap_p2p_comm", BOOL, "pipeline communication overlapped with compute"),
        Column("num_layers", I32, "transformer layers of the whole model"),
        Column("hidden_size", I32, "hidden size"),
        Column("ffn_hidden_size", I32, "feed-forward hidden size"),
        Column("num_attention_heads", I32, "attention heads"),
        Column("num_query_groups", I32, "key/value heads (equal to the heads without GQA)"),
        Column("kv_channels", I32, "dimension of an attention head"),
        Column("seq_length", I32, "tokens per sequence", "tokens"),
        Column("padded_vocab_size", I32, "vocabulary size after padding"),
        Column("max_position_embeddings", I32, "rows of a learned position embedding; null without one"),
        Column("num_experts", I32, "experts per layer; null for a dense model"),
        Column("moe_router_topk", I32, "experts per token; null for a dense model"),
        Column("moe_ffn_hidden_size", I32, "feed-forward hidden size of an expert"),
        Column("swiglu", BOOL, "gated linear unit in the feed-forward block"),
        Column("add_bias_linear", BOOL, "biases on the linear layers"),
        Column("normalization", STR, "LayerNorm or RMSNorm"),
        Column("position_embedding_type", STR, "rope, learned_absolute or none"),
        Column("untie_embeddings_and_output_weights", BOOL, "separate input and output embeddings"),
        Column("params_dtype", STR, "type of the parameters: float32, bfloat16, float16"),
        Column("fp8", STR, "fp8 recipe; null without"),
        Column("main_grads_dtype", STR, "type of the gradient buffers"),
        Column("optimizer", STR, "optimizer name"),
        Column("recompute_granularity", STR, "null, selective or full"),
        Column("recompute_method", STR, "null, uniform or block"),
        Column("recompute_num_layers", I32, "layers per recompute unit"),
        Column("micro_batch_size", I32, "sequences per microbatch and data parallel rank"),
        Column("global_batch_size", I32, "sequences per step over all ranks"),
        Column("num_microbatches", I32, "microbatches per step and data parallel rank"),
        Column("transformer_impl", STR, "local or transformer_engine"),
        Column("device_name", STR, "name of the GPU, or of the processor for CPU runs"),
        Column("device_memory_bytes", I64, "memory of one device", "bytes"),
        Column("devices_per_host", I32, "ranks on the first host"),
        Column("backend", STR, "communication backend: nccl, gloo, fake"),
        Column("hosts", pa.list_(STR), "host names seen by this rank"),
        Column("torch_version", STR, "version of torch"),
        Column("megatron_core_version", STR, "version of megatron-core"),
        Column("cuda_version", STR, "version of CUDA that torch was built for"),
        Column("nccl_version", STR, "version of NCCL"),
        Column("vtrain_version", STR, "version of the plugin; null for an imported trace"),
        _key("clock_source", STR, "where durations come from: host, cuda_event, cupti"),
        Column("warmup_steps", I32, "steps before the capture"),
        Column("active_steps", I32, "steps requested"),
        Column(
            "plain_interval_ns",
            pa.list_(I64),
            "intervals of the last steps before the capture, without its hooks: their difference is what it costs",
            "ns",
        ),
        Column("chosen_ranks", STR, "ranks requested, such as 0,8,16-23 or first-of-node; null for all"),
        Column(
            "layers_built",
            I32,
            "layers of its stage that a played rank built, the rest being like them; null: all. Its parameters and "
            "its once-per-step operators are of these alone",
        ),
        Column("config_json", STR, "transformer configuration as JSON; in it also ddp_config, optimizer_config, ..."),
    ),
)

RANKS = Table(
    "ranks",
    "a process; what an imported trace does not say of it is null",
    (
        RUN_ID,
        RANK,
        Column("host", STR, "host name"),
        Column("local_rank", I32, "rank within the host"),
        Column("tp_rank", I32, "tensor parallel coordinate"),
        Column("pp_rank", I32, "pipeline stage"),
        Column("dp_rank", I32, "data parallel coordinate"),
        Column("cp_rank", I32, "context parallel coordinate"),
        Column("ep_rank", I32, "expert parallel coordinate"),
        Column("device_name", STR, "device of this rank"),
        Column("parameters", I64, "parameters that this rank holds", "elements"),
        Column("dropped_rows", I64, "rows that were lost because of the memory bound", "rows"),
    ),
)

STEPS = Table(
    "steps",
    "one training step on one rank",
    (
        RUN_ID,
        RANK,
        STEP,
        START,
        DURATION,
        Column("interval_ns", I64, "from the end of the step before to the end of this one, on the host's clock", "ns"),
        Column("num_microbatches", I32, "microbatches that ran"),
        Column("tokens", I64, "tokens that this rank's data parallel replica processed", "tokens"),
        Column("peak_allocated_bytes", I64, "peak memory in use since the process began", "bytes"),
        Column("peak_reserved_bytes", I64, "peak memory reserved by the allocator", "bytes"),
    ),
)

SPANS = Table(
    "spans",
    "a module or a phase inside a step",
    (
        RUN_ID,
        RANK,
        STEP,
        _key("span_id", I64, "unique within a rank"),
        Column("parent_id", I64, "span that encloses it; null for the step"),
        _key("name", STR, "module path in the model, or name of the phase"),
        _key("kind", STR, "see the span kinds"),
        _key("phase", STR, "see the phases"),
        Column("layer_number", I32, "number of the layer in the whole model, from 1"),
        Column("microbatch", I32, "microbatch within the step, from 0"),
        Column("chunk", I32, "virtual pipeline chunk on this rank, from 0"),
        START,
        DURATION,
        _key("self_ns", I64, "duration less that of enclosed spans and of blocking communication", "ns"),
        Column(
            "host_duration_ns",
            I64,
            "time between the marks on the host, where it is known beside the device's: start and duration are the "
            "device's where the range launched anything there",
            "ns",
        ),
        Column(
            "host_start_ns",
            I64,
            "when the host launched it, by the device's clock; null where the host keeps the time",
            "ns",
        ),
        Column("busy_ns", I64, "device time of all that was launched inside, added up (imported traces)", "ns"),
        Column("stream", I64, "CUDA stream that it ran on; null for the step's own"),
    ),
)

OPERATORS = Table(
    "operators",
    "an operator call",
    (
        RUN_ID,
        RANK,
        STEP,
        Column("span_id", I64, "span that the operator is, or is the remainder of"),
        _key("name", STR, "module name, or name of the framework operator"),
        _key("kind", STR, "see the operator kinds"),
        _key("phase", STR, "see the phases"),
        _key("source", STR, "module (hooks), kineto (torch.profiler), nsys, microbench (vtrain-profile ops)"),
        Column("m", I64, "rows: tokens on this rank, or elements for the once-per-step kinds"),
        Column("n", I64, "columns"),
        Column("k", I64, "inner dimension"),
        Column("batch", I64, "independent problems"),
        Column("seq_q", I64, "query tokens per sequence", "tokens"),
        Column("seq_kv", I64, "key tokens per sequence", "tokens"),
        Column("heads", I64, "query heads on this rank"),
        Column("kv_heads", I64, "key/value heads on this rank"),
        Column("head_dim", I64, "dimension of a head"),
        Column("dtype", STR, "element type of the inputs"),
        Column(
            "fused",
            STR,
            "what one kernel or call fuses: flash (attention without a score matrix in memory), layernorm (a linear "
            "layer with its normalisation); null: nothing. Before version 1.2 also 'flash, not causal'",
        ),
        Column(
            "causal",
            BOOL,
            "attention that masks later tokens; null for other kinds, and before version 1.2, where it is true but for "
            "'flash, not causal'",
        ),
        Column(
            "flops",
            F64,
            "floating point operations executed, see the formula of the kind; before version 1.2 fused causal "
            "attention counted the masked half too",
            "FLOP",
        ),
        Column("bytes", F64, "memory traffic of a perfect implementation", "bytes"),
        Column("input_dims", STR, "input shapes as JSON, where the profiler gave them"),
        START,
        DURATION,
        Column(
            "self_ns",
            I64,
            "duration less that of operators inside: add this up, not the duration (imported traces)",
            "ns",
        ),
        Column(
            "host_duration_ns",
            I64,
            "time on the host; the duration is the device's where there is one (imported traces)",
            "ns",
        ),
        Column(
            "sequence_number",
            I64,
            "links a backward operator to its forward operator (autograd): its own, or that of the operator around it",
        ),
        Column("calls", I32, "calls between the two marks; the duration is their mean (microbenchmarks)"),
        Column(
            "host_bound",
            BOOL,
            "the device waited for the host meanwhile: the duration has launch gaps in it (microbenchmarks on a GPU), "
            "or may have, as the host was not done with launching when the device began (modules on a GPU)",
        ),
        Column(
            "communication_role",
            STR,
            "role of the group whose communication is inside the operator's kernels, and its duration: Transformer "
            "Engine's user buffers (modules)",
        ),
        Column(
            "in_cache",
            BOOL,
            "inputs may have been in the device's largest cache, where training does not find them (microbenchmarks)",
        ),
        Column(
            "attributes",
            STR,
            "how the operator was built, as JSON: implementation (megatron, transformer_engine, apex, grouped_gemm, "
            "torch) and the choices of Megatron's arguments that bear on it (microbenchmarks)",
        ),
    ),
)

KERNELS = Table(
    "kernels",
    "a GPU kernel, from CUPTI",
    (
        RUN_ID,
        RANK,
        STEP,
        _key("name", STR, "kernel name"),
        Column("stream", I64, "CUDA stream"),
        Column("correlation", I64, "CUPTI correlation id of the launch"),
        Column("operator", STR, "framework operator that launched it"),
        START,
        DURATION,
        Column("kind", STR, "see the kernel kinds"),
        Column("bytes", I64, "bytes of a copy or fill", "bytes"),
        Column("span_id", I64, "innermost span that launched it"),
        Column("launch_ns", I64, "when the host launched it, since the Unix epoch", "ns"),
        Column("launch_duration_ns", I64, "time that the launching call took on the host", "ns"),
        DEVICE,
    ),
)

MEMORY = Table(
    "memory",
    "an allocation or a release of memory through the framework's allocator (traces with profile_memory)",
    (
        RUN_ID,
        RANK,
        STEP,
        _key("time_ns", I64, "when it happened on the host, since the Unix epoch", "ns"),
        _key("device_type", STR, "cpu or gpu"),
        Column("device", I32, "number of the GPU within the process; null for the host's memory"),
        Column("bytes", I64, "size; negative where it was released", "bytes"),
        Column("allocated_bytes", I64, "in use on the device afterwards, all tensors together", "bytes"),
        Column("reserved_bytes", I64, "held by the allocator afterwards, in use or not", "bytes"),
        Column("operator", STR, "framework operator that was running"),
        Column("span_id", I64, "innermost span that was open"),
    ),
)

COLLECTIVES = Table(
    "collectives",
    "one collective or point-to-point call on one rank",
    (
        RUN_ID,
        RANK,
        STEP,
        Column("span_id", I64, "span that it was issued in"),
        _key("op", STR, "all_reduce, reduce_scatter, all_gather, all_to_all, send, recv, ..."),
        _key("role", STR, "see the roles"),
        _key("source", STR, "hook, kineto, nsys or microbench"),
        Column("bytes", I64, "payload: the largest of input and output on one rank", "bytes"),
        Column("dtype", STR, "element type"),
        Column("group_ranks", pa.list_(I32), "global ranks of the group; sender and receiver for p2p"),
        Column("nodes", I32, "hosts that the group spans, as far as this rank knows"),
        Column("ranks_per_node", I32, "ranks of the group on the host that has the most of them"),
        _key("sequence", I64, "ordinal of the call in its group and step; equal on all its ranks"),
        Column("is_async", BOOL, "the caller did not wait at once; null for an imported trace, which does not say it"),
        START,
        Column(
            "duration_ns",
            I64,
            "from the issue to the end; null for an asynchronous call, whose end only the device knows (kernels)",
            "ns",
        ),
        Column("exposed_ns", I64, "time that the step's own stream or thread was blocked by it", "ns"),
        Column(
            "stream",
            I64,
            "CUDA stream that it was issued on; null for the step's own. In an imported trace the one that it ran on",
        ),
        Column(
            "host_bound",
            BOOL,
            "the device waited for the host meanwhile: the duration has launch gaps in it (microbenchmarks on a GPU)",
        ),
        DEVICE,
        Column("group_name", STR, "name of the process group, as the profiler has it (imported traces)"),
        Column(
            "group_source",
            STR,
            "where group_ranks of an imported trace is from: trace (it says them), inferred (from the order, size and "
            "time of the calls on all ranks); null: not known, or vtrain's own capture",
        ),
    ),
)

INGEST = Table(
    "ingest",
    "one remark about an imported trace: something that was kept, left out or noticed, how often, and why",
    (
        RUN_ID,
        RANK,
        _key("subject", STR, "kernels, operators, ranges, collectives, steps, allocations, events, files, processes"),
        _key("outcome", STR, "kept, dropped or noted"),
        _key("count", I64, "how many"),
        _key("reason", STR, "why, or what it means for the numbers"),
        Column("example", STR, "one of them"),
    ),
)

TABLES: dict[str, Table] = {
    table.name: table for table in (RUNS, RANKS, STEPS, SPANS, OPERATORS, KERNELS, COLLECTIVES, MEMORY, INGEST)
}


@cache
def arrow_schema(name: str) -> pa.Schema:
    """Arrow schema of a table; unit and meaning are in each field's metadata."""
    table = TABLES[name]
    fields = [pa.field(c.name, c.type, c.nullable, {"unit": c.unit, "doc": c.doc}) for c in table.columns]
    return pa.schema(fields, {"vtrain.schema_version": SCHEMA_VERSION, "vtrain.table": name})
