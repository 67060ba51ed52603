"""``vtrain-profile``: run a command under the plugin, or measure without one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import typer

from vtrain_plugin import __version__, command_errors
from vtrain_plugin.capture.process import new_run_id
from vtrain_plugin.capture.run_rows import distribution_version
from vtrain_plugin.capture.settings import SettingsError
from vtrain_plugin.capture_options import CaptureOptions
from vtrain_plugin.command_help import Command
from vtrain_schemas.option_groups import with_groups

app = typer.Typer(
    rich_markup_mode="markdown",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

# Element types that operators and collectives are measured in.
_DTYPES = ("bfloat16", "float16", "float32")


def refuse(sentence: str) -> typer.Exit:
    """Print one sentence on stderr; the exit code is 2."""
    print(f"vtrain-profile: {sentence}", file=sys.stderr)
    return typer.Exit(2)


def show_version(wanted: bool) -> None:
    """Print the version and leave, where it is wanted."""
    if wanted:
        print(f"vtrain-profile {distribution_version('vtrain') or __version__}")
        raise typer.Exit


@app.callback()
def top_level(
    version: bool = typer.Option(False, "--version", callback=show_version, is_eager=True, help="Print the version."),
) -> None:
    """Profile Megatron-Core training, or measure operators and collectives, into Parquet."""


@app.command(cls=Command, context_settings={"allow_interspersed_args": False, "ignore_unknown_options": False})
@with_groups
def run(
    command: list[str] = typer.Argument(..., help="The command that trains, after --."),
    *,
    options: CaptureOptions,
) -> None:
    """Run COMMAND (torchrun, python, a shell script) with the plugin armed in every process of it."""
    try:
        local = bool(options.out) and "://" not in options.out
        settings = (replace(options, out=os.path.abspath(options.out)) if local else options).settings()
    except SettingsError as error:
        raise refuse(str(error)) from None
    try:
        process = subprocess.Popen(command, env={**os.environ, **settings.to_environment()})
    except OSError as error:
        raise refuse(f"cannot run {command[0]!r}: {error.strerror}") from None
    if options.at in signal.Signals.__members__:
        # It asks the training for a capture, and would end this process.
        signal.signal(signal.Signals[options.at], lambda number, frame: process.send_signal(number))
    raise typer.Exit(process.wait())


@app.command(cls=Command)
def collectives(
    out: str = typer.Option(..., "--out", help="Output directory or URI."),
    nproc_per_node: int = typer.Option(2, help="Processes to start here; ignored under torchrun."),
    ops: str = typer.Option("all_reduce,all_gather,reduce_scatter,all_to_all,p2p", help="Operations."),
    sizes: str = typer.Option("", help="Payloads in bytes, comma separated (default: powers of two)."),
    max_bytes: int = typer.Option(256 << 20, min=1, help="Largest payload where --sizes is not given."),
    dtype: str = typer.Option("", help="Element type (default: bfloat16 on a GPU, float32 elsewhere)."),
    repeats: int = typer.Option(12, min=3, help="Timed calls per payload."),
    pin: bool = typer.Option(True, help="On CPU, pin each process to a core."),
    run_id: str = typer.Option("", help="Name of the run (default: from the time)."),
) -> None:
    """Measure all-reduce, all-gather, reduce-scatter, all-to-all and send/recv.

    Over several nodes: torchrun --nnodes N --nproc-per-node G ... --no-python vtrain-profile collectives --out DIR
    """
    from vtrain_plugin.bench import collectives as bench_collectives
    from vtrain_plugin.bench.device import default_dtype

    _check_collectives(ops.split(","), sizes, nproc_per_node)
    _check_dtype(dtype)
    arguments = _flags(
        out=out,
        run_id=run_id,
        ops=ops,
        sizes=sizes,
        max_bytes=max_bytes,
        dtype=dtype or default_dtype(),
        repeats=repeats,
    )
    if pin:
        arguments.append("--pin")
    if "RANK" in os.environ:
        bench_collectives.main(arguments)
        return
    launch = ["-m", "torch.distributed.run", "--standalone", *_flags(nproc_per_node=nproc_per_node)]
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    command = [sys.executable, *launch, "-m", "vtrain_plugin.bench.collectives", *arguments]
    done = subprocess.run(command, check=False, env=environment)
    raise typer.Exit(done.returncode)


def _check_collectives(ops: list[str], sizes: str, nproc_per_node: int) -> None:
    """Refuse options that nothing can be measured with."""
    from vtrain_plugin.bench.collectives import OPS

    unknown = [op for op in ops if op not in OPS]
    if unknown:
        raise refuse(f"unknown operation {unknown[0]!r}: known are {', '.join(OPS)}")
    if any(not s.strip().isdigit() or int(s) < 1 for s in sizes.split(",") if s):
        raise refuse(f"--sizes is {sizes!r}: it takes bytes, comma separated, for example 1048576,4194304")
    if nproc_per_node < 2 and "RANK" not in os.environ:
        raise refuse(f"--nproc-per-node is {nproc_per_node}: communication takes 2 processes or more")


def _check_dtype(name: str) -> None:
    if name not in ("", *_DTYPES):
        raise refuse(f"--dtype is {name!r}: it takes one of {', '.join(_DTYPES)}")


def _flags(**values: object) -> list[str]:
    """``--flag value`` of each keyword, underscores as dashes."""
    return [word for name, value in values.items() for word in (f"--{name.replace('_', '-')}", str(value))]


@app.command(cls=Command, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def ops(
    context: typer.Context,
    out: str = typer.Option(..., "--out", help="Output directory or URI."),
    hidden_size: int = typer.Option(..., help="Hidden size of the model."),
    num_attention_heads: int = typer.Option(..., help="Attention heads."),
    seq_length: int = typer.Option(..., help="Tokens per sequence."),
    vocab_size: int = typer.Option(50304, help="Vocabulary."),
    num_layers: int = typer.Option(1, help="Layers on one rank, for the optimizer's size."),
    ffn_hidden_size: int = typer.Option(0, help="Feed-forward hidden size (default: 4 x hidden)."),
    num_query_groups: int = typer.Option(0, help="Key/value heads (default: as many as heads)."),
    swiglu: bool = typer.Option(False, "--swiglu", help="Gated feed-forward block."),
    all_tp: str = typer.Option("1", help="Tensor parallel sizes, comma separated."),
    micro_batch_sizes: str = typer.Option("1", help="Micro batch sizes, comma separated."),
    dtype: str = typer.Option("", help="Element type (default: bfloat16 on a GPU, float32 elsewhere)."),
    seconds: float = typer.Option(0.2, min=0.0, help="Time to spend on each operator and direction."),
    pin: bool = typer.Option(True, help="On CPU, pin to a core."),
    run_id: str = typer.Option("", help="Name of the run (default: from the time)."),
) -> None:
    """Measure the operators of a model, for all tensor parallel and micro batch sizes, on ONE device.

    Built as Megatron's arguments build them: its flags for experts (--num-experts, --moe-grouped-gemm, ...), latent
    attention, --fp8-format, --transformer-impl and the fusions (--no-rope-fusion, ...) follow under their names.
    """
    from vtrain_plugin.bench.choices import choose
    from vtrain_plugin.bench.device import choose_device, default_dtype
    from vtrain_plugin.bench.installed import Installed, installed
    from vtrain_plugin.bench.model_operators import SizeError, operators_of
    from vtrain_plugin.bench.operators import Workbench
    from vtrain_plugin.bench.ops import OperatorBench, further_flags, sizes_of
    from vtrain_plugin.bench.output import BenchOutput

    try:
        _check_dtype(dtype)
        args = further_flags(context.args)
        args.swiglu = swiglu
        device = choose_device(pin)
        # All of them are kernels for a GPU.
        have = installed() if device.cuda else Installed()
        choices = choose(args, have, device.cuda)
        model = sizes_of(
            args,
            choices,
            hidden_size=hidden_size,
            num_attention_heads=num_attention_heads,
            seq_length=seq_length,
            vocab_size=vocab_size,
            ffn_hidden_size=ffn_hidden_size,
            num_query_groups=num_query_groups,
            num_layers=num_layers,
            swiglu=swiglu,
            dtype=dtype or default_dtype(),
        )
        tps, sizes = _integers("--all-tp", all_tp), _integers("--micro-batch-sizes", micro_batch_sizes)
        operators = operators_of(model, tps, sizes)
    except SizeError as error:
        raise refuse(str(error)) from None
    name = run_id or "ops-" + new_run_id()
    output = BenchOutput(out, name, "ops", device.clock_source)
    bench = OperatorBench(Workbench(device, model, choices, have), output, seconds)
    for note in choices.notes:
        print(f"vtrain-profile: {note}", file=sys.stderr)
    rows = bench.measure_all(operators)
    for failure in bench.failures:
        print(failure)
    if not rows:
        raise typer.Exit(1)
    output.write({"hidden_size": hidden_size, "seq_length": seq_length, "params_dtype": model.dtype})
    print(f"wrote {out}/run_id={name}: {len(operators) - len(bench.failures)} operators, {rows} calls")


@app.command(cls=Command, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def rank(
    context: typer.Context,
    out: str = typer.Option(..., "--out", help="Output directory or URI."),
    world_size: int = typer.Option(..., help="Ranks of the world to play in."),
    rank: int = typer.Option(0, help="Rank to play."),
    tensor_model_parallel_size: int = typer.Option(1, help="Tensor parallel size."),
    micro_batch_size: int = typer.Option(1, help="Micro batch size."),
    all_tp: str = typer.Option("", help="Several tensor parallel sizes, one run each, comma separated."),
    micro_batch_sizes: str = typer.Option("", help="Several micro batch sizes, one run each."),
    run_id: str = typer.Option("", help="Name of the run (default: from the time)."),
) -> None:
    """Play one rank of any world on ONE device: Megatron-Core's modules at that rank's shard shapes.

    The model and the rest of the layout follow as Megatron's own flags (--num-layers, --hidden-size,
    --num-attention-heads, --seq-length, --pipeline-model-parallel-size, --bf16, ...). --layers N builds
    only N layers of the rank's stage: they are identical.
    """
    from vtrain_plugin.bench.model_operators import SizeError
    from vtrain_plugin.bench.rank_sizes import play_size

    tps = _integers("--all-tp", all_tp) or [tensor_model_parallel_size]
    sizes = _integers("--micro-batch-sizes", micro_batch_sizes) or [micro_batch_size]
    base = run_id or "rank-" + new_run_id()
    failures = []
    for number, (tp, size) in enumerate(product(tps, sizes), 1):
        name = base if len(tps) * len(sizes) == 1 else f"{base}-tp{tp}-mbs{size}"
        flags = _flags(
            out=out,
            run_id=name,
            world_size=world_size,
            rank=rank,
            tensor_model_parallel_size=tp,
            micro_batch_size=size,
        )
        try:
            what = f"tp {tp}, micro batch size {size}"
            label = f"{what} ({number} of {len(tps) * len(sizes)})"
            failure, refused = play_size(what, [*flags, "--label", label, *context.args])
        except SizeError as error:
            raise refuse(str(error)) from None
        if failure is None:
            print(f"wrote {out}/run_id={name}")
            continue
        if refused and len(tps) * len(sizes) == 1:
            raise refuse(failure.reason)
        failures.append(failure)
        print(failure)
    if len(failures) == len(tps) * len(sizes):
        raise typer.Exit(1)


def _integers(flag: str, text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if any(not part.isdigit() or int(part) < 1 for part in parts):
        raise refuse(f"{flag} is {text!r}: it takes whole numbers of 1 or more, comma separated")
    return [int(part) for part in parts]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``vtrain-profile``."""
    command_errors.run(app, "vtrain-profile", arguments)


if __name__ == "__main__":
    main()
