"""Every public name has a docstring with an example, and the example runs."""

from __future__ import annotations

import doctest
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import vtrain

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
# Objects whose methods are the way in: each has an example of its own.
WITH_METHODS = (
    *("job", "Job", "Catalog", "Result", "Projection", "SweepResult", "FleetResult", "Timeline", "TimelineSpan"),
    "Comparison",
)


def members(kind: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties that a class defines itself."""
    for name, value in vars(kind).items():
        if not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
            yield name, value


def examples() -> dict[str, str]:
    found = {}
    for name in vtrain.__all__:
        if name == "__version__":
            continue
        value = getattr(vtrain, name)
        found[name] = inspect.getdoc(value) or ""
        if name in WITH_METHODS:
            kind = value if inspect.isclass(value) else type(value)
            inherited = {member for member, _ in members(vtrain.Result)} if name != "Result" else set()
            found |= {f"{name}.{m}": inspect.getdoc(v) or "" for m, v in members(kind) if m not in inherited}
    return found


EXAMPLES = examples()


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs(name: str, workplace: Path) -> None:
    doc = EXAMPLES[name]
    assert ">>> import vtrain as vt" in doc, f"{name} has no example"
    test = doctest.DocTestParser().get_doctest(doc, {}, name, None, None)
    report: list[str] = []
    doctest.DocTestRunner(optionflags=OPTIONS).run(test, out=report.append)
    assert not report, "".join(report)


def test_a_wrong_example_would_be_noticed(workplace: Path) -> None:
    test = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, None)
    report: list[str] = []
    doctest.DocTestRunner(optionflags=OPTIONS).run(test, out=report.append)
    assert report


@pytest.mark.parametrize("name", [n for n in vtrain.__all__ if inspect.isclass(getattr(vtrain, n))])
def test_public_members_are_described(name: str) -> None:
    for member, value in members(getattr(vtrain, name)):
        assert inspect.getdoc(value), f"{name}.{member}"
