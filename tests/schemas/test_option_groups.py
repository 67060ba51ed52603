"""Options that several commands share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import typer
from typer.testing import CliRunner

from vtrain_schemas.option_groups import with_groups


@dataclass(frozen=True)
class Where:
    out: Path = typer.Option(..., "--out", help="Where to.")  # noqa: RUF009
    names: list[str] = typer.Option([], "--name", help="What for.")  # noqa: RUF009


def test_a_group_stands_where_its_parameter_stood() -> None:
    got: list[object] = []
    app = typer.Typer()

    @app.command()
    @with_groups
    def copy(
        source: str = typer.Argument(...),
        first: int = typer.Option(1, "--first"),
        *,
        where: Where,
        last: bool = typer.Option(False, "--last"),
    ) -> None:
        got.extend((source, first, where, last))

    done = CliRunner().invoke(app, ["a", "--name", "x", "--out", "b", "--name", "y", "--last"])
    assert done.exit_code == 0, done.output
    assert got == ["a", 1, Where(Path("b"), ["x", "y"]), True]
    shown = CliRunner().invoke(app, ["--help"]).output
    assert shown.index("--first") < shown.index("--out") < shown.index("--name") < shown.index("--last")
    missing = CliRunner().invoke(app, ["a"])
    assert missing.exit_code == 2
    assert "--out" in missing.output
