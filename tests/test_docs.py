"""The documentation works: commands run, code runs, examples of additions add, links lead somewhere.

What needs a GPU, a training script or minutes is read by the real command line, with its options, and goes no
further or runs on a smaller problem.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

import vtrain_plugin.cli
import vtrain_plugin.launcher
import vtrain_sim
from conftest import SCRIPT, run_python
from e2e.proof import CASES
from simulator.api.workplace import furnish
from support.added_examples import CHECKS
from support.documentation import PACKAGES, PAGES, ROOT, Block, additions, blocks, copy_of_tree, headings, named
from support.shown_output import renewed
from vtrain_plugin.capture.settings import Settings
from vtrain_sim.commands import catalog, errors, sim, vtrain
from vtrain_sim.inputs.megatron_flags import parse_flags

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

APPS = {"vtrain": vtrain.app, "vtrain-sim": sim.app, "vtrain-catalog": catalog.app}
# Pages whose commands follow one another in a directory of their own.
RUN_HERE = (
    *("README.md", "docs/install.md", "docs/quickstart.md", "docs/demo.md", "docs/profiling.md", "docs/projection.md"),
    *("docs/inputs.md", "docs/compare.md", "docs/timelines.md", "docs/validating.md", "docs/pages.md"),
    *("docs/decisions.md", "docs/published-plans.md", "docs/how-it-works.md", "docs/sql.md"),
)
# Pages whose outputs are those of their commands; `make docs` renews them.
SHOWN = ("docs/quickstart.md", "docs/sql.md", "docs/compare.md", "docs/timelines.md")
TROUBLES = "docs/troubleshooting.md"
TRACES = "docs/traces.md"
# The page that tests/simulator/api/test_page.py runs.
PYTHON_PAGE = "docs/python.md"
# Searches take minutes at the size of the documentation: the same options, smaller values.
SEARCHES = ("plan", "schedule", "size", "study")
SMALLER = {
    "--model": "gpt3-1.3b",
    "--models": "gpt3-1.3b",
    "--max-gpus": "8",
    "--num-gpus": "8",
    "--global-batch-size": "32",
    "--jobs": "3",
    "--seeds": "1",
    "--days": "3",
}


# -- what the pages have --------------------------------------------------------------------


def test_every_block_is_run_or_read() -> None:
    for page in PAGES:
        for block in blocks(page):
            where = f"{page}, {block.section}: a block of {block.language or 'no language'}"
            if block.language in ("toml", "yaml", "diff"):
                assert block.path or file_name(block), f"{where} does not name its file in its first line"
            elif block.language == "console":
                assert page in (*RUN_HERE, TRACES), f"{where} is not run"
                assert block.commands(), f"{where} has no line that begins with $"
            else:
                assert block.language in ("sh", "python", "text"), where


def file_name(block: Block) -> str:
    """The file that the first line of a TOML or YAML block names."""
    match = re.match(r"# ([\w-]+\.(?:toml|yaml))\n", block.text)
    return match[1] if match else ""


def write_files(page: str, where: Path) -> None:
    """The files that a page shows."""
    for language in ("toml", "yaml"):
        for block in named(page, language):
            (where / file_name(block)).write_text(block.text)


@pytest.mark.parametrize("page", PAGES)
def test_links_and_paths_exist(page: str) -> None:
    path = ROOT / page
    text = path.read_text()
    for target, anchor in re.findall(r"\]\(([^)#:]*)#?([^):]*)\)", text):
        linked = path.parent / target if target else path
        assert linked.exists(), target
        if anchor:
            titles = [title for _, title in headings(str(linked.resolve().relative_to(ROOT)))]
            assert anchor in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, anchor
    for quoted in re.findall(r"`((?:plugin|schemas|simulator|data|tests|docs)/[\w/.-]+)`", text):
        assert (ROOT / quoted).exists(), quoted


# -- commands -------------------------------------------------------------------------------


def run(words: list[str]) -> None:
    """Run a command of the simulator or the catalog here; it succeeds and prints something."""
    result = CliRunner().invoke(APPS[words[0]], words[1:], prog_name=words[0])
    assert result.exit_code == 0, f"{' '.join(words)}: {result.exception!r} {result.output}"
    assert result.stdout, " ".join(words)


def smaller(words: list[str]) -> list[str]:
    """A search with smaller values; any other command as it is, also a search of a given run or parallel sizes."""
    if words[1] not in SEARCHES or {"--pipeline-model-parallel-size", "--catalog"} & set(words):
        return words
    cut = [SMALLER.get(option, word) for option, word in zip(["", *words], words, strict=False)]
    if words[1] == "size" and not {"--global-batch-size", "--megatron-args"} & set(cut):
        cut += ["--global-batch-size", "32"]
    return cut


@pytest.mark.parametrize("page", RUN_HERE)
def test_every_console_command_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    furnish(tmp_path)
    write_files(page, tmp_path)
    if (tmp_path / "study.toml").exists():
        shrink_study(tmp_path / "study.toml")
    commands = [words for block in named(page, "console") for words in block.commands()]
    for words in commands:
        run(smaller(words))


@pytest.mark.parametrize("page", SHOWN)
def test_an_output_is_what_the_command_prints(page: str, tmp_path: Path) -> None:
    furnish(tmp_path)
    assert renewed((ROOT / page).read_text(), tmp_path) == (ROOT / page).read_text(), "make docs renews it"


def test_another_output_is_noticed(tmp_path: Path) -> None:
    shown = "```console\n$ vtrain-sim --version\n```\n```text\n{}\n```\n"
    assert renewed(shown.format("x"), tmp_path) == shown.format(f"vtrain-sim {vtrain_sim.__version__}")
    assert renewed(shown.format("x\n..."), tmp_path) == shown.format("x\n...")


@pytest.mark.parametrize(
    ("command", "sentence"),
    [block.text.splitlines() for block in named(TROUBLES, "text")],
    ids=lambda line: line[:60],
)
def test_a_sentence_of_the_troubleshooting_page_is_said(
    command: str,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    furnish(tmp_path)
    name, *words = shlex.split(command.removeprefix("$ "))
    with pytest.raises(SystemExit) as ended:
        errors.run(APPS[name], name, words)
    assert ended.value.code == 2
    begins, cut, _ = sentence.partition(" ...")
    said = capsys.readouterr().err.strip()
    assert said.startswith(begins) if cut else said == sentence


def test_messages_of_the_plugin_are_its_own() -> None:
    code = " ".join(path.read_text() for path in (ROOT / "plugin").rglob("*.py"))
    # As the code has them: in pieces, with values between.
    joined = re.sub(r"\s+", " ", re.sub(r'"\s*\n\s*f?"', "", code))
    section = (ROOT / TROUBLES).read_text().partition("## While training")[2]
    messages = re.findall(r"^\| `([^`]+)` \|", section, re.M)
    assert len(messages) > 8
    for message in messages:
        assert message in joined, message


def shrink_study(path: Path) -> None:
    """The study of the page with the same entries, on fewer GPUs."""
    study = tomllib.loads(path.read_text())
    study |= {"models": ["gpt3-1.3b"], "global_batch_sizes": [32]}
    study |= {name: 8 for name in ("max_gpus",) if name in study}
    path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in study.items()))


@pytest.mark.slow
def test_every_command_of_the_traces_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a real trace made for it: two ranks of Megatron-Core under torch.profiler."""
    write_files(TRACES, tmp_path)
    (tmp_path / "traces").mkdir()
    job: dict[str, Any] = yaml.safe_load((tmp_path / "job.yaml").read_text())
    flags = [
        f"--{name}={value}"
        for name, value in job.items()
        if name not in ("num-gpus", "fp32", "make-vocab-size-divisible-by")
    ]
    run_python([str(SCRIPT), *flags, "--torch-profile", str(tmp_path / "traces")], 2)
    monkeypatch.chdir(tmp_path)
    commands = [words for block in named(TRACES, "console") for words in block.commands()]
    assert len(commands) >= 6
    for words in commands:
        run(words)


