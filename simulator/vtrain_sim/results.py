"""What every result can do: be a dictionary, a table, a line, a card in a notebook, a picture."""

from __future__ import annotations

import importlib
import importlib.util
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

from vtrain_sim.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from matplotlib.figure import Figure

# A row of a table: column -> number, text, yes or no, a list of such, or None.
Row: TypeAlias = dict[str, Any]
# A machine-readable result, JSON: what its ``schema`` says.
Document: TypeAlias = dict[str, Any]


class Result(ABC):
    """A result of one of the verbs: a frozen dataclass that knows its figures and its rows.

    A subclass gives `summary` (the figures of the card and of the one-line `repr`), `rows` (its table) and
    `to_dict` (the machine-readable document with its ``schema``); the rest follows from them. Durations are
    seconds unless the name says otherwise, sizes are bytes, shares are 0 to 1.

    >>> import vtrain as vt
    >>> job = vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, mbs=1, gbs=16)
    >>> isinstance(vt.project(job), vt.Result)
    True
    """

    @abstractmethod
    def summary(self) -> Mapping[str, object]:
        """The few figures that matter, by name; the name says the unit.

        >>> import vtrain as vt
        >>> job = vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, mbs=1, gbs=16)
        >>> vt.project(job).summary()["num_gpus"]
        8
        """

    @abstractmethod
    def rows(self) -> list[Row]:
        """The result as a table: one dictionary per row.

        >>> import vtrain as vt
        >>> job = vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, mbs=1, gbs=16)
        >>> [row["tp"] for row in vt.sweep(job, tp=[1, 2]).rows()]
        [1, 2]
        """

    @abstractmethod
    def to_dict(self) -> Document:
        """The machine-readable result; ``schema`` names its format.

        >>> import vtrain as vt
        >>> job = vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, mbs=1, gbs=16)
        >>> vt.project(job).to_dict()["schema"]
        'vtrain.projection/1'
        """

    def columns(self) -> list[str]:
        """Names of the columns of `rows`.

        >>> import vtrain as vt
        >>> job = vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, mbs=1, gbs=16)
        >>> "iteration_time_s" in vt.project(job).columns()
        True
        """
        return columns_of(self.rows())

    def document(self) -> object:
        """What is printed as JSON: `to_dict`, except where the printed document is a list.

        >>> import vtrain as vt
        >>> job = vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, mbs=1, gbs=16)
        >>> result = vt.project(job)
        >>> result.document() == result.to_dict()
        True
        """
        return self.to_dict()

    def tables(self) -> dict[str, list[Row]]:
        """The tables that a page shows below the card, by title.

        >>> import vtrain as vt
        >>> job = vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, mbs=1, gbs=16)
        >>> list(vt.project(job).tables())
        ['where the time goes', 'memory by stage']
        """
        return {"": self.rows()}

    def to_arrow(self) -> pa.Table:
        """The rows as a ``pyarrow.Table``.

        >>> import vtrain as vt
        >>> job = vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, mbs=1, gbs=16)
        >>> vt.sweep(job, tp=[1, 2]).to_arrow().num_rows
        2
        """
        import pyarrow as pa

        columns = self.columns()
        return pa.Table.from_pylist([{name: row.get(name) for name in columns} for row in self.rows()])

    def to_pandas(self) -> pd.DataFrame:
        """The rows as a ``pandas.DataFrame``. Raises `UserError` where pandas is not installed.

        >>> import vtrain as vt
        >>> job = vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, mbs=1, gbs=16)
        >>> vt.sweep(job, tp=[1, 2]).to_pandas()["tp"].tolist()
        [1, 2]
        """
        if importlib.util.find_spec("pandas") is None:
            raise UserError("data frames need pandas: pip install pandas")
        return self.to_arrow().to_pandas()

    def plot(self) -> Figure:
        """The result as a ``matplotlib.figure.Figure``.

        Raises `UserError` where matplotlib is not installed, or where the result has no picture.

        >>> import vtrain as vt
        >>> job = vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, mbs=1, gbs=16)
        >>> vt.project(job).plot().savefig("where-the-time-goes.png")
        """
        figure: Figure = _layer_above("vtrain_sim.report.plots").draw(self)
        return figure

    def __repr__(self) -> str:
        figures = ", ".join(f"{name}={short(value)}" for name, value in self.summary().items() if value is not None)
        return f"{type(self).__name__}({figures})"

    def _repr_html_(self) -> str:
        fragment: str = _layer_above("vtrain_sim.report.html").fragment(self)
        return fragment


class Table(Result):
    """Plain rows with a name: the part of a result that is written to a file of its own.

    >>> import vtrain as vt
    >>> jobs = vt.schedule(cluster="dgx-a100-80gb", num_gpus=8, jobs=2, models="gpt3-1.3b", global_batch_size=64)
    >>> jobs.stretches()
    Table(name=stretches, rows=...)
    """

    def __init__(self, name: str, rows: Iterable[Row]) -> None:
        self.name = name
        self._rows = list(rows)

    def summary(self) -> Mapping[str, object]:
        """Name and number of rows."""
        return {"name": self.name, "rows": len(self._rows)}

    def rows(self) -> list[Row]:
        """The rows."""
        return self._rows

    def to_dict(self) -> Document:
        """Name and rows."""
        return {"name": self.name, "rows": self._rows}

    def document(self) -> object:
        """The list of rows."""
        return self._rows


class Listing(Table):
    """What is known by name: rows of text, with a sentence that counts them.

    things: what a row is, in the plural. by: the column whose values are counted apart.
    """

    def __init__(self, name: str, rows: Iterable[Row], things: str, by: str) -> None:
        super().__init__(name, rows)
        self.things, self.by = things, by

    def counts(self) -> dict[str, int]:
        """How many rows have each value of the column that is counted by, the most frequent first."""
        return dict(Counter(str(row[self.by]) for row in self._rows).most_common())


def columns_of(rows: Sequence[Row]) -> list[str]:
    """Names of the columns of all rows, in the order in which they first appear."""
    return list(dict.fromkeys(name for row in rows for name in row))


def short(value: object) -> str:
    """One value in few characters."""
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else str(value)
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


def _layer_above(module: str) -> ModuleType:
    """A module that renders results. It imports them, so that it is known here by its name only."""
    return importlib.import_module(module)
