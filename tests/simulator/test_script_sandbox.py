"""A launch script that is run can do no harm, whatever it does."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from support.sandbox import needs_sandbox
from vtrain_sim.inputs.script_run import run as running
from vtrain_sim.inputs.script_run.run import NoSandboxError, Run, Script, run_script

pytestmark = needs_sandbox


def run_file(path: Path) -> Run:
    return run_script(Script.of(path, path.read_text()))


def run(tmp_path: Path, text: str) -> Run:
    script = tmp_path / "train.sh"
    script.write_text(text)
    return run_file(script)


def said(tmp_path: Path, text: str) -> list[str]:
    return run(tmp_path, text).said.split("\n")[:-1]


def files_below(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(p): (p.read_bytes(), stat.S_IMODE(p.stat().st_mode)) for p in folder.rglob("*") if p.is_file()}


DESTRUCTIVE = """
rm -rf {here}/* {here}/.git* ~/* 2>/dev/null
/usr/bin/rm -rf {here} ; /bin/rm -rf / --no-preserve-root 2>/dev/null
: > {here}/kept.txt ; echo gone > {here}/new.txt ; mv {here}/kept.txt {here}/other.txt
chmod -R 000 {here} ; ln -sf /dev/null {here}/kept.txt ; mkdir -p {here}/a/b/c
exec > {here}/log.txt 2>&1
find {here} -delete ; tee {here}/kept.txt < /dev/null
cd / && rm -rf *
"""


def test_nothing_on_the_machine_changes(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "kept.txt").write_text("kept")
    script = here / "train.sh"
    script.write_text(DESTRUCTIVE.format(here=here))
    before = files_below(tmp_path)
    run_file(script)
    assert files_below(tmp_path) == before


def test_nothing_outside_the_script_s_folder_is_seen(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    folder = tmp_path / "scripts"
    folder.mkdir()
    (folder / ".env").write_text("secret")
    script = folder / "train.sh"
    script.write_text(
        f"cat {secret} ~/.ssh/* /etc/passwd /proc/1/root/{secret} {folder}/.env 2>/dev/null; ls -d /etc /root /home\n"
    )
    assert "secret" not in run_file(script).said
    assert "root:" not in run_file(script).said


def test_paths_of_a_script_s_own_choice_stay_in_its_root(tmp_path: Path) -> None:
    folder, outside = tmp_path / "scripts", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (outside / "kept.py").write_text("kept")
    script = folder / "train.sh"
    up = f"/../..{outside}"
    script.write_text(
        f"[ -f {up}/kept.py ]\n[ -f {up}/new.py ]\n{up}/bin/python3 x.py --a 1\ncd {up}/folder; sbatch --a\n"
        "[ -f /proc/no/x.py ]; [ -f /usr/bin/bash/x.py ]; /proc/no/python3; echo end\n"
    )
    assert run_file(script).said.endswith("end\n")
    assert files_below(outside).keys() == {str(outside / "kept.py")}
    assert (outside / "kept.py").read_text() == "kept"
    assert list(outside.iterdir()) == [outside / "kept.py"]


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "scripts"
    folder.mkdir()
    (tmp_path / "key").write_text("secret")
    (folder / ".env").write_text("secret")
    (folder / "inside").write_text("seen")
    for name, target in (("a", tmp_path / "key"), ("b", folder / ".env"), ("c", folder / "inside")):
        (folder / name).symlink_to(target)
    script = folder / "train.sh"
    script.write_text("cat a b c\n")
    assert run_file(script).said == "seen"


def test_the_machine_s_devices_and_settings_stay_as_they_are(tmp_path: Path) -> None:
    before = stat.S_IMODE(os.stat("/dev/null").st_mode)
    words = said(
        tmp_path,
        "chmod 600 /dev/null; for f in /proc/sys/kernel/core_pattern /proc/sys/vm/swappiness; do\n"
        "[[ -w $f ]] && echo $f; done; echo a > /dev/null; cat <(echo b)\n",
    )
    assert stat.S_IMODE(os.stat("/dev/null").st_mode) == before
    assert words[-1] == "b" or not os.path.exists("/proc/self/status")
    assert not [word for word in words if word.startswith("/proc")]


@pytest.mark.parametrize(
    "text",
    [
        "exec 3<>/dev/tcp/127.0.0.1/{port} && echo open >&3\n",
        "echo open > /dev/udp/127.0.0.1/{port}\n",
    ],
)
def test_there_is_no_network(tmp_path: Path, text: str) -> None:
    import socket

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.settimeout(0.2)
        result = run(tmp_path, text.format(port=server.getsockname()[1]))
        assert "unreachable" in result.said or result.status == 0
        with pytest.raises(TimeoutError):
            server.accept()


def test_other_processes_are_not_seen(tmp_path: Path) -> None:
    words = said(
        tmp_path,
        "kill -9 -1; builtin kill -0 1 2>/dev/null && echo alive; for p in /proc/[0-9]*; do echo ${p##*/}; done\n",
    )
    assert all(int(word) < 100 for word in words if word.isdecimal())


