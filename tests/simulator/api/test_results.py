"""Every result in every medium; sweeps equal projections; renderers from outside."""

from __future__ import annotations

import csv
import io
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import vtrain as vt
from vtrain_sim.commands import catalog, sim
from vtrain_sim.commands.vtrain import app as whole
from vtrain_sim.report import html, registry
from vtrain_sim.report.plots import check_name

CLUSTER = "dgx-a100-80gb"
PICTURES = ("project", "timeline", "sweep", "plan", "study", "schedule", "size", "validate", "validate_run")


@pytest.fixture(scope="module")
def results(furnished: Path) -> dict[str, vt.Result]:
    job = vt.job("gpt3-1.3b", cluster=CLUSTER, gpus=8, mbs=1, gbs=16)
    index = vt.Catalog(furnished / "vtrain.duckdb")
    small = {"cluster": CLUSTER, "num_gpus": 8}
    jobs = vt.schedule(**small, jobs=3, models="gpt3-1.3b", policies=["fifo", "elasticflow", "elastic-plans"])
    return {
        "project": vt.project(job, train_tokens=1e9),
        "timeline": vt.timeline(job, microbatches=[0]),
        "sweep": vt.sweep(job, tp=[1, 2, 3], sequence_parallel=[True, False]),
        "plan": vt.plan("gpt3-1.3b", **small, global_batch_size=64, train_tokens=1e9, top=3),
        "study": vt.study(furnished / "study.toml", furnished / "out"),
        "schedule": jobs,
        "stretches": jobs.stretches(),
        "trace": jobs.trace(),
        "size": vt.size(cluster=CLUSTER, num_gpus=16, days=10, global_batch_size=256),
        "validate": vt.validate(furnished / "measured.csv"),
        "validate_run": vt.validate_run(vt.job.from_run(index, "base")),
        "calibrate": vt.calibrate(collectives=furnished / "collectives.csv", cluster=CLUSTER),
        "tune": vt.tune(furnished / "measured.csv", priors="a100", rounds=1),
        "ls": index.ls(),
        "show": index.show("base"),
        "check": index.check(),
        "sql": index.sql("SELECT rank, step FROM steps"),
        "schema": index.schema("steps"),
        "add": index.add(furnished / "profiles"),
    }


NAMES = (
    *(
        "project",
        "timeline",
        "sweep",
        "plan",
        "study",
        "schedule",
        "stretches",
        "trace",
        "size",
        "validate",
        "validate_run",
    ),
    *("calibrate", "tune", "ls", "show", "check", "sql", "schema", "add"),
)


@pytest.mark.parametrize("name", NAMES)
def test_every_result_in_every_medium(results: dict[str, vt.Result], name: str) -> None:
    result = results[name]
    assert "\n" not in repr(result)
    assert repr(result).startswith(type(result).__name__ + "(")
    json.loads(str(vt.render(result, "json")))
    rows = result.rows()
    assert [r.get(c) for r in rows for c in r] == [r[c] for r in rows for c in r]
    assert len(list(csv.DictReader(io.StringIO(str(vt.render(result, "csv")))))) == len(rows)
    assert str(vt.render(result, "markdown")).count("\n") == len(rows) + 2
    assert str(vt.render(result, "table")).strip() or name == "calibrate"
    table = result.to_arrow()
    assert table.num_rows == len(rows)
    assert rows == [] or set(table.column_names) == {c for r in rows for c in r}
    page = str(vt.render(result, "html"))
    assert page.startswith("<!doctype html>")
    assert 'id="data"' in page
    assert result._repr_html_().startswith("<style>")


@pytest.mark.parametrize("name", NAMES)
def test_pictures(results: dict[str, vt.Result], name: str, tmp_path: Path) -> None:
    if name in PICTURES:
        results[name].plot().savefig(tmp_path / "p.png")
        assert (tmp_path / "p.png").stat().st_size > 1000
    else:
        with pytest.raises(vt.UserError, match="there is no picture"):
            results[name].plot()


def test_the_picture_of_a_timeline_has_a_row_per_stage() -> None:
    """Its passes, and below them what the replicas exchange; without passes there is nothing to draw."""
    job = vt.job("gpt3-1.3b", cluster=CLUSTER, gpus=8, pp=4, mbs=1, gbs=16, schedule="zb-h1", overlap_grad_reduce=True)
    figure = vt.timeline(job, detail="passes").plot()
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "1", "2", "3"]
    kinds = [text.get_text() for text in figure.legends[0].get_texts()]
    assert kinds == ["forward", "backward", "weight gradients", "data parallel exchange"]
    bars = [patch for patch in axes.collections if patch.get_label() == "forward"]
    assert len(bars[0].get_paths()) == job.configuration.num_microbatches
    with pytest.raises(vt.UserError, match="nothing to draw"):
        vt.timeline(job, microbatches=[]).plot()


