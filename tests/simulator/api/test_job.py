"""Jobs: keyword arguments, files, runs; they say what the flags say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import vtrain as vt
from vtrain_sim.api.options import read_options
from vtrain_sim.inputs import presets
from vtrain_sim.inputs.megatron_flags import configuration_from_flags
from vtrain_sim.inputs.short_names import SHORT_NAMES

CLUSTER = "dgx-a100-80gb"
POWERS = st.sampled_from([1, 2, 4, 8])
LAYOUTS = st.fixed_dictionaries({"tp": POWERS, "pp": POWERS, "mbs": POWERS, "gbs": st.sampled_from([64, 128, 256])})


def base() -> vt.Job:
    return vt.job("gpt3-1.3b", cluster=CLUSTER, gpus=64, mbs=1, gbs=64)


def test_importing_is_light_and_finds_no_torch() -> None:
    code = (
        "import sys, vtrain; heavy = {'numba', 'duckdb', 'pyarrow', 'numpy', 'torch', 'rich'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_attributes_are_refused_as_python_does() -> None:
    with pytest.raises(AttributeError, match="no attribute 'projekt'"):
        _ = vt.projekt
    assert set(vt.__all__) == set(dir(vt))


@settings(max_examples=50, deadline=None)
@given(LAYOUTS)
def test_short_names_are_the_flags(sizes: dict[str, int]) -> None:
    flags = [token for name, size in sizes.items() for token in (SHORT_NAMES[name], str(size))]
    assume(64 // (sizes["tp"] * sizes["pp"]) * sizes["mbs"] <= sizes["gbs"])
    expected = configuration_from_flags(flags, None, 64, presets.model("gpt3-1.3b"))
    assert vt.job("gpt3-1.3b", cluster=CLUSTER, gpus=64, **sizes).configuration == expected
    long = {SHORT_NAMES[name].removeprefix("--").replace("-", "_"): size for name, size in sizes.items()}
    assert vt.job("gpt3-1.3b", cluster=CLUSTER, num_gpus=64, **long).configuration == expected


@settings(max_examples=50, deadline=None)
@given(LAYOUTS, LAYOUTS)
def test_changing_a_job_is_making_it_so(first: dict[str, int], second: dict[str, int]) -> None:
    def make(sizes: dict[str, int]) -> vt.Job:
        return vt.job("gpt3-1.3b", cluster=CLUSTER, gpus=64, **sizes)

    try:
        expected = make(second)
        start = make(first)
    except vt.UserError:
        assume(False)
    assert start.with_(**second) == expected
    assert start.with_() == start


def test_flags_of_a_job_make_the_job_again() -> None:
    job = base().with_(tp=2, pp=4, vpp=2, sp=True, recompute="full", distributed_optimizer=True)
    again = vt.job.from_flags(job.flags(), cluster=CLUSTER, gpus=64)
    assert again.configuration.parallel == job.configuration.parallel
    assert again.configuration.train == job.configuration.train


def test_world_size_follows_the_data_parallel_size_only_where_it_is_given() -> None:
    job = base()
    assert job.with_(tp=4).configuration.parallel.dp == 16
    assert job.with_(dp=2).configuration.parallel.world_size == 2
    assert job.with_(dp=2).with_(tp=4).configuration.parallel.world_size == 8
    assert job.with_(gpus=128, gbs=128).configuration.parallel.dp == 128


def test_switches_can_be_turned_off_again() -> None:
    job = base().with_(tp=2, sequence_parallel=True, distributed_optimizer=True, swiglu=True)
    off = job.with_(sequence_parallel=False, distributed_optimizer=False, swiglu=False)
    assert not off.configuration.parallel.sequence_parallel
    assert not off.configuration.parallel.distributed_optimizer
    assert not off.configuration.model.swiglu
    # Without tensor parallelism there is no sequence parallelism, as in Megatron.
    assert not job.with_(tp=1).configuration.parallel.sequence_parallel
    assert not base().with_(disable_bias_linear=True).configuration.model.add_bias_linear
    assert base().with_(disable_bias_linear=True).with_(disable_bias_linear=False).configuration.model.add_bias_linear


def test_precisions() -> None:
    assert base().with_(precision="fp16").configuration.train.params_dtype == "float16"
    fp8 = vt.job("gpt3-1.3b", cluster="dgx-h100", mbs=1, gbs=8, precision="fp8")
    assert fp8.configuration.train.fp8 == "hybrid"
    for name in ("bf16", "fp16", "fp32"):
        other = fp8.with_(precision=name).configuration.train
        assert (other.fp8, other.precision.name) == ("", name)
    assert fp8.with_(precision="bf16", fp8_format="e4m3").configuration.train.fp8 == "e4m3"


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"tpp": 2}, "did you mean 'tp'"),
        ({"tensor_model_paralel_size": 2}, "did you mean 'tensor_model_parallel_size'"),
        ({"precision": "bf61"}, "bf16, fp16, fp32, fp8"),
        ({"tp": "two"}, "takes a whole number"),
        ({"tp": True}, "takes a whole number"),
        ({"sp": 3}, "takes True or False"),
        ({"tp": [1, 2]}, "a sweep takes several"),
        ({"gpus": 0}, "must be 1 or more"),
        ({"bf16": False}, "precision='bf16'"),
        ({"tp": 5}, "multiple of"),
        ({"gbs": 65}, "not a multiple"),
    ],
)
def test_bad_options_are_one_sentence(options: dict[str, object], word: str) -> None:
    with pytest.raises(vt.UserError) as raised:
        base().with_(**options)
    assert word in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("cluster", "word"), [("dgx-a100-8gb", "did you mean"), ("", "on which cluster")])
def test_clusters_that_are_not_there(cluster: str, word: str) -> None:
    with pytest.raises(vt.UserError, match=word):
        vt.job("gpt3-1.3b", cluster=cluster, mbs=1, gbs=8)


def test_options_that_are_none_are_left_out() -> None:
    assert read_options({"tp": None, "gpus": None}).flags == ()
    assert base().with_(tp=None) == base()


def test_jobs_on_one_preset_share_what_was_estimated() -> None:
    assert base().machine is base().with_(tp=2).machine
    assert base().machine.projector is vt.job("gpt3-13b", cluster=CLUSTER, mbs=1, gbs=64).machine.projector


def test_files_and_runs(workplace: Path) -> None:
    script = vt.job.from_script("train.sh", cluster=CLUSTER)
    assert script.configuration.parallel.world_size == 16
    spec = vt.job.from_spec(Path("job.yaml"), tp=4)
    assert (spec.configuration.parallel.tp, spec.configuration.parallel.dp) == (4, 2)
    run = vt.job.from_run(vt.Catalog("vtrain.duckdb"), ["base"])
    assert "run base" in repr(run)
    assert run.with_(num_layers=8).configuration.model.num_layers == 8
    with pytest.raises(vt.UserError, match="did you mean 'base'"):
        vt.job.from_run("vtrain.duckdb", "bas")
    with pytest.raises(vt.UserError, match="not from a captured run"):
        vt.validate_run(base())


def test_price_of_a_job() -> None:
    job = vt.job("gpt3-1.3b", cluster=CLUSTER, gpus=8, mbs=1, gbs=8, price_per_gpu_hour=10)
    projection = vt.project(job, train_tokens=1e9)
    assert projection.cost_usd(1e9) == pytest.approx(projection.days(1e9) * 24 * 8 * 10)
    assert projection.to_dict()["cost_usd"] == projection.cost_usd(1e9)
    assert vt.project(job, 1e9, price_per_gpu_hour=5).cost_usd(1e9) == pytest.approx(projection.cost_usd(1e9) / 2)
