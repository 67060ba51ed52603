"""Examples at the end of the help of ``vtrain-profile``'s commands."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

# By command; lines fit 78 columns, and may be copied whole.
EXAMPLES = {
    "run": (
        """\
vtrain-profile run --out profiles --warmup 5 --steps 3 -- \\
  torchrun --nproc-per-node 8 pretrain_gpt.py --bf16""",
    ),
    "collectives": ("vtrain-profile collectives --out profiles --nproc-per-node 8",),
    "ops": (
        """\
vtrain-profile ops --out profiles --hidden-size 4096 --seq-length 4096 \\
  --num-attention-heads 32 --all-tp 1,2,4,8 --micro-batch-sizes 1,2""",
    ),
    "rank": (
        """\
vtrain-profile rank --out profiles --world-size 64 --rank 5 --all-tp 1,2,4 \\
  --num-layers 32 --layers 2 --hidden-size 4096 --num-attention-heads 32 \\
  --seq-length 4096 --bf16""",
    ),
}


class Command(TyperCommand):
    """A command with examples at the end of its help, as plain lines: what is in a box cannot be copied."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Typer's help, then the examples."""
        super().format_help(ctx, formatter)
        print("Examples:\n")
        for example in EXAMPLES.get(self.name or "", ()):
            print("".join(f"  {line}\n" for line in example.splitlines()))
