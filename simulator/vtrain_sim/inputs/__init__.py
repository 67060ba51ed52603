"""From what users have to specs: Megatron flags, launch scripts, Hugging Face, files, presets, captured runs."""
