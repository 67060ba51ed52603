"""Launch scripts are read without running them as bash reads them, or refused."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import vtrain as vt
from vtrain_sim.commands.sim import app
from vtrain_sim.errors import UserError
from vtrain_sim.inputs.launch_script import read_launch

MODEL = "--num-layers 4 --hidden-size 1024 --num-attention-heads 16 --seq-length 1024"
STEP = f"{MODEL} --micro-batch-size 1 --global-batch-size 16"
# "torchrun" prints its words instead, and the environment has none of the variables.
ORACLE = "torchrun() { printf '%s\\n' \"$@\"; }\n"

SCRIPTS = {
    "append": 'A="--num-layers 4"\nA+=" --bf16"\ntorchrun x.py $A --swiglu\n',
    "append to itself": 'A="--num-layers 4"\nA="$A --bf16"\ntorchrun x.py $A\n',
    "append with braces": 'A=--a\nA="${A} --b"\nA="${A}"\' --c d\'\ntorchrun x.py ${A}\n',
    "default": "TP=${TP:-2}\nPP=${PP-4} CP=${CP:=8}\ntorchrun x.py --tp $TP --pp ${PP} --cp $CP ${X:-1}\n",
    "default that is set": "TP=8\nTP=${TP:-2}\ntorchrun x.py --tp $TP\n",
    "nested default": "A=3\ntorchrun x.py --a ${B:-${A}} ${C:-$((A+1))}\n",
    "assigned later": "TP=2\ntorchrun x.py --tp $TP\nTP=8\n",
    "array": 'A=(\n --a 1 # b\n # c\n --d "e f"\n)\nA+=(--g)\ntorchrun x.py ${A[@]} "${A[@]}"\n',
    "array of arrays": 'A=(--a 1)\nB=("${A[@]}" --b ${A[*]})\ntorchrun x.py "${B[@]}"\n',
    "empty array": 'A=()\ntorchrun x.py --a "${A[@]}" ${A[@]} --b\n',
    "continued array": "A=(--a 1 \\\n --b 2 \\\n)\ntorchrun x.py ${A[@]} \\\n --c\n",
    "arithmetic": "TP=2\nN=$((TP*8))\ntorchrun x.py --n $N --m $(( (TP + 1) * 7 / 2 - 1 )) --o $(($TP%2))\n",
    "quotes": "A='$B \"c\"'\ntorchrun x.py --a '([0]*3+[1]*58)' --b \"x\\\"y\" --c \\$d --e \"$A\" 'f'\"g\"h\n",
    "several of a line": "A=1 B=2; export C=3 D=4\ntorchrun x.py --a $A $B $C $D\n",
    "own environment": "A=1\nA=2 torchrun x.py --a $A\n",
    "comment": "torchrun x.py --a 1 # --b 2\n# torchrun x.py --c\n",
    "pipe": "torchrun x.py --a 1 2>&1 | cat\n",
    "background": "torchrun x.py --a 1&\nwait\n",
    "after a redirection": "torchrun x.py --a 1 2>&1 --b 2 2>/dev/null --c 2> /dev/null 3</dev/null --d\n",
    "redirections of bash": "torchrun x.py --a 1 2>| /dev/null --b 2>|/dev/null 2 0<&- --c 3<&- &>>/dev/stdout --d\n",
    "eval of a pipeline": 'CMD="torchrun x.py --a 1 2>&1 | cat"\neval $CMD\n',
    "here-document in a pipe": "cat <<EOF | cat > /dev/null\ntorchrun y.py --b 2\nEOF\ntorchrun x.py --a 1\n",
    "here-document of a list": "cat <<EOF > /dev/null && true\ntorchrun y.py --b\nEOF\ntorchrun x.py --a 1\n",
    "here-document after its file": "cat >/dev/null<<E'O'F\nit's y.py --b\n EOF\ntorchrun y.py --b\nEOF\ntorchrun x.py --a 1\n",
    "here-document behind tabs": "cat > /dev/null <<-EOF\n\ttorchrun y.py --b\n\tEOF\ntorchrun x.py --a 1\n",
    "arithmetic that shifts": "N=2\n((N<<2)) && ((N > 1))\nfor ((i=0; i<1; i++)); do A=1; done\ntorchrun x.py --a $((N*4)) --b $((N))\n",
    "assignment with a redirection": "A=1 2>/dev/null\n[ a = a ] 2>/dev/null && B=2\ntorchrun x.py --a ${A:-3} --b ${B:-3}\n",
    "what looks like a redirection": 'S="a<b c>d" T=">c"\ntorchrun x.py --a $S "$T" \'>d\' "2>&1" \\> --e 2>&1 --f\n',
    "here-document": "cat <<EOF > /dev/null\ntorchrun y.py --b\nEOF\ntorchrun x.py --a 1\n",
    "known branch": 'T=fp8\nif [[ "$T" == "fp8" ]]; then\n A+=" --f"\nelse\n A+=" --g"\nfi\ntorchrun x.py --a $A\n',
    "other branch": 'T=a\nif [ $T = b ]; then A=1; elif [ "$T" = a ]; then A=2; else A=3; fi\ntorchrun x.py --a $A\n',
    "nested branches": "N=8\nif [ $N -gt 4 ]; then\n if [ $N -lt 8 ]; then A=1\n else A=2\n fi\nfi\ntorchrun x.py --a $A\n",
    "skipped command": "N=8\nif [ $N -eq 4 ]; then torchrun x.py --four; else torchrun x.py --eight; fi\n",
    "empty or not": "A=1\nif [ -z \"$A\" ]; then A=2; fi\nif [ -n \"$A\" ]; then B=3; fi\ntorchrun x.py --a $A $B\n",
    "function": 'main() {\n local A=1\n torchrun x.py --a $A\n}\nmain\n',
    "after &&": "A=1 && B=2\ntrue && torchrun x.py --a $A $B\n",
    "eval": 'CMD="torchrun x.py --a 1"\neval $CMD\n',
    "command in a variable": 'CMD="torchrun x.py --a 1"\n$CMD --b\n',
    "no arguments of its own": 'torchrun x.py --a 1 $@ "$@" ${@} "${@}" $*\n',
    "number of arguments": 'if [ $# -eq 0 ]; then A=1; else A=2; fi\ntorchrun x.py --a $A\n',
    "array that nothing sets": 'torchrun x.py --a ${L[@]} "${L[@]}" ${L[*]} --b ${L[@]:-c}\n',
    "condition that holds": 'A=(--a)\n[[ ${FP8:-1} == 1 ]] && A+=(--fp8-format hybrid)\n[ 1 = 2 ] && A+=(--no)\ntorchrun x.py "${A[@]}"\n',
    "condition that does not": 'A=(--a)\n[[ ${FP8:-0} == 1 ]] && A+=(--b)\n[[ ${X:-0} == 1 ]] || A+=(--c)\ntorchrun x.py "${A[@]}"\n',
    "either": 'N=8\n[ $N -gt 4 ] && A=1 || A=2\n[ $N -gt 9 ] && B=1 || B=2\n! test $N = 8 || C=3\n! [ $N = 8 ] && D=4\ntorchrun x.py --a $A $B ${C:-0} ${D:-0}\n',
    "group": 'N=8\n[ $N -gt 9 ] && { A=1; B=1; }\n[ $N -gt 4 ] && { C=1; D=1; }\n{ E=1; }\ntorchrun x.py --a ${A:-0} ${B:-0} $C $D $E\n',
    "two conditions": 'A=1; B=2\nif [ $A = 1 ] && [ $B = 3 ]; then C=1; elif [ $A = 2 ] || [ $B = 2 ]; then C=2; else C=3; fi\ntorchrun x.py --a $C\n',
    "elif after a branch": 'A=1\nif [ $A = 1 ]; then C=1; elif [ $A = 1 ] && [ $A = 1 ]; then C=2; fi\ntorchrun x.py --a $C\n',
    "skipped training": 'A=1\n[ $A = 2 ] && torchrun x.py --two\n[ $A = 1 ] && torchrun x.py --one\n',
    "powers": "S=4096\ntorchrun x.py --a $((15*10**12 / S)) --b $(( 2 ** 3 ** 2 )) --c $((-7/2)) $((-7%3)) $((7/-2)) $((2**61/4))\n",
    "loop": "A=1\nfor i in 1; do B=2; torchrun x.py --a $A $B; done\n",
}  # fmt: skip


def read(tmp_path: Path, text: str) -> tuple[str, ...]:
    path = tmp_path / "train.sh"
    path.write_text(text)
    return read_launch(path).arguments


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_read_as_bash_reads_them(tmp_path: Path, name: str) -> None:
    script = SCRIPTS[name]
    said = subprocess.run(
        ["bash", "-c", ORACLE + script], capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin"}
    )
    words = [word for word in said.stdout.splitlines() if word != "x.py"]
    assert words
    assert list(read(tmp_path, script)) == words
    assert list(read(tmp_path, script.replace("\n", "\r\n"))) == words


@pytest.mark.parametrize(
    "text",
    [
        "TP=1\nif [ $X = 1 ]; then\nTP=8\nfi\n",
        "TP=1\nif [ -f x ]; then TP=8; else TP=4; fi\n",
        "TP=1\ncase $X in\n a) TP=2 ;;\n *) TP=4 ;;\nesac\n",
        "TP=1\n[ -f x ] && TP=8\n",
        "TP=1\ncheck || TP=8\n",
        "TP=1\nlet TP=8\n",
        "TP=1\nread TP\n",
        "TP=1\nwhile check; do TP=8; done\n",
        "for TP in 1 2; do true; done\n",
        "TP=$(compute)\n",
        "TP=`compute`\n",
        "TP=$1\n",
        "TP=1\n[[ $X == 1 ]] && TP=8\n",
        "TP=1\n[[ $X == 1 ]] && { true; TP=8; }\n",
        "TP=1\nif [ 1 = 1 ] && [ -f x ]; then TP=8; fi\n",
        "TP=1\nif [ 1 = 2 ]; then TP=2; elif [ 1 = 1 ] && check; then TP=8; fi\n",
        "TP=1\n[ -f x ] || TP=8\n",
        "TP=$(compute) || TP=8\n",
        "TP=1\nif [ -f x ]; then TP=$(compute); fi\n",
        "",
    ],
)
def test_values_that_are_not_known_are_refused_where_they_matter(tmp_path: Path, text: str) -> None:
    path = tmp_path / "train.sh"
    path.write_text(f"{text}torchrun --nproc_per_node 8 x.py {STEP} --data-path $TP\n")
    read = {"cluster": "dgx-h100", "run_script": False}
    assert vt.job.from_script(path, **read).configuration.parallel.tp == 1
    path.write_text(f"{text}torchrun --nproc_per_node 8 x.py {STEP} --tensor-model-parallel-size $TP\n")
    with pytest.raises(UserError, match=r"--tensor-model-parallel-size is '\$(TP|1)': it takes a whole number"):
        vt.job.from_script(path, **read)
    path.write_text(f"{text}torchrun --nproc_per_node 8 x.py {STEP} $TP\n")
    with pytest.raises(UserError, match="what the shell puts there is not known"):
        vt.job.from_script(path, **read)


def test_what_a_script_is_called_with(tmp_path: Path) -> None:
    path = tmp_path / "train.sh"
    path.write_text('torchrun x.py --a ${1:-0} "$@"\n')
    assert read_launch(path).arguments == ("--a", "0")
    assert "--script-args" in read_launch(path).notes[0]
    assert read_launch(path, script_arguments=["7", "b c"]).arguments == ("--a", "7", "7", "b c")
    path.write_text("torchrun x.py --a ${LOGGING[@]}\n")
    assert read_launch(path).notes == ("not set, empty in the script as in bash: $LOGGING",)


@pytest.mark.parametrize(
    "text",
    [
        'run() { torchrun x.py --a 1 "$@"; }\nrun --b 2\n',
        'set -- --b 2\ntorchrun x.py --a 1 "$@"\n',
        "run() { torchrun x.py --a 1 ${B[@]}; }\nB=(--b 2)\nrun\n",
        'eval "$(cat x)"\ntorchrun x.py --a 1 ${B[@]}\n',
    ],
)
def test_what_something_may_set_is_not_taken_to_be_empty(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text)[2:] != ()


def test_a_value_that_every_branch_leaves_is_known(tmp_path: Path) -> None:
    text = "TP=2\nif [ -f x ]; then PP=1; TP=2; fi\ntorchrun x.py --tp $TP\n"
    assert read(tmp_path, text) == ("--tp", "2")


def test_a_choice_of_commands_is_refused(tmp_path: Path) -> None:
    text = "if [ -f x ]; then torchrun x.py --a 1; else torchrun x.py --a 2; fi\n"
    with pytest.raises(UserError, match="chooses between several commands"):
        read(tmp_path, text)
    assert read(tmp_path, text.replace("-a 2", "-a 1")) == ("--a", "1")


def test_a_file_that_is_read_is_not_passed_over(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"reads \./args\.sh, which is not followed"):
        read(tmp_path, "A=1\nsource ./args.sh\ntorchrun x.py --a $A\n")
    assert read(tmp_path, "source ~/venv/bin/activate\ntorchrun x.py --a 1\n") == ("--a", "1")


def test_tools_beside_the_training_are_not_it(tmp_path: Path) -> None:
    text = "python tools/a.py --x 1\ntorchrun x.py --a 1\npython tools/b.py --y 2\necho x.py --z\n"
    assert read(tmp_path, text) == ("--a", "1")


@pytest.mark.parametrize(
    ("launcher", "processes"),
    [
        ("torchrun --nproc_per_node 8", 8),
        ("torchrun --nproc-per-node=8 --nnodes=2", 16),
        ("python -m torch.distributed.launch --nproc_per_node 4", 4),
        ("/opt/bin/torchrun --nproc_per_node 4", 4),
        ("srun -n 16 python -u", 16),
        ("srun -N 4 --ntasks-per-node=8 python", 32),
        ("srun -N 2 torchrun --nnodes 2 --nproc_per_node 8", 16),
        ("mpirun -np 8 python", 8),
        ("deepspeed --num_gpus 8 --num_nodes 2", 16),
        ("python", 0),
        ("#SBATCH --nodes=4\n#SBATCH --ntasks-per-node=8\nsrun python", 32),
        ("#SBATCH -N 4\ntorchrun --nnodes $SLURM_NNODES --nproc_per_node 8", 32),
        ("#SBATCH --nodes=4\n#SBATCH --gpus-per-node=8\nsrun torchrun --nnodes=4 --nproc_per_node=$SLURM_GPUS_PER_NODE", 32),
    ],
)  # fmt: skip
def test_processes(tmp_path: Path, launcher: str, processes: int) -> None:
    path = tmp_path / "train.sh"
    path.write_text(f"{launcher} x.py {STEP}\n")
    launch = read_launch(path)
    assert (launch.processes, launch.unknown) == (processes, "")
    assert list(launch.arguments) == STEP.split()


@pytest.mark.parametrize(
    ("launcher", "why"),
    [
        ("N=$(nvidia-smi -L | wc -l)\ntorchrun --nproc_per_node $N", "--nproc_per_node is '$N'"),
        ("torchrun --nproc_per_node gpu", "--nproc_per_node is 'gpu'"),
        ("torchrun --nproc_per_node 0", "--nproc_per_node is '0'"),
        ("torchrun --nproc_per_node 99999999999999999999999", "which is no number of processes"),
        ("torchrun --nproc_per_node 8 --nnodes 1:4", "--nnodes is '1:4'"),
        ("torchrun --nproc_per_node 8 --nnodes $NODES", "--nnodes is '$NODES'"),
        ("torchrun --nproc_per_node 999999999 --nnodes 999999999", "more than any cluster has"),
        ("#SBATCH --nodes=4\n#SBATCH --gpus-per-node=8\nsrun python", "with srun, and does not say how many"),
    ],
)
def test_processes_that_are_not_said(tmp_path: Path, launcher: str, why: str) -> None:
    path = tmp_path / "train.sh"
    path.write_text(f"{launcher} x.py {STEP}\n")
    command = ["project", "--json", "--cluster", "dgx-h100", "--no-run-script", "--megatron-args", str(path)]
    refused = CliRunner().invoke(app, command).exception
    assert isinstance(refused, UserError)
    assert why in str(refused)
    assert str(refused).endswith(": give --num-gpus")
    assert CliRunner().invoke(app, [*command, "--num-gpus", "8"]).exit_code == 0
    assert CliRunner().invoke(app, [*command, "--data-parallel-size", "4"]).exit_code == 0
    assert vt.job.from_script(path, cluster="dgx-h100", gpus=16).configuration.parallel.dp == 16
    assert vt.job.from_script(path, cluster="dgx-h100", dp=2).configuration.parallel.dp == 2


def test_variables_do_not_grow_without_end(tmp_path: Path) -> None:
    doubled = "".join(f'A{i + 1}="$A{i} $A{i} $A{i} $A{i} $A{i} $A{i}"\n' for i in range(15))
    for text in (f"A0=xx\n{doubled}python x.py --a $A14\n", "A=xx\n" + 'A+="$A$A"\n' * 60 + "python x.py --a $A\n"):
        with pytest.raises(UserError, match="longer than any command"):
            read(tmp_path, text)
    with pytest.raises(UserError, match="more than any launch script"):
        read(tmp_path, "python x.py" + " --lr 1" * 200_000)
    with pytest.raises(UserError, match=r"nested too deeply|not closed"):
        read(tmp_path, "A=" + "$(" * 100_000)


FRAGMENTS = st.sampled_from(
    ["A=", "A+=", "(", ")", '"', "'", "`", "\\", "\n", " ", "$", "${", "}", "$((", "))", "A", "[@]", ":-", "#", ";", ";;",
     "&&", "|", "if", "then", "else", "elif", "fi", "case", "esac", "for", "do", "done", "[", "]", "-z", "=", "<<EOF",
     "EOF", "torchrun", "x.py", "--a", "1", "{", "f()", "export", "read", "eval", "2>&1", "\r\n", "\0", "*", "/", "0"]
)  # fmt: skip


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(FRAGMENTS, max_size=40))
def test_anything_is_read_or_refused(tmp_path: Path, fragments: list[str]) -> None:
    for text in (" ".join(fragments), "".join(fragments), f"{' '.join(fragments)}\ntorchrun x.py --a $A"):
        with contextlib.suppress(UserError):
            read(tmp_path, text)


def test_the_allocator_of_a_script_is_read(tmp_path: Path) -> None:
    script = tmp_path / "train.sh"
    body = "torchrun --nproc-per-node 8 pretrain_gpt.py --num-layers 4\n"
    for line, expandable in (
        ("export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True", True),
        ('PYTORCH_ALLOC_CONF="max_split_size_mb:128,expandable_segments:True"', True),
        ("export PYTORCH_CUDA_ALLOC_CONF=max_split_size_mb:128", False),
    ):
        script.write_text(f"{line}\n{body}")
        assert ("--expandable-segments" in read_launch(script).arguments) == expandable


@pytest.mark.parametrize("run_script", [True, False])
@pytest.mark.parametrize(
    ("text", "word"), [("", "is empty"), (" \n\n", "is empty"), ("#!/bin/bash\n# x\n", "nothing but comments")]
)
def test_a_file_without_a_command_is_said_to_be_empty(tmp_path: Path, text: str, word: str, run_script: bool) -> None:
    path = tmp_path / "train.sh"
    path.write_text(text)
    with pytest.raises(UserError, match=word):
        vt.job.from_script(path, cluster="dgx-h100", run_script=run_script)


@pytest.mark.parametrize("value", ["<path to data>", '"<PATH TO DATA>"', "$DATA", '"$DATA"'])
def test_values_that_are_to_be_filled_in_end_no_command(tmp_path: Path, value: str) -> None:
    script = tmp_path / "train.sh"
    script.write_text(f'DATA="<Specify path>"\ntorchrun x.py --data-path {value} --bf16 2>&1 --swiglu\n')
    assert read_launch(script).arguments == ("--data-path", "%placeholder%", "--bf16", "--swiglu")


def test_slurm_counts_the_tasks_of_all_nodes(tmp_path: Path) -> None:
    script = tmp_path / "train.sh"
    batch = "#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=8\n"
    script.write_text(f"{batch}srun python x.py --global-batch-size $((4*${{SLURM_NTASKS:-1}}))\n")
    assert read_launch(script).arguments == ("--global-batch-size", "64")


@pytest.mark.parametrize(
    "line",
    [
        'bash -c "torchrun x.py --a 1 --b 2>&1 | tee log"',
        "bash -c 'cd y && torchrun x.py --a 1 --b >log && echo done --x'",
        'CMD="torchrun x.py --a 1 --b 2>&1 | tee log"\neval $CMD',
    ],
)
def test_the_command_of_a_shell_in_quotation_marks_ends_where_it_ends(tmp_path: Path, line: str) -> None:
    assert read(tmp_path, f"{line}\n") == ("--a", "1", "--b")
