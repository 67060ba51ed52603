"""What is known can be listed."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from vtrain_sim.commands.sim import app
from vtrain_sim.errors import UserError
from vtrain_sim.inputs import flag_words, presets
from vtrain_sim.inputs.flag_lists import approximated, ignored, refused
from vtrain_sim.inputs.flag_table import LISTS, SWITCHES, VALUES
from vtrain_sim.inputs.listing import TREATMENTS


def listed(*words: str) -> list[dict[str, str]]:
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.output
    rows: list[dict[str, str]] = json.loads(done.stdout)
    return rows


def test_every_argument_is_listed_once_with_what_is_done_with_it() -> None:
    rows = listed("flags")
    by_name = {row["flag"]: row for row in rows}
    assert len(by_name) == len(rows)
    for flags, treatment in (
        ([*VALUES, *LISTS], "read"),
        (approximated(), "approximated"),
        (ignored(), "ignored"),
        (refused(), "refused"),
    ):
        assert {by_name[flag]["treatment"] for flag in flags if flag not in VALUES or treatment == "read"} == {
            treatment
        }
    assert by_name["--num-layers"] == {
        "flag": "--num-layers",
        "takes": "value",
        "treatment": "read",
        "about": "transformer layers",
    }
    assert "tokens exchanged in 8 bits" in by_name["--moe-dispatch-fwd-dtype"]["about"]


def test_what_arguments_are_about_is_in_plain_words() -> None:
    about = {row["flag"]: row["about"] for row in listed("flags", "--treatment", "read")}
    assert all(about.values())
    assert not any("_" in words.rpartition(": ")[0] or "_is_" in words for words in about.values())
    assert about["--moe-enable-deepep"] == "exchange of tokens with DeepEP"
    assert about["--recompute-activations"] == "recomputation of activations: selective"
    assert about["--disable-bias-linear"] == "no biases of linear layers"
    assert all("about" not in row for row in listed("flags", "--treatment", "ignored"))


def test_every_field_that_is_described_is_one_that_is_read() -> None:
    fields = {field for table in (VALUES, SWITCHES, LISTS) for field, *_ in table.values()}
    assert fields == set(flag_words._table())


def test_lists_can_be_narrowed() -> None:
    assert {row["treatment"] for row in listed("flags", "moe", "--treatment", "refused")} == {"refused"}
    assert all("recompute" in row["flag"] for row in listed("flags", "recompute"))
    assert {row["name"] for row in listed("presets", "--kind", "models")} == set(presets.names("models"))
    assert {row["kind"] for row in listed("presets")} == {"model", "device", "cluster"}
    assert [row["name"] for row in listed("presets", "llama3-8b")] == ["llama3-8b"]


def test_the_terminal_says_how_many_there_are_and_aligns_text_left() -> None:
    heading, columns, _, *rows = CliRunner().invoke(app, ["presets", "--kind", "clusters"]).stdout.splitlines()
    assert heading == f"{len(rows)} presets: {len(rows)} clusters"
    assert columns.split() == ["kind", "name", "about"]
    assert {row.index("nodes of") for row in rows} == {columns.index("about")}
    heading, columns, *_ = CliRunner().invoke(app, ["flags"], env={"COLUMNS": "80"}).stdout.splitlines()
    count = {name: len(listed("flags", "--treatment", name)) for name in TREATMENTS}
    assert heading.startswith(f"{sum(count.values()):,} arguments of Megatron: ")
    assert all(f"{number} {name}" in heading for name, number in count.items())
    assert columns.split() == ["flag", "treatment", "about"]


@pytest.mark.parametrize(
    "words", ["flags --treatment rea", "presets --kind model", "flags no-such-flag", "presets no-such-preset"]
)
def test_what_is_not_there_is_said(words: str) -> None:
    refused_with = CliRunner().invoke(app, words.split()).exception
    assert isinstance(refused_with, UserError)
