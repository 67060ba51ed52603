"""Outputs that the documentation shows, renewed: ``python -m support.shown_output ../docs/quickstart.md``.

A block of output follows the block of the command that printed it, the first one of the block. Outputs that end with dots are shortened, or
have a time in them: they stay as they are.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

_SHOWN = re.compile(r"```console\n\$ ([^\n]+)\n((?:\$ [^\n]+\n)*)```\n(\n?)```text\n(.*?)```\n", re.S)

# Not the installed commands: those of the tree that is tested.
_MODULES = {
    "vtrain": "vtrain_sim.commands.vtrain",
    "vtrain-sim": "vtrain_sim.commands.sim",
    "vtrain-catalog": "vtrain_sim.commands.catalog",
}


def renewed(text: str, place: Path) -> str:
    """A page with the outputs that its commands print now, run in a folder with the files that they name."""

    def output(match: re.Match[str]) -> str:
        command, others, gap, shown = match.groups()
        if shown.endswith("...\n"):
            return match[0]
        program, words = command.split(" ", 1)
        done = subprocess.run(
            f"exec {sys.executable} -m {_MODULES[program]} {words}",
            shell=True,
            cwd=place,
            capture_output=True,
            text=True,
            check=True,
        )
        return f"```console\n$ {command}\n{others}```\n{gap}```text\n{done.stdout.rstrip()}\n```\n"

    return _SHOWN.sub(output, text)


def main(pages: list[str]) -> None:
    """Renew the outputs of some pages in place."""
    from simulator.api.workplace import furnish

    for page in map(Path, pages):
        with tempfile.TemporaryDirectory() as place:
            furnish(Path(place))
            page.write_text(renewed(page.read_text(), Path(place)))


if __name__ == "__main__":
    main(sys.argv[1:])
