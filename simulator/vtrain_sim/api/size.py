"""``size``: the largest compute-optimal model that trains in time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vtrain_sim.api.arguments import name_of
from vtrain_sim.api.flag_files import flags_of
from vtrain_sim.api.lists import Numbers, some
from vtrain_sim.api.machine import Machine, machine_of
from vtrain_sim.api.sized_job import Wanted, sized_job
from vtrain_sim.api.workloads import Noted, unnoted
from vtrain_sim.decide.failures import failures_given
from vtrain_sim.decide.sizing import SizeResult, TokenRule, find_law, find_shape
from vtrain_sim.decide.sizing import size as search
from vtrain_sim.progress import Progress, unwatched


def size(
    *,
    cluster: str | Path | Machine,
    num_gpus: Numbers,
    days: float,
    shape: str = "gpt",
    law: str = "chinchilla-20",
    tokens_per_parameter: float = 0.0,
    inference_tokens: float = 0.0,
    inference_mfu: float = 0.0,
    global_batch_size: Numbers | None = None,
    seq_length: int | None = None,
    vocab_size: int | None = None,
    max_tp: int = 8,
    attention_backend: str | None = None,
    precision: str | None = None,
    gpu_mtbf_hours: float = 0.0,
    checkpoint_seconds: float = 60.0,
    restart_seconds: float = 600.0,
    checkpoint_interval: float = 0.0,
    price_per_gpu_hour: float | None = None,
    flags: Sequence[str] = (),
    model: str | Path = "",
    progress: Progress = unwatched,
    noted: Noted = unnoted,
) -> SizeResult:
    """Find the largest model that satisfies a scaling law at the MFU that its best plan really reaches.

    num_gpus: one number, or several to choose from. shape: gpt, llama, mixtral or qwen3-moe, or a model preset whose
    proportions are kept; the law counts the parameters that a token uses. law: chinchilla-20, hoffmann-approach-1, -2
    or -3, besiroglu; a .toml or .yaml file with coefficients; or these as "coefficient=20,exponent=1" (tokens =
    coefficient x parameters ^ exponent) or "E=,A=,B=,alpha=,beta=" (loss = E + A / N^alpha + B / D^beta).
    tokens_per_parameter: instead of those of the law (over-training). inference_tokens: tokens served over the model's
    life; every size then has the training tokens that reach its loss with the least training and serving together:
    least FLOPs, or with inference_mfu (share of the peak at which it is served) least GPU-hours. global_batch_size:
    sequences per step to try (default: 1536, 1920 and 2048); seq_length: tokens of a sequence and vocab_size (default:
    the shape's); attention_backend: flash or unfused; precision: a name as `vtrain.job` takes it (bf16).
    gpu_mtbf_hours: mean time between failures of one GPU; days and US dollars then include failures, checkpoints
    (checkpoint_seconds each, every checkpoint_interval seconds; 0: the best) and restarts (restart_seconds).
    price_per_gpu_hour: US dollars (default: the cluster's). flags, model: Megatron's arguments, and the preset or
    ``config.json``, of a job whose training step, sequence and vocabulary are kept instead; its layout is searched, the
    size of its model is what is looked for. progress: called with the models planned, those in time, and the share of
    all. noted: called with what of the job is left out. Raises `UserError` where even the smallest model takes longer,
    with what would help; for a job of another kind than the shape; and for an argument that contradicts the job.

    >>> import vtrain as vt
    >>> result = vt.size(cluster="dgx-a100-80gb", num_gpus=16, days=10, global_batch_size=256)
    >>> result.chosen.plan.projection.memory.fits
    True
    """
    batches = () if global_batch_size is None else some("--global-batch-size", global_batch_size, 1)
    wanted = Wanted(batches, seq_length, vocab_size, attention_backend, precision)
    kind = find_shape(shape)
    job = sized_job(flags_of(flags), name_of("model", model), wanted, max_tp, kind)
    for sentence in job.notes:
        noted(sentence)
    return search(
        machine_of(cluster, price_per_gpu_hour).projector,
        some("--num-gpus", num_gpus, 1),
        days,
        job.batches,
        TokenRule(find_law(law), tokens_per_parameter, inference_tokens, inference_mfu),
        job.model,
        job.step,
        job.bounds,
        kind,
        failures_given(gpu_mtbf_hours, checkpoint_seconds, restart_seconds, checkpoint_interval),
        progress,
    )
