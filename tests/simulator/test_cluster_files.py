"""Every number of a cluster file is checked: its type, its range, its name."""

from __future__ import annotations

from pathlib import Path

import pytest

import vtrain as vt
from vtrain_sim.errors import UserError
from vtrain_sim.inputs import presets
from vtrain_sim.inputs.cluster_file import read_cluster
from vtrain_sim.inputs.device_table import check_surfaces

NVLINK = "nvlink_gb_per_s = 450\n"
LINKS = f"gpus_per_node = 8\n{NVLINK}nics_per_node = 8\nnic_gbit_per_s = 400\n"
PRESET = 'device = "h100-sxm-80gb"\n'
DEVICE = 'device = {name = "x", memory_bandwidth = 1e12, memory_bytes = 80000000000, peak_flops = {bfloat16 = 1e14}}\n'
INTRA = "[intra_node]\nbandwidth = 1e11\nlatency_s = 1e-5\n"
TILE = (
    "surfaces = {compute_units = 100, gemm = {bfloat16 = {wave_s = 0, tiles = [{m = 128, n = 128, efficiency = %s}]}}}"
)


def refusal(tmp_path: Path, text: str, name: str = "mine.toml") -> str:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_cluster(path)
    sentence = str(caught.value)
    assert sentence.startswith(str(path))
    assert "\n" not in sentence
    return sentence.removeprefix(f"{path}: ")


