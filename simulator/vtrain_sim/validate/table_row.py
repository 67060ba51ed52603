"""The configurations that a row of a validation table may describe: one, or several where it leaves sizes open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vtrain_sim.errors import UserError
from vtrain_sim.inputs.megatron_flags import configuration_from_flags
from vtrain_sim.specs import Configuration
from vtrain_sim.validate.cells import Cells
from vtrain_sim.validate.row_flags import flags_of

# Sizes that `recipe_match` names, and their columns.
_RECIPE_SIZES = {
    "mbs": "micro_batch_size",
    "pp": "pipeline_model_parallel_size",
    "vp": "virtual_pipeline_chunks",
    "ep": "expert_model_parallel_size",
}
# Micro batches that a row may have had which does not say it.
_MICRO_BATCHES = (1, 2, 4, 8)


@dataclass(frozen=True)
class Described:
    """What a row describes. configurations: more than one where it does not state its micro batch or its chunks.

    approximated: columns with values that nothing models; `recipe_match` where settings are those of another recipe.
    """

    configurations: tuple[Configuration, ...]
    approximated: tuple[str, ...]


def described_by(row: Mapping[str, str]) -> Described:
    """What a row describes; raises `UserError` where Megatron or vtrain has none such."""
    cells = Cells(row)
    stated = (cells.number("micro_batch_size"), _chunks(cells))
    micro_batches = (stated[0],) if stated[0] else _MICRO_BATCHES
    chunks = (stated[1],) if stated[1] else _divisors(max(cells.stage_layers))
    reads = [_read(row, micro_batch, vpp) for micro_batch in micro_batches for vpp in chunks]
    projected = [read for read in reads if isinstance(read, tuple)]
    refused = [read for read in reads if isinstance(read, UserError)]
    if not projected:
        raise refused[0]
    guessed = ("recipe_match",) if row.get("recipe_match", "") not in ("", "exact") else ()
    return Described(tuple(configuration for configuration, _ in projected), (*projected[0][1], *guessed))


def described_by_recipe(row: Mapping[str, str]) -> Described | None:
    """What a row describes with the sizes of its source's recipe, where it says that these are other ones."""
    words = (word.partition("=") for word in row.get("recipe_match", "").split())
    sizes = {_RECIPE_SIZES[name]: value for name, _, value in words if name in _RECIPE_SIZES}
    if not sizes:
        return None
    return described_by({**row, **sizes})


def _read(row: Mapping[str, str], micro_batch: int, chunks: int) -> tuple[Configuration, tuple[str, ...]] | UserError:
    """The configuration with these sizes and what of it nothing models, or why there is none such."""
    try:
        read = flags_of(row, micro_batch, chunks)
        return configuration_from_flags(read.flags), read.approximated
    except UserError as error:
        return error


def configuration_of(row: Mapping[str, str]) -> Configuration:
    """The configuration that a row describes. Raises `UserError`, also where it describes several."""
    configurations = described_by(row).configurations
    if len(configurations) > 1:
        raise UserError("micro_batch_size or virtual_pipeline_chunks is not stated")
    return configurations[0]


def _chunks(cells: Cells) -> int:
    """Model chunks per stage; 0 where a row does not say."""
    vpp = cells.number("virtual_pipeline_chunks", 0 if "virtual_pipeline_chunks" in cells.row else 1)
    if cells.pp == 1:
        return 1
    if cells.text("pipeline_layout"):
        return max(1, vpp)  # the layout says it
    # Published with the schedule alone: as many as there are.
    return max(cells.stage_layers) if cells.schedule == "interleaved" and vpp == 1 else vpp


def _divisors(count: int) -> tuple[int, ...]:
    return tuple(n for n in range(1, count + 1) if count % n == 0)
