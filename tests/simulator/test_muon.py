"""Muon: FLOPs of Newton-Schulz steps, which matrices, who has them, what ranks that share one exchange, bytes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vtrain_sim.errors import UserError
from vtrain_sim.inputs.megatron_flags import configuration_from_flags
from vtrain_sim.model import Communication, Compute, build_step
from vtrain_sim.model.muon import Matrix, busiest
from vtrain_sim.simulate.memory import parameter_terms
from vtrain_sim.specs import Configuration

H, FFN, LAYERS, KV = 256, 1024, 3, 64
GPT = (
    f"--num-layers {LAYERS} --hidden-size {H} --ffn-hidden-size {FFN} --num-attention-heads 8 --seq-length 128 "
    "--group-query-attention --num-query-groups 2 --vocab-size 1024 --micro-batch-size 1 --global-batch-size 16"
)
# Queries, keys and values (8 and 2 heads of 32), output projection, and both of the feed-forward block; sorted sizes.
OF_A_LAYER = [(H, H), (KV, H), (KV, H), (H, H), (H, FFN), (H, FFN)]


def read(flags: str) -> Configuration:
    return configuration_from_flags(f"{GPT} --optimizer muon {flags}".split())


def flops_of_steps(m: int, n: int, steps: int = 5) -> float:
    """X X' and the last product 2 m^2 n each, A A 2 m^3."""
    return steps * (4.0 * m * m * n + 2.0 * m**3)


def work(configuration: Configuration) -> float:
    (stage,) = build_step(configuration).stages
    return sum(i.operator.flops() for i in stage.update if isinstance(i, Compute) and i.name == "muon")


def exchanged(configuration: Configuration) -> list[tuple[str, int]]:
    (stage,) = build_step(configuration).stages
    return [(i.op, i.nbytes) for i in stage.update if isinstance(i, Communication) and i.name.startswith("muon")]


def test_every_matrix_but_the_table_is_orthogonalised() -> None:
    assert work(read("")) == LAYERS * sum(flops_of_steps(*size) for size in OF_A_LAYER)
    assert work(read("--muon-num-ns-steps 3")) == LAYERS * sum(flops_of_steps(*size, 3) for size in OF_A_LAYER)
    # Two of three products are symmetric.
    halves = sum(5.0 * (m * m * n + m**3 + 2.0 * m * m * n) for m, n in OF_A_LAYER)
    assert work(read("--muon-use-syrk")) == LAYERS * halves
    # The gate of attention's output is one more matrix, as large as that of the queries.
    assert work(read("--attention-output-gate")) == LAYERS * sum(
        flops_of_steps(*size) for size in [*OF_A_LAYER, (H, H)]
    )
    adam = configuration_from_flags(GPT.split())
    assert work(adam) == 0


def test_each_expert_has_its_matrices() -> None:
    configuration = read("--num-experts 4 --moe-router-topk 2 --moe-ffn-hidden-size 128")
    experts = [(4, H), *[(128, H)] * 8]
    assert work(configuration) == LAYERS * sum(flops_of_steps(*size) for size in (*OF_A_LAYER[:4], *experts))


