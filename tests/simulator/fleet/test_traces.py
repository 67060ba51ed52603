"""Published traces: small files in exactly their formats."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vtrain_sim.commands.sim import app
from vtrain_sim.decide.fleet import Speeds, SpeedTable, traces
from vtrain_sim.decide.fleet.traces import Recorded, Recording
from vtrain_sim.decide.fleet.traces.mapping import jobs_of
from vtrain_sim.errors import UserError


def _attempt(start: str | None, end: str | None, *machines: int) -> dict[str, object]:
    detail = [{"ip": f"m{n}", "gpus": [f"gpu{g}" for g in range(gpus)]} for n, gpus in enumerate(machines)]
    return {"start_time": start, "end_time": end, "detail": detail}


def _philly(number: int, status: str, *attempts: dict[str, object]) -> dict[str, object]:
    return {
        "status": status,
        "vc": "ee9e8c",
        "jobid": f"application_1506638472019_{number}",
        "attempts": list(attempts),
        "submitted_time": f"2017-10-07 01:11:{number:02}",
        "user": "ce2f4c",
    }


PHILLY = json.dumps(
    [
        _philly(
            10,
            "Pass",
            _attempt("2017-10-07 01:12:09", "2017-10-07 01:13:23", 8, 8),
            _attempt("2017-10-07 01:13:30", "2017-10-07 03:13:30", 8, 8),
        ),
        _philly(11, "Killed", _attempt("2017-10-07 01:12:00", "2017-10-07 01:12:30", 1)),
        _philly(12, "Failed", _attempt("2017-10-07 01:12:00", "2017-10-07 01:12:30", 1)),
        _philly(13, "Killed"),
        _philly(14, "Pass", _attempt("2017-10-07 01:12:00", None, 4)),
        _philly(15, "Pass", _attempt("2017-10-07 01:12:00", "2017-10-07 01:12:00", 4)),
        _philly(16, "Pass", _attempt("2017-10-07 01:12:00", "2017-10-07 01:14:00", 0)),
    ],
    indent=4,
)
HELIOS = """job_id,user,vc,gpu_num,cpu_num,node_num,state,submit_time,start_time,end_time,duration,queue
1425511,uXBbc,vcJkd,1,1,1,COMPLETED,2020-06-09 18:41:01,2020-06-09 18:41:01,2020-06-10 04:55:09,36848,0
1425512,uVMrF,vchbv,4,16,1,FAILED,2020-06-09 18:41:27,2020-06-09 18:41:27,2020-06-09 18:45:36,249,0
1425513,uzqls,vcpDC,8,1,1,CANCELLED,2020-06-09 18:41:28,2020-06-09 18:41:30,2020-06-09 18:51:30,600,2
1425514,uzqls,vcpDC,0,8,1,COMPLETED,2020-06-09 18:41:29,2020-06-09 18:41:30,2020-06-09 18:51:30,600,1
1425515,uzqls,vcpDC,1,8,1,CANCELLED,2020-06-09 18:41:29,,2020-06-09 18:51:30,,
"""
SEREN = """job_id,user,node_num,gpu_num,cpu_num,type,state,submit_time,start_time,end_time,duration,queue,gpu_time
5778432,u5907,1,8,128,Other,FAILED,2023-03-01 00:18:22+08:00,2023-03-01 00:18:54+08:00,2023-03-01 00:20:51+08:00,117,32,936.0
5778469,u5907,1,8,128,SFT,COMPLETED,2023-03-01 00:23:58+08:00,2023-03-01 00:24:11+08:00,2023-03-01 01:09:04+08:00,2693,13,21544.0
5778470,u5907,1,0,128,Other,COMPLETED,2023-03-01 00:23:58+08:00,2023-03-01 00:24:11+08:00,2023-03-01 01:09:04+08:00,2693,13,0.0
"""
KALOS = """job_id,user,node_num,gpu_num,cpu_num,mem_per_pod_GB,shared_mem_per_pod,type,state,submit_time,start_time,end_time,fail_time,stop_time,duration,queue,gpu_time
dlctk696s0jbvitv,uf794,8,64,960,1000,100.0,Other,FAILED,2023-05-17 11:00:58+00:00,2023-05-17 11:01:08+00:00,2023-05-17 11:01:16+00:00,2023-05-17 11:01:16+00:00,,18,10.0,1152.0
dlc1t2ypl09b8qtp,uf794,8,64,960,1000,100.0,Pretrain,CANCELLED,2023-05-17 11:28:42+00:00,2023-05-17 11:28:54+00:00,2023-05-17 11:30:04+00:00,,2023-05-17 11:30:04+00:00,82,12.0,5248.0
"""
PAI = """4f057009a5d481acec67b088,tensorflow,1.0,Terminated,1739162.0,1739200.0,600.0,29.296875,50.0,MISC
a1,ps,2.0,Terminated,1739162.0,1739300.0,600.0,29.296875,,
a1,worker,4.0,Terminated,1739170.0,1739290.0,600.0,29.296875,100.0,V100
a2,worker,1.0,Failed,1739170.0,1739290.0,600.0,29.296875,800.0,V100
a3,worker,2.0,Terminated,1739180.0,1739290.0,600.0,29.296875,800.0,V100
a4,ps,1.0,Terminated,1739180.0,1739290.0,600.0,29.296875,,
a5,worker,1.0,Terminated,1739180.0,,600.0,29.296875,100.0,T4
"""
OPENB = """name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,pod_phase,creation_time,deletion_time,scheduled_time
openb-pod-0001,6000,12288,1,460,,LS,Running,427061,12902960,427061
openb-pod-0005,20000,65536,0,0,,LS,Running,2759674,12902960,2759676
openb-pod-0017,88000,327680,8,1000,,Burstable,Succeeded,9437497,10769854,9437499
openb-pod-0033,3152,5600,1,1000,,BE,Failed,9965463,9965645,9965463
openb-pod-0061,11908,47104,1,1000,,BE,Pending,10001278,10001403,
openb-pod-0035,16000,32768,1,1000,V100M16|V100M32,LS,Running,9967058,9968575,9967063
"""
FILES = {
    "philly": PHILLY,
    "helios": HELIOS,
    "acme": SEREN,
    "alibaba-2020": PAI,
    "alibaba-2023": OPENB,
}
JUNE = 1591728061.0  # 2020-06-09 18:41:01


def read(tmp_path: Path, name: str, text: str) -> Recording:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    return traces.get(name).read(path)


def test_philly(tmp_path: Path) -> None:
    recording = read(tmp_path, "philly", PHILLY)
    ten, eleven = recording.jobs
    # The attempts of the first job took 74 s and two hours, on two machines of eight.
    assert (ten.job_id, ten.gpus, ten.duration_s, ten.tenant) == ("application_1506638472019_10", 16, 7274.0, "ee9e8c")
    assert (eleven.gpus, eleven.duration_s, eleven.submitted_s - ten.submitted_s) == (1, 30.0, 1.0)
    left_out = {"failed": 1, "never started": 1, "still running at the end of the trace": 1, "no duration": 1}
    assert recording.dropped == {**left_out, "no GPU": 1}


def test_helios(tmp_path: Path) -> None:
    recording = read(tmp_path, "helios", HELIOS)
    assert recording.jobs == [
        Recorded("1425511", JUNE, 1, 36848.0, "vcJkd"),
        Recorded("1425513", JUNE + 27, 8, 600.0, "vcpDC"),
    ]
    assert recording.dropped == {"failed": 1, "no GPU": 1, "never started": 1}


def test_acme(tmp_path: Path) -> None:
    """Both clusters; a duration is without the time in the queue, which the column of Kalos has in it."""
    seren, kalos = read(tmp_path, "acme", SEREN), read(tmp_path, "acme", KALOS)
    assert [(j.job_id, j.gpus, j.duration_s, j.tenant) for j in seren.jobs] == [("5778469", 8, 2693.0, "SFT")]
    assert seren.dropped == {"failed": 1, "no GPU": 1}
    assert [(j.gpus, j.duration_s, j.tenant) for j in kalos.jobs] == [(64, 70.0, "Pretrain")]
    # Times have zones: midnight in Shanghai is four in the afternoon in UTC.
    assert seren.jobs[0].submitted_s == 1677601438.0


def test_alibaba_2020(tmp_path: Path) -> None:
    header = "job_name,task_name,inst_num,status,start_time,end_time,plan_cpu,plan_mem,plan_gpu,gpu_type\n"
    for text in (PAI, header + PAI):
        recording = read(tmp_path, "alibaba-2020", text)
        assert recording.jobs == [Recorded("a1", 1739162.0, 4, 138.0), Recorded("a3", 1739180.0, 16, 110.0)]
        assert recording.dropped == {"a part of a GPU": 1, "failed": 1, "no GPU": 1, "no duration": 1}
    assert traces.detect(tmp_path / "trace.csv") is traces.get("alibaba-2020")


def test_alibaba_2023(tmp_path: Path) -> None:
    recording = read(tmp_path, "alibaba-2023", OPENB)
    assert recording.jobs == [
        Recorded("openb-pod-0017", 9437497.0, 8, 1332355.0),
        Recorded("openb-pod-0035", 9967058.0, 1, 1512.0),
    ]
    assert recording.dropped == {"a part of a GPU": 1, "no GPU": 1, "failed": 1, "never started": 1}


def test_formats_are_recognised(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    for name, text in {**FILES, "acme ": KALOS}.items():
        path.write_text(text)
        found = traces.detect(path)
        # The table of PAI's tasks has no line of columns.
        assert (found and found.name) == (None if name == "alibaba-2020" else name.strip())
    path.write_text("job_id,arrival_s,model,global_batch_size,iterations,gpus\n")
    assert traces.detect(path) is None
    assert {traces.get(name).title for name in traces.names()} >= {"Microsoft's Philly", "SenseTime's Helios"}


def test_jobs_train_the_largest_model_that_fits() -> None:
    """Small on one GPU, large from four on; 100 s are 10 iterations of 10 s; more than the cluster has is left out."""
    small, large = ("small", 8), ("large", 8)
    tables = {small: SpeedTable((1, 2, 4, 8), (10.0, 5.0, 3.0, 2.0)), large: SpeedTable((4, 8), (50.0, 25.0))}
    speeds = Speeds(tables, tables, {small: 1e9, large: 1e10})
    recording = Recording("a test")
    for number, (gpus, lasted) in enumerate([(1, 100.0), (2, 100.0), (4, 100.0), (6, 20.0), (16, 5.0)]):
        recording.add(Recorded(f"j{number}", 1000.0 + number, gpus, lasted, "t"))
    jobs, sentences = jobs_of(recording, speeds, 8)
    assert [(j.arrival_s, j.model, j.gpus, j.iterations, j.tenant) for j in jobs] == [
        (0.0, "small", 1, 10, "t"),
        (1.0, "small", 2, 20, "t"),
        (2.0, "large", 4, 2, "t"),
        (3.0, "large", 6, 1, "t"),
    ]
    assert sentences[0] == "trace of a test: 4 of 5 jobs; left out: 1 more GPUs than the cluster has"
    assert "small on 1 to 2 GPUs (2), large on 4 to 6 GPUs (2)" in sentences[1]
    assert "1 shorter than half an iteration have one" in sentences[2]
    with pytest.raises(UserError, match=r"no job of the trace \(a test\) can be scheduled: 5 no model fits"):
        jobs_of(recording, Speeds({}, {}, {}), 64)


@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        ("helios", HELIOS.replace("gpu_num", "gpus"), "has no column gpu_num"),
        ("helios", HELIOS.replace(",1,1,1,COMPLETED", ",one,1,1,COMPLETED"), "gpu_num is 'one': it takes a number"),
        ("helios", HELIOS.replace(",1,1,1,COMPLETED", ",nan,1,1,COMPLETED"), "gpu_num is 'nan': it takes a number"),
        ("helios", HELIOS.replace("2020-06-09 18:41:27", "yesterday"), "submit_time is 'yesterday': it takes a time"),
        ("philly", PHILLY[:500], "is not a cluster_job_log of Philly"),
        ("alibaba-2020", "a,b,c\n", "has 3 columns: it takes 10"),
        ("alibaba-2023", HELIOS, "has no column creation_time, deletion_time"),
    ],
)
def test_malformed_traces_are_one_sentence(tmp_path: Path, name: str, text: str, word: str) -> None:
    with pytest.raises(UserError, match=word):
        read(tmp_path, name, text)


def test_the_command_reads_them(tmp_path: Path) -> None:
    (tmp_path / "cluster_log.csv").write_text(HELIOS)
    command = ["schedule", "--cluster", "dgx-a100-80gb", "--num-gpus", "16", "--models", "gpt3-1.3b,gpt3-6.7b"]
    command += ["--global-batch-size", "64", "--policies", "fifo,elastic-plans", "--trace"]
    done = CliRunner().invoke(app, [*command, str(tmp_path / "cluster_log.csv"), "--json"])
    assert done.exit_code == 0, (done.output, done.exception)
    answer = json.loads(done.stdout)
    assert answer["notes"][0].startswith(
        "trace of SenseTime's Helios: 2 of 5 jobs; left out: 1 failed, 1 never started"
    )
    assert {row["tenant"] for row in answer["tenants"]} == {"vcJkd", "vcpDC"}
    assert answer["policies"]["fifo"]["mean_jct_s"] == pytest.approx((36848 + 600) / 2, rel=0.05)
    with pytest.raises(UserError, match="--trace-format is 'heliso'"):
        CliRunner().invoke(
            app, [*command, str(tmp_path / "cluster_log.csv"), "--trace-format", "heliso"], catch_exceptions=False
        )
    with pytest.raises(UserError, match="--trace-format needs --trace"):
        CliRunner().invoke(app, [*command[:-1], "--jobs", "3", "--trace-format", "acme"], catch_exceptions=False)
