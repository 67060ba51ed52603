"""What a job fixes of a search for the largest model: its training step, sequence and vocabulary."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vtrain_sim.api.flag_files import Given
from vtrain_sim.api.job import machine_of_runs
from vtrain_sim.api.machine import Machine, machine_of
from vtrain_sim.decide import Bounds
from vtrain_sim.decide.search_space import search_space
from vtrain_sim.decide.sizing import GPT, SIZED, Shape
from vtrain_sim.errors import UserError
from vtrain_sim.inputs.lookup import find_model
from vtrain_sim.inputs.megatron_emit import all_flags
from vtrain_sim.inputs.megatron_flags import parse_flags, without
from vtrain_sim.inputs.notes import vocabulary_assumed
from vtrain_sim.inputs.searched import Kept, to_search
from vtrain_sim.specs import ModelSpec, TrainSpec
from vtrain_sim.specs.precision import precision as precision_named

_BATCHES = (1536, 1920, 2048)
# Fields of a model that candidates have too; those that they cannot have (of any shape, of GPT models); the rest are
# their own rules'.
_KEPT = ("seq_length", "vocab_size", "make_vocab_size_divisible_by")
_IMPOSSIBLE = ("packed_lengths",)
_OTHER_SHAPES = (
    *("num_experts", "multi_latent_attention", "hybrid_layer_pattern", "mtp_num_layers", "linear_attention_freq"),
    "window_size",
)
# Context parallelism is searched for longer sequences than this.
_LONG = 8192
_ATTENTION = ("attention_kernel", "transformer_impl")
_PRECISION = ("params_dtype", "fp8", "fp8_recipe", "fp4")


@dataclass(frozen=True)
class Wanted:
    """What is asked for beside a job; None and (): what the job says, else the usual."""

    global_batch_size: tuple[int, ...] = ()
    seq_length: int | None = None
    vocab_size: int | None = None
    attention_backend: str | None = None
    precision: str | None = None


@dataclass(frozen=True)
class SizedJob:
    """A training step for models of any size, with their sequence and vocabulary, and the bounds of their plans.

    notes: sentences on what of the job is not kept.
    """

    model: ModelSpec
    step: TrainSpec
    bounds: Bounds
    batches: tuple[int, ...]
    notes: tuple[str, ...] = ()


def sized_job(flags: Sequence[str], model: str, wanted: Wanted, max_tp: int, shape: Shape = GPT) -> SizedJob:
    """The step of a job that flags and a model describe (nothing: the usual one), with what is asked for.

    Raises `UserError` for a job that is no dense GPT model where the candidates are, and for what contradicts it.
    """
    kept = to_search(flags, keep_recomputation=True)
    base = find_model(model) if model else None
    said = parse_flags(kept.flags).values
    _check_kind(said, base, shape)
    _, left_out = without(kept.flags, [name for name in ModelSpec.__dataclass_fields__ if name not in _KEPT])
    usual = shape.usual
    if base is not None:
        usual = replace(usual, max_position_embeddings=0, **{name: getattr(base, name) for name in _KEPT})
    _check_agreement(kept, said, base, wanted)
    asked = _asked_flags(wanted, usual=not any(name in said for name in _PRECISION))
    like, step, bounds = search_space([*asked, *kept.flags], usual, replace(SIZED, max_tp=max_tp))
    if like.seq_length > _LONG and step.attention_kernel == "flash":
        bounds = replace(bounds, max_cp=Bounds.max_cp)
    if "recompute_granularity" not in dict(bounds.fixed):
        flash = step.attention_kernel == "flash"
        bounds = replace(bounds, recompute=("none", "full") if flash else ("none", "selective", "full"))
    batches = wanted.global_batch_size or ((kept.batch,) if kept.batch else _BATCHES)
    notes = list(_notes(kept.left_out, left_out, model, shape))
    if kept.flags and wanted.vocab_size is None:
        notes += vocabulary_assumed(kept.flags, model, like.vocab_size)
    return SizedJob(like, step, bounds, batches, tuple(notes))


def _notes(searched: Sequence[str], of_model: Sequence[str], model: str, shape: Shape) -> Iterator[str]:
    """What of a job is not kept, in sentences."""
    if searched:
        yield f"searched, not as the job has it: {', '.join(searched)}"
    if of_model:
        yield f"candidates are {_kind(shape)} of other sizes, not as the job has it: {', '.join(of_model)}"
    if model:
        yield f"candidates are {_kind(shape)}: of {model} they have the sequence length and the vocabulary alone"


def _kind(shape: Shape) -> str:
    return "GPT models" if shape == GPT else f"models of shape {shape.name}"


def _check_agreement(kept: Kept, said: Collection[str], base: ModelSpec | None, wanted: Wanted) -> None:
    """Raise `UserError` where what is asked for is another thing than what the job says. said: names of its values."""
    like, step, _ = search_space(kept.flags, base or GPT.usual, Bounds())
    for names, flag, value, known in (
        (("seq_length",), "--seq-length", wanted.seq_length, like.seq_length),
        (("vocab_size", "padded_vocab_size"), "--vocab-size", wanted.vocab_size, like.vocab_size),
        (_ATTENTION, "--attention-backend", wanted.attention_backend, step.attention_kernel),
    ):
        stated = any(name in said for name in names) or (base is not None and names is not _ATTENTION)
        if value is not None and value != known and stated:
            raise _contradiction(f"{flag} {value}", known)
    if wanted.precision is not None and any(name in said for name in _PRECISION):
        _, asked, _ = search_space(precision_named(wanted.precision).all_flags, GPT.usual, Bounds())
        if any(getattr(asked, name) != getattr(step, name) for name in _PRECISION):
            raise _contradiction(f"--precision {wanted.precision}", step.precision.name)
    if wanted.global_batch_size and kept.batch and wanted.global_batch_size != (kept.batch,):
        given = ",".join(map(str, wanted.global_batch_size))
        raise _contradiction(f"--global-batch-size {given}", kept.batch)


def of_job(given: Given, catalog: Path | None, runs: Sequence[str], counted: bool) -> tuple[list[str], Machine, int]:
    """Flags, machine and number of GPUs of a job that files or captured runs describe. Raises `UserError`.

    counted: how many GPUs there are is given beside it.
    """
    if catalog is not None and not runs:
        raise UserError("--catalog needs --run: the run whose training step is kept (vtrain-catalog ls lists them)")
    flags, gpus = list(given.flags), given.gpus
    if runs:
        machine, profile, _ = machine_of_runs(catalog, runs, given.cluster)
        own = profile.configuration
        if own is not None and given.model:
            raise UserError("--run brings its own model: leave out --model")
        flags = [*all_flags(own), *flags] if own is not None else flags
        gpus = gpus or (own.parallel.world_size if own is not None else 0)
    else:
        machine = machine_of(given.cluster)
    if given.price_per_gpu_hour is not None:
        machine = machine.priced(given.price_per_gpu_hour)
    if not gpus and not counted:
        raise UserError("how many GPUs there are is missing: give --num-gpus")
    return flags, machine, gpus


def _contradiction(asked: str, known: object) -> UserError:
    return UserError(f"{asked} contradicts the job, which says {known}: leave it out, or change the job")


def _asked_flags(wanted: Wanted, usual: bool) -> list[str]:
    """What is asked for as flags; those of the job come after them. usual: the job does not say its precision."""
    flags = list(precision_named(wanted.precision or "bf16").all_flags) if usual else []
    for flag, value in (
        ("--seq-length", wanted.seq_length),
        ("--vocab-size", wanted.vocab_size),
        ("--attention-backend", wanted.attention_backend),
    ):
        flags += [flag, str(value)] if value is not None else []
    return flags


def _check_kind(said: dict[str, object], base: ModelSpec | None, shape: Shape) -> None:
    """Raise `UserError` where the job's model is none that sizes are known for."""
    for name in (*_IMPOSSIBLE, *(_OTHER_SHAPES if shape == GPT else ())):
        value = said.get(name) or (getattr(base, name, None) if base is not None and name not in said else None)
        if value:
            setting = f"{name.replace('_', '-')}{'' if value is True else f' {value}'}"
            dense = "dense " if shape == GPT else ""
            other = ", or the --shape of models like it" if name in _OTHER_SHAPES else ""
            raise UserError(
                f"the job has --{setting}: the candidates are {dense}{_kind(shape)}, in proportions of published ones; "
                f"give a job without it{other}"
            )
