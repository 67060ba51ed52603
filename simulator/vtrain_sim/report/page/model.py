"""What a page consists of, before it is HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from vtrain_sim.results import Document, Result, Row

# Charts: the name of a script's function, and what it takes: names of columns of the section's table.
Chart = Mapping[str, object]


@dataclass(frozen=True)
class Figure:
    """One number that matters, written out with its unit. note: where it is from, or what it is made of."""

    label: str
    text: str
    note: str = ""
    state: str = ""  # "good" or "bad", where the number is a verdict


@dataclass(frozen=True)
class Section:
    """A heading, a sentence or two that say what there is to see, a chart of the rows, and the rows.

    lead: also what is read out in place of the chart. provenance: where the numbers are from. folded: the rows
    are shown on demand.
    """

    title: str
    lead: str
    rows: Sequence[Row]
    chart: Chart | None = None
    provenance: str = ""
    folded: bool = False
    titles: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Page:
    """The content of a page. kind: what it is a page of. appendix: sections that come last. texts: to copy, by name."""

    kind: str
    title: str
    subtitle: str = ""
    figures: tuple[Figure, ...] = ()
    sections: tuple[Section, ...] = ()
    notes: tuple[str, ...] = ()
    appendix: tuple[Section, ...] = ()
    texts: tuple[tuple[str, str], ...] = ()

    def followed_by(self, *sections: Section) -> Page:
        """The same page with more sections."""
        return replace(self, sections=(*self.sections, *sections))


@dataclass(frozen=True, repr=False)
class Report(Result):
    """A result, and what else its page shows. command: what makes it again.

    >>> import vtrain as vt
    >>> job = vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, pp=4, mbs=1, gbs=16)
    >>> report = vt.report(vt.project(job), job)
    >>> [type(part).__name__ for part in report.others]
    ['Timeline']
    """

    main: Result
    others: tuple[Result, ...] = ()
    command: str = ""

    def summary(self) -> Mapping[str, object]:
        """The main result's."""
        return self.main.summary()

    def rows(self) -> list[Row]:
        """The main result's."""
        return self.main.rows()

    def to_dict(self) -> Document:
        """The main result's."""
        return self.main.to_dict()

    def tables(self) -> dict[str, list[Row]]:
        """The main result's."""
        return self.main.tables()
