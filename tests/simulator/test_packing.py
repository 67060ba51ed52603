"""Packed samples: attention's work is the sum of the squares of their lengths, all else that of the sequence."""

from __future__ import annotations

import pytest

from simulator.simulate.strategies import Machine
from vtrain_sim.errors import UserError
from vtrain_sim.inputs.megatron_flags import configuration_from_flags
from vtrain_sim.model import Compute, Parts
from vtrain_sim.model.flops import flops_per_token
from vtrain_sim.specs import Configuration
from vtrain_sim.specs.shard import LayerKind

S, H, MICRO = 4096, 512, 2
GPT = (
    f"--num-layers 2 --hidden-size {H} --num-attention-heads 8 --seq-length {S} --vocab-size 1024 "
    f"--micro-batch-size {MICRO} --global-batch-size 8"
)


def read(flags: str) -> Configuration:
    return configuration_from_flags(f"{GPT} {flags}".split())


def attention(configuration: Configuration) -> Compute:
    layer = Parts(configuration.shard).layer(LayerKind())
    return next(i for i in layer.forward if isinstance(i, Compute) and i.name == "core_attention")


@pytest.mark.parametrize("lengths", [(1024,), (512, 512, 512, 512), (3072, 1024), (100, 200, 300, 3496), (4000, 96)])
def test_work_is_the_sum_of_squares(lengths: tuple[int, ...]) -> None:
    configuration = read(f"--sft --packed-lengths {' '.join(map(str, lengths))}")
    # Lengths stand for as many samples as fill the sequences of a microbatch; causal: half of the square.
    times = MICRO * S / sum(lengths)
    expected = times * sum(length**2 for length in lengths) * 2 * 2 * H / 2
    item, whole = attention(configuration), attention(read(""))
    # Samples are a whole number, and so are the tokens of their length.
    assert item.operator.flops() == pytest.approx(expected, rel=1e-3)
    if len(set(lengths)) == 1:
        assert item.operator.flops() == expected
    assert item.operator.batch * item.operator.seq_kv == pytest.approx(MICRO * S, rel=0.25)
    assert item.saves == whole.saves


def test_a_sample_that_fills_the_sequence_changes_nothing() -> None:
    assert attention(read(f"--packed-lengths {S}")).operator == attention(read("")).operator
    assert flops_per_token(read(f"--packed-lengths {S}").model) == flops_per_token(read("").model)


def test_context_parallel_ranks_share_every_sample() -> None:
    operator = attention(read("--packed-lengths 1024 --context-parallel-size 2")).operator
    assert (operator.batch, operator.seq_q, operator.seq_kv) == (2 * 4, 512, 1024)


def test_model_flops_and_time_shrink_with_the_samples() -> None:
    """Of each layer, 2 x 512 multiply-adds a token less for every two tokens that it does not attend to; three passes."""
    whole, short = read(""), read("--packed-lengths 1024")
    assert flops_per_token(whole.model) - flops_per_token(short.model) == 3 * 2 * 2 * (2 * H) * (S - 1024) / 2
    machine = Machine("dgx-h100", 1.0, 1.0, 0.0).projector()
    assert machine.project(short).iteration_time_s < machine.project(whole).iteration_time_s


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        ("--sft", "say with --packed-lengths"),
        ("--dataloader-inter-document-masking", "say with --packed-lengths"),
        ("--packed-lengths 5000", "--packed-lengths is 5000"),
        ("--packed-lengths 0", "--packed-lengths is 0"),
    ],
)
def test_what_is_refused(flags: str, word: str) -> None:
    with pytest.raises(UserError) as caught:
        read(flags)
    assert word in str(caught.value)
