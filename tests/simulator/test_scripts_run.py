"""Launch scripts that are run give the arguments that bash gives."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import vtrain as vt
from support import bash_oracle
from support.sandbox import needs_sandbox
from vtrain_sim.commands.sim import app
from vtrain_sim.errors import UserError
from vtrain_sim.inputs.job_files import read_job_file

from .test_launch_scripts import FRAGMENTS
from .test_launch_scripts import SCRIPTS as PLAIN

pytestmark = needs_sandbox
ARGS = "--num-layers 4 --hidden-size 1024 --num-attention-heads 16 --seq-length 1024 --micro-batch-size 1 --global-batch-size 16"
ORACLE = 'torchrun() { printf \'%s\\n\' "$@"; }\npython() { torchrun "$@"; }\n'

# Each starts x.py once; bash with a function for torchrun is the oracle.
IDIOMS = {
    "arithmetic of defaults": "N=${N:-2} G=$((N*8))\ntorchrun x.py --a $G $((G/${M:-4}))\n",
    "case": "S=7B\ncase $S in 7B|8B) L=32;; 13B) L=40;; *) L=1;; esac\ntorchrun x.py --a $L\n",
    "case falls to the last": "S=99B\ncase $S in 7B) L=32;; *) L=1;; esac\ntorchrun x.py --a $L\n",
    "eval of quotes": "A='--a \"b c\"'\neval \"torchrun x.py $A\"\n",
    "function with arguments": 'f() { local n=$1; shift; torchrun x.py --a $n "$@"; }\nf 4 --b "c d"\n',
    "array of options": 'A=(--a 1 # one\n  --b "2 3"\n)\n[[ ${#A[@]} -gt 2 ]] && A+=(--c)\ntorchrun x.py "${A[@]}"\n',
    "loop": 'A=""\nfor i in 1 2 3; do A+=" --a$i $((i*i))"; done\ntorchrun x.py $A\n',
    "command substitution": 'A=$(echo 3 | sed s/3/4/)\ntorchrun x.py --a $A --b $(expr $A \\* 2) --c $(seq -s, 1 3)\n',
    "string operations": 'S=model-7B.json\ntorchrun x.py --a ${S%.json} --b ${S#*-} --c ${S/7B/13B} --d ${#S} --e ${S^^}\n',
    "indirection": 'L_7B=32\nN=L_7B\ntorchrun x.py --a ${!N}\n',
    "associative array": 'declare -A L=([7B]=32 [13B]=40)\ntorchrun x.py --a ${L[13B]}\n',
    "here-document": 'A=$(cat <<EOF\n--a 1\n--b 2\nEOF\n)\ntorchrun x.py $A\n',
    "read": 'read -r A B <<< "3 4"\ntorchrun x.py --a $A --b $B\n',
    "read from a pipe": 'echo "5 6" > f; while read -r A B; do torchrun x.py --a $A --b $B; done < f\n',
    "printf": "printf -v A '%04d' 7\ntorchrun x.py --a $A\n",
    "getopts": 'set -- -t 8 -p\nwhile getopts t:p o; do case $o in t) T=$OPTARG;; p) P=1;; esac; done\ntorchrun x.py --a $T ${P:+--b}\n',
    "shift": 'set -- --tp 4 --pp 2\nwhile [[ $# -gt 0 ]]; do case $1 in --tp) T=$2; shift 2;; --pp) P=$2; shift 2;; esac; done\ntorchrun x.py --a $T --b $P\n',
    "unset variable": 'torchrun x.py --a $UNSET_HERE --b "${UNSET_HERE}" --c\n',
    "self-reference": 'A="$A --a"\nA="$A --b"\ntorchrun x.py $A\n',
    "ternary": 'T=8\ntorchrun x.py --a $(( T > 4 ? 1 : 2 )) --b $(( T ** 2 )) --c $(( 0x10 | 1 ))\n',
    "failing condition": 'if [ $NOT_SET = 1 ]; then A=--a; else A=--b; fi\ntorchrun x.py $A --c\n',
    "tail after a redirection": "torchrun x.py --a 1 > log.txt --b 2\n",
    "pipe to tee": "torchrun x.py --a 1 --b 2 2>&1 | tee -a log.txt\n",
    "errexit": "set -euo pipefail\nA=1\nfalse || A=2\ntorchrun x.py --a $A\n",
    "trap": "trap 'echo end' EXIT\ntorchrun x.py --a 1\n",
    "exec": "exec torchrun x.py --a 1\n",
    "glob that matches nothing": "torchrun x.py --a '[0]*3+[1]*58' --b ([0]*1+[1]*2)\n".replace("([0]*1+[1]*2)", "[0]*1+[1]*2"),
}  # fmt: skip


@pytest.mark.parametrize("name", [*IDIOMS, *PLAIN])
def test_idioms(tmp_path: Path, name: str) -> None:
    script = IDIOMS.get(name) or PLAIN[name]
    folder = tmp_path / "oracle"
    folder.mkdir()
    said = subprocess.run(
        ["bash", "-c", ORACLE.replace("torchrun()", "exec() { \"$@\"; }\ntorchrun()", 1) + script],
        capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"]}, cwd=folder,
    )  # fmt: skip
    written = said.stdout or (folder / "log.txt").read_text()
    words = [word for word in written.splitlines() if word not in ("x.py", "end")]
    assert words
    path = tmp_path / "train.sh"
    path.write_text(script)
    assert list(read_job_file(path).arguments) == words


# Each starts one training of 16 processes with ARGS.
WRAPPED = {
    "srun bash -c": f'srun -N 2 bash -c "cd /somewhere; torchrun --nproc_per_node 8 --nnodes 2 pretrain_gpt.py {ARGS}"\n',
    "srun sh -c of a variable": f'CMD="torchrun --nproc_per_node 8 --nnodes 2 pretrain_gpt.py {ARGS}"\nsrun -l sh -c "$CMD"\n',
    "srun python": f"#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=8\nsrun -l python -u pretrain_gpt.py {ARGS}\n",
    "srun of a script": f"echo 'python pretrain_gpt.py {ARGS}' > run.sh\nchmod +x run.sh\nsrun -n 16 ./run.sh\n",
    "sbatch of a here-document": f"sbatch <<EOF\n#!/bin/bash\n#SBATCH -N2 --ntasks-per-node=8\nsrun python pretrain_gpt.py {ARGS}\nEOF\n",
    "sbatch of a script": f"A=1\ncat > job.sh <<'EOF'\n#SBATCH --ntasks-per-node=8\nsrun python pretrain_gpt.py {ARGS}\nEOF\nsbatch --nodes 2 job.sh\n",
    "container": f"srun -n 16 --container-image nvcr.io#nvidia/pytorch:24.01-py3 --container-mounts /a:/b bash -lc 'python pretrain_gpt.py {ARGS}'\n",
    "docker": f"docker run --gpus all -v /a:/b image torchrun --nnodes 2 --nproc-per-node=8 pretrain_gpt.py {ARGS}\n",
    "module": f"python3 -m torch.distributed.run --nnodes=2 --nproc-per-node 8 pretrain_gpt.py {ARGS}\n",
    "program of a path": f"PY=/opt/conda/envs/x/bin\n$PY/torchrun --nnodes 2 --nproc_per_node 8 pretrain_gpt.py {ARGS} 2>&1 | tee log\n",
    "profiler": f"nsys profile -t cuda,nvtx -o out --force-overwrite true torchrun --nnodes 2 --nproc_per_node 8 pretrain_gpt.py {ARGS}\n",
    "deepspeed": f"printf 'a slots=8\\nb slots=8\\n' > hosts\ndeepspeed --hostfile hosts pretrain_gpt.py {ARGS}\n",
    "mpirun": f"printf 'a:8\\nb:8\\n' > hosts\nmpirun --hostfile hosts python pretrain_gpt.py {ARGS}\n",
    "slurm's variables": f"#SBATCH --nodes=2\n#SBATCH --gres=gpu:a100:8\nsrun torchrun --nnodes $SLURM_NNODES --nproc_per_node $SLURM_GPUS_ON_NODE pretrain_gpt.py {ARGS}\n",
    "hosts of slurm": f"#SBATCH -N 2\nHOSTS=($(scontrol show hostnames $SLURM_JOB_NODELIST))\ntorchrun --nnodes ${{#HOSTS[@]}} --nproc_per_node 8 pretrain_gpt.py {ARGS}\n",
    "ssh to each host": f"for h in a b; do ssh $h 'cd x && torchrun --nnodes 2 --nproc_per_node 8 pretrain_gpt.py {ARGS}' & done\nwait\n",
    "counted GPUs": f"N=$(nvidia-smi -L | wc -l)\ntorchrun --nnodes 2 --nproc_per_node $N pretrain_gpt.py {ARGS}\n",
    "other programs": f"python tools/preprocess_data.py --input x\ntorchrun --nnodes 2 --nproc_per_node 8 pretrain_gpt.py {ARGS}\npython tools/eval.py --x 1\n",
    "sourced": f"echo 'ARGS=\"{ARGS}\"' > args.sh\nsource args.sh\ntorchrun --nnodes 2 --nproc_per_node 8 pretrain_gpt.py $ARGS\n",
    "other bash": f"cat > inner.sh <<'EOF'\ntorchrun --nnodes $1 --nproc_per_node 8 pretrain_gpt.py {ARGS}\nEOF\nbash inner.sh 2\n",
    "environment": f"uv run --no-sync env CUDA_DEVICE_MAX_CONNECTIONS=1 torchrun --nnodes 2 --nproc_per_node 8 pretrain_gpt.py {ARGS}\n",
}  # fmt: skip


@pytest.mark.parametrize("name", WRAPPED)
def test_launchers_around_a_training(tmp_path: Path, name: str) -> None:
    path = tmp_path / "train.sh"
    path.write_text(WRAPPED[name])
    launch = read_job_file(path)
    assert list(launch.arguments) == ARGS.split()
    assert (launch.processes, launch.unknown) == (16, "")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (f"torchrun pretrain_bert.py {ARGS}", "trains BERT"),
        (f"torchrun pretrain_t5.py {ARGS}", "trains T5"),
        (f"torchrun pretrain_vision_classify.py {ARGS}", "trains a vision model"),
        (f"torchrun examples/multimodal/train.py {ARGS}", "trains a multimodal model"),
        (f"torchrun tools/run_text_generation_server.py {ARGS}", "inference, no training"),
        (f"python tools/checkpoint/convert.py {ARGS}", "a conversion, no training"),
        ("echo nothing", "starts no training"),
        ("exit 3", "it ended with status 3"),
        (
            "if [ $# -lt 1 ]; then echo usage: tp; exit 1; fi\ntorchrun pretrain_gpt.py --tp $1",
            "said: usage: tp.*--script-args",
        ),
        (
            f"TP=2\nsource /no/such/args.sh\ntorchrun pretrain_gpt.py {ARGS} --tp $TP",
            "reads /no/such/args.sh, which is not",
        ),
        (
            f"set -e\nD=$(cat blend.txt)\ntorchrun pretrain_gpt.py {ARGS} --data-path $D",
            "cat: blend.txt: No such file or directory .put blend.txt beside the script, or .*--script-args",
        ),
        ("A=$((3 *))\ntorchrun pretrain_gpt.py --a $A", "an error that bash stops at"),
        ("N=$(python -c 'print(1)')\nM=$((N*2))\ntorchrun pretrain_gpt.py --a $M", "computes with what python says"),
        (
            f"for b in 16 32; do torchrun pretrain_gpt.py {ARGS} --global-batch-size $b; done",
            "2 trainings with different",
        ),
        (
            f"N=$(all_hosts | wc -l)\ntorchrun pretrain_gpt.py {ARGS} --global-batch-size $((N*16))",
            "what all_hosts says",
        ),
        ("torchrun train.py config.yaml", "without arguments of Megatron's"),
        ("#!/bin/tcsh\nsetenv A 1", "a script of tcsh"),
        ("while true; do :; done", "took more than 20 s"),
        (f"X={'a' * 300_000}\necho nothing", "starts no training"),
        ("for i in {1..30}; do sbatch train.sh $i; done", "hands in 30 jobs"),
        ("sbatch $0; sbatch $0; sbatch $0", "hands in 3 jobs"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from vtrain_sim.inputs.script_run import run as running

    monkeypatch.setattr(running, "_SECONDS", 2)
    path = tmp_path / "train.sh"
    path.write_text(f"{text}\n")
    with pytest.raises(UserError, match=why):
        read_job_file(path)


@pytest.mark.parametrize(
    "value", ["$(tool)", "$(python -c 'print(8)')", "<how many>", "$NOT_SET", "$1", "$(git describe)"]
)
def test_values_that_nobody_knows_are_refused_where_they_matter(tmp_path: Path, value: str) -> None:
    path = tmp_path / "train.sh"
    path.write_text(f"torchrun --nproc_per_node 8 pretrain_gpt.py {ARGS} --data-path {value} --lr 1\n")
    assert vt.job.from_script(path, cluster="dgx-h100").configuration.parallel.dp == 8
    path.write_text(f"torchrun --nproc_per_node 8 pretrain_gpt.py {ARGS} --tensor-model-parallel-size {value} --lr 1\n")
    with pytest.raises(UserError, match=r"--tensor-model-parallel-size|what tool says"):
        vt.job.from_script(path, cluster="dgx-h100")


def test_what_a_file_that_is_not_there_may_set_is_not_known(tmp_path: Path) -> None:
    path = tmp_path / "train.sh"
    path.write_text(
        f"source /no/such/env.sh\nTP=${{TP:-4}}\nPP=1\ntorchrun pretrain_gpt.py {ARGS} --tp $TP --pp $PP --save $DATA/x\n"
    )
    launch = read_job_file(path)
    assert launch.arguments[-6:] == ("--tp", "%unknown_TP%", "--pp", "1", "--save", "%unknown_DATA%/x")
    assert any("/no/such/env.sh" in note for note in launch.notes)


def test_a_script_s_own_arguments(tmp_path: Path) -> None:
    path = tmp_path / "train.sh"
    path.write_text(
        f'TP=$1\ntorchrun --nproc_per_node 8 pretrain_gpt.py {ARGS} --tensor-model-parallel-size "$TP" --save "$2"\n'
    )
    words = ["4", "a b"]
    assert read_job_file(path, script_arguments=words).arguments[-3:] == ("4", "--save", "a b")
    command = ["project", "--cluster", "dgx-h100", "--megatron-args", str(path), "--emit-megatron"]
    done = CliRunner().invoke(app, [*command, "--script-args", shlex.join(words)])
    assert "--tensor-model-parallel-size 4" in done.stdout
    assert isinstance(CliRunner().invoke(app, [*command, "--script-args", "'"]).exception, UserError)


def test_what_the_arguments_depend_on_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_NODES", "2")
    path = tmp_path / "train.sh"
    path.write_text(
        "[ -f /data/latest ] && L=--load\nN=$(nvidia-smi -L | wc -l)\ncompute_more\n"
        f"torchrun --nnodes $MY_NODES --nproc_per_node $N pretrain_gpt.py {ARGS} $L --save $WHERE\n"
    )
    launch = read_job_file(path)
    assert launch.processes == 16
    notes = " ".join(launch.notes)
    for part in ("8 assumed", "MY_NODES=2", "$WHERE", "compute_more", "/data/latest"):
        assert part in notes
    done = CliRunner().invoke(app, ["project", "--cluster", "dgx-h100", "--megatron-args", str(path), "--json"])
    assert done.exit_code == 0
    assert all(f"note: {note}" in done.stderr for note in launch.notes)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(FRAGMENTS, max_size=40))
def test_anything_is_run_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fragments: list[str]) -> None:
    from vtrain_sim.inputs.script_run import run as running

    monkeypatch.setattr(running, "_SECONDS", 1)
    path = tmp_path / "train.sh"
    path.write_text(f"{' '.join(fragments)}\ntorchrun x.py --a $A\n")
    with contextlib.suppress(UserError):
        assert read_job_file(path).arguments


MEGATRON = os.environ.get("MEGATRON_LM", "")
needs_megatron = pytest.mark.skipif(not MEGATRON, reason="MEGATRON_LM is not set: the folder of a clone of Megatron-LM")
GPT_LIKE = ("pretrain_gpt.py", "pretrain_mamba.py", "pretrain_hybrid.py", "finetune_gpt.py")


def _launches(script: Path, folder: Path, top: Path) -> list[list[str]]:
    """Arguments of what the oracle sees a script start, of GPT-like trainings."""
    found = []
    for words in bash_oracle.started(script, folder, top, "%placeholder%"):
        program = next((i for i, word in enumerate(words) if word.endswith(GPT_LIKE)), None)
        if program is not None and any(word.startswith("--") for word in words[program + 1 :]):
            found.append(words[program + 1 :])
    return found


@needs_megatron
@pytest.mark.slow
@pytest.mark.skipif(not bash_oracle.can_run(), reason="needs unshare")
def test_megatron_s_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every script of the examples gives the same arguments as in bash, or is refused where bash starts no such training."""
    top = Path(MEGATRON).resolve()
    monkeypatch.chdir(top)
    wrong, right = [], 0
    for script in sorted((top / "examples").rglob("*.sh")):
        expected = _launches(script, top, top) or _launches(script, script.parent, top)
        try:
            arguments = list(read_job_file(script).arguments)
        except UserError as error:
            if expected:
                wrong.append(f"{script}: {error}")
            continue
        if expected and arguments not in expected:
            wrong.append(f"{script}: {arguments}")
        right += arguments in expected
    assert not wrong
    assert right > 5


