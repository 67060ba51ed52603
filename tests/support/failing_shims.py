"""The shims of the processor, with a player that runs out of memory at tensor parallel size 2. Test support only."""

from __future__ import annotations

import torch

from support import cpu_shims


def apply() -> None:
    """Apply the shims, and let training fail at one size."""
    cpu_shims.apply()
    from vtrain_plugin.bench.player import Player

    train = Player.train

    def fail(self: Player, *args: object) -> None:
        if self.args.tensor_model_parallel_size == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB. GPU 0 has a total capacity")
        train(self, *args)  # type: ignore[arg-type]

    Player.train = fail  # type: ignore[method-assign,assignment]
