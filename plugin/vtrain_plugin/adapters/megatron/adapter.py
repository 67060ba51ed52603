"""Megatron-Core as the capture sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vtrain_plugin.adapters.base import Adapter
from vtrain_plugin.adapters.megatron import (
    classify,
    delayed_gradients,
    expert_exchange,
    gradients,
    loss,
    metadata,
    pipeline,
)
from vtrain_plugin.adapters.megatron.arguments import argument
from vtrain_plugin.adapters.megatron.combined import CombinedPasses
from vtrain_plugin.adapters.megatron.context import ModelContext
from vtrain_plugin.adapters.megatron.cuda_graphs import configured_graphs
from vtrain_plugin.adapters.megatron.groups import role_of_global
from vtrain_plugin.adapters.megatron.microbatches import Microbatches
from vtrain_plugin.adapters.megatron.user_buffers import communication_inside
from vtrain_plugin.capture.hooked import Hooked, ModuleCall
from vtrain_plugin.capture.rows import Row
from vtrain_plugin.capture.session import Session
from vtrain_schemas.operators import Operator

if TYPE_CHECKING:
    import torch


class MegatronAdapter(Adapter):
    """Hooks its schedules, optimizers, data parallel wrapper and loss."""

    name = "megatron"
    trigger = "megatron.core.pipeline_parallel.schedules"
    packages = ("megatron", "transformer_engine", "nemo")

    def __init__(self) -> None:
        self.context = ModelContext()
        self._microbatches: Microbatches | None = None
        self._combined: CombinedPasses | None = None
        self._session: Session | None = None

    def install(self, session: Session) -> None:
        """Wrap forward_step and backward_step; optimizer steps are counted from the first of them on."""
        self._session = session
        self._microbatches = Microbatches(session, self.context)
        self._microbatches.install()
        self._combined = CombinedPasses(session, self.context, self._microbatches)
        self._combined.install()

    def install_recording(self, session: Session) -> None:
        """Wrap pipeline communication, fused exchanges of experts, gradient buffers and the loss."""
        pipeline.install(session)
        expert_exchange.install(session)
        gradients.install(session)
        loss.install(session)
        delayed_gradients.install(session)
        if self._combined is not None:
            self._combined.install_recording()

    def span_kind(self, path: str, module: torch.nn.Module, operators: bool) -> str | None:
        """By the classes that the module derives from."""
        return classify.span_kind(path, module, operators)

    def layer_number(self, module: torch.nn.Module) -> int | None:
        """Megatron-Core numbers its layers itself; those of multi-token prediction are numbered after all others."""
        number = getattr(module, "layer_number", None)
        if not isinstance(number, int):
            return None
        if classify.span_kind("", module, operators=False) == "mtp_layer":
            return number + int(getattr(self.context.config, "num_layers", 0) or 0)
        return number

    def has_delayed_weight_gradient(self, module: torch.nn.Module) -> bool:
        """Where Transformer Engine keeps it for Megatron-Core to ask for."""
        return delayed_gradients.is_delayed(module)

    def before_module(self, call: ModuleCall) -> None:
        """The input of a layer or of its attention says sequence length and micro batch size."""
        if call.kind in ("transformer_layer", "mamba_layer", "self_attention") and call.tensor_in is not None:
            self.context.see_hidden_states(tuple(call.tensor_in.shape))

    def operator_of(self, call: ModuleCall, output: torch.Tensor | None) -> Operator | None:
        """By the span kind, with sizes from inputs and outputs."""
        return classify.operator_of(call, output, self.context)

    def communication_inside(self, module: torch.nn.Module) -> str:
        """Where Transformer Engine overlaps tensor parallel communication with a product."""
        return communication_inside(module)

    def why_no_hooks(self, model: torch.nn.Module) -> str:
        """Where CUDA graphs are configured."""
        graphs = configured_graphs(self.context.config_of(model))
        if graphs:
            self.context.see_sizes(argument("seq_length"), argument("micro_batch_size"))
            return f"CUDA graphs are configured ({graphs})"
        return ""

    def on_model(self, model: torch.nn.Module, hooked: Sequence[Hooked]) -> None:
        """Read the model's configuration. Raises RuntimeError for a model without Megatron-Core's layers."""
        if not any(h.kind in classify.LAYERS for h in hooked) and not self.why_no_hooks(model):
            raise RuntimeError(f"no layer of Megatron-Core found in the model ({type(model).__name__})")
        if any(type(h.module).__name__.startswith("TE") for h in hooked):
            self.context.transformer_impl = "transformer_engine"
        self.context.learn(model)
        if self._session is not None:
            delayed_gradients.watch(self._session, hooked)

    def start_step(self) -> None:
        """Microbatches are numbered from 0 again."""
        if self._microbatches is not None:
            self._microbatches.new_step()

    def role_of_group(self, group: torch.distributed.ProcessGroup) -> str | None:
        """From Megatron-Core's globals."""
        return role_of_global(group)

    def describe_run(self) -> Row:
        """From its configuration objects."""
        return metadata.run_columns(self.context)

    def describe_rank(self) -> Row:
        """Coordinates from its parallel state, and this rank's parameters."""
        return metadata.rank_columns(self.context)
