"""Every argument of Megatron's is read, refused with a sentence, named as left out, or changes nothing."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from vtrain_sim.commands.sim import app
from vtrain_sim.errors import UserError
from vtrain_sim.inputs import presets
from vtrain_sim.inputs.flag_lists import approximated, ignored, refused
from vtrain_sim.inputs.flag_table import LISTS, SWITCHES, VALUES, arity
from vtrain_sim.inputs.megatron_emit import emit_flags
from vtrain_sim.inputs.megatron_flags import configuration_from_flags, parse_flags
from vtrain_sim.inputs.notes import approximations, left_out, without_effect
from vtrain_sim.specs import Configuration, SpecError

GPT = "--num-layers 8 --hidden-size 512 --num-attention-heads 8 --seq-length 256"
STEP = "--micro-batch-size 1 --global-batch-size 16"


def read(flags: str, base: Configuration | None = None) -> Configuration:
    return configuration_from_flags(f"{GPT} {STEP} {flags}".split() if base is None else flags.split(), base)


def test_no_argument_is_in_two_lists() -> None:
    lists = [set(VALUES) | set(SWITCHES) | set(LISTS), set(ignored()), set(refused()), set(approximated())]
    assert sum(map(len, lists)) == len(set.union(*lists))
    assert sum(map(len, lists)) > 1200


def test_what_is_left_out_does_not_swallow_what_follows() -> None:
    flags = "--data-path a b c --eval-iters 10 --use-mcore-models --num-layers 4 --log-progress --muon-fp32-matmul-prec medium"
    assert parse_flags([*flags.split(), "--swiglu"]).values == {"num_layers": 4, "swiglu": True}


@pytest.mark.parametrize("flag", refused())
def test_what_is_not_simulated_is_refused(flag: str) -> None:
    follows = {"switch": [], "value": ["another"], "list": ["another", "one"]}[refused()[flag].arity]
    with pytest.raises(UserError, match=flag) as caught:
        read(" ".join([flag, *follows]))
    assert "is not simulated" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("flag", [flag for flag, refusal in refused().items() if refusal.simulated])
def test_values_that_are_simulated_change_nothing(flag: str) -> None:
    for value in refused()[flag].simulated:
        assert read(f"{flag} {value}") == read(f"{flag}={value}") == read("")


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        ("--cp-comm-type ulysses", "it takes one of p2p, a2a, all_gather, a2a+p2p"),
        ("--cp-comm-type p2p allgather", "has p2p and all_gather: layers that differ in it are not simulated"),
        ("--cp-comm-type a2a+p2p", "--hierarchical-context-parallel-sizes go together"),
        ("--hierarchical-context-parallel-sizes 2 1", "--hierarchical-context-parallel-sizes go together"),
        ("--cp-comm-type a2a+p2p --hierarchical-context-parallel-sizes 2 2 2", "has 3 sizes: it takes two"),
        (
            "--cp-comm-type a2a+p2p --hierarchical-context-parallel-sizes 2 2 --context-parallel-size 8",
            "makes 4 ranks, --context-parallel-size is 8",
        ),
        ("--mtp-use-repeated-layer", "multi-token prediction"),
        ("--pipeline-model-parallel-size 2 --pipeline-model-parallel-layout Ettttm|ttttL", "--mtp-num-layers is 0"),
        (
            "--pipeline-model-parallel-size 2 --mtp-num-layers 1 --pipeline-model-parallel-layout Ettttm|ttttL",
            "right before the loss",
        ),
        ("--recompute-modules core_attn mla_up", "did you mean 'mla_up_proj'"),
        ("--recompute-granularity selective --recompute-modules moe", "moe needs --num-experts"),
        ("--recompute-granularity selective --recompute-modules mla_up_proj", "needs --multi-latent-attention"),
        ("--optimizer sgd", "it takes one of adam, muon"),
        ("--evall-iters 3", "did you mean '--eval-iters'"),
        ("--bf16=1", "give --bf16 alone"),
        ("--num-query-groups 4", "--num-query-groups 4 needs --group-query-attention"),
    ],
)
def test_refusals_say_what_and_what_would_be_valid(flags: str, word: str) -> None:
    with pytest.raises(UserError) as caught:
        read(flags)
    assert word in str(caught.value)


@pytest.mark.parametrize("flag", approximated())
def test_what_changes_a_step_a_little_is_named(flag: str) -> None:
    tokens = [flag, *([] if arity(flag) == "switch" else ["1"])]
    assert read(" ".join(tokens)) == read("")
    (sentence,) = approximations([*tokens, "--swiglu", *tokens])
    assert sentence.startswith(f"{flag} changes")


def test_several_are_named_in_one_sentence() -> None:
    assert approximations(["--swiglu", "--train-iters", "1"]) == ()
    (sentence,) = approximations(["--use-sharp", "--no-rope-fusion"])
    assert sentence.startswith("--use-sharp, --no-rope-fusion change time or memory")


@pytest.mark.parametrize(
    ("on", "off"),
    [
        ("--swiglu", "--no-gated-linear-unit"),
        ("--qk-layernorm", "--no-qk-layernorm"),
        ("--disable-bias-linear", "--add-bias-linear"),
        ("--no-gradient-accumulation-fusion", "--gradient-accumulation-fusion"),
        ("--no-batch-p2p-comm", "--batch-p2p-comm"),
        ("--no-align-grad-reduce", "--align-grad-reduce"),
        ("--no-delay-grad-reduce", "--align-grad-reduce"),
        ("--use-torch-fsdp2", "--no-use-torch-fsdp2"),
        ("--use-megatron-fsdp --data-parallel-sharding-strategy optim_grads_params", "--no-use-megatron-fsdp"),
        (
            "--pipeline-model-parallel-size 2 --num-virtual-stages-per-pipeline-rank 2 --no-overlap-p2p-comm",
            "--overlap-p2p-comm --pipeline-model-parallel-size 1",
        ),
    ],
)
def test_a_switch_is_taken_back(on: str, off: str) -> None:
    base = read(on)
    assert base != read("")
    assert read(off, base) == read("")


def test_products_of_experts_are_grouped_again() -> None:
    experts = "--num-experts 8 --moe-router-topk 2"
    one_by_one = read(f"{experts} --no-moe-grouped-gemm")
    assert not one_by_one.train.moe_grouped_gemm
    assert read("--moe-grouped-gemm", one_by_one) == read(experts)


def test_sequence_parallelism_is_taken_back_alone() -> None:
    both = "--tensor-model-parallel-size 2 --sequence-parallel --no-sequence-parallel"
    assert read(both) == read("--tensor-model-parallel-size 2")


def test_query_groups_are_those_that_megatron_lm_reads() -> None:
    assert read("--group-query-attention --num-query-groups 4").model.num_query_groups == 4
    assert read("--group-query-attention").model.num_query_groups == 1
    assert read("--num-query-groups 8").model.num_query_groups == 8
    grouped = read("--group-query-attention --num-query-groups 4")
    assert read("--num-query-groups 2", grouped).model.num_query_groups == 2
    assert read("--no-group-query-attention", grouped).model.num_query_groups == 8


@pytest.mark.parametrize(
    ("flags", "kernel"),
    [
        ("--transformer-impl local", "unfused"),
        ("--transformer-impl local --attention-backend flash", "unfused"),
        ("--attention-backend unfused --transformer-impl transformer_engine", "unfused"),
        ("--transformer-impl transformer_engine --attention-backend fused", "flash"),
    ],
)
def test_attention_follows_implementation_and_backend_in_any_order(flags: str, kernel: str) -> None:
    assert read(flags).train.attention_kernel == kernel


@pytest.mark.parametrize("command", ["project --global-batch-size 8", "plan --global-batch-size 8 --train-tokens 1e9"])
def test_commands_name_what_is_left_out_beside_their_answer(command: str) -> None:
    verb, *options = command.split()
    flags = "--cluster dgx-a100-80gb --model gpt3-1.3b --num-gpus 8 --micro-batch-size 1 --json"
    done = CliRunner().invoke(app, [verb, *flags.split(), *options, "--use-sharp"])
    assert done.exit_code == 0, done.stderr
    first, *others = done.stderr.splitlines()
    assert first == "note: --use-sharp changes time or memory somewhat, which is left out of the projection"
    # A plan's flags are to be copied: what they lack is said beside them.
    kept = ["note: given, but not among the flags printed, to be kept: --use-sharp"] if verb == "plan" else []
    assert others[1:] == kept
    assert bool(others) == bool(kept)
    assert json.loads(done.stdout)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--fp8-recipe foo", "delayed, tensorwise, blockwise, mxfp8"),
        ("--main-params-dtype fp8", "fp32, fp16"),
        ("--exp-avg-dtype fp7", "fp32, fp16, bf16, fp8"),
    ],
)
def test_a_wrong_word_is_answered_with_megatrons(flags: str, words: str) -> None:
    with pytest.raises(SpecError, match=rf"it takes one of {words}$"):
        read(flags)
    assert read("--fp8-format hybrid --fp8-recipe=").train.fp8_recipe == ""
    assert read("--main-params-dtype float32").train.main_params_dtype == "float32"


def test_offloading_with_its_number_of_layers() -> None:
    both = read("--cpu-offloading --cpu-offloading-num-layers 4")
    assert both == read("--cpu-offloading-num-layers=4 --cpu-offloading")
    assert both.train.cpu_offload_layers == 4
    with pytest.raises(SpecError, match="--cpu-offloading asks for"):
        read("--cpu-offloading")
    flags = emit_flags(both)
    assert {"--cpu-offloading", "--cpu-offloading-num-layers"} <= set(flags)


@pytest.mark.parametrize("name", ["deepseek-v3", "glm4.5-air"])
def test_prediction_that_is_added_is_not_left_out(name: str) -> None:
    model = presets.model(name)
    (sentence,) = left_out(name, model)
    assert "--mtp-num-layers" in sentence
    assert left_out(name, replace(model, mtp_num_layers=1)) == ()


def test_latent_attention_switches_overlapped_tensor_parallelism_off() -> None:
    latent = (
        "--multi-latent-attention --kv-lora-rank 32 --qk-head-dim 16 --qk-pos-emb-head-dim 8 --v-head-dim 24 "
        "--tensor-model-parallel-size 2 --sequence-parallel"
    )
    both = f"{latent} --tp-comm-overlap"
    assert read(both).parallel.tp_comm_overlap
    assert read(both).shard == read(latent).shard
    (sentence,) = without_effect(both.split(), read(both).model)
    assert "--tp-comm-overlap has no effect: Megatron-Core switches it off" in sentence


def test_megatron_fsdp_alone_shards_nothing() -> None:
    alone, sharded = "--use-megatron-fsdp", "--use-megatron-fsdp --data-parallel-sharding-strategy optim_grads_params"
    assert not read(alone).parallel.fsdp
    (sentence,) = without_effect(alone.split(), read(alone).model)
    assert "--use-megatron-fsdp has no effect: --data-parallel-sharding-strategy is no_shard" in sentence
    assert without_effect(sharded.split(), read(sharded).model) == ()


@pytest.mark.parametrize(("strategy", "fsdp", "zero"), [("optim_grads_params", True, False), ("optim", False, True)])
def test_megatron_fsdp_takes_the_switches_of_the_distributed_optimizer(strategy: str, fsdp: bool, zero: bool) -> None:
    usual = "--use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather --use-megatron-fsdp"
    parallel = read(f"{usual} --data-parallel-sharding-strategy {strategy}").parallel
    assert (parallel.fsdp, parallel.distributed_optimizer) == (fsdp, zero)
    assert parallel.overlap_grad_reduce
    assert not read(usual).parallel.distributed_optimizer


@pytest.mark.parametrize("flags", ["--data-parallel-sharding-strategy optim", "--first-last-layers-bf16"])
def test_a_switch_of_what_is_not_there_has_no_effect(flags: str) -> None:
    assert read(flags) == read("")
    (sentence,) = without_effect(flags.split(), read("").model)
    assert sentence.startswith(f"{flags.split()[0]} has no effect: ")


@pytest.mark.parametrize(
    ("flag", "base"),
    [
        ("--sequence-parallel", "--tensor-model-parallel-size 2"),
        ("--first-last-layers-bf16", "--bf16 --fp8-format hybrid --fp8-recipe tensorwise"),
    ],
)
def test_a_switch_that_goes_with_a_captured_run_has_an_effect(flag: str, base: str) -> None:
    job = read(flag, read(base))
    assert job != read(base)
    assert without_effect([flag], job.model, job) == ()
    plain = read(flag, read("--bf16"))
    assert plain == read("--bf16")
    assert len(without_effect([flag], plain.model, plain)) == 1


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--sequence-parallel", {"sequence_parallel": False}),
        ("--num-experts 8", {"moe_router_topk": 2}),
        ("--no-position-embedding --position-embedding-type rope", {"position_embedding_type": "rope"}),
        ("--use-rotary-position-embeddings --no-position-embedding", {"position_embedding_type": "rope"}),
        ("--no-position-embedding", {"position_embedding_type": "none"}),
        ("--rampup-batch-size 16 16 1000", {"global_batch_size": 64}),
        ("--checkpoint-activations", {"recompute_granularity": "full", "recompute_method": "uniform"}),
        ("--activations-checkpoint-method block", {"recompute_granularity": "full", "recompute_method": "block"}),
        ("--quick-geglu", {"swiglu": True}),
        ("--deterministic-mode --no-bias-gelu-fusion", {}),
    ],
)
def test_what_megatron_makes_of_flags(flags: str, expected: dict[str, object]) -> None:
    base = "--num-layers 4 --hidden-size 1024 --num-attention-heads 16 --seq-length 1024 --micro-batch-size 1"
    read = configuration_from_flags(f"{base} --global-batch-size 64 {flags}".split(), None, 8)
    fields = {**vars(read.model), **vars(read.parallel), **vars(read.train)}
    assert {name: fields[name] for name in expected} == expected


def test_a_batch_that_grows_ends_at_the_last_one() -> None:
    base = "--num-layers 4 --hidden-size 1024 --num-attention-heads 16 --seq-length 1024 --micro-batch-size 1"
    schedule = ["--step-batch-size-schedule", "0:16 2.4B:32 5B:64"]
    assert configuration_from_flags([*base.split(), *schedule], None, 8).train.global_batch_size == 64
    with pytest.raises(SpecError, match="ends at 64"):
        configuration_from_flags([*base.split(), *schedule, "--global-batch-size", "32"], None, 8)
    assert configuration_from_flags(base.split(), None, 8).train.global_batch_size == 8


def test_what_only_a_model_of_modelopt_reads_changes_nothing() -> None:
    """Megatron-LM's own configurations of gpt-oss have them; without ModelOpt's checkpoint nothing looks at them."""
    step = [
        "--num-layers",
        "2",
        "--hidden-size",
        "64",
        "--num-attention-heads",
        "4",
        "--seq-length",
        "64",
        "--micro-batch-size",
        "1",
        "--global-batch-size",
        "2",
    ]
    plain = configuration_from_flags([*step, "--position-embedding-type", "rope"])
    words = ["--position-embedding-type", "rope", "--export-force-local-attention", "--enable-gpt-oss"]
    assert configuration_from_flags([*step, *words]) == plain
    with pytest.raises(SpecError, match="a model that learns from another one"):
        configuration_from_flags([*step, "--export-kd-teacher-load", "x"])
