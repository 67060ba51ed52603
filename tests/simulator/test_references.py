"""Generated pages of the documentation are those that the tables make, and leave nothing out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import vtrain
from vtrain_sim.inputs import presets
from vtrain_sim.inputs.flag_groups import flag_groups
from vtrain_sim.inputs.flag_lists import approximated, ignored, refused
from vtrain_sim.inputs.flag_table import LISTS, SWITCHES, VALUES, opposite
from vtrain_sim.report import flag_reference, preset_reference

DOCS = Path(__file__).resolve().parents[2] / "docs"


def section(title: str) -> str:
    """One section of the page of arguments."""
    return (DOCS / "flags.md").read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_the_page_of_arguments_is_what_the_tables_make() -> None:
    assert (DOCS / "flags.md").read_text() == flag_reference.reference(), "make docs renews it"


def test_the_page_of_presets_is_what_the_files_make() -> None:
    assert (DOCS / "presets.md").read_text() == preset_reference.reference(), "make docs renews it"


def test_every_argument_that_is_read_is_there_in_one_form() -> None:
    shown = set(re.findall(r"`(--[\w-]+)`", section("Read")))
    for flag in (*VALUES, *LISTS, *SWITCHES):
        assert flag in shown or opposite(flag) in shown, flag


def test_every_argument_that_is_read_has_a_group() -> None:
    assert "others" not in flag_groups()


@pytest.mark.parametrize(
    ("title", "flags"), [("Approximated", approximated()), ("Ignored", ignored()), ("Refused", refused())]
)
def test_every_other_argument_is_there(title: str, flags: dict[str, object]) -> None:
    text = section(title) + (section("Simulated for some values") if title == "Refused" else "")
    shown = set(re.findall(r"`(--[\w-]+)`", text))
    assert set(flags) - {*VALUES, *LISTS, *SWITCHES} <= shown


def test_what_an_argument_takes_is_in_the_words_of_its_message() -> None:
    assert "| `--num-layers` | a whole number |" in section("Read")
    assert "| `--optimizer` | one of adam, muon, dist_muon |" in section("Read")
    assert "| `--swiglu` | - | `--gated-linear-unit` |" in section("Read")


def test_presets_have_their_parameters_and_sources() -> None:
    text = (DOCS / "presets.md").read_text()
    for kind in ("models", "devices", "clusters"):
        for name in presets.names(kind):
            (row,) = re.findall(
                rf"^\| `{re.escape(name)}` \| .+ \| (.+) \|$",
                text.partition("\n## What")[0] if kind == "models" else text.partition("\n## Clusters")[2],
                re.M,
            )
            source = presets.source(kind, name)
            assert source.rpartition("//")[2] in row, name
    assert re.search(r"^\| `deepseek-v3` \| 671 B \| 61 \| 7168 \|", text, re.M)


def test_every_public_name_is_in_the_reference_of_python() -> None:
    shown = set(re.findall(r"(?:^::: |heading: )vtrain\.(\w+)$", (DOCS / "python-reference.md").read_text(), re.M))
    assert shown == set(vtrain.__all__) - {"__version__"}
