"""``vtrain-profile ops`` builds operators as Megatron's arguments do, with whatever kernels are there."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from plugin.operator_bench import PretendedGpu, bench_on  # noqa: E402
from vtrain_plugin.bench.choices import Choices  # noqa: E402
from vtrain_plugin.bench.device import CpuDevice  # noqa: E402
from vtrain_plugin.bench.installed import Installed, installed  # noqa: E402
from vtrain_plugin.bench.model_operators import SizeError, operators_of  # noqa: E402
from vtrain_plugin.bench.operators import builder  # noqa: E402
from vtrain_plugin.bench.ops import OperatorBench, further_flags  # noqa: E402
from vtrain_plugin.bench.output import BenchOutput  # noqa: E402
from vtrain_schemas.operators import Operator  # noqa: E402
from vtrain_sim.catalog import Catalog  # noqa: E402
from vtrain_sim.model import Compute, build_step  # noqa: E402
from vtrain_sim.specs import Configuration, ModelSpec, ParallelSpec, TrainSpec  # noqa: E402


def library(**contents: Any) -> ModuleType:
    """A module that stands in for a library of kernels."""
    module = ModuleType("library")
    vars(module).update(contents)
    return module


EVERYTHING = Installed(**dict.fromkeys(Installed.__dataclass_fields__, library()))
NO_FUSIONS = (
    "--no-bias-gelu-fusion",
    "--no-bias-swiglu-fusion",
    "--no-bias-dropout-fusion",
    "--no-rope-fusion",
    "--no-masked-softmax-fusion",
    "--no-gradient-accumulation-fusion",
    "--no-persist-layer-norm",
)
FUSIONS = (
    "bias_activation_fusion",
    "bias_dropout_fusion",
    "apply_rope_fusion",
    "masked_softmax_fusion",
    "gradient_accumulation_fusion",
    "persist_layer_norm",
)


def choices(*flags: str, have: Installed = EVERYTHING, swiglu: bool = False) -> Choices:
    return bench_on(PretendedGpu(), *flags, have=have, swiglu=swiglu).choices


def on(made: Choices) -> set[str]:
    return {name for name in FUSIONS if getattr(made, name)}


# -- choices --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "swiglu", "expected"),
    [
        # Softmax and norm are Megatron's own kernels only without Transformer Engine's modules.
        ((), False, set(FUSIONS) - {"masked_softmax_fusion", "persist_layer_norm"}),
        (("--transformer-impl", "local"), False, set(FUSIONS)),
        (("--transformer-impl", "local", *NO_FUSIONS), False, set()),
        (
            ("--transformer-impl", "local", "--no-bias-gelu-fusion"),
            True,
            set(FUSIONS),
        ),
        (
            ("--transformer-impl", "local", "--no-bias-swiglu-fusion"),
            True,
            set(FUSIONS) - {"bias_activation_fusion"},
        ),
        (
            ("--transformer-impl", "local", "--disable-bias-linear"),
            False,
            set(FUSIONS) - {"bias_activation_fusion"},
        ),
        (
            ("--transformer-impl", "local", "--normalization", "RMSNorm"),
            False,
            set(FUSIONS) - {"persist_layer_norm"},
        ),
        (
            ("--transformer-impl", "local", "--position-embedding-type", "learned_absolute"),
            False,
            set(FUSIONS) - {"apply_rope_fusion"},
        ),
        (("--transformer-impl", "local", "--multi-latent-attention"), False, set(FUSIONS) - {"apply_rope_fusion"}),
    ],
)
def test_fusions_follow_the_arguments(flags: tuple[str, ...], swiglu: bool, expected: set[str]) -> None:
    assert on(choices(*flags, swiglu=swiglu)) == expected


def test_what_is_not_installed_is_off_and_said() -> None:
    nothing = choices("--transformer-impl", "transformer_engine", have=Installed())
    assert not on(nothing)
    assert not nothing.transformer_engine
    assert any("Transformer Engine is not installed" in note for note in nothing.notes)
    assert any(note.startswith("gradient_accumulation_fusion is off") for note in nothing.notes)
    without = choices("--no-gradient-accumulation-fusion", have=Installed())
    assert not any(note.startswith("gradient_accumulation_fusion") for note in without.notes)


def test_scales_that_are_not_measured_are_said() -> None:
    made = choices("--fp8-format", "e4m3", "--fp8-recipe", "mxfp8")
    assert any("mxfp8" in note for note in made.notes)
    assert not choices("--fp8-format", "e4m3").notes


def test_nothing_is_fused_on_a_processor() -> None:
    made = bench_on(CpuDevice(False), have=EVERYTHING).choices
    assert not on(made)
    assert made.notes == ()


@pytest.mark.parametrize(
    ("flags", "have", "experts"),
    [
        (("--num-experts", "4"), EVERYTHING, "sequential"),
        (("--num-experts", "4", "--moe-grouped-gemm"), EVERYTHING, "te_grouped"),
        (("--num-experts", "4", "--moe-grouped-gemm", "--transformer-impl", "local"), EVERYTHING, "grouped_gemm"),
        (("--num-experts", "4", "--moe-grouped-gemm"), Installed(), "sequential"),
    ],
)
def test_experts_run_as_the_arguments_say(flags: tuple[str, ...], have: Installed, experts: str) -> None:
    made = choices(*flags, have=have)
    assert made.experts == experts
    assert any("experts run one after the other" in note for note in made.notes) == (have == Installed())


def test_attention_is_unfused_with_local_modules() -> None:
    for flags, fused in (
        ((), True),
        (("--attention-backend", "unfused"), False),
        (("--transformer-impl", "local"), False),
    ):
        bench = bench_on(CpuDevice(False), *flags)
        (attention,) = [o for o in operators_of(bench.model, [1], [1]) if o.kind == "attention"]
        assert attention.fused is fused


def test_an_unknown_flag_is_one_sentence() -> None:
    with pytest.raises(SizeError, match="--no-such-flag"):
        further_flags(["--no-such-flag"])


# -- operators of a model -------------------------------------------------------------------

GATED: dict[str, Any] = {"swiglu": True, "add_bias_linear": False, "normalization": "RMSNorm"}
EXPERTS: dict[str, Any] = {"num_experts": 8, "moe_router_topk": 2, "moe_ffn_hidden_size": 48}
LATENT: dict[str, Any] = {
    "multi_latent_attention": True,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_head_dim": 8,
    "qk_pos_emb_head_dim": 4,
    "v_head_dim": 8,
}
MODELS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "dense": ({}, {}, {}),
    "gated": ({**GATED, "num_query_groups": 2}, {}, {}),
    "8 bits": (GATED, {}, {"fp8": "hybrid"}),
    "experts": ({**GATED, **EXPERTS}, {"ep": 4}, {}),
    "shared experts": ({**GATED, **EXPERTS, "moe_shared_expert_intermediate_size": 32}, {"ep": 2}, {}),
    "latent": ({**GATED, **LATENT, "qk_layernorm": True}, {}, {}),
}


def flags_of(model: dict[str, Any], ep: int, fp8: str) -> list[str]:
    names = {**EXPERTS, **LATENT, "moe_shared_expert_intermediate_size": 0}
    flags = ["--expert-model-parallel-size", str(ep), *(["--fp8-format", fp8] if fp8 else [])]
    for name in names:
        if name in model:
            flag = f"--{name.replace('_', '-')}"
            flags += [flag] if model[name] is True else [flag, str(model[name])]
    return [*flags, "--moe-grouped-gemm"]


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize("name", MODELS)
def test_operators_are_those_that_the_simulator_asks_for(name: str, tp: int) -> None:
    model, parallel, train = MODELS[name]
    spec = ModelSpec(
        num_layers=2,
        hidden_size=64,
        num_attention_heads=4,
        seq_length=32,
        vocab_size=128,
        make_vocab_size_divisible_by=1,
        position_embedding_type="rope",
        **{"ffn_hidden_size": 96, **model},
    )
    layout = ParallelSpec(tp=tp, sequence_parallel=tp > 1, dp=4, **parallel)
    step = build_step(Configuration(spec, layout, TrainSpec(2, 8, params_dtype="bfloat16", **train)))
    asked = {
        item.operator
        for chunk in step.stages[0].chunks
        for part, _ in chunk
        for item in part.forward
        if isinstance(item, Compute) and item.operator.kind != "microbatch"
    }
    bench = bench_on(
        CpuDevice(False),
        *flags_of(model, parallel.get("ep", 1), train.get("fp8", "")),
        dtype="bfloat16",
        swiglu=model.get("swiglu", False),
        num_query_groups=model.get("num_query_groups", 0),
    )
    made = set(operators_of(bench.model, [tp], [2]))
    assert asked - made == set()


def test_experts_one_after_the_other_are_products_of_their_own() -> None:
    flags = ("--num-experts", "8", "--moe-ffn-hidden-size", "48", "--expert-model-parallel-size", "2")
    made = operators_of(bench_on(CpuDevice(False), *flags).model, [1], [1])
    assert not [operator for operator in made if operator.kind == "grouped_gemm"]
    # 32 tokens to 2 experts each, over the 4 experts of this rank.
    assert Operator("gemm", "forward", 16, 48, 64, dtype="float32") in made
    assert Operator("activation", "forward", 16, 48, dtype="float32") in made
    (update,) = [operator for operator in made if operator.kind == "optimizer"]
    grouped = operators_of(bench_on(CpuDevice(False), *flags, "--moe-grouped-gemm").model, [1], [1])
    assert update in grouped
    assert update.m == 4 * 64 * 64 + 64 * 8 + 4 * 2 * 48 * 64 + 128 * 64


def test_experts_that_do_not_divide_are_refused() -> None:
    with pytest.raises(SizeError, match="--expert-model-parallel-size is 3"):
        bench_on(CpuDevice(False), "--num-experts", "8", "--expert-model-parallel-size", "3")


# -- what is built --------------------------------------------------------------------------


def built(bench: Any, operator: Operator) -> dict[str, dict[str, Any]]:
    """Attributes by phase of what a builder makes; every call of it runs twice."""
    variants = builder(operator.kind)(bench, operator)
    for variant in variants:
        variant.call()
        variant.call()
    return {variant.operator.phase: variant.attributes for variant in variants}


@pytest.mark.parametrize("name", MODELS)
def test_every_operator_of_a_model_runs(name: str) -> None:
    model, parallel, train = MODELS[name]
    flags = flags_of(model, parallel.get("ep", 1), train.get("fp8", ""))
    bench = bench_on(CpuDevice(False), *flags, swiglu=model.get("swiglu", False), dtype="bfloat16")
    for operator in operators_of(bench.model, [1], [1]):
        phases = built(bench, operator)
        if operator.kind == "optimizer":
            assert set(phases) == {"update"}
        else:
            assert {"forward"} < set(phases), operator
            assert set(phases) in ({"forward", "backward"}, {"forward", "dgrad", "wgrad"}), operator
        assert all(attributes["implementation"] == "torch" for attributes in phases.values())


def test_unfused_attention_is_attention() -> None:
    """The separate products compute what the fused kernel computes, for grouped queries too."""
    bench = bench_on(CpuDevice(False), num_query_groups=2)
    operator = Operator(
        "attention",
        "forward",
        batch=2,
        seq_q=16,
        seq_kv=16,
        heads=4,
        kv_heads=2,
        head_dim=8,
        dtype="float32",
        fused=True,
        causal=True,
    )
    torch.manual_seed(0)
    fused = builder("attention")(bench, operator)[0].call()
    torch.manual_seed(0)
    separate = builder("attention")(bench, Operator(**{**vars(operator), "fused": False}))[0].call()
    torch.testing.assert_close(separate.view(fused.shape), fused)


def test_main_gradients_are_accumulated_in_the_product_s_kernel() -> None:
    calls: list[tuple[int, ...]] = []

    def wgrad_gemm_accum_fp32(x: Any, gradient: Any, main: Any) -> None:
        calls.append((*x.shape, *gradient.shape, *main.shape))

    have = Installed(weight_gradient=library(wgrad_gemm_accum_fp32=wgrad_gemm_accum_fp32))
    operator = Operator("gemm", "forward", 8, 16, 24, dtype="float32")
    phases = built(bench_on(PretendedGpu(), have=have), operator)
    assert phases["wgrad"] == {"implementation": "apex", "gradient_accumulation_fusion": True}
    assert calls == [(8, 24, 8, 16, 16, 24)] * 2
    apart = built(bench_on(PretendedGpu(), "--no-gradient-accumulation-fusion", have=have), operator)
    assert apart["wgrad"] == {"implementation": "torch", "gradient_accumulation_fusion": False}
    assert len(calls) == 2


class Engine:
    """What is used of Transformer Engine, in PyTorch."""

    RMSNorm, LayerNorm = torch.nn.RMSNorm, torch.nn.LayerNorm

    class Linear(torch.nn.Linear):  # type: ignore[misc]
        def __init__(self, k: int, n: int, bias: bool, params_dtype: Any, device: Any, **options: Any) -> None:
            super().__init__(k, n, bias=bias, dtype=params_dtype, device=device)
            self.options = options

    class GroupedLinear(torch.nn.Module):  # type: ignore[misc]
        def __init__(self, experts: int, k: int, n: int, bias: bool, params_dtype: Any, **options: Any) -> None:
            super().__init__()
            self.experts = experts
            for i in range(experts):
                self.register_parameter(f"weight{i}", torch.nn.Parameter(torch.randn(n, k, dtype=params_dtype)))

        def forward(self, x: Any, rows: list[int]) -> Any:
            parts = x.split(rows)
            return torch.cat([part @ getattr(self, f"weight{i}").t() for i, part in enumerate(parts)])

    class DotProductAttention(torch.nn.Module):  # type: ignore[misc]
        def __init__(self, heads: int, channels: Any, **options: Any) -> None:
            super().__init__()
            self.options = options

        def forward(self, q: Any, k: Any, v: Any) -> Any:
            q, k, v = (t.permute(1, 2, 0, 3) for t in (q, k, v))
            return torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)

    optimizers = SimpleNamespace(FusedAdam=torch.optim.AdamW)

    @staticmethod
    def moe_permute(x: Any, routing: Any, num_out_tokens: int, map_type: str) -> Any:
        order = routing.t().nonzero()[:, 1]
        assert len(order) == num_out_tokens
        return x[order], order

    @staticmethod
    def moe_unpermute(x: Any, order: Any, restore_shape: Any, map_type: str) -> Any:
        return torch.zeros(restore_shape, dtype=x.dtype).index_add(0, order, x)


ENGINE = Installed(transformer_engine=library(**{k: v for k, v in vars(Engine).items() if not k.startswith("__")}))


@pytest.mark.parametrize("kind", ["norm", "gemm", "attention", "grouped_gemm", "permute", "optimizer"])
def test_transformer_engine_is_used_where_it_is(kind: str) -> None:
    flags = ("--num-experts", "4", "--moe-grouped-gemm", "--moe-permute-fusion")
    bench = bench_on(PretendedGpu(), *flags, have=ENGINE)
    (operator, *_) = [o for o in operators_of(bench.model, [1], [1]) if o.kind == kind]
    phases = built(bench, operator)
    phase = {"gemm": "backward", "optimizer": "update"}.get(kind, "forward")
    assert phases[phase]["implementation"] == "transformer_engine"
    if kind in ("gemm", "grouped_gemm"):
        assert phases["backward"]["gradient_accumulation_fusion"] is True
    local = built(bench_on(PretendedGpu(), *flags, "--transformer-impl", "local", have=Installed()), operator)
    assert all(attributes["implementation"] == "torch" for attributes in local.values())


def test_grouped_products_of_the_library() -> None:
    def gmm(x: Any, weights: Any, rows: Any) -> Any:
        return torch.cat([part @ w for part, w in zip(x.split(rows.tolist()), weights, strict=True)])

    have = Installed(grouped_gemm=library(gmm=gmm))
    bench = bench_on(PretendedGpu(), "--num-experts", "4", "--moe-grouped-gemm", have=have)
    phases = built(bench, Operator("grouped_gemm", "forward", 10, 16, 8, 4, dtype="float32"))
    assert phases["backward"] == {
        "experts": "grouped_gemm",
        "implementation": "grouped_gemm",
        "gradient_accumulation_fusion": False,
    }


def test_persistent_norm_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Megatron-Core's module decides by the width; apex is stood in for."""
    fused_layer_norm = pytest.importorskip("megatron.core.fusions.fused_layer_norm")
    used: list[str] = []

    def kernel(name: str) -> Any:
        class Kernel(torch.autograd.Function):  # type: ignore[misc]
            @staticmethod
            def forward(ctx: Any, x: Any, weight: Any, bias: Any, *_: Any) -> Any:
                used.append(name)
                return x * weight + bias

            @staticmethod
            def backward(ctx: Any, gradient: Any) -> Any:
                return gradient, gradient.sum(0), gradient.sum(0), None, None

        return Kernel

    monkeypatch.setattr(fused_layer_norm, "HAVE_PERSIST_LAYER_NORM", True)
    monkeypatch.setattr(fused_layer_norm, "HAVE_FUSED_LAYER_NORM", True)
    monkeypatch.setattr(fused_layer_norm, "FastLayerNormFN", kernel("persistent"), raising=False)
    monkeypatch.setattr(fused_layer_norm, "FusedLayerNormAffineFunction", kernel("fused"), raising=False)
    bench = bench_on(PretendedGpu(), "--transformer-impl", "local", have=EVERYTHING)
    for width, name in ((1024, "persistent"), (1000, "fused")):
        used.clear()
        phases = built(bench, Operator("norm", "forward", 4, width, dtype="float32"))
        assert set(used) == {name}
        assert phases["forward"]["persist_layer_norm"] is (name == "persistent")


