"""Where the difference between two steps comes from: it adds up, and the causes are those that were changed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

import vtrain as vt
from conftest import Capture
from vtrain_sim.commands.sim import app
from vtrain_sim.errors import UserError
from vtrain_sim.report.difference_words import sentences
from vtrain_sim.simulate.projection import WAITING
from vtrain_sim.validate.account import Account
from vtrain_sim.validate.difference import Difference

JOB = vt.job("gpt3-13b", cluster="dgx-a100-80gb", gpus=64, tp=8, sp=True, mbs=1, gbs=128)
FLAGS = ["--cluster", "dgx-a100-80gb", "--model", "gpt3-1.3b", "--num-gpus", "8", "--micro-batch-size", "1"]
FLAGS += ["--global-batch-size", "16", "--tensor-model-parallel-size", "2"]
OTHERS = {
    "layout": JOB.with_(tp=4, pp=2),
    "interleaved": JOB.with_(tp=4, pp=4, vpp=2),
    "recompute": JOB.with_(recompute="full"),
    "sharded": JOB.with_(distributed_optimizer=True, overlap_grad_reduce=True, overlap_param_gather=True),
    "microbatch": JOB.with_(mbs=4),
    "machine": vt.job("gpt3-13b", cluster="dgx-h100", gpus=64, tp=8, sp=True, mbs=1, gbs=128),
    "zero bubble": JOB.with_(tp=4, pp=4, schedule="zb-h1"),
}


def changes(difference: Difference) -> dict[str, float]:
    return {cause.name: cause.difference_s for cause in difference.causes}


@pytest.mark.parametrize("name", OTHERS)
def test_the_causes_add_up_to_the_difference_of_the_projections(name: str) -> None:
    difference = vt.compare(JOB, OTHERS[name])
    times = [vt.project(one).iteration_time_s for one in (JOB, OTHERS[name])]
    assert difference.difference_s == pytest.approx(times[1] - times[0], rel=1e-12)
    assert sum(changes(difference).values()) == pytest.approx(difference.difference_s, rel=1e-9, abs=1e-12)
    assert sum(cause.difference_s for cause in difference.shown) == pytest.approx(difference.difference_s, rel=1e-9)
    assert "unexplained" not in changes(difference)
    for account, seconds in zip((difference.a, difference.b), times, strict=True):
        assert sum(account.causes.values()) == pytest.approx(seconds, rel=1e-9)


def test_kinds_of_compute_are_the_projections_passes() -> None:
    projection = vt.project(JOB)
    causes = vt.compare(JOB, JOB).a.causes
    others = {"recompute", "optimizer", "host launches", "step overhead", "waiting for the slowest node", WAITING}
    compute = [s for name, s in causes.items() if name not in others and not name.endswith(" communication")]
    passes = projection.breakdown_s["forward"] + projection.breakdown_s["backward"]
    assert sum(compute) == pytest.approx(passes, rel=1e-9)
    assert causes["tp communication"] == pytest.approx(projection.breakdown_s["tp communication"])


def test_what_was_changed_is_what_differs() -> None:
    found = changes(vt.compare(JOB, OTHERS["recompute"]))
    # Recomputation repeats the forward pass with its communication, and nothing else.
    assert found.pop("recompute") > 0
    assert found.pop("tp communication") > 0
    assert all(abs(change) < 1e-9 for change in found.values())
    found = changes(vt.compare(JOB.with_(tp=4, pp=4), OTHERS["interleaved"]))
    assert found[WAITING] == min(found.values()) < 0
    assert vt.compare(JOB, JOB).sentences == ("each cause takes the same in both",)


def test_work_that_differs_is_said_first() -> None:
    assert vt.compare(JOB, OTHERS["recompute"]).work == ""
    small = vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, tp=2, mbs=1, gbs=16)
    lines = str(vt.render(vt.compare(small, small.with_(gbs=32, gpus=16)), "table")).splitlines()
    assert lines[2].startswith("the steps differ in tokens (32,768 to 65,536) and GPUs (8 to 16): ")
    assert re.search(
        r"and trains [\d.]+% (more|fewer) tokens/s per GPU \(in all [\d.]+% more: [\d,]+ to [\d,]+ tok", lines[3]
    )
    assert sum(line.startswith("the steps differ") for line in lines) == 1


def test_the_same_time_is_no_change_of_nothing() -> None:
    lines = str(vt.render(vt.compare(JOB, JOB), "table")).splitlines()
    assert lines[2:4] == ["B takes the same time:", "- each cause takes the same in both"]


def test_words_agree_with_numbers() -> None:
    causes = {"tp communication": 1.0}, {"tp communication": 3.0, "pipeline bubble and transfers": -1.0}
    a, b = (Account(sum(one.values()), 0, False, one, {}) for one in causes)
    more, less = sentences(Difference(a, b, "a", "b"))
    assert ", more than the whole difference (" in more
    assert less.startswith("pipeline bubble and transfers take 1.000 s less, against the difference")


def test_sentences_name_the_settings_that_bear_on_a_cause() -> None:
    difference = vt.compare(JOB, OTHERS["layout"])
    assert difference.settings == {"tp": (8, 4), "pp": (1, 2)}
    assert (difference.name_a, difference.name_b) == ("tp 8, pp 1", "tp 4, pp 2")
    assert 2 <= len(difference.sentences) <= 3
    largest = max(difference.causes, key=lambda cause: abs(cause.difference_s))
    assert difference.sentences[0].startswith(largest.name)
    assert "tp 8 to 4" in difference.sentences[0]


def test_small_causes_are_shown_together() -> None:
    causes = [{"matrix products": 1.0, "tp communication": 0.5, "norm": 0.1, "rope": 0.1}]
    causes.append({"matrix products": 2.0, "tp communication": 0.5, "norm": 0.101, "rope": 0.1})
    a, b = (Account(sum(one.values()), 0, False, one, {}) for one in causes)
    shown = Difference(a, b, "a", "b").shown
    assert [cause.name for cause in shown] == ["matrix products", "3 others"]
    assert shown[1].difference_s == pytest.approx(0.001)


@pytest.mark.parametrize(
    ("sides", "settings"),
    [
        (("base", "tp=4"), {"tp": (2, 4)}),
        (("base", "tp=4 pp=2"), {"tp": (2, 4), "pp": (1, 2)}),
        (("base", "--recompute-granularity full --recompute-method uniform"), {"recompute": ("none", "full")}),
        (("dgx-h100", "dgx-a100-80gb"), {"cluster": ("dgx-h100", "dgx-a100-80gb")}),
        (("gpt3-1.3b", "model=gpt3-2.7b"), {"model": ("gpt3-1.3b", "gpt3-2.7b")}),
        (("a.sh", "b.sh mbs=2"), {"mbs": (1, 2), "vpp": (1, 3)}),
        (("a.yaml", "b.sh gpus=16"), {"gpus": (8, 16)}),
    ],
)
def test_sides_are_named_as_people_have_them(
    sides: tuple[str, str], settings: dict[str, tuple[object, object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.sh").write_text("torchrun --nproc_per_node 8 pretrain_gpt.py --pipeline-model-parallel-size 4\n")
    (tmp_path / "b.sh").write_text(
        "torchrun --nproc_per_node 8 pretrain_gpt.py --pipeline-model-parallel-size 4 "
        "--num-layers-per-virtual-pipeline-stage 2\n"
    )
    (tmp_path / "a.yaml").write_text("cluster: dgx-a100-80gb\nnum_gpus: 8\n")
    result = CliRunner().invoke(app, ["compare", *sides, *FLAGS, "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    found = {name: (both["a"], both["b"]) for name, both in document["settings"].items()}
    assert settings.items() <= found.items()
    assert sum(cause["difference_s"] for cause in document["causes"]) == pytest.approx(document["difference_s"])


@pytest.mark.parametrize(
    ("sides", "says"),
    [
        (("--bf16", "base"), "before the flags"),
        (("base", "bsae"), "neither a file nor a preset"),
        (("base", "tp="), "has no value"),
        (("base", "tp=2 tp=4"), "given twice"),
        (("base", "thp=2"), "unknown argument 'thp'"),
        (("base", "tp=3"), "multiple"),
        (("base", "'tp=2"), "closing quotation"),
        (("base", " "), "nothing to compare"),
        (("base", "run:x"), "--catalog"),
        (("base", "run:x tp=2"), "give it alone"),
    ],
)
def test_a_side_that_is_none_is_a_sentence(sides: tuple[str, str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        CliRunner().invoke(app, ["compare", *sides, *FLAGS], catch_exceptions=False)


def test_the_command_prints_the_waterfall_in_80_columns_and_draws_it(tmp_path: Path) -> None:
    picture, table = tmp_path / "w.png", tmp_path / "w.csv"
    page = tmp_path / "w.html"
    options = ["--plot", str(picture), "--table", str(table), "--report", str(page)]
    result = CliRunner().invoke(app, ["compare", "base", "tp=4", *FLAGS, *options])
    assert result.exit_code == 0, result.output
    lines = result.stdout[result.stdout.index("where the difference comes from") :].splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.split()[:1] == ["step"] for line in lines)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "tp communication" in page.read_text()
    assert table.read_text().startswith("cause,a_s,b_s,difference_s\n")


@pytest.mark.slow
def test_runs_and_simulations_have_the_same_causes(capture: Callable[..., Capture]) -> None:
    base = capture("base")
    runs = vt.Catalog(base.catalog.path)
    run = vt.compare(runs.captured("base"), vt.job.from_run(runs, "base"))
    assert run.a.captured
    assert not run.b.captured
    assert run.a.step_s == pytest.approx(vt.validate_run(vt.job.from_run(runs, "base")).captured_step_s)
    assert sum(changes(run).values()) == pytest.approx(run.difference_s, rel=1e-9)
    assert run.settings == {}
    # The simulation takes operators from the run: where both have a kind, it takes about as long, as far as a busy
    # machine tells.
    for cause in run.causes:
        if cause.name in ("matrix products", "attention", "norm", "optimizer"):
            assert cause.a_s / 5 < cause.b_s < 5 * cause.a_s
    unexplained = run.a.causes.get("unexplained", 0.0)
    assert abs(unexplained) < 0.3 * run.a.step_s


@pytest.mark.slow
def test_two_runs_differ_by_what_was_changed(capture: Callable[..., Capture], tmp_path: Path) -> None:
    one, other = capture("base"), capture("pp2", 2, "--pipeline-model-parallel-size", "2")
    runs = vt.Catalog(tmp_path / "both.duckdb")
    runs.add([one.directory, other.directory])
    result = CliRunner().invoke(app, ["compare", "run:base", "run:pp2", "--catalog", str(runs.path), "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert {"gpus", "pp"} <= document["settings"].keys()
    causes = {cause["cause"]: cause for cause in document["causes"]}
    assert causes[WAITING]["a_s"] == 0 < causes[WAITING]["b_s"]
    # A stage has half of the layers.
    assert causes["matrix products"]["b_s"] < causes["matrix products"]["a_s"]
    assert sum(cause["difference_s"] for cause in document["causes"]) == pytest.approx(document["difference_s"])
    with pytest.raises(UserError, match="no run 'none'"):
        CliRunner().invoke(
            app, ["compare", "run:base", "run:none", "--catalog", str(runs.path)], catch_exceptions=False
        )
