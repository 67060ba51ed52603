"""Precisions as objects, and devices that lack one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

import vtrain as vt
from vtrain_sim.costs.surfaces import Surfaces
from vtrain_sim.inputs import presets
from vtrain_sim.inputs.megatron_flags import configuration_from_flags
from vtrain_sim.model import Compute, Parts, build_step, operators_of
from vtrain_sim.simulate.projection import Projector
from vtrain_sim.specs import Configuration, DeviceSpec, ModelSpec, ParallelSpec, Precision, SpecError, TrainSpec
from vtrain_sim.specs.precision import _PRECISIONS, precision, precision_of, precisions, register
from vtrain_sim.specs.shard import LayerKind
from vtrain_sim.validate.precision_flags import precision_of_row

MODEL = ModelSpec(4, 1024, 16, 2048, 32000)
FP8_BASE = Configuration(MODEL, ParallelSpec(dp=8), TrainSpec(1, 8))
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
    assert (
        TrainSpec(
            1,
            1,
            params_dtype=found.params_dtype,
            fp8=found.fp8_format,
            fp8_recipe=found.fp8_recipe,
            fp4=found.fp4_format,
        ).precision
        is found
    )


def test_unknown_precisions_are_refused_with_what_there_is() -> None:
    with pytest.raises(SpecError, match=r"bf16, fp16, fp32.*did you mean 'fp16'"):
        precision("fp-16")
    with pytest.raises(SpecError, match="no precision of parameters in float16 with 8-bit products"):
        precision_of("float16", "hybrid")


def test_a_precision_from_outside_needs_one_registration() -> None:
    with pytest.raises(SpecError, match="--fp8-format is 'blockwise': it takes one of hybrid, e4m3"):
        TrainSpec(1, 1, fp8="blockwise")
    new = register(Precision("fp8-blocks", "bfloat16", "float8", "float32", fp8_format="blockwise"))
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


@pytest.mark.parametrize(
    ("flags", "product", "kinds", "copies"),
    [
        ("--fp8-format hybrid", "float8", ["cast"], 2),
        ("--fp8-format hybrid --fp8-recipe delayed", "float8", ["cast"], 2),
        ("--fp8-format e4m3 --fp8-recipe tensorwise", "float8", ["amax", "cast"], 2),
        ("--fp8-format e4m3 --fp8-recipe blockwise", "float8_blockwise", ["cast"], 2.0625),
        ("--fp8-format e4m3 --fp8-recipe mxfp8", "mxfp8", ["cast"], 2.0625),
        ("--fp4-format e2m1 --fp4-recipe nvfp4", "nvfp4", ["amax", "cast_hadamard"], 1.125),
    ],
)
def test_recipes_by_their_flags(flags: str, product: str, kinds: list[str], copies: float) -> None:
    found = configuration_from_flags(["--bf16", *flags.split()], FP8_BASE).train.precision
    assert (found.product_dtype, list(found.quantises_by), found.weight_copy_bytes) == (product, kinds, copies)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--fp8-recipe mxfp8", "--fp8-recipe needs --fp8-format"),
        ("--fp8-format e4m3 --fp4-format e2m1", "contradict each other"),
        ("--fp8-format e4m3 --fp8-recipe int8", "--fp8-recipe"),
        ("--fp4-format e3m0", "e2m1"),
        ("--fp8-param-gather", "--fp8-param-gather needs --fp8-format"),
        ("--fp4-format e2m1 --fp4-recipe other", "4-bit scaling other than NVFP4"),
    ],
)
def test_recipes_that_do_not_go_together_are_refused(flags: str, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        configuration_from_flags(["--bf16", *flags.split()], FP8_BASE)


def test_kept_parameters_are_gathered_in_8_bits_but_with_mxfp8() -> None:
    """Megatron gathers 16 bits for mxfp8, of which it makes both copies; no recipe keeps 16 bits beside them."""
    for recipe, gathered, extra in (("delayed", 1, 0), ("blockwise", 1, 0.0625), ("mxfp8", 2, 0.0625)):
        train = TrainSpec(1, 8, fp8="e4m3", fp8_recipe=recipe, fp8_param_gather=True)
        assert (train.precision.gathered_bytes, train.precision.weight_copy_bytes) == (gathered, extra)
        assert replace(train, fp8_param_gather=False).precision.gathered_bytes == 2


def test_gradients_are_converted_at_the_size_of_the_output() -> None:
    """The backward cast of a layer reads [m, n] where the forward one read [m, k]."""
    program = Parts(FP8.shard).layer(LayerKind())
    sizes = {
        (i.name, i.operator.phase): i.operator.n
        for i in (*program.forward, *program.backward)
        if isinstance(i, Compute) and i.operator.kind == "cast"
    }
    assert sizes["linear_fc1_cast", "forward"] == 1024
    assert sizes["linear_fc1_cast", "backward"] == 4096
    assert sizes["linear_fc2_cast", "backward"] == 1024


def test_narrower_products_take_less_time_where_products_decide() -> None:
    model = ModelSpec(4, 8192, 64, 8192, 32000)
    times = [
        projector("gb200-nvl72").project(Configuration(model, ParallelSpec(dp=8), train)).iteration_time_s
        for train in (
            TrainSpec(1, 64),
            TrainSpec(1, 64, fp8="e4m3", fp8_recipe="mxfp8"),
            TrainSpec(1, 64, fp4="e2m1"),
        )
    ]
    assert times == sorted(times, reverse=True)
    with pytest.raises(SpecError, match="does not multiply in nvfp4"):
        projector("dgx-h100").project(Configuration(model, ParallelSpec(dp=8), TrainSpec(1, 64, fp4="e2m1")))


def test_layers_at_both_ends_may_stay_in_16_bits() -> None:
    """Megatron's --first-last-layers-bf16: one layer at each end unless other numbers are given."""
    layers = 8
    model = replace(MODEL, num_layers=layers)
    narrow = Configuration(model, ParallelSpec(), TrainSpec(1, 8, fp8="hybrid", fp8_recipe="tensorwise"))

    def products(**train: object) -> list[str]:
        configuration = replace(narrow, train=replace(narrow.train, first_last_layers_bf16=True, **train))
        (stage,) = build_step(configuration).stages
        return [
            item.operator.dtype
            for program, count in stage.chunks[0]
            for _ in range(count)
            for item in operators_of(program.forward)
            if item.name == "linear_fc1"
        ]

    assert products() == ["bfloat16", *["float8"] * (layers - 2), "bfloat16"]
    wide = {"num_layers_at_start_in_bf16": 0, "num_layers_at_end_in_bf16": 3}
    assert products(**wide) == ["float8"] * (layers - 3) + ["bfloat16"] * 3
    # Nothing is converted in them, and no copy of their weights is kept.
    step = build_step(replace(narrow, train=replace(narrow.train, first_last_layers_bf16=True)))
    (holding,) = (stage.holding for stage in step.stages)
    (all_narrow,) = (stage.holding for stage in build_step(narrow).stages)
    assert holding.product_parameters == all_narrow.product_parameters * (layers - 2) / layers
    assert holding.total == all_narrow.total
    with pytest.raises(SpecError, match="--first-last-layers-bf16 needs --fp8-format"):
        TrainSpec(1, 8, first_last_layers_bf16=True)
    with pytest.raises(SpecError, match="are 9 layers, --num-layers is 8"):
        products(num_layers_at_end_in_bf16=8)


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("fp8", "fp8-hybrid"),
        ("fp8_current", "fp8-tensorwise-hybrid"),
        ("fp8-tensorwise", "fp8-tensorwise-hybrid"),
        ("fp8_blockwise", "fp8-blockwise-e4m3"),
        ("mxfp8", "mxfp8-e4m3"),
        ("fp8-e4m3", "fp8-e4m3"),
    ],
)
def test_names_are_the_same_everywhere(alias: str, name: str) -> None:
    found = precision(name)
    assert precision(alias) is found
    assert precision_of_row(alias, "") is found
    job = vt.job("gpt3-1.3b", cluster="dgx-b200", gpus=8, mbs=1, gbs=16, precision=alias)
    assert job.configuration.train.precision is found


def test_an_alias_has_one_precision() -> None:
    with pytest.raises(ValueError, match="already registered"):
        register(Precision("other", "bfloat16", "float8", "float32", fp8_format="other", aliases=("mxfp8",)))


def test_a_model_is_sized_in_a_precision() -> None:
    sizes = [
        vt.size(cluster="dgx-h100", num_gpus=8, days=2, global_batch_size=64, precision=name)
        for name in ("bf16", "fp8")
    ]
    assert sizes[1].naive_parameters > sizes[0].naive_parameters
    assert "--fp8-format" in sizes[1].chosen.plan.to_dict()["megatron_args"]
    with pytest.raises(SpecError, match="precision is 'fp9'"):
        vt.size(cluster="dgx-h100", num_gpus=8, days=2, precision="fp9")
