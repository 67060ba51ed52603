"""Collectives: measured bus bandwidth by payload, and the lines that were fitted to it."""

from __future__ import annotations

from collections.abc import Sequence

from vtrain_sim.report.page.model import Section
from vtrain_sim.results import Row


def bandwidth_section(rows: Sequence[Row], lead: str) -> Section:
    """A series for each operation on so many ranks (and nodes). Rows: transfer_s and bus_bytes_per_s by op, ranks and
    bytes, beside fitted_bytes_per_s."""
    places: dict[tuple[str, int, int], list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault((row["op"], row["ranks"], row.get("nodes", 1)), []).append(place)
    series = [
        {
            "name": f"{op}, {ranks} ranks" + (f" on {nodes} nodes" if nodes > 1 else ""),
            "places": of_series,
            "style": "dots",
            "fit": {"up": "bus_bytes_per_s", "column": "fitted_bytes_per_s"},
        }
        for (op, ranks, nodes), of_series in places.items()
    ]
    figures = ["transfer_s", "fitted_s", "bus_bytes_per_s", "fitted_bytes_per_s", "error"]
    chart = {
        "draw": "points",
        "across": ["bytes"],
        "up": ["bus_bytes_per_s", "transfer_s", "error"],
        "series": series,
        "logarithmic": ["bytes", "transfer_s"],
        "hover": ["op", "ranks", "nodes", "bytes", *figures],
    }
    return Section("Collective bandwidth", lead, rows, chart, "points measured, lines fitted")