def test_masked_softmax_where_the_kernel_takes_the_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    fused_softmax = pytest.importorskip("megatron.core.fusions.fused_softmax")
    used: list[tuple[int, ...]] = []

    class Kernel(torch.autograd.Function):  # type: ignore[misc]
        @staticmethod
        def forward(ctx: Any, x: Any, scale: float) -> Any:
            used.append(tuple(x.shape))
            return torch.softmax(x, dim=-1)

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            return gradient, None

    monkeypatch.setattr(fused_softmax, "ScaledUpperTriangMaskedSoftmax", Kernel)
    monkeypatch.setattr(fused_softmax.FusedScaleMaskSoftmax, "get_batch_per_block", staticmethod(lambda *_: 4))
    bench = bench_on(PretendedGpu(), "--transformer-impl", "local", have=EVERYTHING, dtype="bfloat16")
    shape = {"batch": 2, "seq_q": 32, "seq_kv": 32, "heads": 4, "kv_heads": 4, "head_dim": 8}
    operator = Operator("attention", "forward", **shape, causal=True)
    phases = built(bench, operator)
    assert phases["forward"]["masked_softmax_fusion"] is True
    assert set(used) == {(8, 32, 32)}
    assert bench_on(PretendedGpu(), "--transformer-impl", "local", "--no-masked-softmax-fusion", have=EVERYTHING)


