"""What is passed to the verbs: the wrong kind of object, two names of one thing, entries of files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import vtrain as vt
from vtrain_sim.commands.sim import app

CLUSTER = "dgx-a100-80gb"
LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 4,
    "hidden_size": 512,
    "num_attention_heads": 8,
    "intermediate_size": 1024,
    "max_position_embeddings": 512,
    "vocab_size": 1000,
}
COMMAND = f"--cluster {CLUSTER} --model gpt3-1.3b --micro-batch-size 1 --global-batch-size 16"


def job(**options: Any) -> vt.Job:
    return vt.job("gpt3-1.3b", cluster=CLUSTER, **{"mbs": 1, "gbs": 16, **options})


def run(command: str) -> tuple[int, str]:
    """Exit code or refusal, and what is printed."""
    result = CliRunner().invoke(app, command.split())
    if isinstance(result.exception, vt.UserError):
        return 2, str(result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: vt.job(5, cluster=CLUSTER, mbs=1, gbs=8), "model is 5"),
        (lambda: vt.job("gpt3-1.3b", cluster=5, mbs=1, gbs=8), "cluster is 5"),
        (lambda: vt.job("gpt3-1.3b", gpus=16), "on which cluster is not said: give one of"),
        (lambda: vt.job.from_flags([], model="gpt3-1.3b", mbs=1, gbs=8), "on which cluster is not said"),
        (lambda: vt.plan("gpt3-1.3b", gpus=8, gbs=8), "on which cluster is not said"),
        (lambda: vt.job.from_spec(None), "spec file is None"),
        (lambda: vt.job.from_script(None, cluster=CLUSTER), "launch script is None"),
        (lambda: vt.project("x"), "'x' is no job"),
        (lambda: vt.timeline("x"), "'x' is no job"),
        (lambda: vt.sweep("x", tp=[1]), "'x' is no job"),
        (lambda: vt.validate_run("x"), "'x' is no job"),
        (lambda: vt.render("x", "json"), "'x' is no result"),
        (lambda: vt.plan("gpt3-1.3b", cluster=CLUSTER, num_gpus=8, gbs=8, top=0), "--top is 0"),
        (lambda: vt.plan("gpt3-1.3b", cluster=CLUSTER, num_gpus=8, gbs=8, top=-1), "--top is -1"),
        (lambda: vt.plan("gpt3-1.3b", cluster=CLUSTER, num_gpus=8, gpus=16, gbs=8), "say the same thing"),
        (lambda: vt.plan("gpt3-1.3b", cluster=CLUSTER, gpus=8, gbs=8, global_batch_size=16), "say the same thing"),
        (lambda: vt.schedule(cluster=CLUSTER, num_gpus=8, jobs=-5), "--jobs is -5"),
        (lambda: vt.schedule(cluster=CLUSTER, num_gpus=-8, jobs=5), "--num-gpus is -8"),
        (lambda: vt.timeline(job(), stages=[0.5]), "stages is"),
        (lambda: vt.timeline(job(), stages="x"), "stages is 'x'"),
        (lambda: vt.timeline(job(), stages=1), "stage 1 is not there"),
        (lambda: job(gpus=8, num_gpus=16), "gpus and num_gpus say the same thing in two ways"),
        (lambda: job(tp=2, tensor_model_parallel_size=4), "tp and tensor_model_parallel_size say the same"),
        (lambda: job(precision="fp16", bf16=True), "precision and bf16 say the same"),
        (lambda: job(swiglu=True, no_swiglu=True), "swiglu and no_swiglu say the same"),
        (lambda: job(swiglu=True, gated_linear_unit=False), "swiglu and gated_linear_unit say the same"),
        (lambda: vt.sweep(job(), mbs=[1, 2], micro_batch_size=[4]), "mbs and micro_batch_size say the same"),
        (lambda: vt.sweep(job(), gpus=[8], num_gpus=[16]), "gpus and num_gpus say the same"),
        (lambda: job(moe_token_dispatcher_type="foo"), "--moe-token-dispatcher-type foo is not simulated"),
        (lambda: job(moe_token_dispatcher_type="foo"), "allgather or alltoall or deepep or hybridep or flex"),
        (lambda: job().with_(moe_token_dispatcher_type="foo"), "--moe-token-dispatcher-type foo is not simulated"),
        (
            lambda: vt.plan("gpt3-1.3b", cluster=CLUSTER, gpus=8, gbs=8, moe_token_dispatcher_type="foo"),
            "--moe-token-dispatcher-type foo is not simulated",
        ),
        (
            lambda: vt.job.from_flags(["--bf16", "--fp16"], model="gpt3-1.3b", cluster=CLUSTER, mbs=1, gbs=8),
            "--bf16 and --fp16 contradict each other",
        ),
    ],
)
def test_what_is_no_argument_is_a_sentence(call: Callable[[], object], word: str) -> None:
    with pytest.raises(vt.UserError) as caught:
        call()
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_same_said_twice_is_fine() -> None:
    twice = job(tp=2, tensor_model_parallel_size=2, use_flash_attn=True, attention_backend="flash")
    assert twice == job(tp=2)


def test_models_may_be_paths(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA))
    made = vt.job(path, cluster=CLUSTER, mbs=1, gbs=8)
    assert made.configuration.model.num_layers == 4
    assert vt.plan(path, cluster=CLUSTER, num_gpus=1, gbs=8).plans


def test_stages_may_come_from_anything() -> None:
    base = job(pp=2)
    expected = vt.timeline(base, stages=[1], microbatches=[0]).spans
    assert expected
    for stages in ((s for s in [1]), 1, "1", {1}):
        assert vt.timeline(base, stages=stages, microbatches=[0]).spans == expected


def test_a_script_of_one_precision_may_be_run_in_another(tmp_path: Path) -> None:
    script = tmp_path / "flags.txt"
    script.write_text(f"--bf16 {' '.join(COMMAND.split()[4:])}")
    flags = f"project --json --cluster {CLUSTER} --model gpt3-1.3b --megatron-args {script}"
    assert run(flags)[0] == 0
    assert run(f"{flags} --fp16")[0] == 0
    code, sentence = run(f"{flags} --fp16 --bf16")
    assert (code, sentence) == (2, "--fp16 and --bf16 contradict each other: give one")
    script.write_text(f"--bf16 --fp16 {' '.join(COMMAND.split()[4:])}")
    assert run(flags)[0] == 2


def answer(command: str) -> dict[str, Any]:
    """What a command prints on stdout, which is JSON."""
    result = CliRunner().invoke(app, command.split())
    assert result.exit_code == 0
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def test_spec_files_say_tokens_and_price(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    step = 'cluster = "dgx-h100"\npreset = "llama3-8b"\nmicro_batch_size = 1\nglobal_batch_size = 8\nnum_gpus = 8\n'
    path.write_text(f"{step}train_tokens = 1e9\nprice_per_gpu_hour = 3\n")
    document = answer(f"project --json --spec {path}")
    assert document["train_tokens"] == 1e9
    assert document["cost_usd"] == pytest.approx(document["days"] * 24 * 8 * 3)
    cheaper = answer(f"project --json --spec {path} --train-tokens 2e9 --price-per-gpu-hour 1")
    assert (cheaper["train_tokens"], cheaper["cost_usd"]) == (2e9, pytest.approx(document["cost_usd"] * 2 / 3))
    made = vt.job.from_spec(path)
    assert vt.project(made.with_(gbs=16)).train_tokens == 1e9
    assert (made.cluster.price_per_gpu_hour, vt.project(made, 5e9).train_tokens) == (3, 5e9)
    for entry, word in (
        ("train_tokens = -1", "train_tokens is -1"),
        ('train_tokens = "x"', "train_tokens is 'x': it takes a number"),
        ("price_per_gpu_hour = nan", "price_per_gpu_hour is nan"),
        ("num_gpus = -8", "num_gpus is -8"),
    ):
        path.write_text(step.replace("num_gpus = 8\n", "") + entry)
        code, sentence = run(f"project --spec {path}")
        assert code == 2
        assert word in sentence
        assert str(path) in sentence


@pytest.mark.parametrize("price", ["-5", "nan", "inf"])
@pytest.mark.parametrize("command", ["project", "plan --num-gpus 8"])
def test_prices_are_checked(command: str, price: str) -> None:
    code, sentence = run(f"{command} {COMMAND} --price-per-gpu-hour {price}")
    assert code == 2
    assert sentence.startswith("--price-per-gpu-hour is ")


def test_a_value_that_is_varied_twice_is_refused() -> None:
    code, sentence = run(f"sweep {COMMAND} --vary tp=1,2 --vary tp=4")
    assert (code, sentence) == (2, "--vary tp is given twice: give all its values in one")


def test_flags_without_effect_are_named_on_the_command_line() -> None:
    for command in ("project", "plan --num-gpus 8 --top 1"):
        code, output = run(f"{command} {COMMAND} --moe-router-topk 2")
        assert code == 0
        assert "note: --moe-router-topk has no effect: the model has no experts" in output
