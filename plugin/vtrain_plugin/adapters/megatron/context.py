"""What the plugin learns of the model and of the parallel layout while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vtrain_plugin.adapters.megatron.optimizers import optimizer_name
from vtrain_plugin.capture.tensors import dtype_name

if TYPE_CHECKING:
    import torch
    from megatron.core.distributed import DistributedDataParallelConfig
    from megatron.core.optimizer import OptimizerConfig
    from megatron.core.optimizer.optimizer import MegatronOptimizer
    from megatron.core.transformer.transformer_config import TransformerConfig


class ModelContext:
    """Configuration objects and sizes, filled in as hooks see them.

    parameters: elements that this rank holds, all chunks together. wrappers: class names of what is around
    the model, outside in. model_class: class of the model itself.
    """

    def __init__(self) -> None:
        self.config: TransformerConfig | None = None
        self.ddp_config: DistributedDataParallelConfig | None = None
        self.optimizer_config: OptimizerConfig | None = None
        self.optimizer: str | None = None
        self.wrappers: list[str] = []
        self.model_class: str | None = None
        self._learned: set[int] = set()
        self.parameters = 0
        self.seq_length = 0
        self.micro_batch_size = 0
        self.padded_vocab_size = 0
        self.max_position_embeddings: int | None = None
        self.position_embedding_type: str | None = None
        self.tied_embeddings: bool | None = None
        self.transformer_impl = "local"
        self.main_grads_dtype: str | None = None
        self.params_dtype: str | None = None

    @property
    def tokens(self) -> int:
        """Tokens of one microbatch, before sequence or context sharding."""
        return self.seq_length * self.micro_batch_size

    def learn(self, model: torch.nn.Module) -> None:
        """Read a (wrapped) model chunk; one that was read before is left out."""
        if id(model) in self._learned:
            return
        self._learned.add(id(model))
        inner = self._unwrap(model)
        self.model_class = _model_class(inner)
        parameters = list(inner.parameters())
        self.parameters += sum(p.numel() for p in parameters)
        if parameters:
            self.params_dtype = dtype_name(parameters[0].dtype)
            main = getattr(parameters[0], "main_grad", None)
            self.main_grads_dtype = dtype_name(main.dtype) if main is not None else None
        kind = getattr(inner, "position_embedding_type", None)
        self.position_embedding_type = kind if isinstance(kind, str) else self.position_embedding_type
        tied = getattr(inner, "share_embeddings_and_output_weights", None)
        self.tied_embeddings = tied if isinstance(tied, bool) else self.tied_embeddings
        vocabulary = getattr(inner, "vocab_size", None)
        if isinstance(vocabulary, int):
            self.padded_vocab_size = vocabulary
        positions = getattr(inner, "max_sequence_length", None)
        if self.position_embedding_type == "learned_absolute" and isinstance(positions, int):
            self.max_position_embeddings = positions

    def config_of(self, model: torch.nn.Module) -> object:
        """The transformer configuration of a (wrapped) model chunk."""
        self._unwrap(model)
        return self.config

    def _unwrap(self, model: torch.nn.Module) -> torch.nn.Module:
        """The model inside its wrappers, whose configurations are read on the way."""
        inner = model
        self.wrappers = []
        while True:
            if self.config is None or hasattr(getattr(inner, "config", None), "num_layers"):
                self.config = getattr(inner, "config", self.config)
            self.ddp_config = getattr(inner, "ddp_config", None) or self.ddp_config
            if not hasattr(inner, "module"):
                return inner
            self.wrappers.append(type(inner).__name__)
            inner = inner.module

    def see_optimizer(self, optimizer: MegatronOptimizer) -> None:
        """Read the outermost optimizer."""
        self.optimizer = optimizer_name(optimizer)
        self.optimizer_config = getattr(optimizer, "config", None)

    def see_sizes(self, seq_length: object, micro_batch_size: object) -> None:
        """Learn sequence length and micro batch from what a schedule or Megatron-LM is given."""
        if not self.seq_length and isinstance(seq_length, int) and isinstance(micro_batch_size, int):
            self.seq_length, self.micro_batch_size = seq_length, micro_batch_size

    def see_hidden_states(self, shape: tuple[int, ...]) -> None:
        """Learn sequence length and micro batch from a layer's input, [s / (tp*cp), b, h]."""
        if self.seq_length or len(shape) != 3 or self.config is None:
            return
        shards = getattr(self.config, "context_parallel_size", 1) or 1
        if getattr(self.config, "sequence_parallel", False):
            shards *= getattr(self.config, "tensor_model_parallel_size", 1) or 1
        self.seq_length, self.micro_batch_size = shape[0] * shards, shape[1]


def _model_class(model: torch.nn.Module) -> str:
    """``GPTModel`` for it and what derives from it, else the class's own name."""
    names = [cls.__name__ for cls in type(model).__mro__]
    return "GPTModel" if "GPTModel" in names else names[0]