@pytest.mark.parametrize(
    "words",
    [words for page in PAGES for block in named(page, "sh") for words in block.commands()],
    ids=lambda words: " ".join(words)[:60],
)
def test_every_shell_command_is_understood(words: list[str]) -> None:
    read_shell(words)


@pytest.mark.parametrize(
    "line",
    [
        "vtrain-profile run --out profiles --kernel -- python train.py",
        "vtrain-profile rank --out profiles --world-size 8 --hiden-size 64",
        "vtrain-profile ops --out profiles --hidden-size 64 --num-attention-heads 8 --seq-length 8 --no-rop-fusion",
        "torchrun --nproc-per-node 8 --no-python vtrain-profile collectives --out profiles --sizez 8",
        "torchrun --nproc-per-node 8 -m vtrain_plugin --outt profiles train.py",
        "torchrun --nprocs-per-node 8 train.py",
        "vtrain-sim project --cluster dgx-h100 --micro-batch-sizes 1",
        "make demonstration",
        "VTRAIN_OUTPUT=profiles python train.py",
    ],
)
def test_a_wrong_shell_command_is_noticed(line: str) -> None:
    with pytest.raises((AssertionError, SystemExit, ValueError)):
        read_shell(line.split())


def read_shell(words: list[str]) -> None:
    """Read a command as its program does, without running it. Raises where the program would refuse it."""
    while "=" in words[0]:
        read_assignment(*words[0].split("=", 1))
        words = words[1:]
    program, arguments = words[0], words[1:]
    if program == "make":
        assert set(arguments) <= set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)), arguments
    elif program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert set(re.findall(r"\[(\w+)\]", " ".join(arguments))) <= set(extras), arguments
    elif program == "torchrun":
        read_torchrun(arguments)
    elif program == "vtrain-profile":
        read_profile(arguments)
    else:
        context = read_typer(APPS[program], arguments)
        parse_flags(context.args)


