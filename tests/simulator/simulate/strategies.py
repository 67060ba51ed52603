"""Random configurations and clusters: all that the simulator knows, in sizes that a test can afford."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from hypothesis import strategies as st

from vtrain_sim.costs import CollectiveCosts, OperatorCosts
from vtrain_sim.costs.surfaces import DeviceSurface, Surfaces
from vtrain_sim.inputs import presets
from vtrain_sim.schedules import get
from vtrain_sim.simulate.projection import Projector
from vtrain_sim.specs import Configuration, ModelSpec, ParallelSpec, TrainSpec

# Layouts that only some schedules take: (stages, chunks per stage).
_V_SHAPES = [(2, 2), (3, 2), (4, 2)]
_SHAPES = {
    "1f1b": [(1, 1), (1, 1), (2, 1), (3, 1), (4, 1), (6, 1)],
    "interleaved": [(2, 2), (2, 3), (3, 2), (4, 2)],
    "zb-v": _V_SHAPES,
    "dualpipev": _V_SHAPES,
    "dualpipe": [(2, 1), (4, 1)],
}
_ONE_CHUNK = [(1, 1), (2, 1), (3, 1), (4, 1)]


@dataclass(frozen=True)
class Machine:
    """A cluster in the terms that decide what overlaps. launch_s: host time of one kernel launch."""

    cluster: str
    overlap_efficiency: float
    overlap_slowdown: float
    launch_s: float

    def projector(self) -> Projector:
        """Its projector; one for each machine, as in a search."""
        return _projector(self)


@cache
def _projector(machine: Machine) -> Projector:
    cluster = replace(
        presets.cluster(machine.cluster),
        overlap_efficiency=machine.overlap_efficiency,
        overlap_slowdown=machine.overlap_slowdown,
    )
    surfaces = replace(Surfaces.from_dict(presets.cluster_surfaces(machine.cluster)), launch_s=machine.launch_s)
    return Projector(cluster, OperatorCosts(DeviceSurface(cluster.device, surfaces)), CollectiveCosts(cluster))


machines = st.builds(
    Machine,
    # The one that multiplies in 8 bits.
    st.just("dgx-h100"),
    st.sampled_from([0.0, 0.6, 1.0]),
    st.sampled_from([1.0, 1.3]),
    st.sampled_from([0.0, 6e-6, 40e-6]),
)


@st.composite
def models(draw: st.DrawFn, num_layers: int, moe: bool) -> ModelSpec:
    """Dense or mixture, with grouped queries, latent attention, gates and norms."""
    latent = draw(st.booleans())
    sizes: dict[str, Any] = {"num_query_groups": draw(st.sampled_from([4, 8]))}
    if latent:
        sizes = {
            "multi_latent_attention": True,
            "q_lora_rank": draw(st.sampled_from([0, 64])),
            "kv_lora_rank": 64,
            "qk_head_dim": 32,
            "qk_pos_emb_head_dim": 16,
            "v_head_dim": 32,
        }
    if moe:
        dense_first = f"([0]*1+[1]*{num_layers - 1})" if num_layers > 1 else "1"
        sizes |= {
            "num_experts": 8,
            "moe_router_topk": 2,
            "moe_ffn_hidden_size": 512,
            "moe_layer_freq": draw(st.sampled_from(["1", "2", dense_first])),
            "moe_shared_expert_intermediate_size": draw(st.sampled_from([0, 256])),
            "moe_latent_size": draw(st.sampled_from([0, 0, 64])),
            "moe_imbalance_factor": draw(st.sampled_from([1.0, 1.5])),
            "moe_expert_capacity_factor": draw(st.sampled_from([0.0, 0.0, 1.25])),
        }
    windows = {
        "window_size": 0 if latent else draw(st.sampled_from([0, 0, 128])),
        "window_attn_skip_freq": draw(st.sampled_from(["", "2"])),
    }
    kinds = draw(st.sampled_from(["transformer", "transformer", "hybrid", "delta"]))
    if not latent and kinds == "hybrid":
        sizes, windows = sizes | draw(hybrids(num_layers, moe)), {}
    elif not latent and kinds == "delta":
        windows = {}
        sizes |= {
            "linear_attention_freq": draw(st.sampled_from(["1", "2", "4"])),
            "linear_num_key_heads": 8,
            "linear_num_value_heads": 16,
            "linear_key_head_dim": 32,
            "attention_output_gate": draw(st.booleans()),
        }
    depths = draw(st.sampled_from([0, 0, 1, 2]))
    return ModelSpec(
        num_layers,
        draw(st.sampled_from([256, 2048])),
        8,
        draw(st.sampled_from([512, 2048])),
        draw(st.sampled_from([1000, 30_000])),
        swiglu=draw(st.booleans()),
        qk_layernorm=draw(st.booleans()),
        dropout=draw(st.booleans()),
        # Experts have biases where they are whole on a rank.
        add_bias_linear=not moe,
        normalization=draw(st.sampled_from(["LayerNorm", "RMSNorm"])),
        untie_embeddings_and_output_weights=draw(st.booleans()),
        mtp_use_repeated_layer=depths > 0 and draw(st.booleans()),
        mtp_num_layers=depths,
        packed_lengths=draw(st.sampled_from([(), (), (100, 400)])),
        **windows,
        **sizes,
    )


@st.composite
def hybrids(draw: st.DrawFn, num_layers: int, moe: bool) -> dict[str, Any]:
    """Layers of all kinds, in any order."""
    symbols = "M*-E" if moe else "M*-"
    pattern = draw(st.text(symbols, min_size=num_layers, max_size=num_layers))
    return {
        "hybrid_layer_pattern": pattern,
        # A model that has experts has a layer of them.
        "mtp_hybrid_override_pattern": "*E" if moe else draw(st.sampled_from(["*-", "MM"])),
        "moe_layer_freq": "1",
        "mamba_num_heads": 8,
        "mamba_head_dim": 32,
        "mamba_state_dim": 64,
        "mamba_num_groups": 4,
    }


@st.composite
def exchanges(draw: st.DrawFn, model: ModelSpec, tp: int) -> dict[str, Any]:
    """How one rank, or two, attend to a sequence that they share. Two are few enough for the heads of a Mamba layer."""
    cp = draw(st.sampled_from([1, 1, 2]))
    heads_are_shared = model.multi_latent_attention or model.num_query_groups // tp % cp == 0
    kinds = ["all_gather", *(["a2a"] if heads_are_shared else [])]
    if not model.window_size:
        kinds += ["p2p", "a2a+p2p"]
    kind = draw(st.sampled_from(kinds))
    if kind != "a2a+p2p":
        return {"cp": cp, "cp_comm_type": kind}
    return {"cp": cp, "cp_comm_type": kind, "cp_a2a_size": draw(st.sampled_from([1, cp if heads_are_shared else 1]))}


@st.composite
def layouts(
    draw: st.DrawFn, shape: tuple[int, int], model: ModelSpec, splits_backward: bool, group_size: int
) -> ParallelSpec:
    """Every way to share a model, and every switch of what overlaps."""
    flags = st.booleans()
    num_layers, moe, latent_experts = model.num_layers, model.num_experts > 0, model.moe_latent_size > 0
    pp, vpp = shape
    tp = draw(st.sampled_from([1, 2, 4]))
    sp = tp > 1 and (moe or draw(flags))
    fsdp = pp == 1 and not splits_backward and draw(flags)
    zero, reduces = not fsdp and draw(flags), draw(flags)
    dispatcher = draw(st.sampled_from(["alltoall", "allgather"]))
    uneven: tuple[int, ...] = ()
    if pp * vpp > 1 and draw(flags):
        # Some of the virtual stages may be empty.
        cuts = draw(st.lists(st.integers(0, num_layers), min_size=pp * vpp - 1, max_size=pp * vpp - 1).map(sorted))
        uneven = tuple(b - a for a, b in zip([0, *cuts], [*cuts, num_layers], strict=True))
    return ParallelSpec(
        tp=tp,
        pp=pp,
        vpp=vpp,
        **draw(exchanges(model, tp)),
        ep=draw(st.sampled_from([1, 2, 4])) if moe else 1,
        # Large enough for the expert parallel ranks of any tensor parallel size.
        dp=draw(st.sampled_from([4, 8])) if moe else draw(st.sampled_from([1, 2, 4])),
        expert_tp=draw(st.sampled_from([0, 1, 2] if tp > 1 else [0, 1])) if moe else 0,
        sequence_parallel=sp,
        distributed_optimizer=zero,
        overlap_grad_reduce=reduces,
        overlap_param_gather=reduces and zero and draw(flags),
        overlap_p2p=vpp > 1 and draw(flags),
        fsdp=fsdp,
        tp_comm_overlap=sp and draw(flags),
        async_tp_allreduce=draw(flags),
        scatter_gather=not sp and draw(flags),
        batch_p2p=draw(flags),
        layers=uneven,
        align_grad_reduce=draw(flags),
        bucket_size=draw(st.sampled_from([0, 100_000, 1_000_000])),
        moe_shared_expert_overlap=dispatcher == "alltoall" and not latent_experts and draw(flags),
        moe_token_dispatcher=dispatcher,
        microbatch_group_size=group_size,
    )


def modules(model: ModelSpec, parallel: ParallelSpec, grouped: bool) -> st.SearchStrategy[tuple[str, ...]]:
    """Modules that selective recomputation may run again."""
    names = ["core_attn", "layernorm", "mlp"]
    names += ["mla_up_proj"] if model.multi_latent_attention else []
    names += ["moe"] if model.num_experts else []
    names += ["moe_act"] if model.num_experts and grouped else []
    names += ["shared_experts"] if model.num_experts and not parallel.moe_shared_expert_overlap else []
    return st.lists(st.sampled_from(names), max_size=3).map(tuple)


@st.composite
def configurations(draw: st.DrawFn, schedule: str = "1f1b") -> Configuration:
    """A configuration that the schedule runs."""
    pp, vpp = draw(st.sampled_from(_SHAPES.get(schedule, _ONE_CHUNK)))
    num_layers = pp * vpp * draw(st.integers(1, 3))
    moe = draw(st.booleans())
    model = draw(models(num_layers, moe))
    group_size = pp + draw(st.integers(0, 2)) if schedule == "interleaved" else 0
    parallel = draw(layouts((pp, vpp), model, get(schedule).splits_backward, group_size))
    # The busiest of few expert parallel ranks has at most all tokens.
    model = replace(model, moe_imbalance_factor=min(model.moe_imbalance_factor, parallel.ep))
    microbatches = draw(st.integers(1, 5))
    if schedule == "interleaved":
        microbatches *= group_size
    elif schedule.startswith("dualpipe"):
        microbatches = 2 * (pp + draw(st.integers(0, 2)))
    granularities = ["none", "selective"] if get(schedule).splits_backward else ["none", "selective", "full"]
    fused = parallel.cp > 1 or model.multi_latent_attention or model.window_size > 0 or draw(st.booleans())
    micro_batch_size = draw(st.sampled_from([1, 2]))
    grouped = not model.num_experts or draw(st.booleans())
    fp8 = draw(st.sampled_from(["", "hybrid"]))
    granularity = draw(st.sampled_from(granularities))
    train = TrainSpec(
        micro_batch_size,
        micro_batch_size * parallel.dp * microbatches,
        fp8=fp8,
        # Delayed scaling goes neither with layers in 16 bits nor with all modules that run again.
        fp8_recipe="tensorwise" if fp8 else "",
        first_last_layers_bf16=bool(fp8) and draw(st.booleans()),
        num_layers_at_start_in_bf16=0,
        num_layers_at_end_in_bf16=draw(st.integers(0, num_layers)),
        attention_kernel="flash" if fused else "unfused",
        recompute_granularity=granularity,
        fine_grained_offloading=granularity != "full" and draw(st.booleans()),
        offload_modules=("attn_norm", "core_attn", "mlp_norm"),
        min_offloaded_tensor_size=0,
        optimizer="adam" if parallel.fsdp else draw(st.sampled_from(["adam", "adam", "muon"])),
        muon_tp_mode=draw(st.sampled_from(["duplicated", "distributed", "blockwise"])),
        recompute_modules=draw(modules(model, parallel, grouped)),
        recompute_method=draw(st.sampled_from(["uniform", "block"])),
        recompute_num_layers=draw(st.integers(1, max(1, max(parallel.layers or (num_layers // (pp * vpp),))))),
        schedule=schedule,
        gradient_accumulation_fusion=draw(st.booleans()),
        moe_grouped_gemm=grouped,
    )
    return Configuration(model, parallel, train)