def _block(text: str, start: str) -> list[str]:
    """Lines below one that begins a block, those of the block that it takes over first."""
    lines = text.splitlines()
    begin = next(i for i, line in enumerate(lines) if re.match(start, line))
    end = next((i for i, line in enumerate(lines) if i > begin and re.match(r"[^\s#]", line)), len(lines))
    block = lines[begin + 1 : end]
    if merged := re.search(r"<<: \*(\w+)", "\n".join(block)):
        return [*_block(text, rf"\w+:\s*&{merged[1]}\b"), *block]
    return block


def _command_line(config: Path) -> list[str]:
    """Words that Megatron's own test script makes of a configuration: lines of text, put together, evaluated by bash."""
    line = ""
    for text in _block(re.sub(r":\n    +", ": ", config.read_text()), "MODEL_ARGS:"):
        entry = re.match(r"  (--?[\w-]+):\s*(.*)$", text)
        if entry is None:
            continue
        name, raw = entry.groups()
        value = yaml.safe_load(f"- {raw}")[0] if raw else None
        if value is True:
            line += f"{name} "
        elif value not in ("", None):
            word = str(value).strip() if isinstance(value, str) else re.sub(r"\s+#.*", "", raw).strip()
            bracketed = re.fullmatch(r"\[([^]]+)\]", word)
            line += f"{name} {bracketed[1] if bracketed else shlex.quote(word)} "
    done = subprocess.run(
        ["bash", "-c", f"set -f; A=({line}); printf '%s\\0' \"${{A[@]}}\""],
        capture_output=True, text=True, check=True, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    return done.stdout.split("\0")[:-1]


def _by_flag(words: Sequence[str]) -> dict[str, list[object]]:
    """Values of each argument, the last ones where it is given twice; 1.0e-5 and 1e-05 are the same."""
    values: dict[str, list[object]] = {}
    flag = ""
    for word in words:
        if word.startswith("--"):
            flag = word
            values[flag] = []
        else:
            values[flag].append(float(word) if re.fullmatch(r"-?[\d.]+(e-?\d+)?", word) else word)
    return values


@needs_megatron
@pytest.mark.slow
def test_megatron_s_functional_tests() -> None:
    configs = sorted((Path(MEGATRON) / "tests" / "functional_tests").rglob("model_config.yaml"))
    wrong, right = [], 0
    for config in configs:
        text = config.read_text()
        if not isinstance(table := yaml.safe_load(text).get("MODEL_ARGS"), dict) or "trainer.max_steps" in table:
            # None, or those of another framework.
            with pytest.raises(UserError):
                read_job_file(config)
            continue
        arguments = [word for word in read_job_file(config).arguments if word != "--expandable-segments"]
        if _by_flag(arguments) == _by_flag(_command_line(config)):
            right += 1
        else:
            wrong.append(f"{config}: {arguments}")
    assert not wrong, f"{len(wrong)} of {len(configs)}: {wrong[0][:2000]}"
    assert right > 100


def test_no_script_is_run_where_that_is_forbidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "train.sh"
    path.write_text(f"N=$(echo 8)\ntorchrun --nproc_per_node $N pretrain_gpt.py {ARGS}\n")
    assert read_job_file(path).processes == 8
    assert "'$N'" in read_job_file(path, run_script=False).unknown
    monkeypatch.setenv("VTRAIN_NO_RUN_SCRIPT", "1")
    assert "'$N'" in read_job_file(path).unknown


def test_commands_begin_with_what_they_understood(tmp_path: Path) -> None:
    path = tmp_path / "train.sh"
    path.write_text(f"torchrun --nproc_per_node 8 pretrain_gpt.py {ARGS} --bf16 --tensor-model-parallel-size 2\n")
    done = CliRunner().invoke(app, ["project", "--cluster", "dgx-h100", "--megatron-args", str(path)])
    assert done.stderr.splitlines()[0] == (
        "read as: train.sh, 4 layers, 103M parameters; sequences of 1,024 tokens; bf16; 8 GPUs: tp 2, pp 1, dp 4; "
        "micro batch 1, global batch 16"
    )


def piped(text: str) -> Path:
    """A file name as bash makes it of ``<(...)``."""
    reading, writing = os.pipe()
    os.write(writing, text.encode())
    os.close(writing)
    return Path(f"/dev/fd/{reading}")


def test_a_script_comes_through_a_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads files of the folder that it was written in, as in bash."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "more.sh").write_text("N=$(echo 8)\n")
    started = f"torchrun --nproc_per_node $N pretrain_gpt.py {ARGS}\n"
    launch = read_job_file(piped(f"source ./more.sh\n{started}"))
    assert (launch.processes, list(launch.arguments)) == (8, ARGS.split())
    assert read_job_file(piped(f"N=4\n{started}"), run_script=False).processes == 4
    with pytest.raises(UserError, match=r"^/dev/fd/\d+ starts no training"):
        read_job_file(piped("echo hello\n"))


def test_the_sides_of_a_comparison_are_scripts_with_their_notes(tmp_path: Path) -> None:
    path = tmp_path / "train.sh"
    path.write_text(f"N=$(echo 8)\ntorchrun --nproc_per_node $N pretrain_gpt.py {ARGS} $MORE\n")
    sides = ["compare", str(path), f"{path} tp=2", "--cluster", "dgx-h100"]
    done = CliRunner().invoke(app, sides)
    assert done.exit_code == 0, done.output
    assert done.stderr.splitlines().count("note: not set, empty in the script as in bash: $MORE") == 1
    assert "note:" not in CliRunner().invoke(app, [*sides, "--quiet"]).stderr
    with pytest.raises(UserError, match=r"is '\$N', which is no number"):
        CliRunner().invoke(app, [*sides, "--no-run-script"], catch_exceptions=False)


def test_variables_of_slurm_are_not_said_to_be_empty(tmp_path: Path) -> None:
    script = tmp_path / "train.sh"
    script.write_text(
        "#!/bin/bash\n#SBATCH -N 2\n#SBATCH --gres=gpu:8\n"
        f"srun torchrun --nnodes $SLURM_NNODES --nproc_per_node $SLURM_GPUS_ON_NODE pretrain_gpt.py {ARGS} --data-path $DATA\n"
    )
    notes = " ".join(read_job_file(script).notes)
    assert "not set, empty in the script as in bash: $DATA" in notes
    assert "SLURM" not in notes


def test_a_job_of_slurm_finds_its_variables_and_folders(tmp_path: Path) -> None:
    """Empty folders are there, and those of its log; what another program says of its input is no error of the script."""
    (tmp_path / "kept").mkdir()
    script = tmp_path / "train.sh"
    script.write_text(
        "#!/bin/bash\n#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=8\n#SBATCH --output=logs/%j.out\nset -euo pipefail\n"
        "ln -sf $SLURM_JOBID.out logs/latest.out\ntouch kept/here\nNODES=$SLURM_JOB_NODELIST\n"
        'echo "awk: line 1: syntax error at or near }" >&2\n'
        f"srun python pretrain_gpt.py {ARGS} --seed $((1000+SLURM_JOB_ID%50)) --save $SLURM_JOB_NAME/$NODES\n"
    )
    launch = read_job_file(script)
    assert launch.processes == 16
    assert launch.arguments[-4:] == ("--seed", "1001", "--save", "job/node1")