def read_assignment(name: str, value: str) -> None:
    """A variable in front of a command: one of those that arm the plugin."""
    known = Settings(out="x", run_id="y", steps=1).to_environment()
    assert name in known, f"{name}: known are {', '.join(known)}"


def read_torchrun(arguments: list[str]) -> None:
    """torchrun's options, then the plugin's where it runs the plugin."""
    launcher = pytest.importorskip("torch.distributed.run")
    parsed = launcher.get_args_parser().parse_args(arguments)
    if parsed.no_python:
        assert parsed.training_script == "vtrain-profile"
        read_profile(parsed.training_script_args)
    if parsed.module:
        assert parsed.training_script == "vtrain_plugin"
        read_typer(vtrain_plugin.launcher.app, parsed.training_script_args)


def read_profile(arguments: list[str]) -> None:
    """The options of a verb of ``vtrain-profile``, and for ``rank`` and ``ops`` those that the benchmark reads."""
    context = read_typer(vtrain_plugin.cli.app, arguments)
    if arguments[0] == "rank":
        from vtrain_plugin.bench.rank import parser

        needed = ["--out", "x", "--run-id", "y", "--world-size", "1"]
        parser().parse_args([*needed, *context.args])
    elif arguments[0] == "ops":
        from vtrain_plugin.bench.ops import further_flags

        further_flags(context.args)
    else:
        assert not context.args
    if "--" in arguments and "torchrun" in arguments:
        read_torchrun(arguments[arguments.index("torchrun") + 1 :])


def read_typer(app: typer.Typer, arguments: list[str]) -> typer.Context:
    """The context of the command that arguments name; an unknown option or a bad value fails."""
    command: Any = typer.main.get_command(app)
    if hasattr(command, "commands"):
        name, *arguments = arguments
        assert name in command.commands, f"there is no {name!r}: known are {', '.join(command.commands)}"
        command = command.commands[name]
    try:
        context: typer.Context = command.make_context(command.name, arguments)
    except Exception as error:  # typer brings a click of its own, whose exceptions have no public name
        raise AssertionError(f"{' '.join(arguments)}: {error}") from error
    return context


