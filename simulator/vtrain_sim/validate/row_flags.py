"""A row of a validation table as Megatron's command-line arguments.

Columns stand for arguments (`validate.columns`), and the tables of `inputs` say which of these are simulated. What
no argument says is deduced here: what a gated activation goes with, what a framework and a source's software do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from vtrain_sim.errors import UserError
from vtrain_sim.inputs.flag_lists import approximated, refused
from vtrain_sim.inputs.flag_table import LISTS, SWITCHES, VALUES, arity, opposite
from vtrain_sim.model import dispatchers
from vtrain_sim.specs.graphs import NONE
from vtrain_sim.specs.optimizer import ADAM, DIST_MUON, MUON
from vtrain_sim.specs.pipeline_layout import write_layout
from vtrain_sim.validate.columns import COLUMNS
from vtrain_sim.validate.precision_flags import precision_flags
from vtrain_sim.validate.published_models import narrow_layers, published_kernels

# Sources of 2021: their software did not yet run the backward all-reduce beside the weight gradient.
_OLD_SOURCES = ("SC21", "MT-NLG", "BigScience")
# A model with one of these left out would be another one.
_MODEL_ARGUMENTS = (
    "--experimental-attention-variant",
    "--heterogeneous-block-specs",
    "--enable-mhc-connections",
)
# Attention and experts, with the same parameters for all depths: as published with Nemotron 3 Super.
_DEPTH = "*E"
# A published model's own gate goes before the usual one.
_GATE, _OTHER_GATE = "--swiglu", "--quick-geglu"
_COUNTED = ("account_for_embedding_in_pipeline_split", "account_for_loss_in_pipeline_split")
# Columns that rules below read, or which go with another that does.
_BY_RULE = frozenset(
    {
        "num_gpus",
        "gpu",
        "gpus_per_node",
        "inter_node_gbps_per_node",
        "swiglu",
        "num_query_groups",
        "data_parallel_size",
        "virtual_pipeline_chunks",
        "sequence_parallel",
        "pipeline_schedule",
        "pipeline_layout",
        "distributed_optimizer",
        "fsdp",
        "fsdp_sharding_strategy",
        "overlap_grad_reduce",
        "overlap_param_gather",
        "tp_comm_overlap",
        "precision",
        "precision_detail",
        "recompute_granularity",
        "grad_reduce_in_fp32",
        "gradient_accumulation_fusion",
        "micro_batch_size",
        "moe_dispatcher",
        "moe_load_balance",
        "task",
        "dataset",
        "cross_entropy_fusion",
        "expandable_segments",
        "cuda_graph_impl",
        "cuda_graph_scope",
    }
)


class Cells:
    """The cells of one row, which may lack some."""

    def __init__(self, row: Mapping[str, str]) -> None:
        self._row = row

    @property
    def row(self) -> Mapping[str, str]:
        """The row itself."""
        return self._row

    def text(self, name: str, default: str = "") -> str:
        """A cell; the default where it is empty or missing."""
        return (self._row.get(name) or "").strip() or default

    def number(self, name: str, default: int = 0) -> int:
        """A whole number. Raises `UserError` for text that is none."""
        text = self.text(name)
        if not text:
            return default
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise UserError(f"{name} is {text!r}, not a number")
        if value != int(value):
            raise UserError(f"{name} is {text!r}, not a whole number")
        return int(value)

    def switch(self, name: str, default: bool = False) -> bool:
        """A cell that is 0 or 1."""
        return bool(self.number(name, int(default)))

    @property
    def gated(self) -> bool:
        """Whether the activation is gated, with what goes with that."""
        return self.switch("swiglu")

    @property
    def hybrid(self) -> bool:
        """Whether layers are of several kinds, with what goes with that."""
        return bool(self.text("hybrid_layer_pattern"))

    @property
    def schedule(self) -> str:
        """The word of the schedule."""
        return self.text("pipeline_schedule", "1f1b")

    @property
    def tp(self) -> int:
        """Tensor parallel size."""
        return self.number("tensor_model_parallel_size", 1)

    @property
    def pp(self) -> int:
        """Pipeline parallel size."""
        return self.number("pipeline_model_parallel_size", 1)

    @property
    def dp(self) -> int:
        """Data parallel size: what the number of GPUs leaves, where the row's column disagrees with it."""
        model_ranks = self.tp * self.pp * self.number("context_parallel_size", 1)
        gpus = self.number("num_gpus")
        if not model_ranks or not gpus:
            return self.number("data_parallel_size", 1)
        if gpus % model_ranks:
            raise UserError(
                f"num_gpus is {gpus}, which is not a multiple of tensor x pipeline x context parallel size "
                f"({model_ranks})"
            )
        return gpus // model_ranks

    @cached_property
    def short_ends(self) -> bool:
        """Whether the first and the last stage have one layer fewer than the others."""
        if any(self._row.get(name) is not None for name in _COUNTED):
            return all(self.switch(name) for name in _COUNTED)
        return "first & last stages have one fewer layer" in self.text("notes")

    @cached_property
    def stage_layers(self) -> list[int]:
        """Layers of each stage: as even as can be, one fewer at both ends where the row says so."""
        num_layers, pp = self.number("num_layers"), self.pp
        if self.short_ends and (num_layers + 2) % pp == 0 and pp > 1:
            each = (num_layers + 2) // pp
            return [each - 1, *[each] * (pp - 2), each - 1]
        return _shared_out(num_layers, pp)


