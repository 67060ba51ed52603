"""Inputs that people already have: launch scripts, Hugging Face configurations, spec and cluster files."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vtrain_sim.errors import UserError
from vtrain_sim.inputs import presets
from vtrain_sim.inputs.cluster_file import read_cluster
from vtrain_sim.inputs.flag_lists import approximated, ignored, refused
from vtrain_sim.inputs.flag_table import SWITCHES, VALUES
from vtrain_sim.inputs.huggingface import read_config
from vtrain_sim.inputs.launch_script import read_launch
from vtrain_sim.inputs.lookup import find_cluster, find_model
from vtrain_sim.inputs.megatron_flags import configuration_from_flags, parse_flags
from vtrain_sim.inputs.spec_file import read_flags
from vtrain_sim.model import build_step
from vtrain_sim.specs import Configuration, ModelSpec, ParallelSpec, SpecError, TrainSpec
from vtrain_sim.specs.pipeline_layout import parse_layout, write_layout

SCRIPT = r"""#!/bin/bash
# Runs the "345M" parameter model
export CUDA_DEVICE_MAX_CONNECTIONS=1
GPUS_PER_NODE=8
NNODES=${WORLD_NODES:-4}
CHECKPOINT_PATH=$1  # given by the user
TP=2

DISTRIBUTED_ARGS=(
    --nproc_per_node $GPUS_PER_NODE
    --nnodes $NNODES
    --master_addr localhost
)
GPT_MODEL_ARGS=(
    --num-layers 24 # depth
    --hidden-size 1024
    --num-attention-heads 16
    --seq-length 2048
    --max-position-embeddings 2048
)
TRAINING_ARGS=(
    --micro-batch-size 4
    --global-batch-size 512
    --train-iters 500000
    --weight-decay 0.1
    --adam-beta1 0.9
    --init-method-std 0.006
    --clip-grad 1.0
    --bf16
    --lr 6.0e-5
    --lr-decay-style cosine
)
MODEL_PARALLEL_ARGS=(
	--tensor-model-parallel-size ${TP}
	--pipeline-model-parallel-size 2
)
DATA_ARGS="--data-path $CHECKPOINT_PATH/data --vocab-file v.json --merge-file m.txt --split 949,50,1"

torchrun ${DISTRIBUTED_ARGS[@]} pretrain_gpt.py \
    ${GPT_MODEL_ARGS[@]} \
    "${TRAINING_ARGS[@]}" \
    ${MODEL_PARALLEL_ARGS[@]} \
    $DATA_ARGS 2>&1 | tee log.txt
"""


def test_a_launch_script_as_megatron_ships_them(tmp_path: Path) -> None:
    path = tmp_path / "train.sh"
    path.write_text(SCRIPT)
    launch = read_launch(path)
    tokens, processes = launch.arguments, launch.processes
    assert processes == 32
    c = configuration_from_flags(tokens, None, processes)
    assert (c.model.num_layers, c.model.hidden_size, c.parallel.tp, c.parallel.pp, c.parallel.dp) == (24, 1024, 2, 2, 8)
    assert (c.train.micro_batch_size, c.train.params_dtype, c.train.main_grads_dtype) == (4, "bfloat16", "float32")


def test_the_script_may_be_a_variable_and_lines_of_arrays_be_continued(tmp_path: Path) -> None:
    """As in Megatron-LM's examples of Llama 3 and Mixtral."""
    path = tmp_path / "train.sh"
    script = SCRIPT.replace("torchrun ${DISTRIBUTED_ARGS[@]} pretrain_gpt.py", 'torchrun ${DISTRIBUTED_ARGS[@]} "$RUN"')
    script = script.replace("TP=2\n", "TP=2\nRUN=pretrain_gpt.py\n")
    path.write_text(script.replace("--num-layers 24 # depth\n", "--num-layers 24 \\\n"))
    original = tmp_path / "original.sh"
    original.write_text(SCRIPT)
    assert '"$RUN"' in script
    assert read_launch(path) == read_launch(original)


def test_a_plain_list_of_arguments(tmp_path: Path) -> None:
    path = tmp_path / "args.txt"
    path.write_text("# my model\n--num-layers 2 --hidden-size 64\n--num-attention-heads 4\n--lr 1e-4\n")
    launch = read_launch(path)
    tokens, processes = launch.arguments, launch.processes
    assert processes == 0
    assert parse_flags(tokens).values == {"num_layers": 2, "hidden_size": 64, "num_attention_heads": 4}


