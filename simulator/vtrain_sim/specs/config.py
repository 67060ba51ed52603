"""Model, layout and training step together, and what must hold between them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from vtrain_sim import schedules
from vtrain_sim.frozen import computed
from vtrain_sim.specs import context_parallel, graphs
from vtrain_sim.specs.checks import SpecError, divides, positive
from vtrain_sim.specs.groups import Group, Groups
from vtrain_sim.specs.hybrid_pattern import MAMBA
from vtrain_sim.specs.model import ModelSpec
from vtrain_sim.specs.offload import check_offloading
from vtrain_sim.specs.optimizer import MUON
from vtrain_sim.specs.parallel import ParallelSpec, default_bucket_size
from vtrain_sim.specs.pipeline import LayersSpec, PipelineSpec
from vtrain_sim.specs.recompute import check_model
from vtrain_sim.specs.replicas import ReplicaSpec
from vtrain_sim.specs.shard import ShardSpec
from vtrain_sim.specs.train import AUTO, TrainSpec

# Token dispatchers of Megatron-Core that pad what experts get.
_PADDING_DISPATCHERS = ("alltoall", "hybridep")
_MOST_PASSES = 20_000_000
# Objects that compare alike are one object, which makes them cheap to look up: a search makes each of them often.
_shard = lru_cache(maxsize=1 << 14)(ShardSpec)
_pipeline = lru_cache(maxsize=1 << 14)(PipelineSpec)
_layers = lru_cache(maxsize=1 << 14)(LayersSpec)
_replicas = lru_cache(maxsize=1 << 14)(ReplicaSpec)
_NO_EXPERTS = {role: Group(role, 1, 1) for role in ("ep", "expert_tp", "tp_ep")}
_NO_FSDP = (Group("dp", 1, 1), Group("expert_dp", 1, 1))
_NOT_TIED = Group("embedding", 1, 1)


@dataclass(frozen=True)
class Configuration:
    """One thing to project. Validation follows what Megatron-Core itself refuses."""

    model: ModelSpec
    parallel: ParallelSpec
    train: TrainSpec

    def __post_init__(self) -> None:
        self._check_sharding()
        self._check_experts()
        self._check_exchange_overlap()
        self._check_mamba()
        self._check_delta_net()
        self._check_pipeline()
        self._check_kernels()

    def _check_sharding(self) -> None:
        model, parallel = self.model, self.parallel
        tp = "--tensor-model-parallel-size"
        divides(tp, parallel.tp, "--num-attention-heads", model.num_attention_heads)
        if model.num_query_groups % parallel.tp and parallel.tp % model.num_query_groups:
            divides(tp, parallel.tp, "--num-query-groups", model.num_query_groups)
        divides(tp, parallel.tp, "--ffn-hidden-size", model.ffn_hidden_size)
        if parallel.sequence_parallel:
            if parallel.tp == 1:
                raise SpecError("--sequence-parallel needs --tensor-model-parallel-size of 2 or more")
            divides(tp, parallel.tp, "--seq-length", model.seq_length)
        if parallel.cp > 1:
            divides("2 x --context-parallel-size", 2 * parallel.cp, "--seq-length", model.seq_length)
            context_parallel.check_model(model, parallel)
        if parallel.scatter_gather and parallel.sequence_parallel:
            raise SpecError("--scatter-gather-tensors-in-pipeline has nothing to scatter with --sequence-parallel")

    def _check_experts(self) -> None:
        model, parallel = self.model, self.parallel
        if parallel.ep > 1 and not model.num_experts:
            raise SpecError("--expert-model-parallel-size of 2 or more needs --num-experts")
        if not model.num_experts:
            if parallel.expert_tp not in (0, parallel.tp):
                raise SpecError("--expert-tensor-parallel-size needs --num-experts")
            return
        divides("--expert-model-parallel-size", parallel.ep, "--num-experts", model.num_experts)
        if model.moe_imbalance_factor > parallel.ep:
            raise SpecError(
                f"--moe-imbalance-factor is {model.moe_imbalance_factor:g}: with all tokens on one of {parallel.ep} "
                f"expert parallel ranks (--expert-model-parallel-size) it is {parallel.ep}"
            )
        divides("--expert-tensor-parallel-size", parallel.etp, "--moe-ffn-hidden-size", model.moe_ffn_hidden_size)
        if model.moe_shared_expert_intermediate_size:
            divides(
                "--tensor-model-parallel-size",
                parallel.tp,
                "--moe-shared-expert-intermediate-size",
                model.moe_shared_expert_intermediate_size,
            )
        if model.moe_pad_expert_input_to_capacity and parallel.moe_token_dispatcher not in _PADDING_DISPATCHERS:
            raise SpecError(
                "--moe-pad-expert-input-to-capacity needs --moe-token-dispatcher-type alltoall, or flex with "
                "--moe-flex-dispatcher-backend hybridep"
            )
        if model.add_bias_linear and parallel.etp > 1:
            raise SpecError(f"--expert-tensor-parallel-size is {parallel.etp}: it is 1 for experts with biases")
        if self.train.moe_router_padding and parallel.moe_token_dispatcher == "allgather":
            raise SpecError(
                "--moe-router-padding-for-quantization does not go with --moe-token-dispatcher-type allgather"
            )
        if model.moe_latent_size and parallel.moe_shared_expert_overlap:
            raise SpecError("--moe-latent-size does not go with --moe-shared-expert-overlap")
        if parallel.tp > 1 and not parallel.sequence_parallel:
            raise SpecError(
                "a mixture of experts with --tensor-model-parallel-size of 2 or more needs --sequence-parallel"
            )

    def _check_exchange_overlap(self) -> None:
        model, train, flag = self.model, self.train, "--overlap-moe-expert-parallel-comm"
        if not self.parallel.overlap_moe_comm:
            return
        if train.recompute_granularity == "full":
            raise SpecError(f"{flag} does not go with --recompute-granularity full")
        if "moe" in train.recomputed_modules:
            # Experts that run again would dispatch their tokens again.
            raise SpecError(f"{flag} does not go with --recompute-modules moe")
        if model.mtp_num_layers > 1:
            raise SpecError(f"{flag} takes one depth of multi-token prediction: --mtp-num-layers is at most 1 with it")
        if model.symbols:
            raise SpecError(f"{flag} takes transformer layers alone: leave it out with --hybrid-layer-pattern")
        graphs.check_exchange_overlap(flag, train.cuda_graph_impl, train.graphed)
        if train.params_dtype == "float32":
            raise SpecError(f"{flag} needs --bf16 or --fp16")
        if train.schedule != AUTO:
            return  # a pipeline of its own
        if self.parallel.pp > 1 and self.parallel.vpp == 1:
            raise SpecError(
                f"{flag} takes an interleaved pipeline, or none: give --num-layers-per-virtual-pipeline-stage with "
                "--pipeline-model-parallel-size of 2 or more"
            )
        if self.parallel.pp == 1 and model.mtp_num_layers:
            raise SpecError(f"{flag} with --mtp-num-layers needs --pipeline-model-parallel-size of 2 or more")

    def _check_mamba(self) -> None:
        model, parallel = self.model, self.parallel
        if MAMBA not in model.symbols:
            return
        tp = "--tensor-model-parallel-size"
        divides(tp, parallel.tp, "--mamba-num-heads", model.mamba_num_heads)
        divides(tp, parallel.tp, "--mamba-num-groups", model.mamba_num_groups)
        if parallel.cp > 1:
            cp = "--tensor-model-parallel-size x --context-parallel-size"
            divides(cp, parallel.tp * parallel.cp, "--mamba-num-heads", model.mamba_num_heads)
            groups = model.mamba_num_groups // parallel.tp
            if parallel.cp % groups:
                divides(cp, parallel.tp * parallel.cp, "--mamba-num-groups", model.mamba_num_groups)

    def _check_delta_net(self) -> None:
        model, ranks = self.model, self.parallel.tp * self.parallel.cp
        if any(model.linear_layers):
            what = "--tensor-model-parallel-size x --context-parallel-size"
            divides(what, ranks, "--linear-num-key-heads", model.linear_num_key_heads)
            divides(what, ranks, "--linear-num-value-heads", model.linear_num_value_heads)

    def _check_pipeline(self) -> None:
        model, parallel, train = self.model, self.parallel, self.train
        pp, vpp = "--pipeline-model-parallel-size", parallel.vpp
        if parallel.layers:
            if sum(parallel.layers) != model.num_layers or min(parallel.layers) < 0:
                raise SpecError(
                    f"the stages are given {sum(parallel.layers)} layers in all, --num-layers is {model.num_layers}"
                )
        else:
            divides(pp, parallel.pp, "--num-layers", model.num_layers)
            if model.num_layers // parallel.pp % vpp:
                raise SpecError(
                    f"{vpp} virtual pipeline chunks do not divide the {model.num_layers // parallel.pp} layers of a "
                    "stage: --num-layers-per-virtual-pipeline-stage must divide --num-layers over "
                    "--pipeline-model-parallel-size"
                )
        microbatches = train.num_microbatches(parallel.dp)
        if microbatches * parallel.pp * vpp > _MOST_PASSES:
            raise SpecError(
                f"{microbatches} microbatches on {parallel.pp * vpp} virtual pipeline stages are more than any run has "
                f"({_MOST_PASSES} passes at most): lower --global-batch-size or raise --micro-batch-size"
            )
        check_offloading(
            train.offloaded_modules, model.num_experts > 0, train.recompute_granularity, train.recomputed_modules
        )
        if train.cpu_offload_layers and parallel.pp > 1:
            raise SpecError("--cpu-offloading-num-layers takes --pipeline-model-parallel-size of 1")
        if train.cpu_offload_layers >= model.num_layers:
            raise SpecError(
                f"--cpu-offloading-num-layers is {train.cpu_offload_layers}: less than --num-layers "
                f"({model.num_layers}), since the last layer's activations are needed at once"
            )
        schedule = self.schedule_object
        schedule.check(schedules.PipelineShape(parallel.pp, vpp, microbatches))
        if schedule.splits_backward and parallel.fsdp:
            raise SpecError(
                f"--schedule {schedule.name} splits the backward pass for a pipeline, which fully sharded data "
                "parallelism does not have"
            )
        if schedule.splits_backward and train.recompute_granularity == "full":
            raise SpecError(
                f"--schedule {schedule.name} splits the backward pass, which full recomputation keeps whole: "
                "--recompute-granularity takes none or selective with it"
            )
        positive("--recompute-num-layers", train.recompute_num_layers)
        if train.recompute_granularity == "full" and train.recompute_num_layers > max(self.stage_layers):
            raise SpecError(
                f"--recompute-num-layers is {train.recompute_num_layers}, more than the {max(self.stage_layers)} "
                "layers of a pipeline stage"
            )

    def _check_kernels(self) -> None:
        model, parallel, train = self.model, self.parallel, self.train
        check_model(
            train.recomputed_modules,
            bool(model.num_experts),
            model.multi_latent_attention,
            parallel.moe_shared_expert_overlap,
            train.moe_grouped_gemm,
        )
        padded = model.moe_pad_expert_input_to_capacity
        if model.moe_expert_capacity_factor and not padded and "moe_preprocess" in train.graphed:
            raise SpecError(
                "--moe-expert-capacity-factor does not go with a CUDA graph of moe_preprocess unless "
                "--moe-pad-expert-input-to-capacity does: the host waits for how many rows are kept"
            )
        graphs.check_model(train.graphed, model.num_experts > 1, model.has_dense_blocks, padded)
        if train.use_precision_aware_optimizer and not (parallel.distributed_optimizer or parallel.fsdp):
            raise SpecError("--use-precision-aware-optimizer needs --use-distributed-optimizer")
        if train.fp8_param_gather and not (parallel.distributed_optimizer or parallel.fsdp):
            raise SpecError("--fp8-param-gather needs --use-distributed-optimizer, or full sharding")
        if train.optimizer == MUON and parallel.fsdp:
            raise SpecError("--optimizer muon does not go with fully sharded data parallelism")
        if train.deepspeed_zero and not parallel.distributed_optimizer:
            raise SpecError("--deepspeed-zero needs --use-distributed-optimizer, which it stands in for")
        if sum(train.wide_layers) > model.num_layers:
            raise SpecError(
                f"--num-layers-at-start-in-bf16 and --num-layers-at-end-in-bf16 are {sum(train.wide_layers)} layers, "
                f"--num-layers is {model.num_layers}"
            )
        if not (train.moe_grouped_gemm or model.num_experts):
            raise SpecError("--no-moe-grouped-gemm needs --num-experts")
        if parallel.cp > 1 and train.attention_kernel == "unfused":
            raise SpecError("--context-parallel-size of 2 or more needs fused (flash) attention")
        if model.window_size and train.attention_kernel == "unfused":
            raise SpecError("--window-size needs fused (flash) attention")
        if model.multi_latent_attention and train.attention_kernel == "unfused":
            raise SpecError("--multi-latent-attention needs fused (flash) attention")

    @computed
    def chunk_layers(self) -> tuple[int, ...]:
        """Layers of each virtual stage, in the order in which a microbatch passes them."""
        parallel = self.parallel
        virtual_stages = parallel.pp * parallel.vpp
        return parallel.layers or (self.model.num_layers // virtual_stages,) * virtual_stages

    @computed
    def stage_layers(self) -> tuple[int, ...]:
        """Layers of each pipeline stage, all its chunks together, where the schedule puts them."""
        return _stage_layers(self.schedule_object, self.parallel.pp, self.parallel.vpp, self.chunk_layers)

    @computed
    def num_microbatches(self) -> int:
        """Microbatches per step on each data parallel rank."""
        return self.train.num_microbatches(self.parallel.dp)

    @computed
    def schedule(self) -> str:
        """Name of the schedule that runs: the one requested, or what Megatron-Core chooses."""
        if self.train.schedule != "auto":
            return self.train.schedule
        return "interleaved" if self.parallel.vpp > 1 else "1f1b"

    @computed
    def schedule_object(self) -> schedules.Schedule:
        """The schedule that runs, with the group size of the layout."""
        return schedules.get(self.schedule).with_group_size(self.parallel.microbatch_group_size)

    @property
    def groups(self) -> Groups:
        """The communication groups of the layout."""
        return self.parallel.groups

    @computed
    def shard(self) -> ShardSpec:
        """What the operators of a layer depend on."""
        p, t, groups = self.parallel, self.train, self.groups
        layer = groups.of_layer
        experts = {n: getattr(layer, n) if self.model.num_experts else alone for n, alone in _NO_EXPERTS.items()}
        fsdp, expert_fsdp = (groups.dp, groups.expert_dp) if p.fsdp else _NO_FSDP
        return _shard(
            model=self.model,
            tp=layer.tp,
            cp=layer.cp,
            cp_a2a=layer.cp_a2a,
            cp_ring=layer.cp_ring,
            cp_gather=layer.cp_gather,
            **experts,
            fsdp=fsdp,
            expert_fsdp=expert_fsdp,
            micro_batch_size=t.micro_batch_size,
            precision=t.precision,
            main_grads_dtype=t.main_grads_dtype,
            attention_kernel=t.attention_kernel,
            recomputed_modules=t.recomputed_modules,
            offload_modules=t.offloaded_modules,
            min_offloaded_tensor_size=t.min_offloaded_tensor_size,
            graphed=t.graphed,
            fused_cross_entropy=t.cross_entropy_fusion == "te",
            gradient_accumulation_fusion=t.gradient_accumulation_fusion,
            moe_grouped_gemm=t.moe_grouped_gemm,
            pads_routing=t.moe_router_padding,
            fused_experts=t.moe_grouped_gemm and t.use_transformer_engine_op_fuser,
            splits_backward=self.schedule_object.splits_backward,
            sequence_parallel=p.sequence_parallel,
            # Megatron-Core switches it off for latent attention (TELinear in extensions/transformer_engine.py).
            tp_comm_overlap=p.tp_comm_overlap and not self.model.multi_latent_attention,
            async_tp_allreduce=p.async_tp_allreduce,
            moe_shared_expert_overlap=p.moe_shared_expert_overlap,
            moe_token_dispatcher=p.moe_token_dispatcher,
            overlap_moe_comm=p.overlap_moe_comm,
        )

    @computed
    def pipeline(self) -> PipelineSpec:
        """How the model is laid over the stages."""
        model, t = self.model, self.train
        recomputed: int | None = 0
        together = 1
        if t.recompute_granularity == "full" and t.recompute_method == "block":
            recomputed = t.recompute_num_layers
        elif t.recompute_granularity == "full":
            recomputed, together = None, t.recompute_num_layers
        return _pipeline(
            stages=self.parallel.pp,
            chunks=self.parallel.vpp,
            schedule=self.schedule_object,
            layers=_layers(
                mixtures=model.moe_layers,
                windows=model.windowed_layers,
                linears=model.linear_layers,
                symbols=model.hybrid_layer_pattern,
                wide=t.wide_layers,
                counts=self.chunk_layers,
                recomputed=recomputed,
                recomputed_together=together,
                offloaded=t.cpu_offload_layers,
                last_stays=bool(t.offloaded_modules),
                tied=not model.untie_embeddings_and_output_weights,
                mtp=model.mtp_num_layers,
                mtp_symbols=model.mtp_hybrid_override_pattern,
                mtp_repeated=model.mtp_use_repeated_layer,
            ),
            stage_ranks=self.groups.stage_ranks,
            scatter_gather=self.parallel.scatter_gather,
            batch_p2p=self.parallel.batch_p2p,
            host_waits=self.parallel.batch_p2p and not self.parallel.overlap_p2p,
        )

    @computed
    def replicas(self) -> ReplicaSpec:
        """What a stage does once per step depends on."""
        p, groups, schedule = self.parallel, self.groups, schedules.get(self.schedule)
        placement = schedule.placement(p.pp, p.vpp)
        # Multi-token prediction looks its tokens up in the embedding's table too.
        shared = not self.model.untie_embeddings_and_output_weights or self.model.mtp_num_layers > 0
        tied = shared and not placement.ends_meet
        dp, expert_dp = groups.dp, groups.expert_dp
        if schedule.parameter_copies > 1:
            dp, expert_dp = (group.over_both_copies(p.pp) for group in (dp, expert_dp))
        return _replicas(
            tp=groups.of_layer.tp,
            expert_tp=self.shard.expert_tp,
            precision=self.train.precision,
            main_grads_dtype=self.train.main_grads_dtype,
            optimizer=self.train.optimizer_types,
            sequence_parallel=p.sequence_parallel,
            dp=dp,
            expert_dp=expert_dp,
            embedding=groups.embedding if tied else _NOT_TIED,
            model_parallel=groups.mp,
            sharded=p.distributed_optimizer,
            fully_sharded=p.fsdp,
            overlap_grad_reduce=p.overlap_grad_reduce and not p.fsdp,
            overlap_param_gather=p.overlap_param_gather and not p.fsdp,
            bucket_size=p.bucket_size or default_bucket_size(p.dp * p.cp),
            aligned=p.align_grad_reduce,
        )

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimizer step over the whole cluster."""
        return self.train.global_batch_size * self.model.seq_length


@lru_cache(maxsize=1 << 14)
def _stage_layers(schedule: schedules.Schedule, stages: int, chunks: int, layers: tuple[int, ...]) -> tuple[int, ...]:
    """Layers of each stage, from those of each virtual stage."""
    placement = schedule.placement(stages, chunks)
    counts = [0] * stages
    for place, virtual_stage in enumerate(placement.virtual_stage):
        counts[placement.stage_of(place)] += layers[virtual_stage]
    return tuple(counts)
