"""What pages say, without a browser: strict data, units, provenance, escaping, and a policy that lets nothing else in."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import vtrain as vt
from simulator.page.samples import CLUSTER, HOSTILE
from vtrain_sim.commands import catalog, sim
from vtrain_sim.report.page.columns import table
from vtrain_sim.report.page.document import document, json_text

NAMES = (
    *("project", "sweep", "plan", "study", "schedule", "placed-schedule", "size", "validate", "compare", "run"),
    *(
        "collectives",
        "difference",
        "sensitivity",
        "calibrate",
        "query",
        "hostile-projection",
        "hostile-table",
        "hostile-sweep",
    ),
)


class Elements(HTMLParser):
    """Elements of a page, and the text of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.attributes: list[tuple[str, str]] = []
        self.policy = ""
        self._open: dict[str, str | None] | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag == "script":
            self._open = dict(attrs)
        if tag == "meta" and ("http-equiv", "Content-Security-Policy") in attrs:
            self.policy = dict(attrs)["content"] or ""

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            self.scripts.append((self._open, data))
            self._open = None


def unfolded(column: dict[str, Any]) -> list[object]:
    """The values of a column as the scripts read them."""
    if column["kind"] == "text":
        return [None if place is None else column["words"][place] for place in column["values"]]
    if column["kind"] == "flags":
        return [" ".join(column["words"][place] for place in places) for places in column["values"]]
    return list(column["values"])


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_data_and_scripts_that_its_policy_names(
    pages: dict[str, Path], reports: dict[str, vt.Report], name: str
) -> None:
    page = Elements(pages[name].read_text())
    assert set(page.tags) == {"html", "head", "meta", "link", "title", "style", "body", "noscript", "p", "script"}
    (data, *scripts) = page.scripts
    assert data[0] == {"type": "application/json", "id": "data"}

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert json.loads(data[1], parse_constant=refuse) == json.loads(json.dumps(document(reports[name])))
    hashes = {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for _, text in scripts}
    assert set(re.findall(r"'sha256-([^']*)'", page.policy)) == hashes
    assert "default-src 'none'" in page.policy
    assert "unsafe-inline" not in page.policy.partition("script-src")[2]
    assert "connect-src" not in page.policy
    loaded = {value for attribute, value in page.attributes if attribute in ("src", "href", "action")}
    assert loaded == {"data:,"}


@pytest.mark.parametrize("name", [n for n in NAMES if not n.startswith("hostile")])
def test_charts_name_columns_that_are_there_and_numbers_have_units(reports: dict[str, vt.Report], name: str) -> None:
    page = document(reports[name])
    for section in page["sections"]:
        columns = {column["name"]: column for column in section["table"]["columns"]}
        for column in columns.values():
            assert len(column["values"]) == section["table"]["count"]
            assert column["name"].endswith(("_s", "_bytes", "_usd", "_ns")) <= bool(
                column.get("unit") or column["kind"] != "number"
            )
        chart = section["chart"]
        if chart is None:
            continue
        assert section["provenance"], f"{section['title']} does not say where its numbers are from"
        assert section["lead"], f"{section['title']} says nothing where its chart is not seen"
        # Each of these needs one column at least that has values.
        needed = {
            "bars": lambda c: [[c["category"]], c["values"]],
            "points": lambda c: [c["across"], c["up"]],
            "gantt": lambda c: [[c["start"]], [c["end"]], [c["what"]]],
        }[chart["draw"]](chart)
        assert all(set(names) & set(columns) for names in needed), section["title"]
        for series in chart.get("series", ()):
            assert all(0 <= place < section["table"]["count"] for place in series["places"])


