"""Flags, with those of a spec file and of a launch script before them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vtrain_sim.errors import UserError
from vtrain_sim.inputs.megatron_flags import check_contradictions
from vtrain_sim.inputs.searched import to_search
from vtrain_sim.inputs.spec_file import read_flags
from vtrain_sim.inputs.unsaid import unsaid
from vtrain_sim.specs.checks import finite, whole

_DATA_PARALLEL = "--data-parallel-size"


@dataclass(frozen=True)
class Given:
    """What describes a job: Megatron's flags and vtrain's own options.

    gpus: world size, 0: as the layout needs. unknown_gpus: why a launch script's cannot be read.
    train_tokens: 0: not said. price_per_gpu_hour: US dollars, None: the cluster's. notes: on how files were read.
    name: of the file that describes the job.
    """

    flags: tuple[str, ...] = ()
    cluster: str = ""
    model: str = ""
    gpus: int = 0
    train_tokens: float = 0.0
    price_per_gpu_hour: float | None = None
    unknown_gpus: str = ""
    notes: tuple[str, ...] = ()
    name: str = ""

    def over(
        self,
        spec: Path | None,
        megatron_args: Path | None,
        run_script: bool = True,
        script_arguments: Sequence[str] = (),
    ) -> Given:
        """The same on top of what a spec file and a launch script say. Raises `UserError`.

        run_script: bash may run the script, where it can do no harm. script_arguments: the script's own.
        """
        given = self
        check_contradictions(self.flags)
        if spec is not None:
            given = given.before(_of_spec(spec))
        if megatron_args is not None:
            given = given.before(_of_script(megatron_args, run_script, script_arguments))
            flags, notes = unsaid(given.flags)
            given = replace(given, flags=(*flags, *given.flags), notes=(*given.notes, *notes))
        return given

    def over_file(self, path: Path, run_script: bool = True, script_arguments: Sequence[str] = ()) -> Given:
        """The same on top of what one file says, a spec or a launch script by its name (`is_job_file`)."""
        spec, script = (path, None) if path.suffix in _SPECS else (None, path)
        return self.over(spec, script, run_script, script_arguments)

    def to_search(self, keep_recomputation: bool = False) -> tuple[Given, int]:
        """The same without the layout, which is searched, and the global batch that it says (0: not said)."""
        kept = to_search(self.flags, keep_recomputation)
        left_out = f"searched, not as the file has it: {', '.join(kept.left_out)}"
        return replace(self, flags=kept.flags, notes=(*self.notes, *([left_out] if kept.left_out else []))), kept.batch

    def before(self, file: Given) -> Given:
        """The same on top of what another one says. Raises `UserError`."""
        check_contradictions(file.flags)
        priced = file.price_per_gpu_hour if self.price_per_gpu_hour is None else self.price_per_gpu_hour
        return Given(
            (*file.flags, *self.flags),
            self.cluster or file.cluster,
            self.model or file.model,
            self.gpus or file.gpus,
            self.train_tokens or file.train_tokens,
            priced,
            self.unknown_gpus or file.unknown_gpus,
            (*file.notes, *self.notes),
            self.name or file.name,
        )

    def check_gpus(self) -> None:
        """Raise `UserError` where a script starts some number of processes, and nothing says which."""
        if self.unknown_gpus and not self.gpus and _DATA_PARALLEL not in self.flags:
            raise UserError(f"{self.unknown_gpus}: give --num-gpus")


# Files of vtrain's own, and of a model alone.
_SPECS, _MODELS = (".yaml", ".yml", ".toml"), (".json",)


def is_job_file(word: str) -> bool:
    """Whether a word names a spec, a launch script or another list of arguments, or a pipe that one comes through."""
    path = Path(word)
    return path.suffix in _SPECS or (path.suffix not in _MODELS and path.exists() and not path.is_dir())


def flags_of(flags: Sequence[str]) -> list[str]:
    """A list of flags. Raises `UserError` for one that contradicts itself."""
    check_contradictions(flags)
    return list(flags)


def _of_script(path: Path, run_script: bool, script_arguments: Sequence[str]) -> Given:
    # Commands without a file need none of its readers.
    from vtrain_sim.inputs.job_files import read_job_file

    launch = read_job_file(path, run_script, script_arguments)
    unknown = f"{path}: {launch.unknown}" if launch.unknown else ""
    return Given(
        launch.arguments,
        model=launch.preset,
        gpus=launch.processes,
        unknown_gpus=unknown,
        notes=launch.notes,
        name=path.name,
    )


def _of_spec(path: Path) -> Given:
    flags, entries = read_flags(path)
    price = entries.get("price-per-gpu-hour")
    return Given(
        tuple(flags),
        entries.get("cluster", ""),
        entries.get("preset", ""),
        _whole(f"{path}: num_gpus", entries.get("num-gpus", "0")),
        _number(f"{path}: train_tokens", entries.get("train-tokens", "0")),
        _number(f"{path}: price_per_gpu_hour", price) if price is not None else None,
        name=path.name,
    )


def _whole(name: str, text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise UserError(f"{name} is {text!r}: it takes a whole number") from None
    whole(name, value, 0)
    return value


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise UserError(f"{name} is {text!r}: it takes a number") from None
    finite(name, value)
    return value
