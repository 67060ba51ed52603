"""The documentation's commands are run; what it describes exists."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from conftest import SCRIPT, run_python
from simulator.synthetic import write_collectives, write_profile

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
BIN = Path(sys.executable).parent
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def commands() -> list[list[str]]:
    """Lines that begin with ``$ `` in console blocks, in order."""
    lines = [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ ")]
    return [shlex.split(line) for line in lines]


def run_all(lines: list[list[str]], where: Path) -> None:
    """Run commands of the documentation one after another; each succeeds and prints something."""
    for command in lines:
        done = subprocess.run(
            [str(BIN / command[0]), *command[1:]], cwd=where, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{shlex.join(command)}: {done.stderr}"
        assert done.stdout


def test_every_console_command_of_the_readme_runs(tmp_path: Path) -> None:
    write_profile(tmp_path / "profiles")
    write_collectives(tmp_path / "profiles")
    assert len(commands()) >= 8
    run_all(commands(), tmp_path)


def test_every_file_and_command_of_the_inputs_page_works(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "inputs.md").read_text()
    spec, cluster = re.findall(r"```toml\n(.*?)```", text, re.S)
    (tmp_path / "spec.toml").write_text(spec)
    (tmp_path / "cluster.toml").write_text(cluster)
    (block,) = re.findall(r"```console\n(.*?)```", text, re.S)
    run_all([shlex.split(line.removeprefix("$ ")) for line in block.splitlines()], tmp_path)


def test_every_command_of_the_decisions_page_works(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "decisions.md").read_text()
    (study,) = re.findall(r"```toml\n(.*?)```", text, re.S)
    (tmp_path / "study.toml").write_text(study)
    lines = [line[2:] for block in re.findall(r"```console\n(.*?)```", text, re.S) for line in block.splitlines()]
    assert len(lines) >= 6
    run_all([shlex.split(line) for line in lines], tmp_path)


@pytest.mark.slow
def test_every_command_of_the_traces_page_works(tmp_path: Path) -> None:
    """On a real trace made for it: two ranks of Megatron-Core under torch.profiler."""
    text = (ROOT / "docs" / "traces.md").read_text()
    job, cluster = re.findall(r"```yaml\n(.*?)```", text, re.S)
    (tmp_path / "job.yaml").write_text(job)
    (tmp_path / "cluster.yaml").write_text(cluster)
    (tmp_path / "traces").mkdir()
    flags = [
        f"--{name.replace('_', '-')}={value}"
        for name, value in yaml.safe_load(job).items()
        if name not in ("num-gpus", "fp32", "make-vocab-size-divisible-by")
    ]
    run_python([str(SCRIPT), *flags, "--torch-profile", str(tmp_path / "traces")], 2)
    lines = [line[2:] for block in re.findall(r"```console\n(.*?)```", text, re.S) for line in block.splitlines()]
    assert len(lines) >= 6
    run_all([shlex.split(line) for line in lines], tmp_path)


@pytest.mark.parametrize("line", [line for block in blocks("sh") for line in block.splitlines()])
def test_flags_shown_for_clusters_exist(line: str) -> None:
    """Commands that need a GPU or a training script: their own flags are flags of the command."""
    words = shlex.split(line)
    if words[0] == "vtrain-profile":
        help_of = [str(BIN / "vtrain-profile"), words[1], "--help"]
        own = words[2 : words.index("--")] if "--" in words else words[2:]
    elif "vtrain_plugin" in words:
        help_of = [sys.executable, "-m", "vtrain_plugin", "--help"]
        own = words[words.index("vtrain_plugin") + 1 : words.index("pretrain_gpt.py")]
    else:
        assert line.startswith("VTRAIN_OUT=")
        return
    env = {"COLUMNS": "200", "TERM": "dumb", "PATH": "/usr/bin:/bin"}
    shown = subprocess.run(help_of, capture_output=True, text=True, check=True, env=env).stdout
    if words[1] == "rank":
        from vtrain_plugin.bench.rank import parser

        shown += parser().format_help()
    for flag in (w for w in own if w.startswith("--")):
        assert flag in shown, f"{flag} of: {line}"


@pytest.mark.parametrize("path", DOCS, ids=lambda p: p.name)
def test_links_and_paths_exist(path: Path) -> None:
    text = path.read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (path.parent / target).exists(), target
    for named in re.findall(r"`((?:plugin|schemas|simulator|data|tests|docs)/[\w/.-]+)`", text):
        assert (ROOT / named).exists() or "NAME" in named, named


def test_readme_shows_the_demo() -> None:
    shown = re.search(r"<!-- demo output begins -->(.*)<!-- demo output ends -->", README, re.S)
    assert shown is not None
    assert "mean absolute error" in shown[1]


def test_json_fields_are_documented() -> None:
    text = (ROOT / "docs" / "projection.md").read_text()
    done = subprocess.run(
        [
            str(BIN / "vtrain-sim"),
            "project",
            "--cluster",
            "dgx-a100-80gb",
            "--model",
            "gpt3-1.3b",
            "--micro-batch-size",
            "1",
            "--global-batch-size",
            "8",
            "--json",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    answer = json.loads(done.stdout)
    for field in [*answer, *answer["parallel"], *answer["memory"], *answer["memory"]["stages"][0]]:
        assert f"`{field}`" in text or f".{field}`" in text, field