def test_the_numbers_of_a_projection_are_its_own(reports: dict[str, vt.Report]) -> None:
    projection = reports["project"].main
    assert isinstance(projection, vt.Projection)
    page = document(reports["project"])
    time, memory, pipeline, idle = page["sections"]
    columns = {column["name"]: column for column in time["table"]["columns"]}
    total = sum(columns["time_s"]["values"]) / columns["time_s"]["factor"]
    assert total == pytest.approx(projection.iteration_time_s, rel=1e-4)
    columns = {column["name"]: column for column in memory["table"]["columns"]}
    assert {column["unit"] for column in columns.values() if column["kind"] == "number"} == {"", "GiB"}
    peak = max(columns["peak_bytes"]["values"]) * 2**30
    assert peak == pytest.approx(projection.memory.worst.peak_bytes, rel=1e-5)
    assert memory["chart"]["limit"]["value"] == projection.memory.capacity_bytes
    columns = {column["name"]: column for column in pipeline["table"]["columns"]}
    kinds = unfolded(columns["what"])
    c = projection.configuration
    assert kinds.count("forward") == c.num_microbatches * c.parallel.pp * c.parallel.vpp
    assert max(columns["end_s"]["values"]) / columns["end_s"]["factor"] == pytest.approx(
        projection.iteration_time_s, rel=1e-3
    )
    assert idle["table"]["count"] == c.parallel.pp
    figures = {figure["label"]: figure for figure in page["figures"]}
    assert figures["MFU"]["text"] == f"{projection.mfu:.1%}"
    assert "modelled" in figures["MFU"]["note"]


def test_every_evaluated_plan_is_on_the_page_with_its_flags(reports: dict[str, vt.Report]) -> None:
    result = reports["plan"].main
    assert isinstance(result, vt.PlanResult)
    (section, *_) = document(reports["plan"])["sections"]
    columns = {column["name"]: column for column in section["table"]["columns"]}
    rows = result.every.rows()
    assert section["table"]["count"] == len(rows) == result.evaluated
    assert unfolded(columns["megatron_args"]) == [row["megatron_args"] for row in rows]
    assert set(unfolded(columns["verdict"])) == {"fits", "does not fit", "after the deadline"}
    series = {one["name"]: one["places"] for one in section["chart"]["series"]}
    for figure in ("days", "cost_usd"):
        front = [rows[place][figure] for place in series["Pareto front"]]
        assert front == pytest.approx([getattr(plan, figure) for plan in result.pareto])
    assert len(series["fits"]) == result.feasible


def test_a_captured_run_has_its_layers_and_collectives(reports: dict[str, vt.Report]) -> None:
    sections = {section["title"]: section for section in document(reports["run"])["sections"]}
    columns = {column["name"]: column for column in sections["Time of each layer"]["table"]["columns"]}
    assert columns["layer"]["values"] == [1, 2, 3, 4]
    assert (columns["forward_ns"]["unit"], columns["forward_ns"]["values"]) == ("ms", [1, 2, 3, 4])
    assert columns["backward_ns"]["values"] == [2, 4, 6, 8]
    columns = {column["name"]: column for column in sections["Steps"]["table"]["columns"]}
    assert (columns["peak_allocated_bytes"]["unit"], columns["peak_allocated_bytes"]["values"]) == ("GiB", [8, 9])
    (section, *_) = document(reports["collectives"])["sections"]
    columns = {column["name"]: column for column in section["table"]["columns"]}
    # 50 us and 1 ns a byte, as they were written.
    factor = columns["transfer_s"]["factor"]
    for mib, time in zip(columns["bytes"]["values"], columns["transfer_s"]["values"], strict=True):
        nbytes = mib / columns["bytes"]["factor"]
        assert time / factor == pytest.approx(5e-5 + 1e-9 * nbytes, rel=1e-4)
    assert "latency" in section["lead"]


def test_what_is_left_out_is_on_the_page() -> None:
    """Of the model, of the device, and of the flags to copy."""
    job = vt.job("deepseek-v3", cluster="dgx-h200", gpus=64, ep=64, mbs=1, gbs=64, expandable_segments=True)
    notes = document(vt.project(job))["notes"]
    for word in ("multi-token prediction", "No training step", "--expandable-segments"):
        assert sum(word in note for note in notes) == 1, word
    assert len(notes) == 3


def test_a_long_step_is_shown_by_its_ends() -> None:
    job = vt.job("gpt3-1.3b", cluster=CLUSTER, gpus=16, pp=8, vpp=3, mbs=1, gbs=1024)
    (timeline,) = vt.report(vt.project(job), job).others
    assert isinstance(timeline, vt.Timeline)
    kept = {span.microbatch for span in timeline.spans if span.microbatch is not None}
    assert kept == {*range(250), *range(262, 512)}
    lead = next(s["lead"] for s in document(vt.Report(timeline))["sections"])
    assert "500 of 512 microbatches" in lead
    assert vt.report(vt.project(job.with_(gbs=65536)), job.with_(gbs=65536)).others == ()