@dataclass(frozen=True)
class RowFlags:
    """flags: Megatron's arguments. approximated: columns whose value nothing models."""

    flags: tuple[str, ...]
    approximated: tuple[str, ...]


def flags_of(row: Mapping[str, str], micro_batch: int, chunks: int) -> RowFlags:
    """The arguments of a row that runs with this micro batch and so many chunks per stage.

    Raises `UserError` for a row that cannot be simulated.
    """
    cells = Cells(row)
    flags: list[str] = []
    left_out: list[str] = []
    for rule in (_model, _layout, _sharding, _overlap, _step):
        flags += rule(cells)
    flags += ["--micro-batch-size", str(micro_batch), *_pipeline(cells, chunks)]
    flags += _dispatcher(cells, left_out)
    flags += precision_flags(cells.text("precision", "bf16"), cells.text("precision_detail"))
    written_out = "--pipeline-model-parallel-layout" in flags
    model, source = cells.text("model"), cells.text("source")
    if not cells.text("first_last_layers_bf16"):
        flags += narrow_layers(model, cells.text("precision"), source, left_out)
    flags += [
        word for flag, *words in published_kernels(model) if not cells.text(_column_of(flag)) for word in (flag, *words)
    ]
    for name in row:
        if name not in _BY_RULE and not (written_out and name in _COUNTED):
            flags += _column(cells, name, left_out)
    if _OTHER_GATE in flags:
        flags = [flag for flag in flags if flag != _GATE]
    if cells.text("fine_grained_offload_modules"):
        flags.append("--fine-grained-activation-offloading")
    if "tokendrop" in cells.text("moe_load_balance") + cells.text("notes"):
        left_out.append("moe_load_balance")
    packs = cells.text("task") == "sft" or "packed" in cells.text("dataset")
    if packs and not cells.text("packed_lengths"):
        left_out.append("dataset")
    return RowFlags(tuple(flags), tuple(dict.fromkeys(left_out)))


def _column(cells: Cells, name: str, left_out: list[str]) -> list[str]:
    """The argument that a column stands for; its name is added to `left_out` where its value is not simulated."""
    column = COLUMNS.get(name)
    flag = column.flag if column is not None else f"--{name.replace('_', '-')}"
    takes = arity(flag)
    if takes is None or (column is not None and column.aside):
        return []
    text = cells.text(name)
    if not text or (takes == "value" and text == "0"):
        return []
    if flag == "--optimizer" and text not in (ADAM, MUON, DIST_MUON):
        left_out.append(name)
        return []
    if flag in SWITCHES:
        return [flag if cells.switch(name) else opposite(flag)]
    if flag in LISTS:
        return [flag, *text.split()]
    if flag in VALUES:
        return [flag, _without_fraction(text)]
    refusal = refused().get(flag)
    if refusal is not None:
        words = text.split() if takes == "list" else [text]
        if takes == "switch" and text == "0":
            return []
        if refusal.simulated and all(word in refusal.simulated for word in words):
            return []
        if flag in _MODEL_ARGUMENTS:
            raise UserError(refusal.sentence(text))
        left_out.append(name)
    elif flag in approximated() and text != "0":
        left_out.append(name)
    return []