# -- code -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page not in ("CONTRIBUTING.md", PYTHON_PAGE) and named(page, "python")]
)
def test_the_code_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    furnish(tmp_path)
    names: dict[str, Any] = {}
    for number, block in enumerate(named(page, "python"), 1):
        with contextlib.redirect_stdout(None):
            exec(compile(block.text, f"{page}, block {number}", "exec"), names)


def test_the_python_page_has_a_test_of_its_own() -> None:
    assert PYTHON_PAGE in (ROOT / "tests" / "simulator" / "api" / "test_page.py").read_text()
    assert {block.language for block in blocks(PYTHON_PAGE)} <= {"python", "text"}


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What went wrong in each example of CONTRIBUTING.md, all of them applied to one copy of the tree."""
    tree = tmp_path_factory.mktemp("tree")
    copy_of_tree(tree)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(tree / package) for package in PACKAGES)}
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "support" / "added_examples.py")],
        env=environment,
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, str] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize("section", CHECKS)
def test_an_addition_works(section: str, problems: dict[str, str]) -> None:
    assert not problems[section]


def test_additions_do_not_work_without_the_examples() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(ROOT / package) for package in PACKAGES)}
    script = str(ROOT / "tests" / "support" / "added_examples.py")
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=True)
    assert all(json.loads(done.stdout).values())


@pytest.mark.parametrize("section", CHECKS)
def test_an_addition_touches_as_many_files_as_it_says(section: str) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    said = re.search(rf"^### {re.escape(section)}\n\n(\d)", text, re.M)
    assert said is not None
    # A preset shows a device and a cluster, an argument one that is left out and one that is read: alternatives.
    alternatives = 2 if section in ("A GPU or cluster preset", "A Megatron argument") else 1
    assert len({block.path for block in additions()[section]}) == int(said[1]) * alternatives


def test_every_addition_is_checked() -> None:
    assert set(additions()) == set(CHECKS)


# -- the rest -------------------------------------------------------------------------------


def demo_output(page: str) -> list[str]:
    """Lines of the output of `make demo` that a page shows."""
    text = (ROOT / page).read_text()
    shown = re.search(r"<!-- demo output begins -->\n```text\n(.*)```\n<!-- demo output ends -->", text, re.S)
    assert shown is not None
    return shown[1].splitlines()


def test_readme_shows_a_part_of_the_demo() -> None:
    whole, begin = demo_output("docs/demo.md"), 0
    for line in demo_output("README.md"):
        if line != "...":
            begin = whole.index(line, begin) + 1


def test_readme_shows_the_demo() -> None:
    shown = demo_output("README.md")
    lines = [
        re.fullmatch(r"(.{20}) *([\d.]+) s +([\d.]+) to ([\d.]+) +([\d.]+) s(?: +([-+][\d.]+)%)? +([-+]?[\d.]+)%", line)
        for line in shown
    ]
    cases = [line for line in lines if line is not None]
    assert [line[1].strip() for line in cases] == [case.name for case in CASES]
    errors = []
    for line in cases:
        projected, low, high, measured, drift, error = (float(line[group] or 0) for group in range(2, 8))
        assert low < projected < high
        # Times are shown to a millisecond, drift and errors to a tenth of a percent.
        assert 100 * (projected / measured * (1 + drift / 100) - 1) == pytest.approx(error, abs=0.25), line[0]
        errors.append(abs(error))
    (mean,) = re.findall(r"mean absolute error:? +([\d.]+)%", "\n".join(shown))
    assert float(mean) == pytest.approx(sum(errors) / len(errors), abs=0.1)


def test_json_fields_are_documented() -> None:
    text = (ROOT / "docs" / "projection.md").read_text()
    words = "project --cluster dgx-a100-80gb --model gpt3-1.3b --micro-batch-size 1 --global-batch-size 8 --json"
    document = json.loads(CliRunner().invoke(sim.app, words.split()).stdout)
    for field in [*document, *document["parallel"], *document["memory"], *document["memory"]["stages"][0]]:
        assert f"`{field}`" in text or f".{field}`" in text, field