@pytest.mark.parametrize(
    ("text", "word"), [("echo hello", "neither"), ("--data-path 'x", "not closed"), (b"\xff\xfe\x00", "not text")]
)
def test_scripts_without_arguments_are_refused(tmp_path: Path, text: str | bytes, word: str) -> None:
    path = tmp_path / "x.sh"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SpecError, match=word):
        read_launch(path)


LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
}
DEEPSEEK = {
    "model_type": "deepseek_v3",
    "num_hidden_layers": 61,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "vocab_size": 129280,
    "max_position_embeddings": 163840,
    "rope_scaling": {"original_max_position_embeddings": 4096},
    "n_routed_experts": 256,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 2048,
    "n_shared_experts": 1,
    "first_k_dense_replace": 3,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}
GPT2 = {"model_type": "gpt2", "n_layer": 12, "n_embd": 768, "n_head": 12, "n_positions": 1024, "vocab_size": 50257}


def parameters(model: ModelSpec) -> int:
    stage = build_step(Configuration(model, ParallelSpec(), TrainSpec(1, 1))).stages[0]
    return stage.parameters + stage.expert_parameters


@pytest.mark.parametrize(
    ("config", "billions"), [(LLAMA, 8.03), (DEEPSEEK, 671.0), (GPT2, 0.124)], ids=["llama", "deepseek", "gpt2"]
)
def test_hugging_face_configurations(tmp_path: Path, config: dict[str, Any], billions: float) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = find_model(str(tmp_path / "config.json"))
    assert parameters(model) / 1e9 == pytest.approx(billions, rel=0.005)
    assert read_config(tmp_path) == model


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{", "not a JSON"),
        ("[]", "model_type"),
        ('{"model_type": "t5"}', "read are"),
        ('{"model_type": "llama"}', "does not say num_attention_heads"),
        (json.dumps({**LLAMA, "hidden_size": "big"}), "whole number"),
        (json.dumps({**LLAMA, "hidden_size": 4095}), "divide"),
    ],
)
def test_other_json_files_are_refused(tmp_path: Path, text: str, word: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=word):
        read_config(tmp_path)