@pytest.mark.slow
def test_fused_functions_of_megatron_core_run_again_over_a_kept_graph(tmp_path: Path) -> None:
    """Compiled for the processor here: bias + activation, bias + dropout + add, of two sizes each."""
    have = Installed(megatron=pytest.importorskip("megatron.core"))
    bench = bench_on(PretendedGpu(), "--hidden-dropout", "0.1", have=have)
    assert bench.choices.bias_activation_fusion
    assert bench.choices.bias_dropout_fusion
    device = CpuDevice(False)
    measured = OperatorBench(
        type(bench)(device, bench.model, bench.choices, have), BenchOutput(str(tmp_path), "f", "ops", "host"), 0
    )
    for kind in ("activation", "bias_dropout_add"):
        for rows in (8, 24):
            assert measured.measure(Operator(kind, "forward", rows, 64, dtype="float32"))
    assert measured.failures == []
    measured.output.write()
    catalog = Catalog(tmp_path / "c.duckdb")
    catalog.add([str(tmp_path)])
    found = {(r["kind"], r["phase"]): json.loads(r["attributes"]) for r in catalog.sql("FROM operators").to_pylist()}
    assert found["activation", "backward"]["bias_activation_fusion"] is True
    assert found["bias_dropout_add", "backward"] == {
        "implementation": "megatron",
        "bias_dropout_fusion": True,
        "hidden_dropout": 0.1,
        "bias": True,
    }