def test_the_fastest_point_trains_on_most_tokens() -> None:
    """Of steps of different sizes the longer one may be the better one."""
    job = vt.job("gpt3-1.3b", cluster=CLUSTER, gpus=8, pp=4, mbs=1, gbs=8)
    result = vt.sweep(job, gbs=[8, 64])
    small, large = result.points
    assert small.iteration_time_s < large.iteration_time_s
    assert small.tokens_per_s_per_gpu < large.tokens_per_s_per_gpu
    assert result.fastest == large


def test_a_narrow_terminal_breaks_no_value(results: dict[str, vt.Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = str(vt.render(results["plan"], "table")).splitlines()
    assert any("step" in line and "GiB" in line and "dollars" in line for line in lines)
    launch = lines[lines.index("launch the best with:") + 1]
    assert launch.count("--") > 10


def test_data_frames(results: dict[str, vt.Result]) -> None:
    pandas = pytest.importorskip("pandas")
    frame = results["sweep"].to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert frame["tp"].tolist() == [row["tp"] for row in results["sweep"].rows()]


def test_missing_libraries_are_a_sentence(
    results: dict[str, vt.Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(vt.UserError, match="pip install matplotlib"):
        results["project"].plot()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(vt.UserError, match="pip install pandas"):
        results["project"].to_pandas()
    with pytest.raises(vt.UserError, match="pip install matplotlib"):
        check_name(tmp_path / "before-the-work.png")


def test_a_sweep_is_its_projections(results: dict[str, vt.Result]) -> None:
    job = vt.job("gpt3-1.3b", cluster=CLUSTER, gpus=8, mbs=1, gbs=16)
    result = vt.sweep(job, tp=[1, 2], pp=[1, 2, 4], recompute=["none", "full"])
    assert len(result.points) == 12
    for point in result.points:
        projection = vt.project(job.with_(**point.values))
        assert point.configuration == projection.configuration
        assert point.iteration_time_s == pytest.approx(projection.iteration_time_s, rel=1e-9)
        assert (point.mfu, point.hfu) == (pytest.approx(projection.mfu), pytest.approx(projection.hfu))
        assert point.peak_bytes == pytest.approx(projection.memory.worst.peak_bytes, rel=1e-6)
        assert point.fits == projection.memory.fits
    fastest = result.fastest
    assert fastest is not None
    assert fastest.iteration_time_s == min(p.iteration_time_s for p in result.points if p.fits)


def test_refused_points_keep_their_place_and_say_why(results: dict[str, vt.Result]) -> None:
    rows = results["sweep"].rows()
    assert [(r["tp"], r["sequence_parallel"]) for r in rows] == [(t, s) for t in (1, 2, 3) for s in (True, False)]
    assert [bool(r["reason"]) for r in rows] == [False, False, False, False, True, True]
    assert all((r["iteration_time_s"] is None) == bool(r["reason"]) for r in rows)


def test_sweeps_of_nothing_are_refused() -> None:
    job = vt.job("gpt3-1.3b", cluster=CLUSTER, gpus=8, mbs=1, gbs=16)
    for axes, word in (({}, "nothing to vary"), ({"tp": 2}, "takes a list"), ({"tpp": [1]}, "did you mean 'tp'")):
        with pytest.raises(vt.UserError, match=word):
            vt.sweep(job, **axes)
    alone = vt.sweep(job, tp=[3])
    assert alone.fastest is None
    with pytest.raises(vt.UserError, match="nothing to draw"):
        alone.plot()


class Values(HTMLParser):
    """Text inside cells, and every tag that is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


# Printable text, without what a parser joins or drops.
TEXT = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FFF, exclude_categories=("C", "Z")), min_size=1)


@given(TEXT, TEXT)
def test_html_escapes_every_value(name: str, value: str) -> None:
    page = Values()
    page.feed(html.fragment(vt.Table("t", [{name: value}])))
    page.close()
    joined = "".join(page.text)
    assert name in joined
    assert value in joined
    assert page.tags <= {"style", "div", "h3", "dl", "dt", "dd", "table", "caption", "tr", "th", "td"}


class Shout:
    """A renderer that a user might write."""

    name = "shout"

    def render(self, result: vt.Result) -> str:
        return repr(result).upper() + "!\n"


class Point:
    """An entry point of another package."""

    def __init__(self, name: str, loads: list[str]) -> None:
        self.name, self._loads = name, loads

    def load(self) -> type:
        self._loads.append(self.name)
        return Shout


@pytest.fixture
def clean_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})


@pytest.mark.usefixtures("clean_registry")
def test_a_renderer_from_outside_renders_a_projection(results: dict[str, vt.Result]) -> None:
    with pytest.raises(vt.UserError, match="there is no format 'shout'"):
        vt.render(results["project"], "shout")
    vt.register_renderer(Shout())
    assert str(vt.render(results["project"], "shout")).startswith("PROJECTION(MODEL=GPT3-1.3B")
    flags = ["--cluster", CLUSTER, "--model", "gpt3-1.3b", "--micro-batch-size", "1", "--global-batch-size", "8"]
    done = CliRunner().invoke(sim.app, ["project", *flags, "--format", "shout"])
    assert done.output.startswith("PROJECTION(")
    assert done.output.endswith("!\n")


@pytest.mark.usefixtures("clean_registry")
def test_entry_points_are_loaded_only_for_unknown_names(
    results: dict[str, vt.Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []
    monkeypatch.setattr(registry, "entry_points", lambda group: [Point("shout", loads), Point("json", loads)])
    vt.render(results["project"], "json")
    assert loads == []
    assert "shout" in registry.names()
    assert str(vt.render(results["project"], "shout")).endswith("!\n")
    assert loads == ["shout"]


def run(app: Any, *arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, list(arguments))
    return done.exit_code, done.output, str(done.exception or "")


@pytest.mark.parametrize("form", ["json", "csv", "markdown", "html"])
def test_commands_print_in_every_format(form: str, workplace: Path) -> None:
    flags = ["--cluster", CLUSTER, "--model", "gpt3-1.3b", "--micro-batch-size", "1", "--global-batch-size", "8"]
    code, text, error = run(sim.app, "project", *flags, "--format", form)
    assert code == 0, error
    job = vt.job("gpt3-1.3b", cluster=CLUSTER, mbs=1, gbs=8)
    assert text == vt.render(vt.project(job), form)
    code, text, error = run(catalog.app, "ls", "--format", form)
    assert code == 0, error
    assert "base" in text


def test_two_formats_are_refused() -> None:
    flags = ["--cluster", CLUSTER, "--model", "gpt3-1.3b", "--micro-batch-size", "1", "--global-batch-size", "8"]
    assert "two formats" in run(sim.app, "project", *flags, "--json", "--format", "csv")[2]
    assert "did you mean 'json'" in run(sim.app, "project", *flags, "--format", "jsn")[2]


def test_sweep_command(tmp_path: Path) -> None:
    flags = ["--cluster", CLUSTER, "--model", "gpt3-1.3b", "--micro-batch-size", "1", "--global-batch-size", "16"]
    files = ["--table", str(tmp_path / "s.csv"), "--plot", str(tmp_path / "s.png")]
    vary = ["--num-gpus", "8", "--vary", "tp=1,2,3", "--vary", "sequence-parallel=false"]
    code, text, error = run(sim.app, "sweep", *flags, *vary, *files, "--json")
    assert code == 0, error
    job = vt.job("gpt3-1.3b", cluster=CLUSTER, gpus=8, mbs=1, gbs=16)
    assert json.loads(text) == vt.sweep(job, tp=[1, 2, 3], sequence_parallel=[False]).to_dict()
    assert len((tmp_path / "s.csv").read_text().splitlines()) == 4
    assert (tmp_path / "s.png").exists()
    assert "takes a name and values" in run(sim.app, "sweep", *flags, "--vary", "tp")[2]


def test_versions_and_the_one_command() -> None:
    for app in (whole, sim.app, catalog.app):
        code, text, _ = run(app, "--version")
        assert code == 0
        assert text.split()[-1] == vt.__version__
    flags = ["--cluster", CLUSTER, "--model", "gpt3-1.3b", "--micro-batch-size", "1", "--global-batch-size", "8"]
    assert run(whole, "sim", "project", *flags) == run(sim.app, "project", *flags)


def test_plan_takes_short_names() -> None:
    long = vt.plan("gpt3-1.3b", cluster=CLUSTER, num_gpus="8", global_batch_size="64", top=2)
    short = vt.plan("gpt3-1.3b", cluster=CLUSTER, gpus=8, gbs=64, top=2)
    assert long.rows() == short.rows()
    with pytest.raises(vt.UserError, match="leave it out of a search"):
        vt.plan("gpt3-1.3b", cluster=CLUSTER, gpus=8, gbs=64, sequence_parallel=False)
    with pytest.raises(vt.UserError, match="whole number"):
        vt.plan("gpt3-1.3b", cluster=CLUSTER, num_gpus="eight", gbs=64)


def test_validation_takes_tables_or_a_run() -> None:
    with pytest.raises(vt.UserError, match="nothing to compare with"):
        vt.validate(())
    with pytest.raises(vt.UserError, match="leave out tables"):
        vt.validate("x.csv", run="base")