# Published sizes, billions of parameters.
PUBLISHED = {
    "gpt3-175b": 174.6,
    "bloom-176b": 176.25,
    "llama2-7b": 6.74,
    "llama2-13b": 13.02,
    "llama2-70b": 68.98,
    "llama3-8b": 8.03,
    "llama3-70b": 70.55,
    "llama3-405b": 405.85,
    "mixtral-8x7b": 46.7,
    "mixtral-8x22b": 140.6,
    "deepseek-v2": 235.7,
    "deepseek-v3": 671.0,
    "qwen3-8b": 8.19,
    "qwen3-32b": 32.76,
    "qwen3-30b-a3b": 30.53,
    "qwen3-235b-a22b": 235.1,
    "nemotron4-15b": 15.6,
    "nemotron4-340b": 341.0,
    "megatron-22b": 22.0,
    "megatron-530b": 529.6,
    "megatron-1t": 1008.0,
    "mt-nlg-530b": 529.6,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_have_their_published_sizes(name: str) -> None:
    assert parameters(presets.model(name)) / 1e9 == pytest.approx(PUBLISHED[name], rel=0.005)


def test_spec_files_hold_the_same_names(tmp_path: Path) -> None:
    toml, yaml = tmp_path / "a.toml", tmp_path / "a.yaml"
    toml.write_text(
        'preset = "llama3-8b"\nnum_gpus = 16\n[parallel]\ntensor_model_parallel_size = 2\nsequence_parallel = true\n'
        "[train]\nmicro_batch_size = 1\nglobal_batch_size = 64\nbf16 = true\nfp16 = false\n"
    )
    yaml.write_text(
        "preset: llama3-8b\nnum-gpus: 16\nparallel:\n  tensor-model-parallel-size: 2\n  sequence-parallel: true\n"
        "train: {micro-batch-size: 1, global-batch-size: 64, bf16: true}\n"
    )
    assert read_flags(toml) == read_flags(yaml)
    tokens, own = read_flags(toml)
    assert own == {"preset": "llama3-8b", "num-gpus": "16"}
    c = configuration_from_flags(tokens, None, 16, presets.model(own["preset"]))
    assert (c.parallel.tp, c.parallel.dp, c.parallel.sequence_parallel) == (2, 8, True)


def test_a_switch_that_is_false_is_off(tmp_path: Path) -> None:
    """Also where the preset has it on."""
    path = tmp_path / "a.yaml"
    path.write_text("swiglu: false\nfp16: false\nlog-progress: false\ncp_comm_type: [p2p, p2p]\n")
    tokens, _ = read_flags(path)
    step = ["--micro-batch-size", "1", "--global-batch-size", "8"]
    assert presets.model("llama3-8b").swiglu
    assert not configuration_from_flags([*step, *tokens], None, 0, presets.model("llama3-8b")).model.swiglu
    path.write_text("swiglo: false\n")
    with pytest.raises(SpecError, match="did you mean '--swiglu'"):
        parse_flags(read_flags(path)[0])


@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        ("a.toml", "x = ", "not valid TOML"),
        ("a.yaml", "a: [", "not valid YAML"),
        ("a.yaml", "- 1", "no names"),
        ("a.yaml", "num_layers: [1]", "takes one value"),
        ("a.txt", "", "ends in neither"),
    ],
)
def test_broken_spec_files_are_refused(tmp_path: Path, name: str, text: str, word: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(SpecError, match=word):
        read_flags(tmp_path / name)


def test_users_describe_their_cluster(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'device = "h100-sxm-80gb"\ngpus_per_node = 4\nnvlink_gb_per_s = 450\nnics_per_node = 2\n'
        "nic_gbit_per_s = 400\noversubscription = 2.0\nprice_per_gpu_hour = 2.5\n"
    )
    cluster, surfaces = find_cluster(str(path))
    assert (cluster.name, cluster.gpus_per_node, cluster.price_per_gpu_hour) == ("mine", 4, 2.5)
    assert cluster.inter_node.node_bandwidth < 100e9
    assert cluster.inter_node.oversubscription == 2.0
    assert surfaces["compute_units"] == 132
    path.write_text('device = "h100-sxm-80gb"\ngpus_per_nod = 4\n')
    with pytest.raises(SpecError, match="unknown entry 'gpus_per_nod'"):
        read_cluster(path)
    path.write_text('device = "h100-sxm-80gb"\ngpus_per_node = 4\n')
    with pytest.raises(SpecError, match="nvlink_gb_per_s"):
        read_cluster(path)
    path.write_text('device = "h100"\ngpus_per_node = 4\n')
    with pytest.raises(UserError, match="h100-sxm-80gb"):
        read_cluster(path)


LEVELS = """
device = "b200-sxm-180gb"
[[levels]]
gpus = 72
bandwidth = 8e11
latency_s = 2e-5
[[levels]]
name = "rails"
gpus = 576
bandwidth = 4e10
latency_s = 4e-5
[[levels]]
bandwidth = 4e10
latency_s = 6e-5
"""


def test_a_network_may_have_any_levels(tmp_path: Path) -> None:
    path = tmp_path / "rack.toml"
    path.write_text(LEVELS)
    cluster = read_cluster(path)[0]
    assert cluster.gpus_per_node == 72
    assert [(level.name, level.gpus) for level in cluster.levels] == [
        ("intra-node", 72),
        ("rails", 576),
        ("level 3", 0),
    ]


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("gpus = 576", "gpus = 100", "multiple of the 72"),
        ("gpus = 576", "", "one domain"),
        ("gpus = 72", "", "GPUs per node"),
        ("gpus = 72", "gpus = 7.5", "whole number"),
        ("gpus = 72", "gpu = 72", "did you mean 'gpus'"),
        ('device = "b200-sxm-180gb"', 'device = "b200-sxm-180gb"\ngpus_per_node = 8', "one or the other"),
        ('device = "b200-sxm-180gb"', 'device = "b200-sxm-180gb"\nnics_per_node = 8', "one or the other"),
        (LEVELS[len('\ndevice = "b200-sxm-180gb"\n') :], "levels = [1, 2]", "table of coefficients"),
        (LEVELS[len('\ndevice = "b200-sxm-180gb"\n') :], "levels = 3", "list of tables"),
    ],
)
def test_levels_that_cannot_be_are_refused(tmp_path: Path, old: str, new: str, word: str) -> None:
    path = tmp_path / "rack.toml"
    assert old in LEVELS
    path.write_text(LEVELS.replace(old, new))
    with pytest.raises(SpecError, match=word):
        read_cluster(path)


