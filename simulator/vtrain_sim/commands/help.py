"""What ``--help`` adds to typer's: examples to copy, and Megatron's flags where a command takes them."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand

from vtrain_sim.commands.examples import EXAMPLES

if TYPE_CHECKING:
    from typer._click.shell_completion import CompletionItem

_WIDTH = 78


class Command(TyperCommand):
    """A command with examples at the end of its help."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Typer's help, then the examples. Examples are plain lines: what is in a box cannot be copied."""
        super().format_help(ctx, formatter)
        print("\n".join(self._more(ctx.find_root().info_name or "")))

    def _more(self, program: str) -> list[str]:
        # Two programs may have a command of one name.
        examples = EXAMPLES.get(f"{program} {self.name}") or EXAMPLES.get(self.name or "", ())
        lines = ["Examples:", ""] if examples else []
        for example in examples:
            lines += [f"  {line}" for line in example.splitlines()]
            lines.append("")
        return lines


class MegatronCommand(Command):
    """A command that takes Megatron's flags too: they are in its help, and a shell completes them."""

    def _more(self, program: str) -> list[str]:
        from vtrain_sim.inputs.flag_groups import flag_groups

        lines = ["Megatron's flags that are read; others that change no step are accepted:", ""]
        for title, flags in flag_groups().items():
            text = f"{title}: {' '.join(flags)}"
            indent = {"initial_indent": "  ", "subsequent_indent": "    "}
            lines += textwrap.wrap(text, _WIDTH, break_on_hyphens=False, **indent)  # type: ignore[arg-type]
        return [*lines, "", *super()._more(program)]

    def shell_complete(self, ctx: Any, incomplete: str) -> list[CompletionItem]:
        """The command's own options, then Megatron's flags."""
        items = super().shell_complete(ctx, incomplete)
        own = super().shell_complete(ctx, "--help")
        if not incomplete.startswith("--") or not own:
            return items
        from vtrain_sim.inputs.flag_groups import flag_groups

        # Some versions of typer bring a click of their own, whose item has no public name.
        item = type(own[0])
        known = {each.value for each in items}
        flags = (flag for group in flag_groups().values() for flag in group)
        return items + [item(flag) for flag in flags if flag.startswith(incomplete) and flag not in known]
