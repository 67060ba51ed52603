"""The training step: batch, precision, recomputation, kernels."""

from __future__ import annotations

from dataclasses import dataclass

from vtrain_schemas.operators import DTYPE_BYTES
from vtrain_sim import schedules
from vtrain_sim.specs.checks import Range, SpecError, divides, one_of, positive, whole
from vtrain_sim.specs.graphs import NONE, check_recomputation, check_scopes, graphed
from vtrain_sim.specs.offload import check_modules as check_offload_modules
from vtrain_sim.specs.optimizer import ADAM, MUON, WIDE, MuonSpec, OptimizerTypes
from vtrain_sim.specs.precision import DELAYED, FP8_FORMATS, Precision, precision_of
from vtrain_sim.specs.recompute import DEFAULT, check_delayed_scaling, check_modules

# Tokens to train on: more than were ever written.
TOKENS = Range(0.0, 1e18)
# The schedule that Megatron-Core chooses.
AUTO = "auto"


@dataclass(frozen=True)
class TrainSpec:
    """Batch sizes in sequences; dtypes by their torch names.

    attention_kernel: "flash" (fused) or "unfused" (separate GEMMs and softmax).
    recompute_granularity: "none", "selective" (recompute_modules: `specs.recompute`) or "full". fp8: "" or Transformer
    Engine's format ("hybrid", "e4m3"): the linear layers multiply in 8 bits, the rest stays as it is.
    fp8_recipe: how their operands are scaled, "" for Megatron's default; fp4: "" or the format of 4-bit products.
    fp8_param_gather: their parameters are kept, and gathered, in 8 bits. first_last_layers_bf16: so many layers at both
    ends of the model (num_layers_at_start_in_bf16, num_layers_at_end_in_bf16) multiply in 16 bits all the same.
    deepspeed_zero, use_precision_aware_optimizer, main_params_dtype, exp_avg_dtype, exp_avg_sq_dtype: see
    `OptimizerTypes`. optimizer: "adam", or "muon" for matrices with muon_num_ns_steps, muon_tp_mode, muon_use_syrk
    (`MuonSpec`).
    cross_entropy_fusion: "te" (one kernel, which leaves the gradient in the logits' place), "native" or "" (both
    projected as not fused).
    cuda_graph_impl, cuda_graph_scope: what CUDA graphs cover (`specs.graphs`), which the host launches at once.
    cpu_offload_layers: layers of each chunk whose activations go to the host's memory until their backward pass;
    fine_grained_offloading: those of offload_modules do, where they have min_offloaded_tensor_size elements
    (`specs.offload`). optimizer_cpu_offload: the host updates optimizer_offload_fraction of the parameters, with
    overlap_cpu_optimizer one parameter beside the copies of others. expandable_segments: PyTorch's allocator maps what
    is freed anew (PYTORCH_CUDA_ALLOC_CONF). gradient_accumulation_fusion: weight gradients are added to the main
    gradients by the product itself. moe_grouped_gemm: the experts of a rank multiply together, else one after the
    other. use_transformer_engine_op_fuser: with their activation, its bounds and their biases in the same kernels.
    moe_router_padding: the router gives each expert as many tokens as narrow products take a multiple of.
    """

    micro_batch_size: int
    global_batch_size: int
    params_dtype: str = "bfloat16"
    main_grads_dtype: str = "float32"
    attention_kernel: str = "flash"
    recompute_granularity: str = "none"
    recompute_method: str = "uniform"
    recompute_num_layers: int = 1
    recompute_modules: tuple[str, ...] = DEFAULT
    schedule: str = AUTO
    fp8: str = ""
    fp8_recipe: str = ""
    fp4: str = ""
    fp8_param_gather: bool = False
    first_last_layers_bf16: bool = False
    num_layers_at_start_in_bf16: int = 1
    num_layers_at_end_in_bf16: int = 1
    use_precision_aware_optimizer: bool = False
    main_params_dtype: str = WIDE
    exp_avg_dtype: str = WIDE
    exp_avg_sq_dtype: str = WIDE
    deepspeed_zero: bool = False
    optimizer: str = ADAM
    muon_num_ns_steps: int = MuonSpec.num_ns_steps
    muon_tp_mode: str = MuonSpec.tp_mode
    muon_use_syrk: bool = False
    cross_entropy_fusion: str = ""
    cuda_graph_impl: str = NONE
    cuda_graph_scope: tuple[str, ...] = ()
    cpu_offload_layers: int = 0
    fine_grained_offloading: bool = False
    offload_modules: tuple[str, ...] = ()
    min_offloaded_tensor_size: int = 1 << 20
    optimizer_cpu_offload: bool = False
    optimizer_offload_fraction: float = 1.0
    overlap_cpu_optimizer: bool = False
    expandable_segments: bool = False
    gradient_accumulation_fusion: bool = True
    moe_grouped_gemm: bool = True
    use_transformer_engine_op_fuser: bool = False
    moe_router_padding: bool = False

    def __post_init__(self) -> None:
        positive("--micro-batch-size", self.micro_batch_size)
        positive("--global-batch-size", self.global_batch_size)
        divides("--micro-batch-size", self.micro_batch_size, "--global-batch-size", self.global_batch_size)
        one_of("parameter type", self.params_dtype, ("float32", "bfloat16", "float16"))
        one_of("gradient type", self.main_grads_dtype, tuple(DTYPE_BYTES))
        one_of("attention kernel", self.attention_kernel, ("flash", "unfused"))
        one_of("--recompute-granularity", self.recompute_granularity, ("none", "selective", "full"))
        one_of("--recompute-method", self.recompute_method, ("uniform", "block"))
        positive("--recompute-num-layers", self.recompute_num_layers)
        object.__setattr__(self, "recompute_modules", check_modules(self.recompute_modules))
        one_of("--cross-entropy-fusion-impl", self.cross_entropy_fusion, ("", "native", "te"))
        one_of("--optimizer", self.optimizer, (ADAM, MUON))
        self.optimizer_types.check()
        object.__setattr__(self, "cuda_graph_scope", check_scopes(self.cuda_graph_scope))
        check_recomputation(self.cuda_graph_impl, self.graphed, self.recompute_granularity, self.recomputed_modules)
        whole("--cpu-offloading-num-layers", self.cpu_offload_layers, 0)
        if self.cpu_offload_layers and self.recompute_granularity != "none":
            raise SpecError("--cpu-offloading-num-layers takes --recompute-granularity none, as Megatron-Core does")
        self._check_offloading()
        if self.schedule != AUTO:
            schedules.get(self.schedule)
        if (self.fp8 or self.fp4) and self.params_dtype != "bfloat16":
            flag = "--fp8-format" if self.fp8 else "--fp4-format"
            raise SpecError(f"{flag} needs --bf16: Transformer Engine keeps the other operators in bfloat16")
        self._precision()
        whole("--num-layers-at-start-in-bf16", self.num_layers_at_start_in_bf16, 0)
        whole("--num-layers-at-end-in-bf16", self.num_layers_at_end_in_bf16, 0)
        if self.first_last_layers_bf16 and not self.precision.casts_inputs:
            raise SpecError("--first-last-layers-bf16 needs --fp8-format or --fp4-format")
        if self.delayed_scaling:
            check_delayed_scaling(self.recomputed_modules)
            if self.first_last_layers_bf16:
                raise SpecError(f"--first-last-layers-bf16 needs another --fp8-recipe than {DELAYED}, the default")

    def _check_offloading(self) -> None:
        object.__setattr__(self, "offload_modules", check_offload_modules(self.offload_modules))
        whole("--min-offloaded-tensor-size", self.min_offloaded_tensor_size, 0)
        if self.fine_grained_offloading and not self.offload_modules:
            raise SpecError("--fine-grained-activation-offloading needs --offload-modules")
        if self.cpu_offload_layers and self.graphed:
            raise SpecError("--cpu-offloading-num-layers does not go with CUDA graphs (--cuda-graph-impl)")
        if self.fine_grained_offloading and self.cpu_offload_layers:
            raise SpecError(
                "--fine-grained-activation-offloading and --cpu-offloading-num-layers exclude each other: give one"
            )
        Range(0.0, 1.0).check("--optimizer-offload-fraction", self.optimizer_offload_fraction)
        if self.optimizer_cpu_offload and not self.use_precision_aware_optimizer:
            raise SpecError("--optimizer-cpu-offload needs --use-precision-aware-optimizer")

    @property
    def offloaded_modules(self) -> tuple[str, ...]:
        """Modules whose inputs go to the host's memory."""
        return self.offload_modules if self.fine_grained_offloading else ()

    @property
    def wide_layers(self) -> tuple[int, int]:
        """Layers at the start and at the end of the model whose products are in 16 bits beside narrower ones."""
        if not self.first_last_layers_bf16:
            return 0, 0
        return self.num_layers_at_start_in_bf16, self.num_layers_at_end_in_bf16

    @property
    def recomputed_modules(self) -> tuple[str, ...]:
        """Modules that run again in the backward pass, where recomputation is selective."""
        return self.recompute_modules if self.recompute_granularity == "selective" else ()

    @property
    def delayed_scaling(self) -> bool:
        """Whether operands in 8 bits are scaled by the maxima of earlier steps: where the flags name no recipe, too."""
        return self.fp8 in FP8_FORMATS and self.fp8_recipe in ("", DELAYED)

    @property
    def graphed(self) -> tuple[str, ...]:
        """What CUDA graphs cover."""
        return graphed(self.cuda_graph_impl, self.cuda_graph_scope)

    @property
    def optimizer_types(self) -> OptimizerTypes:
        """What the optimizer keeps of each parameter."""
        muon = MuonSpec(self.muon_num_ns_steps, self.muon_tp_mode, self.muon_use_syrk)
        return OptimizerTypes(
            self.use_precision_aware_optimizer,
            self.main_params_dtype,
            self.exp_avg_dtype,
            self.exp_avg_sq_dtype,
            deepspeed=self.deepspeed_zero,
            muon=muon if self.optimizer == MUON else None,
            on_host=self.optimizer_offload_fraction if self.optimizer_cpu_offload else 0.0,
            overlaps_host=self.overlap_cpu_optimizer,
        )

    @property
    def precision(self) -> Precision:
        """The precision that the parameters' type, the narrow format and its recipe make."""
        return self._precision()

    def _precision(self) -> Precision:
        known = precision_of(self.params_dtype, self.fp8, self.fp8_recipe, self.fp4)
        return known.with_kept_params() if self.fp8_param_gather else known

    def num_microbatches(self, dp: int) -> int:
        """Microbatches per step on each data parallel rank."""
        per_step = self.micro_batch_size * dp
        if self.global_batch_size % per_step:
            below = self.global_batch_size // per_step * per_step
            would = f"{below} or {below + per_step}" if below else f"{per_step}"
            raise SpecError(
                f"--global-batch-size is {self.global_batch_size}, which is not a multiple of "
                f"--micro-batch-size times data parallel size ({self.micro_batch_size} x {dp}): "
                f"{would} would be"
            )
        return self.global_batch_size // per_step