def _without_fraction(text: str) -> str:
    """A whole number as Megatron's arguments take it, also where a table writes 4096.0; any other text as it is."""
    try:
        value = float(text)
    except ValueError:
        return text
    return str(int(value)) if value.is_integer() else text


def _model(cells: Cells) -> list[str]:
    heads = cells.number("num_attention_heads")
    groups = cells.number("num_query_groups") or heads
    flags = ["--group-query-attention", "--num-query-groups", str(groups)] if groups != heads else []
    if not (cells.gated or cells.hybrid):
        return flags
    dropout = ["--hidden-dropout", "0", "--attention-dropout", "0"]
    biases = [] if cells.text("add_bias_linear") else ["--disable-bias-linear"]
    # Mamba layers know where a token is.
    shape = ["--normalization", "RMSNorm", "--position-embedding-type", "none" if cells.hybrid else "rope"]
    shape += [_GATE] if cells.gated else ["--squared-relu"]
    shape += _depth_layers(cells)
    return [*flags, *shape, "--untie-embeddings-and-output-weights", *dropout, *biases]


def _depth_layers(cells: Cells) -> list[str]:
    """Layers of a depth of multi-token prediction, where a hybrid model's row does not say them."""
    stated = "/" in cells.text("hybrid_layer_pattern") or cells.text("mtp_hybrid_override_pattern")
    if stated or not (cells.hybrid and cells.number("mtp_num_layers")):
        return []
    return ["--mtp-hybrid-override-pattern", _DEPTH, "--mtp-use-repeated-layer"]


def _layout(cells: Cells) -> list[str]:
    scatters = cells.text("framework") in ("Megatron-LM", "Megatron-DeepSpeed") and not cells.switch(
        "sequence_parallel"
    )
    return [
        *("--data-parallel-size", str(cells.dp)),
        *_on("--sequence-parallel", cells.switch("sequence_parallel") and cells.tp > 1),
        # Before Megatron-Core, pipeline stages scattered and gathered what they passed on (as DeepSpeed's engine
        # partitions it).
        *_on("--scatter-gather-tensors-in-pipeline", scatters and cells.tp > 1 and cells.pp > 1),
        *_on("--no-async-tensor-model-parallel-allreduce", any(word in cells.text("source") for word in _OLD_SOURCES)),
        *_on("--no-batch-p2p-comm", cells.text("framework") == "Megatron-DeepSpeed"),
    ]


def _sharding(cells: Cells) -> list[str]:
    if not cells.switch("fsdp"):
        return _on("--use-distributed-optimizer", cells.switch("distributed_optimizer"))
    strategy = cells.text("fsdp_sharding_strategy", "optim_grads_params")
    return ["--use-megatron-fsdp", "--data-parallel-sharding-strategy", strategy]


def _overlap(cells: Cells) -> list[str]:
    nemo = cells.text("framework") == "NeMo/Megatron-Core"
    reduces = cells.switch("overlap_grad_reduce", nemo)
    # Full sharding gathers parameters as its layers run: there is nothing to switch.
    gathers = cells.switch("overlap_param_gather", nemo) and cells.switch("distributed_optimizer")
    pieces = cells.switch("tp_comm_overlap", nemo and cells.switch("sequence_parallel"))
    return [
        *_on("--overlap-grad-reduce", reduces),
        *_on("--overlap-param-gather", gathers and reduces and not cells.switch("fsdp")),
        *_on("--tp-comm-overlap", pieces and cells.switch("sequence_parallel") and cells.tp > 1),
    ]