def test_ranks_that_share_a_matrix_gather_it_or_work_on_a_part() -> None:
    tp = "--tensor-model-parallel-size 2"
    assert work(read(tp)) == work(read(""))
    sizes = [m * n * 4 for m, n in OF_A_LAYER] * LAYERS
    assert sorted(exchanged(read(tp))) == sorted(("all_gather", size) for size in sizes)
    parts = [(H // 2, H), (KV // 2, H), (KV // 2, H), (H // 2, H), (H, FFN // 2), (H, FFN // 2)]
    blockwise = read(f"{tp} --muon-tp-mode blockwise")
    assert work(blockwise) == LAYERS * sum(flops_of_steps(*size) for size in parts)
    assert exchanged(blockwise) == []
    # Of all these matrices the dimension that is not split has H elements.
    distributed = read(f"{tp} --muon-tp-mode distributed")
    shared = [H, KV, KV, H, FFN, FFN]
    assert work(distributed) == LAYERS * sum(5 * (4.0 * H * H * (s // 2) + 2.0 * H**3) for s in shared)
    assert exchanged(distributed) == [("all_reduce", H * H * 4)] * 5 * 6 * LAYERS


def test_each_matrix_belongs_to_one_data_parallel_rank() -> None:
    # 18 matrices on 6 ranks: two of the largest ones at most are with one, those of keys and values fill up.
    dp = "--data-parallel-size 6 --global-batch-size 24 --use-distributed-optimizer"
    most, whole = work(read(dp)), work(read(""))
    assert whole / 6 <= most <= whole / 6 + flops_of_steps(H, FFN)
    assert work(read(dp.replace("6 --", "32 --").replace("24", "32"))) == flops_of_steps(H, FFN)
    assert work(read("--data-parallel-size 6 --global-batch-size 24")) == whole
    assert read("--data-parallel-size 2 --optimizer dist_muon").parallel.distributed_optimizer


def test_the_costliest_matrices_are_given_out_first() -> None:
    large, small = Matrix(64, 64, -1, False), Matrix(16, 64, -1, False)
    assert busiest([(small, 4), (large, 2)], 2, 1) == ((large, 1), (small, 2))
    # A matrix is whole on its rank: split in two here, its cost is that of all of it.
    assert busiest([(Matrix(64, 32, 1, False), 1), (Matrix(64, 60, -1, False), 1)], 2, 2) == (
        (Matrix(64, 32, 1, False), 1),
    )


def test_memory_is_that_of_a_rank_with_an_even_share_at_least() -> None:
    """A square matrix takes more work than two narrow ones with four times as many parameters, on the other rank."""
    configuration = read("--data-parallel-size 2 --use-distributed-optimizer")
    (stage,) = build_step(configuration).stages
    square, narrow = Matrix(64, 64, -1, False), Matrix(8, 1024, -1, False)
    matrices = ((square, 1), (narrow, 2))
    assert busiest(matrices, 2, 1) == ((square, 1),)
    holding = replace(stage.holding, matrices=matrices)
    # A main copy and two moments of each parameter, one of those of matrices.
    expected = 12 * holding.owned(configuration.replicas) - 4 * (square.size + 2 * narrow.size) / 2
    assert parameter_terms(configuration.replicas, holding, 0).optimizer == expected


@pytest.mark.parametrize(("flags", "ranks"), [("", 1), ("--data-parallel-size 2 --use-distributed-optimizer", 2)])
def test_matrices_have_no_second_moment(flags: str, ranks: int) -> None:
    """12 bytes of main parameters and two moments, 8 of matrices. On 2 ranks: both halves are alike."""
    configuration = read(flags)
    (stage,) = build_step(configuration).stages
    terms = parameter_terms(configuration.replicas, stage.holding, 0)
    matrices = LAYERS * sum(m * n for m, n in OF_A_LAYER)
    rest = stage.holding.total - matrices
    expected = 12 * -(-rest // ranks) + 8 * matrices / ranks
    assert terms.optimizer == pytest.approx(expected, rel=0.2 if ranks > 1 else 1e-12)
    # The largest matrix three times and two squares, fp32.
    assert terms.step == 4 * (3 * H * FFN + 2 * H * H)


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        ("--use-precision-aware-optimizer --use-distributed-optimizer", "needs --optimizer adam"),
        ("--use-torch-fsdp2 --data-parallel-size 2", "does not go with fully sharded"),
        ("--muon-tp-mode whole", "--muon-tp-mode is 'whole'"),
        ("--muon-no-split-qkv", "as one matrix"),
        ("--muon-fp32-matmul-prec highest", "more than bf16"),
        ("--optimizer sgd", "it takes one of adam"),
    ],
)
def test_what_is_refused(flags: str, word: str) -> None:
    with pytest.raises(UserError) as caught:
        read(flags)
    assert word in str(caught.value)
