"""Models that are published: from their configuration files to their parameter counts, and their presets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from simulator.published_models import CONFIGS
from vtrain_sim.inputs import presets
from vtrain_sim.inputs.huggingface import known_types, left_out, read_config
from vtrain_sim.model import StageProgram, build_step
from vtrain_sim.specs import Configuration, ModelSpec, ParallelSpec, TrainSpec

# Elements of the weight files that each model card links to, as Hugging Face counts them; in billions, to as many
# digits as the named source has, where it has no other.
PUBLISHED: dict[str, int | str] = {
    "llama2-7b": 6_738_415_616,
    "llama2-13b": 13_015_864_320,
    "llama2-70b": 68_976_648_192,
    "llama3-8b": 8_030_261_248,
    "llama3-70b": 70_553_706_496,
    "llama3-405b": 405_853_388_800,
    "llama3.2-1b": 1_235_814_400,
    "llama3.2-3b": 3_212_749_824,
    "yi-6b": 6_061_035_520,
    "yi-34b": 34_388_917_248,
    "smollm2-1.7b": 1_711_376_384,
    "smollm3-3b": 3_075_098_624,
    "internlm2-7b": 7_737_708_544,
    "internlm2-20b": 19_861_149_696,
    "baichuan2-7b": 7_505_973_248,
    "baichuan2-13b": 13_896_668_160,
    "granite3-8b": 8_170_848_256,
    "granite3-3b-a800m": "3.3",  # model card
    "mistral-7b": 7_241_732_096,
    "mixtral-8x7b": 46_702_792_704,
    "mixtral-8x22b": 140_630_071_296,
    "stablelm-3b": 2_795_443_200,
    "stablelm2-1.6b": 1_644_515_328,
    "phi2": 2_779_683_840,
    "phi3-mini": 3_821_079_552,
    "phi3-medium": 13_960_238_080,
    "phi3.5-moe": 41_873_153_344,
    "phi4": 14_659_507_200,
    "phi4-mini": 3_836_021_760,
    "olmo2-7b": 7_298_617_344,
    "olmo2-13b": 13_716_198_400,
    "olmo2-32b": 32_234_279_936,
    "olmoe-1b-7b": 6_919_161_856,
    "gemma-7b": 8_537_680_896,
    "gemma2-2b": 2_614_341_888,
    "gemma2-9b": 9_241_705_984,
    "gemma2-27b": 27_227_128_320,
    "gemma3-1b": 999_885_952,
    "gemma3-4b": 4_300_079_472,
    "gemma3-12b": 12_187_325_040,
    "gemma3-27b": 27_432_406_640,
    "qwen2-7b": 7_615_616_512,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
    "qwen2.5-72b": 72_706_203_648,
    "qwen1.5-moe-a2.7b": 14_315_784_192,
    "qwen2-57b-a14b": 57_408_658_944,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 2_031_739_904,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560,
    "qwen3-next-80b-a3b": "80",  # model card, see below
    "deepseek-moe-16b": 16_375_728_128,
    "deepseek-v2-lite": 15_706_484_224,
    "deepseek-v2": 235_741_434_880,
    "deepseek-v3": 671_026_419_200,  # of the main model: arXiv:2412.19437 says 671B
    "moonlight-16b-a3b": 15_960_110_208,
    "kimi-k2": 1_026_408_232_448,
    "glm4-9b": 9_399_951_360,
    "glm4-32b": "33",  # as Hugging Face rounds it
    "gpt-oss-20b": 20_914_757_184,  # arXiv:2508.10925, table 1: 20.91B
    "gpt-oss-120b": 116_829_156_672,  # the same: 116.83B
    "llama4-scout": 108_641_793_536,
    "llama4-maverick": 401_583_781_376,
    "minimax-m2": 228_703_644_928,
    "command-r": 34_980_831_232,
    "command-r-plus": 103_810_674_688,
    "command-r7b": 8_028_033_024,
    "dbrx": 131_596_523_520,
    "mpt-7b": 6_649_286_656,
    "mpt-30b": "30",  # model card
    "falcon-7b": 7_217_189_760,
    "falcon-40b": 41_835_970_560,
    "falcon-180b": 179_522_565_120,
    "opt-1.3b": 1_315_758_080,
    "opt-6.7b": 6_658_473_984,
    "opt-13b": 12_853_473_280,
    "opt-30b": 29_974_540_288,
    "opt-66b": "66",  # arXiv:2205.01068, table 1
    "opt-175b": "175",  # arXiv:2205.01068, table 1
    "gpt2-xl": 1_557_611_200,
    "gptj-6b": 6_050_882_784,
    "gpt-neox-20b": 20_554_567_680,
    "pythia-6.9b": 6_857_302_016,
    "pythia-12b": 11_846_072_320,
    "bloom-7b1": 7_069_016_064,
    "bloom-176b": 176_247_271_424,
    "starcoder": 15_517_456_384,
    "starcoder2-3b": 3_030_371_328,
    "starcoder2-7b": 7_173_923_840,
    "starcoder2-15b": 15_957_889_024,
    "nemotron-h-8b": "8.1",  # arXiv:2504.03624
    "nemotron-nano-9b-v2": 8_888_227_328,
    "nemotron3-nano-30b-a3b": 31_577_937_344,
    "nemotron4-340b": "3.4e2",  # arXiv:2406.11704
}

# What the files of weights hold that the models here do not: how many elements, and what they are.
_ENCODER = 416_866_032
BESIDES: dict[str, tuple[int, str]] = {
    "phi2": (51200, "the output layer's bias"),
    "phi3.5-moe": (32064 + 32 * 4096, "biases of the output layer and of attention's output projections"),
    "gptj-6b": (50400 - 28 * 4 * 4096, "the output layer's bias, less biases of attention, which it has not"),
    "bloom-7b1": (2 * 4096, "the embeddings' norm"),
    "bloom-176b": (2 * 14336, "the embeddings' norm"),
    "qwen1.5-moe-a2.7b": (24 * 2048, "gates of the shared experts"),
    "qwen2-57b-a14b": (28 * 3584, "gates of the shared experts"),
    "deepseek-v3": (58 * 256, "biases that balance experts, which no gradient trains"),
    "moonlight-16b-a3b": (26 * 64, "biases that balance experts"),
    "kimi-k2": (60 * 384, "biases that balance experts"),
    "qwen3-1.7b": (151936 * 2048, "the tied table, once more"),
    "falcon-7b": (65024 * 4544, "the tied table, once more"),
    "falcon-40b": (65024 * 8192, "the tied table, once more"),
    "falcon-180b": (65024 * 14848, "the tied table, once more"),
    # One scale for 128 x 128 elements of experts and of attention.
    "minimax-m2": (
        62 * 256 + 62 * 3072 * (3 * 256 * 1536 + 128 * (48 + 2 * 8 + 48)) // 128**2,
        "biases that balance experts, and the scales of weights in 8 bits",
    ),
    "llama4-scout": (871_932_416, "vision"),
    "llama4-maverick": (871_932_416, "vision"),
    # A vision encoder, and its projection to the hidden size with a norm.
    "gemma3-4b": (_ENCODER + 1152 * 2560 + 1152, "vision"),
    "gemma3-12b": (_ENCODER + 1152 * 3840 + 1152, "vision"),
    "gemma3-27b": (_ENCODER + 1152 * 5376 + 1152, "vision"),
}
# Of each token, in billions as published, and the tables (embedding, output layer) that the source does not count.
ACTIVE = {
    "granite3-3b-a800m": ("0.88", 0),  # model card: 800M
    "mixtral-8x7b": ("12.9", 0),  # model card
    "mixtral-8x22b": ("39", 0),  # model card
    "phi3.5-moe": ("6.6", 0),  # arXiv:2404.14219
    "olmoe-1b-7b": ("1.3", 0),  # arXiv:2409.02060
    "qwen1.5-moe-a2.7b": ("2.7", 0),  # model card
    "qwen2-57b-a14b": ("14", 0),  # arXiv:2407.10671, table 1
    "qwen3-30b-a3b": ("3.4", 0),  # model card: 3.3B
    "qwen3-235b-a22b": ("22", 0),  # arXiv:2505.09388, table 2
    "deepseek-moe-16b": ("2.8", 0),  # arXiv:2401.06066, table 1
    "deepseek-v2-lite": ("2.5", 1),  # arXiv:2405.04434, appendix B: 2.4B
    "deepseek-v2": ("21", 0),  # arXiv:2405.04434
    "deepseek-v3": ("37", 1),  # arXiv:2412.19437
    "moonlight-16b-a3b": ("2.24", 2),  # arXiv:2502.16982, table 2
    "kimi-k2": ("33", 0),  # arXiv:2507.20534, table 2: 32.6B
    "gpt-oss-20b": ("3.61", 1),  # arXiv:2508.10925, table 1
    "gpt-oss-120b": ("5.13", 1),  # arXiv:2508.10925, table 1
    "llama4-scout": ("17", 0),  # model card
    "llama4-maverick": ("17", 0),  # model card
    "minimax-m2": ("10", 1),  # model card
    "nemotron3-nano-30b-a3b": ("3.2", 1),  # arXiv:2512.20848
    "dbrx": ("36", 0),  # model card
}


def model(tmp_path: Path, name: str) -> ModelSpec:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIGS[name]))
    return replace(read_config(path), make_vocab_size_divisible_by=1)


def stage(spec: ModelSpec) -> StageProgram:
    return build_step(Configuration(spec, ParallelSpec(), TrainSpec(1, 1))).stages[0]


def parameters(spec: ModelSpec) -> int:
    return stage(spec).parameters + stage(spec).expert_parameters


def active(spec: ModelSpec) -> float:
    return stage(spec).parameters + stage(spec).expert_parameters * spec.moe_router_topk / spec.num_experts


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_that_are_published(tmp_path: Path, name: str) -> None:
    besides, _ = BESIDES.get(name, (0, ""))
    count, published = parameters(model(tmp_path, name)) + besides, PUBLISHED[name]
    if isinstance(published, int):
        assert count == published
    else:
        digits = len(published.partition("e")[0].replace(".", ""))
        assert float(f"{count / 1e9:.{digits}g}") == float(published)


# Billions, and elements of the files of weights: arXiv:2508.06471, table 1 and its note, and the model cards.
_GLM = {"glm4.5": (355, 358_337_791_296), "glm4.5-air": (106, 110_468_824_832)}


@pytest.mark.parametrize("name", _GLM)
def test_glm_is_counted_with_multi_token_prediction(tmp_path: Path, name: str) -> None:
    """Its files have copies of both tables for it, and biases that balance experts."""
    spec = model(tmp_path, name)
    billions, files = _GLM[name]
    both = replace(spec, mtp_num_layers=1)
    table = spec.vocab_size * spec.hidden_size
    mixtures = sum(both.moe_layers) + 1
    assert parameters(both) + 2 * table + mixtures * spec.num_experts == files
    if name == "glm4.5":
        assert round((parameters(both) - 2 * table) / 1e9) == billions
        assert round((active(spec) - 2 * table) / 1e9) == 32
    else:
        # The paper counts it with prediction and without tables, which is 108; its main model without tables is 106.
        assert round((parameters(spec) - 2 * table) / 1e9) == billions
        assert round((active(spec) - 2 * table) / 1e9) == 12


def test_qwen3_next_is_counted_with_multi_token_prediction(tmp_path: Path) -> None:
    spec = replace(model(tmp_path, "qwen3-next-80b-a3b"), mtp_num_layers=1)
    assert parameters(spec) == 81_324_862_720


@pytest.mark.parametrize("name", ACTIVE)
def test_parameters_that_a_token_uses(tmp_path: Path, name: str) -> None:
    spec = model(tmp_path, name)
    published, tables = ACTIVE[name]
    digits = len(published.partition(".")[2])
    count = active(spec) - tables * spec.vocab_size * spec.hidden_size
    assert round(count / 1e9, digits) == float(published)


def test_every_family_is_tried() -> None:
    tried = {str(config["model_type"]) for config in CONFIGS.values()}
    tried |= {str(config["text_config"]["model_type"]) for config in CONFIGS.values() if "text_config" in config}
    # Newer words for what is tried by another one.
    assert set(known_types()) - tried == {"granitemoeshared", "minimax_m2"}
    assert set(PUBLISHED) | set(_GLM) == set(CONFIGS)


# Fields in which a preset says how a model was trained, and its file, or the class that reads it, how it is used.
_TRAINING = ("seq_length", "max_position_embeddings", "dropout", "window_size", "make_vocab_size_divisible_by")


@pytest.mark.parametrize("name", CONFIGS)
def test_presets_are_the_published_models(tmp_path: Path, name: str) -> None:
    preset, published = presets.model(name), model(tmp_path, name)
    same = {field: getattr(preset, field) for field in _TRAINING}
    assert replace(published, **same) == preset
    assert preset.window_size in (0, published.window_size)
    said = [sentence.partition(" has ")[2] for sentence in presets.approximations(name)]
    for sentence in left_out(tmp_path / "config.json"):
        assert any(sentence.endswith(what) for what in said)
