"""Rows of validation tables as configurations: every column is what it says, or is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from vtrain_sim.errors import UserError
from vtrain_sim.inputs.flag_table import arity
from vtrain_sim.simulate.projection import Projector
from vtrain_sim.validate.columns import COLUMNS, reference
from vtrain_sim.validate.row_cluster import cluster_of
from vtrain_sim.validate.table_row import configuration_of, described_by
from vtrain_sim.validate.tables import validate

DOCS = Path(__file__).resolve().parents[2] / "docs" / "validation-tables.md"
DENSE = {
    "id": "a",
    "gpu": "H100-SXM5-80GB",
    "num_gpus": "16",
    "num_layers": "16",
    "hidden_size": "1024",
    "num_attention_heads": "16",
    "seq_length": "1024",
    "vocab_size": "32000",
    "swiglu": "1",
    "pipeline_model_parallel_size": "4",
    "virtual_pipeline_chunks": "1",
    "micro_batch_size": "1",
    "global_batch_size": "64",
    "iteration_time_s": "1.0",
}
MOE = DENSE | {
    "num_query_groups": "4",
    "kv_channels": "128",
    "qk_layernorm": "1",
    "num_experts": "8",
    "moe_router_topk": "2",
    "moe_ffn_hidden_size": "512",
    "moe_layer_freq": "([0]*3+[1]*13)",
    "moe_shared_expert_intermediate_size": "256",
    "expert_model_parallel_size": "4",
    "expert_tensor_parallel_size": "1",
    "moe_dispatcher": "alltoall",
    "moe_shared_expert_overlap": "1",
}


def table(path: Path, *rows: dict[str, str]) -> Path:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [",".join(columns), *(",".join(row.get(name, "") for name in columns) for row in rows)]
    path.write_text("\n".join(lines))
    return path


def test_page_is_up_to_date() -> None:
    assert DOCS.read_text(encoding="utf-8") == reference(), "run `make docs`"


def test_columns_stand_for_arguments_that_there_are() -> None:
    assert [c.name for c in COLUMNS.values() if c.flag and arity(c.flag) is None] == []


def test_experts_are_what_their_columns_say() -> None:
    model, parallel = (c := configuration_of(MOE)).model, c.parallel
    assert (model.num_query_groups, model.kv_channels, model.qk_layernorm) == (4, 128, True)
    assert (model.moe_ffn_hidden_size, model.moe_shared_expert_intermediate_size) == (512, 256)
    assert model.moe_layers == (False,) * 3 + (True,) * 13
    assert (parallel.ep, parallel.expert_tp, parallel.dp, parallel.moe_shared_expert_overlap) == (4, 1, 4, True)
    assert (model.normalization, model.add_bias_linear, model.dropout) == ("RMSNorm", False, False)
    assert configuration_of(MOE | {"add_bias_linear": "1"}).model.add_bias_linear


def test_latent_attention() -> None:
    latent = {
        "multi_latent_attention": "1",
        "kv_lora_rank": "64",
        "q_lora_rank": "96",
        "qk_head_dim": "64",
        "qk_pos_emb_head_dim": "32",
        "v_head_dim": "48",
    }
    model = configuration_of(DENSE | latent).model
    assert model.multi_latent_attention
    assert (model.q_lora_rank, model.kv_lora_rank, model.v_head_dim) == (96, 64, 48)


@pytest.mark.parametrize(
    ("columns", "layers"),
    [
        ({"pipeline_layout": "Ettt|(tttt|)*2tttttL"}, (3, 4, 4, 5)),
        (
            {
                "num_layers": "14",
                "account_for_embedding_in_pipeline_split": "1",
                "account_for_loss_in_pipeline_split": "1",
            },
            (3, 4, 4, 3),
        ),
        ({"num_layers": "14", "notes": "first & last stages have one fewer layer"}, (3, 4, 4, 3)),
        ({"num_layers_in_first_pipeline_stage": "1"}, (1, 5, 5, 5)),
    ],
)
def test_uneven_stages(columns: dict[str, str], layers: tuple[int, ...]) -> None:
    assert configuration_of(DENSE | columns).parallel.layers == layers


def test_explicit_columns_go_before_what_the_framework_does() -> None:
    nemo = DENSE | {"framework": "NeMo/Megatron-Core", "distributed_optimizer": "1"}
    assert configuration_of(nemo).parallel.overlap_grad_reduce
    assert not configuration_of(nemo | {"overlap_grad_reduce": "0"}).parallel.overlap_grad_reduce
    assert configuration_of(nemo | {"grad_reduce_in_fp32": "0"}).train.main_grads_dtype == "bfloat16"


def test_full_sharding() -> None:
    parallel = configuration_of(
        DENSE | {"pipeline_model_parallel_size": "1", "distributed_optimizer": "1", "fsdp": "1"}
    ).parallel
    assert (parallel.fsdp, parallel.distributed_optimizer) == (True, False)


def test_settings_that_nothing_models_are_named() -> None:
    plain = {"te_op_fuser": "0", "nccl_ub": "0", "moe_load_balance": "force-balanced, dropless"}
    assert described_by(DENSE | plain).approximated == ()
    asked = {"delay_wgrad_compute": "1", "nccl_ub": "1", "moe_load_balance": "tokendrop", "task": "sft"}
    assert set(described_by(DENSE | asked).approximated) == {
        "delay_wgrad_compute",
        "nccl_ub",
        "moe_load_balance",
        "dataset",
    }


def test_numbers_are_as_the_table_writes_them() -> None:
    model = configuration_of(MOE | {"moe_ffn_hidden_size": "512.0", "moe_imbalance_factor": "1.25"}).model
    assert (model.moe_ffn_hidden_size, model.moe_imbalance_factor) == (512, 1.25)


def test_another_optimizer_is_named_and_another_model_refused() -> None:
    assert described_by(DENSE | {"optimizer": "lion"}).approximated == ("optimizer",)
    assert configuration_of(DENSE | {"optimizer": "dist_muon"}).train.optimizer == "muon"
    assert described_by(DENSE | {"optimizer": "adam"}).approximated == ()
    with pytest.raises(UserError, match="experimental attention"):
        configuration_of(DENSE | {"experimental_attention_variant": "dsa"})
    linear = configuration_of(DENSE | {"linear_attention_freq": "4", "experimental_attention_variant": "gdn"}).model
    assert sum(linear.linear_layers) == 12


def test_interleaved_stages_of_the_papers_do_not_send_beside_their_passes() -> None:
    """Megatron-LM had no such option before 2023; a column says where it was on."""
    interleaved = DENSE | {
        "pipeline_schedule": "interleaved",
        "virtual_pipeline_chunks": "2",
        "framework": "Megatron-LM",
    }
    assert not configuration_of(interleaved).parallel.overlap_p2p
    assert configuration_of(interleaved | {"overlap_p2p_communication": "1"}).parallel.overlap_p2p
    assert configuration_of(interleaved | {"framework": "NeMo/Megatron-Core"}).parallel.overlap_p2p


def test_models_that_are_not_simulated_are_refused() -> None:
    with pytest.raises(UserError, match="gated delta net"):
        configuration_of(DENSE | {"hybrid_layer_pattern": "MG" * 16})


def test_hybrid_rows_are_of_models_as_they_are_published() -> None:
    sizes = {
        "num_layers": "16", "hybrid_layer_pattern": "ME*E" * 4, "mamba_num_heads": "64.0", "mamba_head_dim": "64",
        "mamba_num_groups": "8", "num_experts": "8", "moe_router_topk": "2", "moe_latent_size": "512.0", "swiglu": "0",
        "mtp_num_layers": "2", "virtual_pipeline_chunks": "1",
    }  # fmt: skip
    model = configuration_of(DENSE | sizes).model
    assert (model.hybrid_layer_pattern, model.mamba_num_heads, model.moe_latent_size) == ("ME*E" * 4, 64, 512)
    assert (model.normalization, model.position_embedding_type, model.swiglu) == ("RMSNorm", "none", False)
    assert (model.add_bias_linear, model.dropout, model.untie_embeddings_and_output_weights) == (False, False, True)
    assert (model.mtp_num_layers, model.mtp_hybrid_override_pattern) == (2, "*E")
    assert model.mtp_use_repeated_layer
    stated = configuration_of(DENSE | sizes | {"mtp_hybrid_override_pattern": "ME"}).model
    assert stated.mtp_hybrid_override_pattern == "ME"


def test_layers_that_stay_in_16_bits() -> None:
    """As columns say; else as NVIDIA's recipe of Nemotron 3 Super in 4 bits has them."""
    stated = DENSE | {"precision": "mxfp8", "first_last_layers_bf16": "1", "num_layers_at_end_in_bf16": "2"}
    assert configuration_of(stated).train.wide_layers == (1, 2)
    assert described_by(stated).approximated == ()
    published = DENSE | {"precision": "nvfp4", "model": "nemotron_3_super", "source": "NVIDIA Megatron-Bridge docs"}
    (configuration,) = described_by(published).configurations
    assert configuration.train.wide_layers == (0, 14)
    assert described_by(published).approximated == ("precision",)
    for other in ({"model": "llama3_70b"}, {"precision": "mxfp8"}, {"source": "a paper"}):
        assert configuration_of(published | other).train.wide_layers == (0, 0)


