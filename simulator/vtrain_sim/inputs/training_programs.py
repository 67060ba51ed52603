"""What the program that a launch script runs trains, as far as its name says it."""

from __future__ import annotations

import re

# What is named here is no training of a decoder-only language model.
_OTHERS = (
    (r"(^|[_/-])(bert|roberta|biencoder|ict|realm|orqa)([_./-]|$)", "BERT or a retriever, an encoder"),
    (r"(^|[_/-])(t5|encoder_decoder|whisper)([_./-]|$)", "T5, an encoder and a decoder"),
    (r"retro", "Retro, a model with retrieval"),
    (r"(vision|vit_|_vit|dino|swin|imagenet|inpaint|segformer)", "a vision model"),
    (r"(multimodal|vlm|llava|mimo|clip|qwen2?\.?5?[_-]?vl|vision_language|audio)", "a multimodal model"),
    (r"(diffusion|flux|dit_|stable_diff)", "a diffusion model"),
    (r"(^|[_/-])(rl|grpo|ppo|rlhf|rollout|train_rl)([_./-]|$)", "by reinforcement learning"),
    (r"(distill|eagle|medusa|speculative)", "a model with a teacher or for speculative decoding"),
)
_NO_TRAINING = (
    (r"(generat|inference|server|chat|text_gen|mmlu|lm_eval|eval_harness|evaluate|validate\.py)", "inference"),
    (
        r"(quantiz|prune|export|convert|checkpoint|merge|reshard|saver|loader|hf2|2hf|to_hf|from_hf|_2_torch|2mcore|2torch)",
        "a conversion",
    ),
    (
        r"(preprocess|prepare|tokeniz|download|index|cleanup|dataset|filter|split|setup|install)",
        "the preparation of data",
    ),
    (r"(^|/)(tasks/(\w+/)?main|finetune_race)", "a task of evaluation"),
    (r"(^|/)(pytest|pip|json\.tool|coverage|tensorboard|http\.server|unittest)", "a tool"),
)


def other_training(program: str) -> str:
    """What a program trains that is not simulated; empty for a language model, and for what no name says."""
    return _first(_OTHERS, program)


def other_work(program: str) -> str:
    """What a program does instead of training; empty for a training."""
    return _first(_NO_TRAINING, program)


def _first(patterns: tuple[tuple[str, str], ...], program: str) -> str:
    # Folders above are the user's, and say little.
    name = "/".join(program.split("/")[-3:]).lower()
    return next((what for pattern, what in patterns if re.search(pattern, name)), "")
