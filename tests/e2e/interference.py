"""How much other work disturbs a run: what the kernel counted while it went on."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# Columns of the first line of /proc/stat (proc(5)); guests are within user and nice.
_IDLE, _STEAL, _COLUMNS = (3, 4), 7, 8
# Beyond these a run says more about the machine than about the configuration.
MOST_OTHERS, MOST_STEAL, MOST_SWITCHES = 0.10, 0.03, 100.0


@dataclass(frozen=True)
class Interference:
    """others, steal: shares of the CPUs' time that other processes and other guests of the host had, 0 to 1; None
    where the kernel does not say. switches: times a second of our CPU time that ours had to make way."""

    others: float | None
    steal: float | None
    switches: float

    def reasons(self) -> list[str]:
        """What was too much."""
        said = []
        if self.others is not None and self.others > MOST_OTHERS:
            said.append(f"other processes had {self.others:.0%} of the CPUs")
        if self.steal is not None and self.steal > MOST_STEAL:
            said.append(f"the host took {self.steal:.0%} of the CPUs")
        # Ranks and threads of ours make way for each other too: a sign only where the kernel says nothing better.
        if self.others is None and self.switches > MOST_SWITCHES:
            said.append(f"{self.switches:.0f} involuntary context switches a second")
        return said


@dataclass
class Watch:
    """What `watched` found; known when its block is left."""

    interference: Interference | None = None


@contextmanager
def watched() -> Iterator[Watch]:
    """Counts while its block runs processes of ours and waits for them."""
    watch, before, began = Watch(), _counters(), time.monotonic()
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    yield watch
    after, now = _counters(), resource.getrusage(resource.RUSAGE_CHILDREN)
    own_s = now.ru_utime + now.ru_stime - usage.ru_utime - usage.ru_stime
    switches = (now.ru_nivcsw - usage.ru_nivcsw) / max(own_s, 1e-3)
    if before is None or after is None:
        watch.interference = Interference(None, None, switches)
        return
    spent = [b - a for a, b in zip(before, after, strict=True)]
    all_s = max((os.cpu_count() or 1) * (time.monotonic() - began), 1e-3)
    busy_s = sum(spent) - sum(spent[column] for column in _IDLE) - spent[_STEAL]
    watch.interference = Interference(max(0.0, busy_s - own_s) / all_s, spent[_STEAL] / all_s, switches)


def _counters() -> list[float] | None:
    """Seconds of all CPUs by kind since the machine started; None where there is no such file."""
    try:
        line = Path("/proc/stat").read_text().splitlines()[0]
    except OSError:
        return None
    ticks = os.sysconf("SC_CLK_TCK")
    return [int(word) / ticks for word in line.split()[1 : _COLUMNS + 1]]