def test_megatrons_pipeline_layouts() -> None:
    assert parse_layout("Et*3|(tt|)*29tL", 1) == (3, *[2] * 29, 1)
    assert parse_layout("Ett|tt|tt|tL", 2) == (2, 2, 2, 1)
    assert parse_layout(write_layout((3, 2, 2, 1)), 4) == (3, 2, 2, 1)
    for layout, word in (
        ("Ett|m|L", "--mtp-num-layers is 0"),
        ("Ex|L", "takes E"),
        ("t|Et|L", "first stage"),
        ("t*99999999|", ""),
    ):
        with pytest.raises(SpecError, match=word):
            parse_layout(layout, 1)
    with pytest.raises(SpecError, match="no multiple"):
        parse_layout("Et|t|L", 2)


STEP = "--micro-batch-size 1 --global-batch-size 16 --seq-length 64 --hidden-size 64 --num-attention-heads 4"


@pytest.mark.parametrize(
    ("flags", "stages"),
    [
        ("--num-layers 14 --decoder-first-pipeline-num-layers 3 --decoder-last-pipeline-num-layers 3", (3, 4, 4, 3)),
        (
            "--num-layers 14 --account-for-embedding-in-pipeline-split --account-for-loss-in-pipeline-split",
            (3, 4, 4, 3),
        ),
        ("--num-layers 14 --pipeline-model-parallel-layout Et*2|(t*4|)*2t*4L", (2, 4, 4, 4)),
        ("--num-layers 16", (4, 4, 4, 4)),
    ],
)
def test_uneven_pipelines(flags: str, stages: tuple[int, ...]) -> None:
    c = configuration_from_flags(f"{STEP} --pipeline-model-parallel-size 4 {flags}".split())
    assert c.stage_layers == stages


def test_sharding_strategies() -> None:
    for strategy, fsdp, zero in (
        ("optim_grads_params", True, False),
        ("optim", False, True),
        ("no_shard", False, False),
    ):
        flags = f"{STEP} --num-layers 2 --use-megatron-fsdp --data-parallel-sharding-strategy {strategy}"
        parallel = configuration_from_flags(flags.split(), None, 4).parallel
        assert (parallel.fsdp, parallel.distributed_optimizer) == (fsdp, zero)


words = st.one_of(
    st.sampled_from([*VALUES, *SWITCHES, *list(ignored())[:40], *list(refused())[:40], *approximated()]),
    st.sampled_from(
        [
            "0",
            "1",
            "2",
            "3",
            "7",
            "8",
            "-1",
            "nan",
            "1e9",
            "999999999999999999999",
            "",
            "selective",
            "full",
            "flash",
            "hybrid",
            "zb-h1",
            "[1]*4",
            "(" * 50,
            "Et|tL",
            "e4m3",
            "RMSNorm",
        ]
    ),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(words, max_size=14))
def test_any_arguments_give_a_configuration_or_one_sentence(tokens: list[str]) -> None:
    try:
        configuration_from_flags([*STEP.split(), "--num-layers", "4", *tokens], None, 0)
    except UserError as error:
        assert str(error)
        assert "\n" not in str(error)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_file_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    """Text, cut-off and mutated versions of good files, in every reader."""
    good = data.draw(
        st.sampled_from([SCRIPT, json.dumps(DEEPSEEK), 'device = "h100-sxm-80gb"\ngpus_per_node = 8\n', "a: 1"])
    )
    text = data.draw(st.one_of(st.text(max_size=60), st.integers(0, len(good)).map(lambda n: good[:n])))
    mutated = json.loads(json.dumps(DEEPSEEK))
    key = data.draw(st.sampled_from(sorted(mutated)))
    mutated[key] = data.draw(
        st.one_of(st.none(), st.text(max_size=5), st.integers(-9, 9), st.floats(), st.lists(st.none(), max_size=1))
    )
    path = tmp_path / data.draw(st.sampled_from(["x.json", "x.toml", "x.yaml", "x.sh"]))
    for content in (text, json.dumps(mutated)):
        path.write_text(content)
        for read in (read_launch, read_config, read_flags, read_cluster):
            with contextlib.suppress(UserError):
                read(path)