def test_what_the_cases_start_from_is_a_cluster(tmp_path: Path) -> None:
    for text in (PRESET + LINKS, PRESET + LINKS.replace(NVLINK, "") + INTRA, DEVICE + LINKS + TILE % 0.9):
        path = tmp_path / "mine.toml"
        path.write_text(text)
        assert read_cluster(path)[0].gpus_per_node == 8


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ("copy_bandwidth = -1", "copy_bandwidth of network intra-node is -1: it takes a number from 1 to 1e+21, or 0"),
        ("copy_bandwidth = 1e-300", "copy_bandwidth of network intra-node is 1e-300"),
        ('copy_bandwidth = "x"', "copy_bandwidth of network intra-node is 'x': it takes a number"),
        ("p2p_bandwidth = 1e-300", "p2p_bandwidth of network intra-node is 1e-300"),
        ("ramp_s = -1", "ramp_s of network intra-node is -1"),
        ("ramp_bytes = -4e6", "ramp_bytes of network intra-node is -4000000.0"),
        ("sigma = nan", "sigma of network intra-node is nan"),
        ("sigma = -4", "sigma of network intra-node is -4"),
        ("hop_latency_s = 1e300", "hop_latency_s of network intra-node is 1e+300"),
        ("name = 5", "name of network intra-node is 5: it takes a text"),
        ("gpus = 4.5", "gpus of network intra-node is 4.5: it takes a whole number"),
        ("latncy_s = 1", "unknown entry 'latncy_s' (did you mean 'latency_s'?)"),
    ],
)
def test_levels(tmp_path: Path, entry: str, sentence: str) -> None:
    assert sentence in refusal(tmp_path, PRESET + LINKS.replace(NVLINK, "") + INTRA + entry)


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ("oversubscription = 'x'", "oversubscription of network inter-node is 'x': it takes a number from 1 to 1e+06"),
        ("overlap_efficiency = 5", "overlap_efficiency is 5: it takes a number from 0 to 1"),
        ("contention = 1e300", "contention is 1e+300"),
        ("straggler_sigma = 1e10", "straggler_sigma is 10000000000.0"),
        ("price_per_gpu_hour = nan", "--price-per-gpu-hour is nan"),
        ("name = 5", "name is 5: it takes a text"),
        ("[intra_node]\nbandwidth = 5", "it has intra_node and nvlink_gb_per_s: it takes one or the other"),
        (INTRA.replace("intra", "inter"), "it has inter_node and nics_per_node, nic_gbit_per_s"),
        ("surfaces = 5", "surfaces is 5: it takes a table"),
        ("surfaces = {foo = 1}", "surfaces has an unknown entry 'foo'"),
        ("surfaces = {compute_units = 'x'}", "surfaces.compute_units is 'x': it takes a whole number"),
        ("surfaces = {compute_units = -4}", "surfaces.compute_units is -4"),
        ("surfaces = {launch_s = nan}", "surfaces.launch_s is nan"),
        ("surfaces = {launch_s = -1}", "surfaces.launch_s is -1"),
        ("surfaces = {half_seq = -580}", "surfaces.half_seq is -580"),
        ("surfaces = {half_dim = -128, half_seq = 1}", "surfaces.half_dim is -128"),
        ("surfaces = {step_sigma = 1e9}", "surfaces.step_sigma is 1000000000.0"),
        ("surfaces = {efficiency = 5}", "surfaces.efficiency is 5: it takes a table"),
        ("surfaces = {efficiency = {gemm = 5}}", "surfaces.efficiency.gemm is 5: it takes a number from 1e-06 to 1.2"),
        ("surfaces = {efficiency = {gemm = 0}}", "surfaces.efficiency.gemm is 0"),
        ("surfaces = {efficiency = {gemm = 'x'}}", "surfaces.efficiency.gemm is 'x'"),
        ("surfaces = {efficiency = {gem = 0.5}}", "unknown entry 'gem' (did you mean 'gemm'?)"),
        ("surfaces = {efficiency = {'gemm/foo' = 0.5}}", "unknown entry 'gemm/foo': after the kind"),
        ("surfaces = {efficiency = {norm = 5}}", "surfaces.efficiency.norm is 5: it takes a number from 1e-06 to 4"),
        ("surfaces = {overhead_s = {gemm = -1}}", "surfaces.overhead_s.gemm is -1"),
        ("surfaces = {overhead_s = {gemm = nan}}", "surfaces.overhead_s.gemm is nan"),
        ("surfaces = {sigma = {gemm = 1e5}}", "surfaces.sigma.gemm is 100000.0"),
        ("surfaces = {gemm = {bfloat16 = {tiles = 5}}}", "surfaces.gemm.bfloat16.tiles is 5: it takes a list of tiles"),
        ("surfaces = {gemm = {bfloat16 = {tiles = []}}}", "surfaces.gemm.bfloat16.tiles is []"),
        ("surfaces = {gemm = {bf16 = {tiles = []}}}", "surfaces.gemm has an unknown entry 'bf16'"),
        (
            "surfaces = {gemm = {bfloat16 = {tiles = [{m = 1, n = 1}]}}}",
            "surfaces.gemm.bfloat16, tile 1 does not say efficiency",
        ),
        (TILE % 2.0, "surfaces.gemm.bfloat16, tile 1: efficiency is 2.0: it takes a number from 1e-06 to 1"),
        ((TILE % 0.9).replace("wave_s = 0", "wave_s = -1"), "surfaces.gemm.bfloat16.wave_s is -1"),
    ],
)
@pytest.mark.parametrize("device", [PRESET, DEVICE])
def test_clusters_and_surfaces(tmp_path: Path, device: str, entry: str, sentence: str) -> None:
    assert sentence in refusal(tmp_path, device + LINKS + entry)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("{bfloat16 = 1e14}", "{foo = 1e14}", "peak_flops has an unknown entry 'foo'"),
        ("{bfloat16 = 1e14}", "5", "peak_flops is 5: it takes a table"),
        ("{bfloat16 = 1e14}", "{}", "peak_flops has no entry"),
        ("1e14}", "1e300}", "peak rate for bfloat16 of device x is 1e+300"),
        ("1e14}}", "1e14}, foo = 1}", "device has an unknown entry 'foo'"),
        ("1e14}}", "1e14}, cuda_names = 5}", "cuda_names of device x is 5: it takes a list of texts"),
        ("1e14}}", "1e14}, modelled_only = 5}", "modelled_only of device x takes true or false"),
        ('name = "x"', "name = 5", "name of the device is 5: it takes a text"),
        ('name = "x", ', "", "device does not say name"),
        ("memory_bytes = 80000000000", "memory_bytes = 8e10", "memory of device x is 80000000000.0: it takes a whole"),
        ("memory_bandwidth = 1e12, ", "", "device does not say memory_bandwidth"),
        ("450", "1e300", "nvlink_gb_per_s is 1e+300"),
        ("nics_per_node = 8", "nics_per_node = true", "nics_per_node is True: it takes a number"),
        ("nics_per_node = 8\n", "", "it does not say nics_per_node"),
    ],
)
def test_devices_and_links(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    assert old in DEVICE + LINKS
    assert sentence in refusal(tmp_path, (DEVICE + LINKS).replace(old, new))


def test_levels_lack_nothing(tmp_path: Path) -> None:
    text = PRESET + "[[levels]]\ngpus = 8\nbandwidth = 4e11\n[[levels]]\nbandwidth = 4e10\nlatency_s = 1e-5\n"
    assert refusal(tmp_path, text) == "network intra-node does not say latency_s"


def test_files_of_other_kinds(tmp_path: Path) -> None:
    deep = tmp_path / "deep.yaml"
    deep.write_text("{" * 3000)
    with pytest.raises(UserError, match="is nested too deeply"):
        read_cluster(deep)
    marked = tmp_path / "marked.toml"
    marked.write_text("\ufeff" + PRESET + LINKS, encoding="utf-8")
    assert read_cluster(marked)[0].gpus_per_node == 8


def test_every_preset_passes() -> None:
    for name in presets.names("devices"):
        check_surfaces(presets.device_surfaces(name))


def test_surfaces_replace_those_of_a_preset(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    times = []
    for efficiency in (0.8, 0.4):
        path.write_text(f"{PRESET}{LINKS}surfaces = {{efficiency = {{gemm = {efficiency}}}}}\n")
        times.append(vt.project(vt.job("gpt3-1.3b", cluster=path, mbs=1, gbs=8)).iteration_time_s)
    assert times[1] > 1.5 * times[0]
