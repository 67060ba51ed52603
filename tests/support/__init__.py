"""What tests and the demo need besides the product: Megatron-Core on CPU, a small training script."""
