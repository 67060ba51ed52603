"""Whatever is typed, ``vtrain-sim`` answers or refuses in one sentence."""

from __future__ import annotations

import json
import math

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from vtrain_sim.commands.sim import app
from vtrain_sim.errors import UserError
from vtrain_sim.inputs import presets

VALUES = st.sampled_from(
    [
        "0",
        "1",
        "2",
        "3",
        "4",
        "8",
        "16",
        "64",
        "128",
        "1000",
        "-1",
        "-8",
        "1.5",
        "nan",
        "inf",
        "-inf",
        "1e300",
        "99999999999999999999",
        "",
        "x",
        "selective",
        "full",
        "uniform",
        "block",
        "hybrid",
        "zb-h1",
        "zb-h2",
        "gpipe",
        "unfused",
        "flash",
        "[0]*2+[1]*46",
        "Et*48L",
    ]
)
FLAGS = st.sampled_from(
    [
        "--tensor-model-parallel-size",
        "--pipeline-model-parallel-size",
        "--context-parallel-size",
        "--expert-model-parallel-size",
        "--expert-tensor-parallel-size",
        "--num-virtual-stages-per-pipeline-rank",
        "--micro-batch-size",
        "--global-batch-size",
        "--num-layers",
        "--hidden-size",
        "--num-attention-heads",
        "--num-query-groups",
        "--seq-length",
        "--vocab-size",
        "--ffn-hidden-size",
        "--kv-channels",
        "--num-gpus",
        "--recompute-granularity",
        "--recompute-method",
        "--recompute-num-layers",
        "--fp8-format",
        "--schedule",
        "--attention-backend",
        "--moe-imbalance-factor",
        "--moe-layer-freq",
        "--pipeline-model-parallel-layout",
        "--decoder-first-pipeline-num-layers",
        "--train-tokens",
        "--price-per-gpu-hour",
        "--data-parallel-size",
        "--num-experts",
        "--moe-router-topk",
        "--moe-ffn-hidden-size",
        "--make-vocab-size-divisible-by",
    ]
)
SWITCHES = st.sampled_from(
    [
        "--sequence-parallel",
        "--use-distributed-optimizer",
        "--overlap-grad-reduce",
        "--overlap-param-gather",
        "--tp-comm-overlap",
        "--use-torch-fsdp2",
        "--swiglu",
        "--bf16",
        "--fp16",
        "--no-overlap-p2p-communication",
    ]
)
ARGUMENTS = st.lists(st.one_of(st.tuples(FLAGS, VALUES), st.tuples(SWITCHES)), max_size=9)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from([*presets.names("clusters"), "dgx-a100", ""]),
    st.sampled_from([*presets.names("models"), "gpt3", "x.json"]),
    ARGUMENTS,
)
def test_any_command_line_is_answered_or_refused(cluster: str, model: str, arguments: list[tuple[str, ...]]) -> None:
    flags = [word for argument in arguments for word in argument]
    command = ["project", "--cluster", cluster, "--model", model, "--json"]
    command += ["--micro-batch-size", "1", "--global-batch-size", "64", *flags]
    done = CliRunner().invoke(app, command)
    if done.exit_code == 0:
        answer = json.loads(done.stdout)
        assert answer["iteration_time_s"] > 0
        assert all(math.isfinite(v) and v >= 0 for v in answer["breakdown_s"].values())
        assert math.isclose(sum(answer["breakdown_s"].values()), answer["iteration_time_s"], rel_tol=1e-6)
        low, high = answer["iteration_time_low_s"], answer["iteration_time_high_s"]
        assert low <= answer["iteration_time_s"] <= high
        for stage in answer["memory"]["stages"]:
            assert sum(v for k, v in stage.items() if k.endswith("_bytes") and k != "peak_bytes") == stage["peak_bytes"]
    elif isinstance(done.exception, UserError):
        assert str(done.exception)
        assert "\n" not in str(done.exception)
    else:
        # Typer's own refusals of a malformed option.
        assert done.exit_code == 2, done.exception
