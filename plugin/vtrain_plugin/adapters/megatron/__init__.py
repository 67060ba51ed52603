"""What is hooked in Megatron-Core. Everything here tolerates the absence of what it looks for."""
