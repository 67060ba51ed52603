"""``vtrain-sim size``: the largest compute-optimal model that trains in time."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from vtrain_sim.commands.plan import numbers
from vtrain_sim.whole_file import write_file


def size(
    cluster: str = typer.Option(..., "--cluster", help="Cluster preset, or a TOML or YAML file."),
    num_gpus: int = typer.Option(..., "--num-gpus", min=1, help="GPUs to train on."),
    days: float = typer.Option(..., "--days", help="Days to train for."),
    law: str = typer.Option(
        "chinchilla-20", "--law", help="Scaling law: chinchilla-20, hoffmann-approach-3, besiroglu."
    ),
    global_batch_size: str = typer.Option("1536,1920,2048", "--global-batch-size", help="Sequences a step to try."),
    seq_length: int = typer.Option(2048, "--seq-length", min=128, help="Tokens of a sequence."),
    vocab_size: int = typer.Option(51200, "--vocab-size", min=2, help="Size of the vocabulary."),
    max_tp: int = typer.Option(8, "--max-tp", min=1, help="Largest tensor parallel size."),
    attention_backend: str = typer.Option("flash", "--attention-backend", help="flash or unfused."),
    as_json: bool = typer.Option(False, "--json", help="Print vtrain.size/1 as JSON."),
    table_file: Path = typer.Option(None, "--table", help="Write the candidates to a .csv or .parquet file."),
    plot: Path = typer.Option(None, "--plot", help="Draw days against parameters: a .png, .svg or .pdf."),
) -> None:
    """Find the largest model that satisfies a scaling law at the utilisation that its best plan really reaches."""
    from vtrain_sim.costs.surfaces import Surfaces
    from vtrain_sim.decide import Bounds
    from vtrain_sim.decide.sizing import size as search
    from vtrain_sim.inputs.lookup import find_cluster
    from vtrain_sim.report.progress import counting
    from vtrain_sim.report.rows import check_name, write_rows
    from vtrain_sim.simulate.projection import Projector
    from vtrain_sim.specs import TrainSpec

    if table_file is not None:
        check_name(table_file)
    machine, surfaces = find_cluster(cluster)
    projector = Projector.modelled(machine, Surfaces.from_dict(surfaces))
    base = TrainSpec(1, 1, attention_kernel=attention_backend)
    recompute = ("none", "full") if attention_backend == "flash" else ("none", "selective", "full")
    with counting("models planned", "in time", quiet=as_json) as progress:
        result = search(
            projector,
            num_gpus,
            days,
            numbers("--global-batch-size", global_batch_size),
            law,
            seq_length,
            vocab_size,
            base,
            Bounds(max_tp=max_tp, recompute=recompute, max_cp=1),
            progress,
        )
    if table_file is not None:
        rows = [{k: v for k, v in c.to_dict().items() if k != "plan"} for c in result.candidates]
        write_file(table_file, lambda stream: write_rows(stream, table_file.suffix, rows))
    if plot is not None:
        from vtrain_sim.report.size import draw_sizes

        draw_sizes(plot, result)
    if as_json:
        print(json.dumps(result.to_dict(), indent=2))
        return
    from vtrain_sim.report.size import print_sizes
    from vtrain_sim.report.tables import console

    print_sizes(result, console())