@given(st.lists(st.floats() | st.integers(-(2**60), 2**60) | st.none(), min_size=1))
def test_any_numbers_are_strict_json(values: list[float | int | None]) -> None:
    """What is not finite is not known; everything else keeps six digits."""
    text = json_text(table([{"seconds": value, "x_s": value} for value in values]))
    columns = json.loads(text, parse_constant=lambda name: pytest.fail(name))["columns"]
    for column in columns:
        if column["kind"] != "number":
            continue
        for value, shown in zip(values, column["values"], strict=True):
            if value is None or value != value or abs(value) == float("inf"):
                assert shown is None
            else:
                scaled = value * column["factor"]
                assert shown is None if abs(scaled) == float("inf") else shown == pytest.approx(scaled, rel=1e-5)


@given(st.text())
def test_no_text_ends_the_element_that_it_is_in(value: str) -> None:
    text = json_text({"text": value + HOSTILE})
    assert not re.search("[<>&]", text)
    assert json.loads(text) == {"text": value + HOSTILE}


def test_the_units_of_columns() -> None:
    rows = [
        {"duration_ns": 2.5e9, "peak_bytes": 3 * 2**30, "logits_bytes": 2**20, "mfu": 0.5, "tokens_per_s_per_gpu": 7.0,
         "makespan_s": 86400.0, "mean_jct_s": 36000.0, "cost_usd": 12.5, "empty": None, "name": "a", "fits": True, "parameters": 13e9}
    ]  # fmt: skip
    columns = {c["name"]: (c["title"], c.get("unit"), c["values"][0]) for c in table(rows)["columns"]}
    assert columns == {
        "duration_ns": ("duration", "h", pytest.approx(2.5 / 3600, rel=1e-5)),
        "peak_bytes": ("peak memory", "GiB", 3),
        "logits_bytes": ("logits", "GiB", pytest.approx(1 / 1024)),
        "mfu": ("MFU", "%", 50),
        "tokens_per_s_per_gpu": ("tokens/s per GPU", "", 7),
        "makespan_s": ("makespan", "h", 24),
        "mean_jct_s": ("mean completion", "h", 10),
        "cost_usd": ("cost", "US$", 12.5),
        "name": ("name", None, 0),
        "fits": ("fits", None, True),
        "parameters": ("parameters", "billion", 13),
    }


def test_hours_are_for_what_is_mostly_hours() -> None:
    """One plan that takes three hours a step does not make the others fractions of an hour."""
    (steps,) = table([{"iteration_time_s": seconds} for seconds in (15.0, 20.0, 11_000.0)])["columns"]
    (ends,) = table([{"end_s": seconds} for seconds in (0.0, 8_000.0, 90_000.0)])["columns"]
    assert (steps["unit"], steps["values"]) == ("s", [15, 20, 11_000])
    assert (ends["unit"], ends["values"][0], ends["values"][2]) == ("h", 0, 25)


FLAGS = ("--cluster", CLUSTER, "--model", "gpt3-1.3b", "--micro-batch-size", "1", "--global-batch-size", "8")


def test_commands_write_the_page(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    done = CliRunner().invoke(sim.app, ["project", *FLAGS, "--report", str(out)])
    assert done.exit_code == 0, done.output
    assert "iteration time" in done.output
    assert '"draw":"gantt"' in out.read_text()
    done = CliRunner().invoke(catalog.app, ["show", "layers", "-c", str(place / "vtrain.duckdb"), "--report", str(out)])
    assert done.exit_code == 0, done.output
    assert "Time of each layer" in out.read_text()


@pytest.mark.parametrize(("name", "word"), [("page.pdf", "must end in .html"), ("nowhere/page.html", "no directory")])
def test_a_page_that_cannot_be_written_is_refused_first(tmp_path: Path, name: str, word: str) -> None:
    done = CliRunner().invoke(sim.app, ["project", *FLAGS, "--report", str(tmp_path / name)])
    assert word in str(done.exception)
    assert done.output == ""


def test_what_is_no_result_has_no_page() -> None:
    with pytest.raises(vt.UserError, match="is no result"):
        vt.report(3)  # type: ignore[arg-type]
    job = vt.job("gpt3-1.3b", cluster=CLUSTER, gpus=8, mbs=1, gbs=16)
    with pytest.raises(vt.UserError, match="is no job"):
        vt.report(vt.project(job), "job")  # type: ignore[arg-type]
