"""The configuration objects of a captured run (`runs.config_json`), and what of them is not simulated."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from vtrain_sim.errors import UserError
from vtrain_sim.inputs.flag_lists import refused

Run: TypeAlias = Mapping[str, Any]  # a row of the runs table
Fields: TypeAlias = Mapping[str, Any]  # fields of a configuration object of Megatron-Core: JSON

# Fields of the configuration objects that are refused as the flags of the same name are (`flag_lists.refused`), unless
# they are off: null, false, 0, [], what the flag takes.
_MODEL = (
    "experimental_attention_variant",
    "heterogeneous_block_specs",
    "qk_l2_norm",
    "fp32_residual_connection",
    "enable_mhc_connections",
    "moe_token_dropping",
    "moe_extended_tp",
    "moe_layer_recompute",
    "moe_paged_stash",
    "moe_dispatch_fwd_dtype",
    "moe_combine_bwd_dtype",
    "distribute_saved_activations",
    "num_microbatches_with_partial_activation_checkpoints",
    "activation_func_fp8_input_store",
    "cpu_offloading",
    "overlap_dispatch_backward_with_experts_wgrad",
    "defer_embedding_wgrad_compute",
    "hybrid_context_parallel",
    "fp4_param",
    "use_kitchen",
    "use_kitchen_attention",
    "quant_recipe",
    "batch_invariant_mode",
)
# Simulated, but not yet from what a run recorded of them.
_NOT_FROM_RUNS = {
    "is_hybrid_model": "hybrid (Mamba) layers",
    "moe_latent_size": "experts on a latent dimension",
    "linear_attention_freq": "gated delta nets",
    "attention_output_gate": "a gate on attention's output",
    "moe_shared_expert_gate": "a gate on shared experts",
    "fine_grained_activation_offloading": "activations offloaded to the host",
    "mtp_use_repeated_layer": "layers of multi-token prediction that share parameters",
}
_NOT_FROM_RUNS_IN_FP8 = {"first_last_layers_bf16": "layers in 16 bits beside 8-bit ones"}
# Only with 8-bit products; only with overlapped tensor parallel communication.
_FP8 = (
    "fp8_quantizer_factory",
    "fp8_dot_product_attention",
    "fp8_multi_head_attention",
    "fp8_output_proj",
)
_OVERLAP = ("tp_comm_overlap_disable_qkv", "tp_comm_overlap_disable_fc1")
# On by default, and refused where they are off, as the flag "--no-..." is.
_ON_WITH_FP8 = ("fp8_wgrad",)
_ON_WITH_OVERLAP = (
    "tp_comm_bulk_wgrad",
    "tp_comm_bulk_dgrad",
    "tp_comm_overlap_ag",
    "tp_comm_overlap_rs",
    "tp_comm_split_ag",
    "tp_comm_split_rs",
)
_OPTIMIZER = ("optimizer_cuda_graph",)
_DDP = ("num_distributed_optimizer_instances", "outer_dp_sharding_strategy")


def off_by_default(narrow: bool, overlapped: bool) -> tuple[str, ...]:
    """Fields that are off where Megatron has its defaults, and ask for what is not simulated where they are on.

    narrow: with 8-bit products. overlapped: with overlapped tensor parallel communication.
    """
    return (*_MODEL, *_OPTIMIZER, *_DDP, *(_FP8 if narrow else ()), *(_OVERLAP if overlapped else ()))


@dataclass(frozen=True)
class CapturedConfig:
    """What `config_json` holds.

    transformer: fields of the transformer configuration. ddp: of the gradient buffers'. optimizer: of the
    optimizer's. args: some of Megatron-LM's arguments. wrappers: classes around the model. A run that was
    captured before one of these was written has none of it.
    """

    run_id: str
    transformer: Fields
    ddp: Fields
    optimizer: Fields
    args: Fields
    wrappers: tuple[str, ...]

    @classmethod
    def of_run(cls, run: Run) -> CapturedConfig:
        """From a row of the runs table; raises `UserError` for what is no JSON object."""
        run_id = str(run.get("run_id"))
        try:
            document = json.loads(run.get("config_json") or "{}")
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise UserError(f"run {run_id!r} has a configuration that is no JSON object: capture it again")
        parts = {name: document.get(name) or {} for name in ("ddp_config", "optimizer_config", "args")}
        wrappers = tuple(document.get("wrappers") or ())
        return cls(run_id, document, parts["ddp_config"], parts["optimizer_config"], parts["args"], wrappers)

    def refuse(self, what: str, field: str, value: object) -> UserError:
        """The error for something that cannot be projected from a run."""
        return UserError(
            f"run {self.run_id!r} was trained with {what} ({field} = {json.dumps(value)}), which is not simulated: "
            "project from a run without"
        )

    def check(self, run: Run) -> None:
        """Raise `UserError` where the simulator would project another model or another step."""
        model_class = self.transformer.get("model_class")
        if model_class not in (None, "GPTModel"):
            raise self.refuse("another model than Megatron-Core's GPT", "model_class", model_class)
        self._check_activation(run)
        self._check_step(run)
        fields = self.transformer
        self._check_off(fields, _MODEL)
        narrow = bool(run.get("fp8") or fields.get("fp8"))
        for name, what in (_NOT_FROM_RUNS | (_NOT_FROM_RUNS_IN_FP8 if narrow else {})).items():
            if fields.get(name):
                raise self.refuse(what, name, fields[name])
        self._check_off(self.optimizer, _OPTIMIZER)
        if self.optimizer.get("optimizer_cpu_offload"):
            raise self.refuse("optimizer states offloaded to the host", "optimizer_cpu_offload", True)
        self._check_off(self.ddp, _DDP)
        if narrow:
            self._check_off(fields, _FP8)
            self._check_on(fields, _ON_WITH_FP8)
        if fields.get("tp_comm_overlap"):
            self._check_off(fields, _OVERLAP)
            self._check_on(fields, _ON_WITH_OVERLAP)

    def _check_off(self, fields: Fields, names: Sequence[str]) -> None:
        for name in names:
            refusal = refused()["--" + name.replace("_", "-")]
            value = fields.get(name)
            if refusal.others(value):
                raise self.refuse(refusal.what, name, value)

    def _check_on(self, fields: Fields, names: Sequence[str]) -> None:
        for name in names:
            if not fields.get(name, True):
                raise self.refuse(refused()["--no-" + name.replace("_", "-")].what, name, False)

    def _check_activation(self, run: Run) -> None:
        gated, function = self.transformer.get("gated_linear_unit"), self.transformer.get("activation_func")
        if gated and not run.get("swiglu"):
            raise self.refuse("a gated activation other than SwiGLU", "activation_func", function)

    def _check_step(self, run: Run) -> None:
        optimizer = run.get("optimizer")
        if optimizer not in (None, "adam"):
            raise self.refuse("another optimizer than Adam", "optimizer", optimizer)