def test_sizes_that_are_not_stated_are_bracketed(tmp_path: Path) -> None:
    open_row = DENSE | {"micro_batch_size": "", "virtual_pipeline_chunks": ""}
    sizes = {(c.train.micro_batch_size, c.parallel.vpp) for c in described_by(open_row).configurations}
    assert sizes == {(m, v) for m in (1, 2, 4, 8) for v in (1, 2, 4) if v == 1 or (16 // m) % 4 == 0}
    (result,) = validate([table(tmp_path / "t.csv", open_row, DENSE)])
    bracketed, stated = result.rows
    assert bracketed.bracket_low_s is not None
    assert bracketed.bracket_high_s is not None
    assert bracketed.bracket_low_s <= bracketed.predicted_s <= bracketed.bracket_high_s
    assert bracketed.bracket_low_s < stated.predicted_s
    assert stated.bracket_low_s is None
    document = bracketed.to_dict()
    assert document["fits"] is True
    assert document["group"] == "/".join(stated.group)
    assert document["approximated"] == []
    with pytest.raises(UserError, match="not stated"):
        configuration_of(open_row)
    # A layout says how many chunks there are.
    laid_out = open_row | {"micro_batch_size": "1", "pipeline_layout": "Et*4|t*4|t*4|t*4L"}
    assert configuration_of(laid_out).parallel.vpp == 1


def test_gpus_that_the_layout_does_not_divide_are_a_reason(tmp_path: Path) -> None:
    path = table(tmp_path / "gpus.csv", DENSE | {"num_gpus": "15"}, DENSE | {"id": "b"})
    odd, even = validate([path])[0].rows
    assert odd.predicted_s is None
    assert "num_gpus is 15, which is not a multiple" in odd.reason
    assert even.predicted_s is not None


def test_a_row_that_cannot_have_run_is_projected_with_the_sizes_of_its_recipe(tmp_path: Path) -> None:
    """70 billion parameters on one rank: 141 GB, and as much of gradients."""
    row = DENSE | {
        "num_gpus": "64",
        "num_layers": "80",
        "hidden_size": "8192",
        "ffn_hidden_size": "28672",
        "num_attention_heads": "64",
        "tensor_model_parallel_size": "4",
        "pipeline_model_parallel_size": "1",
        "distributed_optimizer": "1",
    }
    said = row | {"id": "b", "recipe_match": "near: the recipe has pp=8 vp=5"}
    other = row | {"id": "c", "pipeline_model_parallel_size": "8", "virtual_pipeline_chunks": "5"}
    (result,) = validate([table(tmp_path / "t.csv", row, said, other)])
    alone, with_recipe, stated = result.rows
    assert not alone.fits
    assert (with_recipe.predicted_s, with_recipe.predicted_memory_gb) == (
        stated.predicted_s,
        stated.predicted_memory_gb,
    )
    assert with_recipe.fits
    assert with_recipe.approximated == ("recipe_match",)
    # Where the row itself fits, nothing else is taken; its settings are a guess all the same.
    near, exact = (DENSE | {"recipe_match": words} for words in ("near: the recipe has mbs=2", "exact"))
    kept, sure = validate([table(tmp_path / "u.csv", near, exact)])[0].rows
    assert kept.predicted_s == sure.predicted_s
    assert (kept.approximated, sure.approximated) == (("recipe_match",), ())


@pytest.mark.parametrize(
    ("source", "per_gib"),
    [("Zero Bubble paper", 2**30 / 1e9), ("BigScience log", 2**30 / (1000 * 2**20)), ("elsewhere", 1.0)],
)
def test_memory_is_in_the_unit_of_its_source(tmp_path: Path, source: str, per_gib: float) -> None:
    row = DENSE | {"source": source}
    memory = Projector.modelled(*cluster_of(row)).project(configuration_of(row)).memory
    tensors = "Zero Bubble" in source
    needed = max(s.allocated_bytes for s in memory.stages) if tensors else memory.worst.peak_bytes
    (read,) = validate([table(tmp_path / "t.csv", row)])[0].rows
    assert read.predicted_memory_gb == pytest.approx(needed / 2**30 * per_gib, rel=1e-12)


def test_types_of_gradients_that_frameworks_keep() -> None:
    sharded = DENSE | {"distributed_optimizer": "1"}
    for framework, precision, dtype, deepspeed in (
        ("", "bf16", "float32", False),
        ("NeMo/Megatron-Core", "bf16", "bfloat16", False),
        ("Megatron-LM", "fp16", "float32", False),
        ("Megatron-DeepSpeed", "fp16", "float32", True),
    ):
        train = configuration_of(sharded | {"framework": framework, "precision": precision}).train
        assert (train.main_grads_dtype, train.deepspeed_zero) == (dtype, deepspeed)


def test_what_goes_to_the_host_is_read() -> None:
    modules = {"fine_grained_offload_modules": "core_attn attn_proj", "cpu_offload_activation_layers": "0"}
    described = described_by(DENSE | modules)
    assert described.configurations[0].train.offloaded_modules == ("core_attn", "attn_proj")
    assert described.approximated == ()
    states = {"optimizer_cpu_offload": "1", "precision_aware_optimizer": "1", "distributed_optimizer": "1"}
    assert configuration_of(DENSE | states).train.optimizer_cpu_offload
