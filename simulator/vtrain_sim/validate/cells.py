"""The cells of a row of a validation table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property

from vtrain_sim.errors import UserError

COUNTED = ("account_for_embedding_in_pipeline_split", "account_for_loss_in_pipeline_split")


class Cells:
    """The cells of one row, which may lack some."""

    def __init__(self, row: Mapping[str, str]) -> None:
        self._row = row

    @property
    def row(self) -> Mapping[str, str]:
        """The row itself."""
        return self._row

    def text(self, name: str, default: str = "") -> str:
        """A cell; the default where it is empty or missing."""
        return (self._row.get(name) or "").strip() or default

    def number(self, name: str, default: int = 0) -> int:
        """A whole number. Raises `UserError` for text that is none."""
        text = self.text(name)
        if not text:
            return default
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise UserError(f"{name} is {text!r}, not a number")
        if value != int(value):
            raise UserError(f"{name} is {text!r}, not a whole number")
        return int(value)

    def switch(self, name: str, default: bool = False) -> bool:
        """A cell that is 0 or 1."""
        return bool(self.number(name, int(default)))

    @property
    def gated(self) -> bool:
        """Whether the activation is gated, with what goes with that."""
        return self.switch("swiglu")

    @property
    def hybrid(self) -> bool:
        """Whether layers are of several kinds, with what goes with that."""
        return bool(self.text("hybrid_layer_pattern"))

    @property
    def schedule(self) -> str:
        """The word of the schedule."""
        return self.text("pipeline_schedule", "1f1b")

    @property
    def tp(self) -> int:
        """Tensor parallel size."""
        return self.number("tensor_model_parallel_size", 1)

    @property
    def pp(self) -> int:
        """Pipeline parallel size."""
        return self.number("pipeline_model_parallel_size", 1)

    @property
    def dp(self) -> int:
        """Data parallel size: what the number of GPUs leaves, where the row's column disagrees with it."""
        model_ranks = self.tp * self.pp * self.number("context_parallel_size", 1)
        gpus = self.number("num_gpus")
        if not model_ranks or not gpus:
            return self.number("data_parallel_size", 1)
        if gpus % model_ranks:
            raise UserError(
                f"num_gpus is {gpus}, which is not a multiple of tensor x pipeline x context parallel size "
                f"({model_ranks})"
            )
        return gpus // model_ranks

    @cached_property
    def short_ends(self) -> bool:
        """Whether the first and the last stage have one layer fewer than the others."""
        if any(self._row.get(name) is not None for name in COUNTED):
            return all(self.switch(name) for name in COUNTED)
        return "first & last stages have one fewer layer" in self.text("notes")

    @cached_property
    def stage_layers(self) -> list[int]:
        """Layers of each stage: as even as can be, one fewer at both ends where the row says so."""
        num_layers, pp = self.number("num_layers"), self.pp
        if self.short_ends and (num_layers + 2) % pp == 0 and pp > 1:
            each = (num_layers + 2) // pp
            return [each - 1, *[each] * (pp - 2), each - 1]
        return shared_out(num_layers, pp)


def shared_out(count: int, parts: int) -> list[int]:
    """A count over so many parts, as even as can be, the first ones larger."""
    return [count // parts + (1 if part < count % parts else 0) for part in range(parts)]


def switched(flag: str, on: bool) -> list[str]:
    """The flag, where it is on."""
    return [flag] if on else []
