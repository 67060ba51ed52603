"""A row of a validation table as Megatron's command-line arguments.

Columns stand for arguments (`validate.columns`), and the tables of `inputs` say which of these are simulated. What
no argument says is deduced: what a gated activation goes with here, what a framework and a source's software do in
`layout_flags` and `step_flags`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vtrain_sim.errors import UserError
from vtrain_sim.inputs.flag_lists import approximated, refused
from vtrain_sim.inputs.flag_table import LISTS, SWITCHES, VALUES, arity, opposite
from vtrain_sim.model import dispatchers
from vtrain_sim.specs.optimizer import ADAM, DIST_MUON, MUON
from vtrain_sim.validate.cells import COUNTED, Cells
from vtrain_sim.validate.columns import COLUMNS, column_of, flag_of
from vtrain_sim.validate.layout_flags import layout_flags, pipeline_flags
from vtrain_sim.validate.precision_flags import precision_flags
from vtrain_sim.validate.published_models import narrow_layers, published_kernels
from vtrain_sim.validate.step_flags import step_flags

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
# Columns that stand for arguments, but which rules read, or which go with another that does.
_BY_RULE = frozenset(
    {
        "num_query_groups",
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
        "recompute_granularity",
        "grad_reduce_in_fp32",
        "gradient_accumulation_fusion",
        "micro_batch_size",
        "moe_dispatcher",
        "cross_entropy_fusion",
        "expandable_segments",
        "cuda_graph_impl",
        "cuda_graph_scope",
    }
)


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
    for rule in (_model, layout_flags, step_flags):
        flags += rule(cells)
    flags += ["--micro-batch-size", str(micro_batch), *pipeline_flags(cells, chunks)]
    flags += _dispatcher(cells, left_out)
    flags += precision_flags(cells.text("precision", "bf16"), cells.text("precision_detail"))
    written_out = "--pipeline-model-parallel-layout" in flags
    model, source = cells.text("model"), cells.text("source")
    if not cells.text("first_last_layers_bf16"):
        flags += narrow_layers(model, cells.text("precision"), source, left_out)
    flags += [
        word for flag, *words in published_kernels(model) if not cells.text(column_of(flag)) for word in (flag, *words)
    ]
    for name in row:
        if name not in _BY_RULE and not (written_out and name in COUNTED):
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
    flag = column.flag if column is not None else flag_of(name)
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


def _dispatcher(cells: Cells, left_out: list[str]) -> list[str]:
    name = cells.text("moe_dispatcher")
    if not name:
        return []
    if name in dispatchers.names():
        return ["--moe-token-dispatcher-type", name]
    left_out.append("moe_dispatcher")
    return ["--moe-token-dispatcher-type", "alltoall"]