def _step(cells: Cells) -> list[str]:
    granularity = cells.text("recompute_granularity", "none")
    recomputed = granularity not in ("none", "unknown")
    fused = cells.switch("gradient_accumulation_fusion", cells.text("framework") != "Megatron-DeepSpeed")
    return [
        *(["--recompute-granularity", granularity] if recomputed else []),
        *_on("--no-gradient-accumulation-fusion", not fused),
        *_gradients(cells),
        *_cross_entropy(cells),
        *_graphs(cells),
        *_on("--expandable-segments", cells.switch("expandable_segments", "Megatron-Bridge" in cells.text("source"))),
    ]


def _gradients(cells: Cells) -> list[str]:
    """Type of the gradients' buffers."""
    wide, narrow = ["--accumulate-allreduce-grads-in-fp32"], ["--grad-reduce-in-bf16"]
    if cells.text("grad_reduce_in_fp32"):
        return wide if cells.switch("grad_reduce_in_fp32") else narrow
    if cells.text("framework") == "NeMo/Megatron-Core":
        # As the examples for the H100 of NVIDIA's NeMo Framework Launcher (optim.grad_sync_dtype=bf16).
        return narrow
    if cells.text("precision") != "fp16" or not cells.switch("distributed_optimizer"):
        return []
    # Megatron-LM's sharded optimizer keeps gradients in fp32. DeepSpeed's sums those in fp16 over all ranks, which
    # moves as much as scattering sums in fp32.
    return [*wide, *_on("--deepspeed-zero", cells.text("framework") == "Megatron-DeepSpeed")]


def _cross_entropy(cells: Cells) -> list[str]:
    how = cells.text("cross_entropy_fusion")
    return ["--cross-entropy-loss-fusion", "--cross-entropy-fusion-impl", how] if how else []


def _graphs(cells: Cells) -> list[str]:
    """Without an implementation there is no graph, whatever the scope."""
    implementation = cells.text("cuda_graph_impl", NONE)
    if implementation == NONE:
        return []
    scope = cells.text("cuda_graph_scope").split()
    return ["--cuda-graph-impl", implementation, *(["--cuda-graph-scope", *scope] if scope else [])]


def _dispatcher(cells: Cells, left_out: list[str]) -> list[str]:
    name = cells.text("moe_dispatcher")
    if not name:
        return []
    if name in dispatchers.names():
        return ["--moe-token-dispatcher-type", name]
    left_out.append("moe_dispatcher")
    return ["--moe-token-dispatcher-type", "alltoall"]


def _column_of(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")


def _pipeline(cells: Cells, vpp: int) -> list[str]:
    """How layers are cut into stages and chunks."""
    schedule = ["--schedule", cells.schedule] if vpp == 1 and cells.schedule != "interleaved" else []
    if cells.text("pipeline_layout"):
        return ["--pipeline-model-parallel-layout", cells.text("pipeline_layout"), *schedule]
    if cells.number("num_layers") % (cells.pp * vpp) and not cells.text("num_layers_in_first_pipeline_stage"):
        # Ends that lack layers may leave chunks empty, but no stage.
        if max(cells.pp, vpp) > cells.number("num_layers"):
            raise UserError(
                f"--pipeline-model-parallel-size is {cells.pp}, with {vpp} chunks a stage: the model has "
                f"{cells.number('num_layers')} layers"
            )
        layers = _interleave(cells.stage_layers, vpp)
        return ["--pipeline-model-parallel-layout", write_layout(layers, cells.number("mtp_num_layers")), *schedule]
    return ["--num-virtual-stages-per-pipeline-rank", str(vpp), *schedule]


def _on(flag: str, on: bool) -> list[str]:
    return [flag] if on else []


def _interleave(stages: list[int], vpp: int) -> tuple[int, ...]:
    """Layers of each virtual stage: those of a stage shared out over its chunks, the end ones short.

    The first stage lacks layers in its first chunk, beside the embedding, the last in its last.
    """
    pp = len(stages)
    chunks = [_shared_out(layers, vpp) for layers in stages]
    chunks[0].reverse()
    return tuple(chunks[stage][chunk] for chunk in range(vpp) for stage in range(pp))


def _shared_out(count: int, parts: int) -> list[int]:
    """A count over so many parts, as even as can be, the first ones larger."""
    return [count // parts + (1 if part < count % parts else 0) for part in range(parts)]
