"""Published training runs: what docs/published-plans.md shows.

A published plan and the search share cluster, model, GPUs and `step`: the flags of batch and numerics. `published` is the
layout of the run, `searched` are further options of the search, `found` is the layout of the plan that it finds;
tests/benchmarks/test_published_plans.py repeats the searches.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

import vtrain as vt
from vtrain_sim.decide.certainty import probability_of_better
from vtrain_sim.simulate.result import Projection

_SHARED = "--sequence-parallel --use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather"
_OVERLAPPED = f"{_SHARED} --tp-comm-overlap"
_LLAMA = (
    "--tensor-model-parallel-size 8 --pipeline-model-parallel-size 16 --num-virtual-stages-per-pipeline-rank 8 "
    "--account-for-embedding-in-pipeline-split --account-for-loss-in-pipeline-split --micro-batch-size 1"
)
# Megatron before FlashAttention and sequence parallelism.
_OF_2021 = (
    "--attention-backend unfused --recompute-granularity full --recompute-method uniform --recompute-num-layers 1"
)
_V3 = (
    "--mtp-num-layers 1 --fp8-format e4m3 --fp8-recipe blockwise --moe-grouped-gemm --moe-token-dispatcher-type flex "
    "--moe-enable-deepep --use-distributed-optimizer --use-precision-aware-optimizer --exp-avg-dtype bf16 "
    "--exp-avg-sq-dtype bf16"
)
_QWEN = (
    "--fp8-format hybrid --fp8-recipe tensorwise --grad-reduce-in-bf16 --moe-grouped-gemm "
    "--moe-token-dispatcher-type alltoall --use-distributed-optimizer --use-precision-aware-optimizer"
)
_MIXTRAL = "--moe-grouped-gemm --moe-token-dispatcher-type alltoall --moe-expert-capacity-factor 1"
_AGAIN = "--recompute-granularity selective --recompute-modules"

_DUALPIPE = (
    "--schedule dualpipe --pipeline-model-parallel-size 16 --pipeline-model-parallel-layout 'Et*4|(t*4|)*14tmL' "
    "--expert-model-parallel-size 64 --overlap-moe-expert-parallel-comm --micro-batch-size 1 --overlap-grad-reduce "
    f"--overlap-param-gather {_AGAIN} layernorm mla_up_proj moe_act"
)


@dataclass(frozen=True)
class PublishedRun:
    """One run. measured_s: seconds of a step, as published or from what is published. variant: the run above it with
    another search."""

    name: str
    cluster: str
    model: str
    gpus: int
    step: str
    published: str
    found: str
    measured_s: float
    searched: str = ""
    variant: bool = False

    def project(self) -> str:
        """The command that projects the published plan."""
        return f"vtrain-sim project {self._given()} {self.published}"

    def plan(self) -> str:
        """The command of the search."""
        return " ".join(f"vtrain-sim plan {self._given()} {self.searched} --rank-by time".split())

    def _given(self) -> str:
        return f"--cluster {self.cluster} --model {self.model} --num-gpus {self.gpus} {self.step}"

    def projected(self, layout: str, where: Path) -> Projection:
        """A layout on the run's machine. where: the directory of the page's cluster files."""
        flags = shlex.split(f"{self.step} {layout}")
        return vt.project(vt.job.from_flags(flags, model=self.model, cluster=self.machine(where), gpus=self.gpus))

    def machine(self, where: Path) -> str:
        """The cluster preset, or the file of one."""
        return str(where / self.cluster) if self.cluster.endswith(".toml") else self.cluster

    def row(self, where: Path) -> str:
        """The run's line of the table of docs/published-plans.md."""
        published, found = self.projected(self.published, where), self.projected(self.found, where)
        less = found.iteration_time_s / published.iteration_time_s - 1
        sure = min(0.99, sureness(found, published))
        cells = (
            self.name,
            f"{self.measured_s:.1f} s",
            f"{_banded(published)}, {published.memory.worst.peak_bytes / 2**30:.0f} GiB",
            f"{_banded(found)}, {found.memory.worst.peak_bytes / 2**30:.0f} GiB",
            f"{less:+.0%}",
            f"{sure:.0%}",
        )
        return f"| {' | '.join(cells)} |"


