"""What a job was understood to be, in one line: what commands begin with where files describe it."""

from __future__ import annotations

from vtrain_sim.model.step import parameters_of
from vtrain_sim.specs import Configuration


def understood(configuration: Configuration) -> str:
    """Model, parameters, sequence length, precision, GPUs, layout and batch, as text.

    >>> import vtrain as vt
    >>> from vtrain_sim.api.understood import understood
    >>> job = vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, tp=2, mbs=1, gbs=16)
    >>> understood(job.configuration)[:39]
    'gpt3-1.3b, 24 layers, 1.32B parameters;'
    """
    model, parallel, train = configuration.model, configuration.parallel, configuration.train
    experts = f", {model.num_experts} experts" if model.num_experts else ""
    return (
        f"{model.name or 'a model'}, {model.num_layers} layers{experts}, {_short(parameters_of(model))} parameters; "
        f"sequences of {model.seq_length:,} tokens; {train.precision.name}; {parallel.world_size} GPUs: "
        f"{parallel.in_words}; micro batch {train.micro_batch_size}, global batch {train.global_batch_size}"
    )


def _short(count: int) -> str:
    # 999.9 million would be 1e+03M.
    return f"{count / 1e9:.3g}B" if count >= 999.5e6 else f"{count / 1e6:.3g}M"
