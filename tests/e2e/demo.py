"""``make demo``: the main job on this machine's CPU, from a real run to a checked projection."""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

from e2e.proof import Outcome, Proof, call, command, verdict

QUERIES = (
    (
        "Where does a step go?",
        "SELECT run_id, step, duration_ns / 1e6 AS step_ms, forward_ns / 1e6 AS forward_ms, "
        "backward_ns / 1e6 AS backward_ms, optimizer_ns / 1e6 AS optimizer_ms, other_ns / 1e6 AS other_ms "
        "FROM step_breakdown ORDER BY run_id, step",
    ),
    (
        "Which operators are slow for what they do?",
        "SELECT kind, phase, m, n, k, calls, median_ns / 1e6 AS median_ms, tflops_per_s * 1e3 AS gflops_per_s, "
        "share_of_best_rate AS of_best FROM operator_roofline WHERE run_id = 'base-0' AND kind = 'gemm' "
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
    print_outcomes(outcomes)
    print(f"\n$ vtrain-sim project {' '.join(GPT3)}")
    print(call([*command("vtrain-sim"), "project", *GPT3]), end="")
    say("done")


def print_outcomes(outcomes: list[Outcome]) -> None:
    """A line per case, what disturbed it, and what that leaves to say."""
    print("\nProjected from the base run, then run for real (iteration time):\n")
    print(f"{'':20s}{'projected':>10s}  {'90% band':>16s}{'measured':>10s}{'drift':>8s}{'error':>8s}")
    for o in outcomes:
        band = f"{o.low_s:.3f} to {o.high_s:.3f}"
        mark = " ?" if o.disturbed_by else ""
        times = f"{o.projected_s:8.3f} s  {band:>16s}{o.measured_s:8.3f} s"
        print(f"{o.case.name:20s}{times}{o.drift:+8.1%}{o.error:+8.1%}{mark}")
    print("\ndrift: how much longer the base run took just before and after than when it was profiled")
    print("error: of the time over the base run's, so that the drift is not in it; ?: disturbed by other work")
    for line in verdict(outcomes):
        print(line)


if __name__ == "__main__":
    main()