def test_no_privileges_are_left(tmp_path: Path) -> None:
    if not os.path.exists("/proc/self/status"):
        pytest.skip("no /proc")
    text = "while read -r name value; do case $name in Cap*|NoNewPrivs:) echo $name $value;; esac; done < /proc/self/status\n"
    lines = said(tmp_path, text)
    if lines and "No such file" not in lines[0]:
        assert {line for line in lines if line.startswith("Cap")} == {
            f"Cap{kind}: {'0' * 16}" for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")
        }
        assert "NoNewPrivs: 1" in lines


@pytest.mark.parametrize("text", ["while :; do :; done\n", "read < <(while :; do :; done)\n", "exec sleep 1000; :\n"])
def test_time_is_limited(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_SECONDS", 1)
    # Sleep is a stub, so that scripts do not wait.
    assert (run(tmp_path, text).status == 0) == ("sleep" in text)


def test_processes_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_SECONDS", 1)
    assert run(tmp_path, "f() { f | f & }; f; wait\n").commands == ()


def test_memory_of_all_processes_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "for i in 1 2 3; do { x=$(yes | head -c 60000000); echo held; read < <(sleep 1; :); } & done; wait\n"
    assert run(tmp_path, text).status == 0
    source = Path(running.jail.__file__).read_text()
    small = tmp_path / "jail.py"
    small.write_text(source.replace("MOST_MEMORY = 2 << 30", "MOST_MEMORY = 32 << 20"))
    monkeypatch.setattr(running.jail, "__file__", str(small))
    assert run(tmp_path, text).status is None


def test_output_is_limited(tmp_path: Path) -> None:
    result = run(tmp_path, "yes | head -c 100000000; yes > big; for i in {1..50}; do cp big big$i; done\n")
    assert len(result.said) <= 8 << 20


def test_secrets_of_the_environment_are_not_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    monkeypatch.setenv("GH_PAT", "secret")
    monkeypatch.setenv("STORE", "https://me:secret@example.org")
    monkeypatch.setenv("MY_NODES", "4")
    monkeypatch.setenv("TRAIN_TOKENS", "6")
    monkeypatch.setenv("UNNAMED", "5")
    monkeypatch.setenv("BASH_FUNC_rm%%", "() { echo ran; }")
    lines = said(tmp_path, "echo $WANDB_API_KEY $GH_PAT $STORE $MY_NODES $TRAIN_TOKENS; env | grep -c UNNAM\n")
    assert lines == ["4 6", "0"]


def test_programs_beside_the_script_are_not_run(tmp_path: Path) -> None:
    (tmp_path / "program").write_bytes(Path("/bin/true").read_bytes())
    (tmp_path / "program").chmod(0o755)
    assert run(tmp_path, "./program && cat program | wc -c\n").said.strip() in ("0", "")
    (tmp_path / "other.sh").write_text("#!/bin/bash\necho other\n")
    (tmp_path / "other.sh").chmod(0o755)
    assert said(tmp_path, "./other.sh; bash other.sh; . ./other.sh; sh -c 'source ./other.sh'\n") == ["other"] * 4


def test_a_system_that_does_not_allow_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running.sys, "platform", "darwin")
    with pytest.raises(NoSandboxError, match="Linux alone"):
        run(tmp_path, "true\n")