def _banded(projection: Projection) -> str:
    low, high = projection.iteration_time_low_s, projection.iteration_time_high_s
    return f"{projection.iteration_time_s:.1f} s ({low:.1f} to {high:.1f})"


def sureness(found: Projection, published: Projection) -> float:
    """Probability that the found plan is the faster one."""
    return probability_of_better(found, published, published.iteration_time_s / found.iteration_time_s)


RUNS = (
    PublishedRun(
        "Llama 3 405B",
        "dgx-h100",
        "llama3-405b",
        16384,
        "--global-batch-size 2048",
        f"{_LLAMA} {_SHARED}",
        "--tensor-model-parallel-size 8 --context-parallel-size 4 --pipeline-model-parallel-size 8 "
        f"--pipeline-model-parallel-layout 'Et|(tt|)*62tL' --micro-batch-size 1 {_OVERLAPPED}",
        6.46,
    ),
    PublishedRun(
        "Llama 3 405B, 131k tokens",
        "dgx-h100",
        "llama3-405b",
        16384,
        "--seq-length 131072 --global-batch-size 128",
        f"--context-parallel-size 16 --cp-comm-type all_gather {_LLAMA} {_SHARED}",
        "--tensor-model-parallel-size 8 --context-parallel-size 32 --pipeline-model-parallel-size 16 "
        f"--pipeline-model-parallel-layout 'Et|(tt|)*62tL' --micro-batch-size 1 {_OVERLAPPED}",
        10.9,
        "--max-cp 64",
    ),
    PublishedRun(
        "DeepSeek-V3",
        "h800.toml",
        "deepseek-v3",
        2048,
        f"--global-batch-size 15360 {_V3}",
        _DUALPIPE,
        "--tensor-model-parallel-size 2 --expert-tensor-parallel-size 1 --expert-model-parallel-size 128 "
        "--pipeline-model-parallel-size 4 --pipeline-model-parallel-layout "
        "'Etttt|(ttttt|)*4tttttt|tttttt|ttttt|(tttttt|)*3ttmL' --overlap-moe-expert-parallel-comm --micro-batch-size 1 "
        f"{_SHARED} {_AGAIN} layernorm mla_up_proj moe_act",
        19.9,
    ),
    PublishedRun(
        "DeepSeek-V3, DualPipe searched too",
        "h800.toml",
        "deepseek-v3",
        2048,
        f"--global-batch-size 15360 {_V3}",
        _DUALPIPE,
        "--schedule dualpipe --tensor-model-parallel-size 2 --expert-tensor-parallel-size 1 "
        "--expert-model-parallel-size 64 --pipeline-model-parallel-size 16 --pipeline-model-parallel-layout "
        "'Ettt|(tttt|)*14ttmL' --overlap-moe-expert-parallel-comm --micro-batch-size 1 "
        f"{_SHARED} {_AGAIN} layernorm mla_up_proj moe_act",
        19.9,
        "--schedules 1f1b,interleaved,dualpipe,dualpipev",
        True,
    ),
    PublishedRun(
        "Mixtral 8x22B",
        "dgx-h100",
        "mixtral-8x22b",
        128,
        f"--global-batch-size 1024 {_MIXTRAL}",
        "--tensor-model-parallel-size 2 --expert-model-parallel-size 4 --pipeline-model-parallel-size 8 "
        f"--num-virtual-stages-per-pipeline-rank 7 --micro-batch-size 1 {_SHARED}",
        "--context-parallel-size 2 --expert-model-parallel-size 8 --pipeline-model-parallel-size 8 "
        "--num-virtual-stages-per-pipeline-rank 7 --micro-batch-size 1 --use-distributed-optimizer "
        f"--overlap-grad-reduce --overlap-param-gather {_AGAIN} layernorm",
        16.3,
    ),
    PublishedRun(
        "Qwen3 235B-A22B",
        "dgx-h100",
        "qwen3-235b-a22b",
        256,
        f"--global-batch-size 2048 {_QWEN}",
        "--tensor-model-parallel-size 2 --expert-tensor-parallel-size 1 --expert-model-parallel-size 32 "
        "--pipeline-model-parallel-size 8 --num-virtual-stages-per-pipeline-rank 4 "
        "--account-for-embedding-in-pipeline-split --account-for-loss-in-pipeline-split "
        f"--overlap-moe-expert-parallel-comm --delay-wgrad-compute --micro-batch-size 1 {_SHARED}",
        "--expert-model-parallel-size 8 --pipeline-model-parallel-size 8 --pipeline-model-parallel-layout "
        "'Et|(t|)*31(tt|)*31L' --micro-batch-size 1 --overlap-grad-reduce --overlap-param-gather "
        "--recompute-granularity full --recompute-method block --recompute-num-layers 1",
        20.8,
    ),
    PublishedRun(
        "Nemotron-4 340B",
        "dgx-h100",
        "nemotron4-340b",
        6144,
        "--global-batch-size 2304",
        "--tensor-model-parallel-size 8 --pipeline-model-parallel-size 12 --num-virtual-stages-per-pipeline-rank 8 "
        f"--micro-batch-size 1 {_SHARED}",
        "--tensor-model-parallel-size 8 --pipeline-model-parallel-size 8 --pipeline-model-parallel-layout "
        f"'E|(t|)*88tt|tt|(t|)*4L' --micro-batch-size 1 {_OVERLAPPED}",
        8.0,
    ),
    PublishedRun(
        "GPT-3 175B",
        "dgx-a100-80gb",
        "gpt3-175b",
        1536,
        "--global-batch-size 1536 --fp16",
        f"--tensor-model-parallel-size 8 --pipeline-model-parallel-size 12 --micro-batch-size 1 {_OF_2021}",
        "--tensor-model-parallel-size 8 --pipeline-model-parallel-size 4 --num-virtual-stages-per-pipeline-rank 12 "
        f"--micro-batch-size 4 {_OVERLAPPED} {_AGAIN} layernorm",
        20.8,
    ),
    PublishedRun(
        "GPT-3 175B, software of 2021",
        "dgx-a100-80gb",
        "gpt3-175b",
        1536,
        f"--global-batch-size 1536 --fp16 {_OF_2021}",
        "--tensor-model-parallel-size 8 --pipeline-model-parallel-size 12 --micro-batch-size 1",
        "--tensor-model-parallel-size 4 --pipeline-model-parallel-size 16 --num-virtual-stages-per-pipeline-rank 6 "
        "--micro-batch-size 1 --overlap-grad-reduce",
        20.8,
        "--no-sequence-parallel --search none",
        True,
    ),
    PublishedRun(
        "MT-NLG 530B",
        "dgx-a100-80gb",
        "mt-nlg-530b",
        3360,
        "--global-batch-size 1920",
        f"--tensor-model-parallel-size 8 --pipeline-model-parallel-size 35 --micro-batch-size 1 {_OF_2021}",
        f"--tensor-model-parallel-size 8 --pipeline-model-parallel-size 21 --micro-batch-size 1 {_OVERLAPPED}",
        44.4,
    ),
    PublishedRun(
        "MT-NLG 530B, software of 2021",
        "dgx-a100-80gb",
        "mt-nlg-530b",
        3360,
        f"--global-batch-size 1920 {_OF_2021}",
        "--tensor-model-parallel-size 8 --pipeline-model-parallel-size 35 --micro-batch-size 1",
        "--tensor-model-parallel-size 8 --pipeline-model-parallel-size 21 --micro-batch-size 1 --overlap-grad-reduce",
        44.4,
        "--no-sequence-parallel --search none",
        True,
    ),
)