def test_libraries_are_found_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fused_weight_gradient_mlp_cuda.py").write_text("")
    (tmp_path / "scaled_upper_triang_masked_softmax_cuda.py").write_text("raise OSError('another torch')")
    monkeypatch.syspath_prepend(str(tmp_path))
    have = installed()
    assert have.weight_gradient is not None
    assert have.masked_softmax is None


# -- failures -------------------------------------------------------------------------------


def test_an_operator_that_fails_costs_no_other_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 80.00 GiB. GPU 0 has a total capacity of")

    output = BenchOutput(str(tmp_path), "ops", "ops", "host")
    bench = OperatorBench(bench_on(CpuDevice(False)), output, 0)
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", too_large)
    assert bench.measure(Operator("loss", "forward", 8, 16, dtype="float32")) == 0
    assert bench.measure(Operator("norm", "forward", 8, 16, dtype="float32")) > 0
    assert bench.measure(Operator("zero_grad", "update", 8, dtype="float32")) == 0
    assert [str(failure).partition(": known are")[0] for failure in bench.failures] == [
        "not measured: loss (m 8, n 16, float32): out of memory (tried to allocate 80.00 GiB)",
        "not measured: zero_grad (m 8, float32): no microbenchmark of 'zero_grad'",
    ]
    output.write()
    catalog = Catalog(tmp_path / "c.duckdb")
    assert not catalog.add([str(tmp_path)]).problems
    assert {r["kind"] for r in catalog.sql("SELECT kind FROM operators").to_pylist()} == {"norm"}
