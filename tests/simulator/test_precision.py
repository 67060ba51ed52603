"""Precisions as objects, and devices that lack one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from vtrain_sim.costs.surfaces import Surfaces
from vtrain_sim.inputs import presets
from vtrain_sim.model import Compute, Parts
from vtrain_sim.simulate.projection import Projector
from vtrain_sim.specs import Configuration, DeviceSpec, ModelSpec, ParallelSpec, Precision, SpecError, TrainSpec
from vtrain_sim.specs.precision import _PRECISIONS, precision, precision_of, precisions, register
from vtrain_sim.specs.shard import LayerKind

MODEL = ModelSpec(4, 1024, 16, 2048, 32000)
FP8 = Configuration(MODEL, ParallelSpec(dp=8), TrainSpec(1, 8, fp8="hybrid"))


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    before = dict(_PRECISIONS)
    yield
    _PRECISIONS.clear()
    _PRECISIONS.update(before)


def projector(name: str) -> Projector:
    return Projector.modelled(presets.cluster(name), Surfaces.from_dict(presets.cluster_surfaces(name)))


@pytest.mark.parametrize(
    ("name", "params", "product", "gradients", "saved", "copies"),
    [
        ("bf16", "bfloat16", "bfloat16", "float32", 2, 0),
        ("fp16", "float16", "float16", "float16", 2, 0),
        ("fp32", "float32", "float32", "float32", 4, 0),
        ("fp8-hybrid", "bfloat16", "float8", "float32", 1, 2),
        ("fp8-e4m3", "bfloat16", "float8", "float32", 1, 2),
    ],
)
def test_what_a_precision_says(name: str, params: str, product: str, gradients: str, saved: int, copies: int) -> None:
    found = precision(name)
    assert (found.params_dtype, found.product_dtype, found.main_grads_dtype) == (params, product, gradients)
    assert (found.saved_input_bytes, found.weight_copy_bytes) == (saved, copies)
    assert found.casts_inputs == (params != product)


@pytest.mark.parametrize("found", precisions(), ids=lambda found: found.name)
def test_a_training_step_has_the_precision_of_its_fields(found: Precision) -> None:
    assert TrainSpec(1, 1, params_dtype=found.params_dtype, fp8=found.fp8_format).precision is found


def test_unknown_precisions_are_refused_with_what_there_is() -> None:
    with pytest.raises(SpecError, match=r"bf16, fp16, fp32.*did you mean 'fp16'"):
        precision("fp-16")
    with pytest.raises(SpecError, match="no precision of parameters in float16 with 8-bit products"):
        precision_of("float16", "hybrid")


def test_a_precision_from_outside_needs_one_registration() -> None:
    with pytest.raises(SpecError, match="--fp8-format is 'blockwise': it takes one of hybrid, e4m3"):
        TrainSpec(1, 1, fp8="blockwise")
    new = register(Precision("fp8-blockwise", "bfloat16", "float8", "float32", fp8_format="blockwise"))
    train = TrainSpec(1, 8, fp8="blockwise")
    assert train.precision is new
    program = Parts(replace(FP8, train=train).shard).layer(LayerKind())
    products = {i.operator.dtype for i in program.forward if isinstance(i, Compute) and i.operator.kind == "gemm"}
    assert products == {"float8"}
    with pytest.raises(ValueError, match="already registered"):
        register(replace(new, name="fp8-other"))


def test_8_bits_on_a_device_without_them_are_refused_in_one_sentence() -> None:
    with pytest.raises(SpecError) as caught:
        projector("dgx-a100-80gb").project(FP8)
    text = str(caught.value)
    assert "A100-SXM4-80GB does not multiply in float8: it lists peak rates for bfloat16, float16, float32" in text
    assert "--fp8-format" in text
    assert "\n" not in text
    assert projector("dgx-h100").project(FP8).iteration_time_s > 0


def test_an_unlisted_wide_type_takes_the_best_wide_peak() -> None:
    device = DeviceSpec("d", {"bfloat16": 2e12, "float8": 4e12}, 1e12, 1 << 30)
    assert device.peak("float16") == 2e12
    assert device.peak("float8") == 4e12
