"""The model: a decoder-only transformer, dense or mixture of experts, or a hybrid of it with Mamba layers."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from vtrain_sim.specs.checks import Range, SpecError, divides, finite, one_of, positive, whole
from vtrain_sim.specs.hybrid_pattern import EXPERTS, MAMBA, MLP, check_symbols
from vtrain_sim.specs.moe_pattern import moe_layers
from vtrain_sim.specs.windows import linear_layers, windowed_layers

MOST_LAYERS = 1 << 16
POSITIONS = ("learned_absolute", "rope", "yarn", "none")
# Fields of `ModelSpec` that size its gated delta nets.
LINEAR_SIZES = (
    "linear_conv_kernel_dim",
    "linear_key_head_dim",
    "linear_value_head_dim",
    "linear_num_key_heads",
    "linear_num_value_heads",
)


@dataclass(frozen=True)
class ModelSpec:
    """Sizes and choices of the model, named as Megatron's flags name them.

    squared_relu: the activation is max(x, 0)^2 instead of a GELU; both have the same sizes.

    A 0 in ffn_hidden_size, num_query_groups or kv_channels means Megatron's default: 4 x hidden
    (8/3 x hidden rounded to 64 with SwiGLU), as many as heads, hidden / heads.

    moe_layer_freq: Megatron's pattern of mixture-of-experts layers: "2" (every second one), or a list
    such as "([0]*3+[1]*58)". moe_imbalance_factor: tokens of the busiest expert parallel rank over the
    average; 1 is balanced. moe_expert_capacity_factor: the most rows of one expert from one rank over the average, what
    is more is dropped; 0: nothing is. moe_pad_expert_input_to_capacity: each expert gets as many.
    moe_latent_size: width at which experts get their tokens, projected down before the exchange and up after it
    (NVIDIA, Nemotron 3 Super, LatentMoE); 0: the hidden size. Multi-latent attention
    (DeepSeek-V2, arXiv:2405.04434, section 2.1): ranks of the compressed queries (0: not compressed) and keys and
    values, and head sizes. mtp_num_layers: depths of multi-token prediction (DeepSeek-V3, arXiv:2412.19437, section
    2.2), each with a layer of the last one's kind; mtp_use_repeated_layer: one depth's parameters serve all of them.
    window_size: tokens before each one that it attends to, 0 for all; window_attn_skip_freq: Megatron's pattern of the
    layers without a window ("2": every second one). softmax_type: "vanilla"; "learnable" and "off-by-one" have an
    attention sink. hybrid_layer_pattern: a symbol for each layer (`specs.hybrid_pattern`), and
    mtp_hybrid_override_pattern those of a depth of multi-token prediction; empty: all are transformer layers. mamba_*:
    sizes of the Mamba2 mixers (Dao and Gu 2024, arXiv:2405.21060); mamba_num_heads of 0 is Megatron's default, 2 x
    hidden size / head size. add_qkv_bias: biases of the query, key and value projection where add_bias_linear is
    not set. norms_per_layer: 2, before attention and before the feed-forward block; 1, for both (GPT-J's parallel
    layer); 4, also after each (Gemma 2, arXiv:2408.00118, section 2). qk_layernorm_weights: those of the norms of
    queries and keys are "shared" by all heads, "all" heads have their own (OLMo 2, arXiv:2501.00656), or there are
    "none" (L2 norm). quick_geglu: the gated activation is a sigmoid approximation of GELU (Hendrycks and Gimpel,
    arXiv:1606.08415), with activation_func_clamp_value the bound of what goes into it (0: none), in kernels of their
    own (GPT-OSS). position_embedding_type: "yarn" scales rotary embeddings (arXiv:2309.00071), which Megatron-Core does
    not do in one kernel. packed_lengths: of the samples that are packed into a sequence and attend to themselves
    alone, in any number that shows how they are spread; empty: one sample fills it. linear_attention_freq: Megatron's
    pattern of the layers with a gated delta net in attention's place ("4": all but every fourth), linear_*: its sizes
    (Yang et al. 2024, arXiv:2412.06464). attention_output_gate: attention's output is gated by a part of its input
    projection; moe_shared_expert_gate: that of shared experts by one number for each token (Qwen3-Next).
    """

    num_layers: int
    hidden_size: int
    num_attention_heads: int
    seq_length: int
    vocab_size: int
    ffn_hidden_size: int = 0
    num_query_groups: int = 0
    kv_channels: int = 0
    max_position_embeddings: int = 0
    packed_lengths: tuple[int, ...] = ()
    swiglu: bool = False
    quick_geglu: bool = False
    activation_func_clamp_value: float = 0.0
    squared_relu: bool = False
    add_bias_linear: bool = True
    add_qkv_bias: bool = False
    normalization: str = "LayerNorm"
    position_embedding_type: str = "learned_absolute"
    untie_embeddings_and_output_weights: bool = False
    num_experts: int = 0
    moe_router_topk: int = 0
    moe_ffn_hidden_size: int = 0
    moe_layer_freq: str = "1"
    moe_shared_expert_intermediate_size: int = 0
    moe_imbalance_factor: float = 1.0
    moe_expert_capacity_factor: float = 0.0
    moe_pad_expert_input_to_capacity: bool = False
    moe_router_num_groups: int = 0
    moe_router_group_topk: int = 0
    moe_latent_size: int = 0
    qk_layernorm: bool = False
    qk_layernorm_weights: str = "shared"
    norms_per_layer: int = 2
    dropout: bool = True
    multi_latent_attention: bool = False
    q_lora_rank: int = 0
    kv_lora_rank: int = 0
    qk_head_dim: int = 0
    qk_pos_emb_head_dim: int = 0
    v_head_dim: int = 0
    mtp_num_layers: int = 0
    mtp_use_repeated_layer: bool = False
    window_size: int = 0
    window_attn_skip_freq: str = ""
    softmax_type: str = "vanilla"
    hybrid_layer_pattern: str = ""
    mtp_hybrid_override_pattern: str = ""
    mamba_num_heads: int = 0
    mamba_head_dim: int = 64
    mamba_state_dim: int = 128
    mamba_num_groups: int = 8
    linear_attention_freq: str = ""
    linear_conv_kernel_dim: int = 4
    linear_key_head_dim: int = 128
    linear_value_head_dim: int = 128
    linear_num_key_heads: int = 16
    linear_num_value_heads: int = 32
    attention_output_gate: bool = False
    moe_shared_expert_gate: bool = False
    make_vocab_size_divisible_by: int = 128
    name: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        for flag, value in (
            ("--num-layers", self.num_layers),
            ("--hidden-size", self.hidden_size),
            ("--num-attention-heads", self.num_attention_heads),
            ("--seq-length", self.seq_length),
            ("--vocab-size", self.vocab_size),
            ("--make-vocab-size-divisible-by", self.make_vocab_size_divisible_by),
        ):
            positive(flag, value)
        if self.num_layers > MOST_LAYERS:
            raise SpecError(f"--num-layers is {self.num_layers}: more than any model has ({MOST_LAYERS} at most)")
        self._fill_sizes()
        if self.swiglu and self.squared_relu:
            raise SpecError("--squared-relu and --swiglu are two activations: give one")
        one_of("--normalization", self.normalization, ("LayerNorm", "RMSNorm"))
        one_of("--position-embedding-type", self.position_embedding_type, POSITIONS)
        if self.quick_geglu and not self.swiglu:
            raise SpecError("--quick-geglu is a gated activation: a model with it has swiglu as well")
        finite("--activation-func-clamp-value", self.activation_func_clamp_value, 0.0)
        whole("--mtp-num-layers", self.mtp_num_layers, 0)
        if self.mtp_use_repeated_layer and not self.mtp_num_layers:
            raise SpecError("--mtp-use-repeated-layer needs --mtp-num-layers: depths of multi-token prediction")
        whole("--window-size", self.window_size, 0)
        for length in self.packed_lengths:
            Range(1, self.seq_length, whole=True).check("--packed-lengths", length)
        one_of("--norms-per-layer", self.norms_per_layer, (1, 2, 4))
        one_of("--qk-layernorm-weights", self.qk_layernorm_weights, ("shared", "all", "none"))
        if self.qk_layernorm_weights != "shared" and not self.qk_layernorm:
            raise SpecError("--qk-layernorm-weights needs --qk-layernorm")
        windowed_layers(self.window_size, self.window_attn_skip_freq, self.num_layers)
        one_of("--softmax-type", self.softmax_type, ("vanilla", "off-by-one", "learnable"))
        if self.window_size and self.multi_latent_attention:
            raise SpecError("--window-size does not go with --multi-latent-attention")
        self._check_hybrid()
        self._check_delta_net()
        if self.num_experts:
            self._check_experts()
        elif self.moe_shared_expert_intermediate_size:
            raise SpecError("--moe-shared-expert-intermediate-size needs --num-experts")
        elif self.moe_imbalance_factor != 1:
            raise SpecError("--moe-imbalance-factor needs --num-experts")
        elif self.moe_latent_size:
            raise SpecError("--moe-latent-size needs --num-experts")
        elif self.moe_expert_capacity_factor or self.moe_pad_expert_input_to_capacity:
            raise SpecError("--moe-expert-capacity-factor needs --num-experts")
        if self.multi_latent_attention:
            self._check_latent_attention()
        if self.position_embedding_type == "learned_absolute" and not self.max_position_embeddings:
            object.__setattr__(self, "max_position_embeddings", self.seq_length)

    def _fill_sizes(self) -> None:
        """Megatron's defaults in place of sizes of 0."""
        fill = object.__setattr__
        if not self.kv_channels:
            divides("--num-attention-heads", self.num_attention_heads, "--hidden-size", self.hidden_size)
            fill(self, "kv_channels", self.hidden_size // self.num_attention_heads)
        if not self.num_query_groups:
            fill(self, "num_query_groups", self.num_attention_heads)
        if not self.ffn_hidden_size:
            gated = -(-int(4 * self.hidden_size * 2 / 3) // 64) * 64
            fill(self, "ffn_hidden_size", gated if self.swiglu else 4 * self.hidden_size)
        positive("--kv-channels", self.kv_channels)
        positive("--ffn-hidden-size", self.ffn_hidden_size)
        positive("--num-query-groups", self.num_query_groups)
        divides("--num-query-groups", self.num_query_groups, "--num-attention-heads", self.num_attention_heads)

    @cached_property
    def attended_length(self) -> float:
        """Length of the sample that a token is in, on the mean of the tokens: squares of lengths over their sum."""
        lengths = self.packed_lengths or (self.seq_length,)
        return sum(length**2 for length in lengths) / sum(lengths)

    @property
    def busiest_share(self) -> float:
        """Rows of the busiest expert parallel rank over the mean: none has more than its capacity."""
        if not self.moe_expert_capacity_factor:
            return self.moe_imbalance_factor
        if self.moe_pad_expert_input_to_capacity:
            return 1.0
        return max(1.0, min(self.moe_imbalance_factor, self.moe_expert_capacity_factor))

    @property
    def routed_share(self) -> float:
        """Share of the groups of experts that one token's experts are from; 1 without such a limit."""
        return self.moe_router_group_topk / self.moe_router_num_groups if self.moe_router_num_groups else 1.0

    def _check_groups(self) -> None:
        if bool(self.moe_router_num_groups) != bool(self.moe_router_group_topk):
            raise SpecError("--moe-router-num-groups and --moe-router-group-topk go together")
        if self.moe_router_num_groups:
            divides("--moe-router-num-groups", self.moe_router_num_groups, "--num-experts", self.num_experts)
            groups = Range(1, self.moe_router_num_groups, whole=True)
            groups.check("--moe-router-group-topk", self.moe_router_group_topk)

    def _check_experts(self) -> None:
        positive("--num-experts", self.num_experts)
        positive("--moe-router-topk", self.moe_router_topk)
        self._check_groups()
        Range(1, self.num_experts, whole=True).check("--moe-router-topk", self.moe_router_topk)
        whole("--moe-ffn-hidden-size", self.moe_ffn_hidden_size, 0)
        if not self.moe_ffn_hidden_size:
            object.__setattr__(self, "moe_ffn_hidden_size", self.ffn_hidden_size)
        whole("--moe-shared-expert-intermediate-size", self.moe_shared_expert_intermediate_size, 0)
        finite("--moe-imbalance-factor", self.moe_imbalance_factor, 1.0)
        whole("--moe-latent-size", self.moe_latent_size, 0)
        finite("--moe-expert-capacity-factor", self.moe_expert_capacity_factor, 0.0)
        if self.moe_pad_expert_input_to_capacity and not self.moe_expert_capacity_factor:
            raise SpecError("--moe-pad-expert-input-to-capacity needs --moe-expert-capacity-factor")
        moe_layers(self.moe_layer_freq, self.num_layers)
        if self.norms_per_layer == 1:
            raise SpecError("--norms-per-layer 1 does not go with --num-experts")

    def _check_hybrid(self) -> None:
        pattern, depth = self.hybrid_layer_pattern, self.mtp_hybrid_override_pattern
        if not pattern:
            sizes = ("mamba_num_heads", "mamba_head_dim", "mamba_state_dim", "mamba_num_groups")
            for name in ("mtp_hybrid_override_pattern", *sizes):
                if getattr(self, name) != getattr(ModelSpec, name):
                    raise SpecError(f"--{name.replace('_', '-')} needs --hybrid-layer-pattern")
            return
        check_symbols("--hybrid-layer-pattern", pattern)
        check_symbols("--mtp-hybrid-override-pattern", depth)
        if len(pattern) != self.num_layers:
            raise SpecError(f"--hybrid-layer-pattern has {len(pattern)} layers, --num-layers is {self.num_layers}")
        if self.mtp_num_layers and not depth:
            raise SpecError(
                "--mtp-num-layers with --hybrid-layer-pattern needs the layers of a depth: write them after the "
                'pattern, as in "M*M*/*E/*E"'
            )
        if (EXPERTS in pattern + depth) != bool(self.num_experts):
            raise SpecError("--num-experts and E in --hybrid-layer-pattern need each other")
        for flag, given in (
            ("--moe-layer-freq", self.moe_layer_freq != "1"),
            ("--window-size", self.window_size > 0),
            (f"--norms-per-layer {self.norms_per_layer}", self.norms_per_layer != 2),
            ("--multi-latent-attention", self.multi_latent_attention),
        ):
            if given:
                raise SpecError(f"{flag} does not go with --hybrid-layer-pattern")
        for name in ("mamba_head_dim", "mamba_state_dim", "mamba_num_groups"):
            positive(f"--{name.replace('_', '-')}", getattr(self, name))
        if not self.mamba_num_heads:
            divides("--mamba-head-dim", self.mamba_head_dim, "2 x --hidden-size", 2 * self.hidden_size)
            object.__setattr__(self, "mamba_num_heads", 2 * self.hidden_size // self.mamba_head_dim)
        positive("--mamba-num-heads", self.mamba_num_heads)
        if MAMBA in pattern + depth:
            divides("--mamba-num-groups", self.mamba_num_groups, "--mamba-num-heads", self.mamba_num_heads)

    def _check_delta_net(self) -> None:
        linear_layers(self.linear_attention_freq, self.num_layers)
        for name in LINEAR_SIZES:
            positive(f"--{name.replace('_', '-')}", getattr(self, name))
        if self.linear_attention_freq:
            keys, values = self.linear_num_key_heads, self.linear_num_value_heads
            divides("--linear-num-key-heads", keys, "--linear-num-value-heads", values)
            for flag, given in (
                ("--hybrid-layer-pattern", bool(self.hybrid_layer_pattern)),
                ("--multi-latent-attention", self.multi_latent_attention),
                ("--window-size", self.window_size > 0),
            ):
                if given:
                    raise SpecError(f"{flag} does not go with --linear-attention-freq")
        if self.attention_output_gate and self.multi_latent_attention:
            raise SpecError("--attention-output-gate does not go with --multi-latent-attention")
        if self.moe_shared_expert_gate and not self.moe_shared_expert_intermediate_size:
            raise SpecError("--moe-shared-expert-gate needs --moe-shared-expert-intermediate-size")

    def _check_latent_attention(self) -> None:
        for flag, size in (
            ("--kv-lora-rank", self.kv_lora_rank),
            ("--qk-head-dim", self.qk_head_dim),
            ("--qk-pos-emb-head-dim", self.qk_pos_emb_head_dim),
            ("--v-head-dim", self.v_head_dim),
        ):
            positive(flag, size)
        whole("--q-lora-rank", self.q_lora_rank, 0)
        if self.qk_layernorm_weights != "shared":
            raise SpecError("--qk-layernorm-weights does not go with --multi-latent-attention")
        if self.num_query_groups != self.num_attention_heads:
            raise SpecError("--multi-latent-attention has no query groups: leave out --group-query-attention")

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        # Of the sizes that tell models apart: one hash per object, since keys of programs hold models.
        return hash((self.num_layers, self.hidden_size, self.ffn_hidden_size, self.seq_length, self.vocab_size))

    @cached_property
    def moe_layers(self) -> tuple[bool, ...]:
        """For each layer, whether its feed-forward block is a mixture of experts."""
        if self.hybrid_layer_pattern:
            return tuple(symbol == EXPERTS for symbol in self.hybrid_layer_pattern)
        return moe_layers(self.moe_layer_freq, self.num_layers) if self.num_experts else (False,) * self.num_layers

    @property
    def has_dense_blocks(self) -> bool:
        """Whether any layer has a dense feed-forward block."""
        return MLP in self.symbols if self.hybrid_layer_pattern else not all(self.moe_layers)

    @cached_property
    def symbols(self) -> str:
        """Symbols of all layers of a hybrid model, those of multi-token prediction too; empty for a transformer."""
        return self.hybrid_layer_pattern + self.mtp_num_layers * self.mtp_hybrid_override_pattern

    @cached_property
    def windowed_layers(self) -> tuple[bool, ...]:
        """For each layer, whether it attends to the last tokens alone."""
        return windowed_layers(self.window_size, self.window_attn_skip_freq, self.num_layers)

    @cached_property
    def linear_layers(self) -> tuple[bool, ...]:
        """For each layer, whether it has a gated delta net in attention's place."""
        return linear_layers(self.linear_attention_freq, self.num_layers)

    @property
    def qkv_width(self) -> int:
        """Columns of the fused projection of queries, keys and values, and of the output's gate."""
        queries = self.num_attention_heads * (2 if self.attention_output_gate else 1)
        return (queries + 2 * self.num_query_groups) * self.kv_channels

    @property
    def attention_width(self) -> int:
        """Columns of the attention output before its projection."""
        return self.num_attention_heads * (self.v_head_dim if self.multi_latent_attention else self.kv_channels)

    @property
    def mamba_width(self) -> int:
        """Channels of a Mamba2 mixer."""
        return self.mamba_num_heads * self.mamba_head_dim

    @property
    def expert_width(self) -> int:
        """Columns of what experts get and give back."""
        return self.moe_latent_size or self.hidden_size

    def padded_vocab_size(self, tp: int) -> int:
        """Vocabulary padded as Megatron pads it: to a multiple of the divisor times tp."""
        multiple = self.make_vocab_size_divisible_by * tp
        return -(-self.vocab_size // multiple) * multiple
