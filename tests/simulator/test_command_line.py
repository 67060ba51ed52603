"""What every command line does: errors as sentences and JSON, help with examples, completion, quiet, 80 columns."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from simulator.api.workplace import furnish
from vtrain_sim.commands import catalog, errors, examples, sim, vtrain
from vtrain_sim.decide.search.choices import described
from vtrain_sim.inputs.flag_groups import flag_groups
from vtrain_sim.inputs.flag_table import LISTS, SWITCHES, VALUES
from vtrain_sim.report.tables import FittingTable, console, said_once

MAINS: dict[str, Callable[[list[str]], None]] = {
    "vtrain-sim": sim.main,
    "vtrain-catalog": catalog.main,
    "vtrain": vtrain.main,
}
SMALL = "--cluster dgx-a100-80gb --model gpt3-1.3b --micro-batch-size 1 --global-batch-size 64 --num-gpus 8"
SEARCH = "--cluster dgx-a100-80gb --model gpt3-1.3b --global-batch-size 16 --num-gpus 4"


def call(line: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, standard output and error of a command line."""
    program, *words = shlex.split(line)
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        MAINS[program](words)
    out, err = capsys.readouterr()
    return int(left.value.code or 0), out, err


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("vtrain-sim plan --max-gpus inf", "vtrain-sim plan: --max-gpus is 'inf': it takes a whole number"),
        ("vtrain-sim project --cluster dgx-a100 --model gpt3-1.3b", "vtrain-sim: there is no cluster 'dgx-a100'"),
        ("vtrain-sim bogus", "vtrain-sim: no such command 'bogus'"),
        ("vtrain sim size --cluster x", "vtrain sim size: missing option"),
        ("vtrain-catalog show base --catalog nowhere/at.all", "vtrain-catalog: "),
        (f"vtrain-sim plan {SEARCH} --tensor-model-parallel-size 0", "vtrain-sim: --tensor-model-parallel-size is 0"),
        (f"vtrain-sim plan {SEARCH} --data-parallel-size 0", "vtrain-sim: --data-parallel-size is 0"),
        (f"vtrain-sim project {SMALL} --table x", "vtrain-sim: unknown argument '--table'"),
    ],
)
def test_an_error_is_one_sentence_and_json_where_it_is_asked_for(
    line: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(line, capsys)
    assert (code, out) == (2, "")
    assert err.startswith(sentence)
    assert err.count("\n") == 1
    code, out, err_beside = call(f"{line} --json", capsys)
    assert (code, err_beside) == (2, err)
    document = json.loads(out)
    assert document["schema"] == "vtrain.error/1"
    assert document["exit_code"] == 2
    assert err.endswith(f": {document['error']}\n")


def test_words_of_files_do_not_command_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, _, err = call(f"vtrain-sim project --spec '{tmp_path}/a\x1b]0;title\x07.toml'", capsys)
    assert "a?]0;title?.toml" in err


def test_what_nobody_foresaw_is_a_sentence_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("vtrain_sim.api.project.project", lambda *arguments: 1 // 0)
    monkeypatch.delenv(errors.TRACEBACK, raising=False)
    code, out, err = call(f"vtrain-sim project {SMALL} --format=json", capsys)
    assert code == errors.INTERNAL
    assert err.startswith("vtrain-sim: internal error, please report it: ZeroDivisionError: integer division")
    assert err.count("\n") == 1
    assert json.loads(out)["exit_code"] == errors.INTERNAL
    monkeypatch.setenv(errors.TRACEBACK, "1")
    _, _, err = call(f"vtrain-sim project {SMALL}", capsys)
    assert err.startswith("Traceback (most recent call last)")


@pytest.mark.parametrize("ended", [KeyboardInterrupt(), typer.Abort()])
def test_ctrl_c_is_a_sentence_and_a_shells_exit_code(
    ended: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object) -> None:
        raise ended

    monkeypatch.setattr("vtrain_sim.api.project.project", interrupted)
    code, out, err = call(f"vtrain-sim project {SMALL} --json", capsys)
    assert code == json.loads(out)["exit_code"] == errors.INTERRUPTED == 130
    assert err == "vtrain-sim: interrupted; what is in files already stays\n"


def test_a_full_disk_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    code, _, err = call(f"vtrain-sim timeline {SMALL} --out /dev/full/x.json", capsys)
    assert code == 2
    assert "Traceback" not in err


@pytest.mark.parametrize(("redirection", "code"), [(">/dev/full", 2), (">&-", 0)])
def test_a_standard_output_that_takes_nothing_is_no_traceback(redirection: str, code: int) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    for form in ("table", "json"):
        line = f"{shlex.quote(sys.executable)} -m vtrain_sim.commands.sim project {SMALL} --format {form} {redirection}"
        done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        assert "internal error" not in done.stderr


def commands() -> list[tuple[str, str]]:
    names = []
    for program, app in (("vtrain-sim", sim.app), ("vtrain-catalog", catalog.app)):
        command = typer.main.get_command(app)
        names += [(program, name) for name in command.commands]  # type: ignore[attr-defined]
    return names


@pytest.mark.parametrize(("program", "name"), commands())
def test_help_ends_with_examples_to_copy(program: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(f"{program} {name} --help", capsys)
    assert code == 0
    shown = out.partition("Examples:")[2]
    for example in examples.EXAMPLES.get(f"{program} {name}") or examples.EXAMPLES[name]:
        assert example.startswith(f"{program} {name}")
        lines = [f"  {line}" for line in example.splitlines()]
        assert "\n".join(lines) in shown
        assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("example", [e for each in examples.EXAMPLES.values() for e in each])
def test_examples_run(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if "trace.json" in example or example.startswith(("vtrain-sim tune", "vtrain-sim serve")):
        pytest.skip("needs a trace or minutes, or does not end")
    monkeypatch.chdir(tmp_path)
    furnish(tmp_path)
    sizes = [(m, n, k) for m in (512, 1024, 2048) for n in (1024, 4096) for k in (1024, 4096)]
    gemm = [f"{m},{n},{k},{20 + 2e6 * m * n * k / 2.5e14}" for m, n, k in sizes]
    (tmp_path / "gemm.csv").write_text("\n".join(["m,n,k,duration_us", *gemm]))
    code, out, err = call(example.replace("\\\n", " "), capsys)
    assert code == 0, err
    assert out or "-o steps.csv" in example


def test_help_lists_megatrons_flags_by_group(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = call("vtrain-sim project --help", capsys)
    for title, flags in flag_groups().items():
        assert f"  {title}: {flags[0]}" in out
    assert "--tensor-model-parallel-size" not in call("vtrain-sim size --help", capsys)[1]


def test_help_of_plan_names_each_choice_of_its_search(capsys: pytest.CaptureFixture[str]) -> None:
    words = call("vtrain-sim plan --help", capsys)[1].replace(",", " ").replace(".", " ").split()
    default, others = " ".join(words).split("(these are the default)")
    for name, _, by_default in described():
        assert name in (default if by_default else others).split(), name


def test_every_flag_that_is_read_is_in_one_group() -> None:
    fields = {flag: field for table in (VALUES, SWITCHES, LISTS) for flag, (field, *_) in table.items()}
    flags = [flag for group in flag_groups().values() for flag in group]
    assert len(flags) == len(set(flags))
    assert {fields[flag] for flag in flags} == set(fields.values())


@pytest.mark.parametrize("program", MAINS)
def test_versions(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(f"{program} --version", capsys)
    assert code == 0
    assert out.split()[0] == program


def complete(line: str) -> list[str]:
    """What a shell offers at the end of a line."""
    words = line.split()
    variables = {
        "_VTRAIN_SIM_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - (not line.endswith(" "))),
    }
    command = [sys.executable, "-m", "vtrain_sim.commands.sim"]
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_a_shell_completes_commands_options_and_megatrons_flags() -> None:
    assert complete("vtrain-sim pl") == ["plan"]
    assert complete("vtrain-sim plan --max-g") == ["--max-gpus"]
    assert complete("vtrain-sim plan --tensor") == ["--tensor-model-parallel-size"]
    assert complete("vtrain-sim size --tensor") == []


def test_completion_scripts_are_shown() -> None:
    command = [sys.executable, "-m", "vtrain_sim.commands.sim", "--show-completion", "bash"]
    # Else typer asks which shell runs it, which under make is one that it does not know.
    named = os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=named)
    assert "_VTRAIN_SIM_COMPLETE=complete_bash" in done.stdout


def test_quiet_leaves_the_result_alone(capsys: pytest.CaptureFixture[str]) -> None:
    line = f"vtrain-sim project {SMALL} --moe-router-topk 2"
    code, out, err = call(line, capsys)
    assert code == 0
    assert err.startswith("note: --moe-router-topk has no effect")
    assert call(f"{line} --quiet", capsys) == (0, out, "")


# -- widths ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        f"vtrain-sim project {SMALL} --train-tokens 1e12",
        f"vtrain-sim sweep {SMALL} --vary tp=1,2,3 --vary recompute=none,full",
        f"vtrain-sim plan {SEARCH} --train-tokens 1e12",
        "vtrain-sim plan --cluster dgx-a100-80gb --model mixtral-8x7b --max-gpus 32 --global-batch-size 32,64 "
        "--train-tokens 1e12 --schedules 1f1b,zb-h1 --top 30",
        "vtrain-sim schedule --cluster dgx-a100-80gb --num-gpus 8 --jobs 4 --seeds 1,2 --models gpt3-1.3b",
        "vtrain-sim size --cluster dgx-a100-80gb --num-gpus 8 --days 3 --global-batch-size 64",
        "vtrain-sim study study.toml --out results",
        "vtrain-sim validate measured.csv",
        "vtrain-sim validate --catalog vtrain.duckdb --run base",
        "vtrain-catalog ls",
        "vtrain-catalog show base",
        "vtrain-catalog schema step_breakdown",
    ],
)
def test_no_table_is_wider_than_80_columns(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    furnish(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    code, out, err = call(line, capsys)
    assert code == 0, err
    tables = [part for part in out.split("\n\n") if "───" in part]
    assert tables
    for part in tables:
        _, rule, body = part.partition("───")
        assert max(map(len, (rule + body).splitlines())) <= 80, part


def test_the_flags_of_a_plan_are_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    _, out, _ = call(f"vtrain-sim plan {SEARCH}", capsys)
    before, line = out.rstrip("\n").split("launch the best with:\n")
    plan = json.loads(call(f"vtrain-sim plan {SEARCH} --json", capsys)[1])["plans"][0]
    assert shlex.split(line) == plan["megatron_args"]
    assert max(len(shown) for shown in before.split("best plans")[1].split("\n\n")[0].splitlines()[1:]) <= 40


def render(table: FittingTable, width: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("COLUMNS", width)
    out = console()
    with out.capture() as printed:
        out.print(table)
    return [line.rstrip() for line in printed.get().splitlines()]


def test_a_table_that_is_too_wide_is_cut_between_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [[f"row {i}", *(10**9 + i * 10 + j for j in range(6))] for i in range(3)]
    table = FittingTable("", ["name", *(f"c{j}" for j in range(6))], rows)
    lines = render(table, "50", monkeypatch)
    assert max(map(len, lines)) <= 50
    assert [line for line in lines if line.startswith("name")] == [
        "name              c0             c1             c2",
        "name              c3             c4             c5",
    ] or sum(line.startswith("name") for line in lines) > 1
    assert all(any(f"{10**9 + i * 10 + j:,}" in line for line in lines) for i in range(3) for j in range(6))


def test_rows_of_a_cut_table_that_begin_alike_are_numbered(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [["base", *(10**9 + i * 10 + j for j in range(6))] for i in range(3)]
    table = FittingTable("", ["run", *(f"c{j}" for j in range(6))], rows)
    lines = render(table, "50", monkeypatch)
    assert max(map(len, lines)) <= 50
    assert sum(line.split()[:1] == ["row"] for line in lines) > 1
    second = [word for line in lines if line.split()[:1] == ["2"] for word in line.split()[1:]]
    assert second == ["base", *(f"{10**9 + 10 + j:,}" for j in range(6))]
    assert not any("row" in line for line in render(table, "200", monkeypatch))


def test_long_text_is_folded_before_columns_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    table = FittingTable("", ["name", "number", "why"], [["a", 1.5, "word " * 30]], prose=["why"])
    lines = render(table, "60", monkeypatch)
    assert max(map(len, lines)) <= 60
    assert sum("word" in line for line in lines) > 2
    assert sum("number" in line for line in lines) == 1


def test_what_all_rows_share_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"tp": tp, "cp": 1, "batch": 8, "none": None} for tp in (1, 2)]
    lines = render(said_once("plans", rows, ("tp", "cp", "batch"), {"cp": 1}), "80", monkeypatch)
    assert lines[1] == "plans: batch 8"
    assert lines[2].split() == ["tp"]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (f"vtrain-sim project {SMALL} --num-gpus 1e3", "--num-gpus is '1e3': it takes a whole number"),
        (f"vtrain-sim project {SMALL} --num-gpus=x", "--num-gpus is 'x': it takes a whole number"),
        ("vtrain-sim schedule --cluster dgx-h100 --num-gpus 8 --load much", "--load is 'much': it takes a number"),
        (f"vtrain-sim project {SMALL} --num-gpus {10**15}", "--num-gpus is 1000000000000000: that is more than any"),
        ("vtrain-sim validate --modle x", "no such option: --modle (did you mean '--model'?)"),
        (f"vtrain-sim project {SMALL} --tp 2", "'--tp' (did you mean '--tensor-model-parallel-size'?)"),
        (f"vtrain-sim project {SMALL} --gbs 2", "'--gbs' (did you mean '--global-batch-size'?)"),
        (f"vtrain-sim project {SMALL} --global-batchsize 2", "(did you mean '--global-batch-size'?)"),
    ],
)
def test_a_wrong_option_or_number_is_named_as_it_was_written(
    line: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = call(line, capsys)
    assert code == 2
    assert sentence in err


@pytest.mark.parametrize("line", ["validate --nope", f"project {SMALL} --report-to x", f"project {SMALL} --nope 3"])
def test_an_option_that_is_like_no_other_has_no_suggestion(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(f"vtrain-sim {line}", capsys)
    assert (code, "did you mean" in err, "Possible" in err) == (2, False, False)


@pytest.mark.parametrize("command", ["", "project "])
def test_help_whose_reader_goes_away_ends_with_success(command: str) -> None:
    program = f"{shlex.quote(sys.executable)} -m vtrain_sim.commands.sim {command}--help"
    line = f"set -o pipefail; {program} | true"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("vary", "sentence"),
    [
        ("tp=2,x", "--tensor-model-parallel-size is 'x': it takes a whole number"),
        ("tp=2,0", "--tensor-model-parallel-size is 0: it must be 1 or more"),
        ("mbs=1,-1", "--micro-batch-size is -1: it must be 1 or more"),
        ("num-gpus=8,x", "num_gpus is 'x': it takes a whole number"),
        ("sp=true,2", "sp is 2: it takes True or False"),
    ],
)
def test_a_sweep_refuses_a_value_that_can_never_be_one(
    vary: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(f"vtrain-sim sweep --vary {vary} {SMALL}", capsys)
    assert (code, out) == (2, "")
    assert sentence in err


def test_a_point_that_does_not_fit_the_model_stays_in_a_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(f"vtrain-sim sweep --vary tp=1,3 {SMALL} --json", capsys)
    one, other = json.loads(out)["points"]
    assert code == 0
    assert one["reason"] == ""
    assert "not a multiple" in other["reason"]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("--cluster dgx-h100 --model ./nofile", "there is no file or folder ./nofile: a model is a preset's name, or"),
        ("--cluster dgx-h100 --model meta/Llama3-8b", "meta/Llama3-8b (did you mean 'llama3-8b'?)"),
        ("--cluster ./nowhere --model llama3-8b", "there is no file or folder ./nowhere: a cluster is a preset's name"),
    ],
)
def test_a_path_that_is_not_there_is_no_preset(line: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(f"vtrain-sim project {line}", capsys)
    assert code == 2
    assert sentence in err
    assert "known are" not in err
