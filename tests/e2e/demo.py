"""``make demo``: the main job on this machine's CPU, from a real run to a checked projection."""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

from e2e.proof import Proof, call, command, mean_absolute_error

QUERIES = (
    (
        "Where does a step go?",
        "SELECT run_id, rank, step, duration_ns / 1e6 AS step_ms, forward_ns / 1e6 AS forward_ms, "
        "backward_ns / 1e6 AS backward_ms, optimizer_ns / 1e6 AS optimizer_ms, other_ns / 1e6 AS other_ms "
        "FROM step_breakdown ORDER BY run_id, rank, step",
    ),
    (
        "Which operators are slow for what they do?",
        "SELECT kind, phase, m, n, k, calls, median_ns / 1e6 AS median_ms, tflops_per_s * 1e3 AS gflops_per_s, "
        "share_of_best_rate FROM operator_roofline WHERE run_id = 'base-0' AND kind = 'gemm' "
        "ORDER BY median_ns DESC LIMIT 6",
    ),
    (
        "How fast is communication, apart from waiting?",
        "SELECT op, bytes / 1048576 AS mib, count(*) AS calls, median(transfer_ns) / 1e6 AS transfer_ms, "
        "median(wait_ns) / 1e6 AS wait_ms FROM collective_transfers WHERE run_id = 'collectives-0' "
        "AND bytes >= 1048576 GROUP BY ALL ORDER BY op, mib LIMIT 8",
    ),
)
GPT3 = (
    "--cluster",
    "dgx-a100-80gb",
    "--model",
    "gpt3-175b",
    "--num-gpus",
    "1024",
    "--tensor-model-parallel-size",
    "8",
    "--pipeline-model-parallel-size",
    "16",
    "--num-layers-per-virtual-pipeline-stage",
    "3",
    "--sequence-parallel",
    "--use-distributed-optimizer",
    "--micro-batch-size",
    "1",
    "--global-batch-size",
    "1536",
    "--bf16",
    "--recompute-granularity",
    "selective",
    "--train-tokens",
    "300e9",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo-output"))
    arguments = parser.parse_args()
    began = time.monotonic()
    shutil.rmtree(arguments.out, ignore_errors=True)

    def say(line: str) -> None:
        print(f"[{time.monotonic() - began:5.0f} s] {line}", flush=True)

    proof = Proof(arguments.out, say)
    outcomes = proof.compare()
    for question, query in QUERIES:
        print(f'\n{question}\n$ vtrain-catalog sql "{query}"')
        print(proof.sql(query), end="")
    print("\nProjected from the base run, then run for real (iteration time):\n")
    print(f"{'':20s}{'projected':>10s}  {'90% band':>16s}{'measured':>10s}{'error':>8s}")
    for o in outcomes:
        band = f"{o.low_s:.3f} to {o.high_s:.3f}"
        print(f"{o.case.name:20s}{o.projected_s:8.3f} s  {band:>16s}{o.measured_s:8.3f} s{o.error:8.1%}")
    print(f"{'mean absolute error':58s}{mean_absolute_error(outcomes):14.1%}")
    print(f"\n$ vtrain-sim project {' '.join(GPT3)}")
    print(call([*command("vtrain-sim"), "project", *GPT3]), end="")
    say("done")


if __name__ == "__main__":
    main()
