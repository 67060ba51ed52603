"""``vtrain-profile``: run a command under the plugin, or measure without one."""

from __future__ import annotations

import os
import subprocess
import sys

import typer

from vtrain_plugin.session import new_run_id
from vtrain_plugin.settings import Settings, SettingsError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Profile Megatron-Core training, or measure operators and collectives, into Parquet.",
)


def refuse(sentence: str) -> typer.Exit:
    """Print one sentence on stderr; the exit code is 2."""
    print(f"vtrain-profile: {sentence}", file=sys.stderr)
    return typer.Exit(2)


@app.command(context_settings={"allow_interspersed_args": False, "ignore_unknown_options": False})
def run(
    command: list[str] = typer.Argument(..., help="The command that trains, after --."),
    out: str = typer.Option(..., "--out", help="Output directory or URI."),
    warmup: int = typer.Option(2, help="Training steps to skip."),
    steps: int = typer.Option(3, help="Training steps to capture."),
    operators: bool = typer.Option(True, help="Record linear layers, norms and attention cores."),
    kernels: bool = typer.Option(False, help="Record CUPTI kernels and framework operators."),
    nvtx: bool = typer.Option(True, help="Mark the spans as NVTX ranges."),
    run_id: str = typer.Option("", help="Name of the run (default: from the time)."),
) -> None:
    """Run COMMAND (torchrun, python, a shell script) with the plugin armed in every process of it."""
    try:
        settings = Settings(
            out=out if "://" in out else os.path.abspath(out),
            warmup=warmup, steps=steps, operators=operators, kernels=kernels, nvtx=nvtx, run_id=run_id,
        )  # fmt: skip
    except SettingsError as error:
        raise refuse(str(error)) from None
    try:
        done = subprocess.run(command, env={**os.environ, **settings.to_environment()}, check=False)
    except OSError as error:
        raise refuse(f"cannot run {command[0]!r}: {error.strerror}") from None
    raise typer.Exit(done.returncode)


@app.command()
def collectives(
    out: str = typer.Option(..., "--out", help="Output directory or URI."),
    nproc_per_node: int = typer.Option(2, help="Processes to start here; ignored under torchrun."),
    ops: str = typer.Option("all_reduce,all_gather,reduce_scatter,all_to_all,p2p", help="Operations."),
    sizes: str = typer.Option("", help="Payloads in bytes, comma separated (default: powers of two)."),
    max_bytes: int = typer.Option(256 << 20, help="Largest payload where --sizes is not given."),
    dtype: str = typer.Option("", help="Element type (default: bfloat16 on a GPU, float32 elsewhere)."),
    repeats: int = typer.Option(12, min=3, help="Timed calls a payload."),
    pin: bool = typer.Option(True, help="On CPU, pin each process to a core."),
    run_id: str = typer.Option("", help="Name of the run (default: from the time)."),
) -> None:
    """Measure all-reduce, all-gather, reduce-scatter, all-to-all and send/recv."""
    from vtrain_plugin import bench_collectives

    unknown = [op for op in ops.split(",") if op not in bench_collectives.OPS]
    if unknown:
        raise refuse(f"unknown operation {unknown[0]!r}: known are {', '.join(bench_collectives.OPS)}")
    if any(not s.strip().isdigit() or int(s) < 1 for s in sizes.split(",") if s):
        raise refuse(f"--sizes is {sizes!r}: it takes bytes, comma separated, for example 1048576,4194304")
    if nproc_per_node < 2 and "RANK" not in os.environ:
        raise refuse(f"--nproc-per-node is {nproc_per_node}: communication takes 2 processes or more")
    arguments = [
        "--out", out, "--run-id", run_id or "collectives-" + new_run_id(), "--ops", ops, "--sizes", sizes,
        "--max-bytes", str(max_bytes), "--dtype", dtype or default_dtype(), "--repeats", str(repeats),
    ]  # fmt: skip
    if pin:
        arguments.append("--pin")
    if "RANK" in os.environ:
        bench_collectives.main(arguments)
        return
    launch = [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        "--nproc-per-node", str(nproc_per_node), "-m", "vtrain_plugin.bench_collectives",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    done = subprocess.run([*launch, *arguments], check=False, env=environment)
    if done.returncode == 0:
        print(f"wrote {out}/run_id={arguments[3]}")
    raise typer.Exit(done.returncode)


def default_dtype() -> str:
    """bfloat16 on a GPU, float32 elsewhere."""
    import torch

    cuda = torch.version.cuda is not None and torch.cuda.is_available()
    return "bfloat16" if cuda else "float32"


def main() -> None:
    """Entry point of ``vtrain-profile``."""
    app(prog_name="vtrain-profile")


if __name__ == "__main__":
    main()
