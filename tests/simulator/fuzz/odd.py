"""Odd values, and small damage to texts and tables."""

from __future__ import annotations

import copy
import json
from random import Random
from typing import Any

SCALARS: tuple[object, ...] = (
    *(0, 1, 2, 3, 4, 8, 16, 64, 1000, -1, -8, 1 << 40, 10**20, 1.5, 0.0, -0.5, 1e-300, 1e300, -1e300),
    *(float("nan"), float("inf"), float("-inf"), True, False, None),
    *("", " ", "x", "0", "1e9", "nan", "é", "a,b", "[0]*2", "$X", "--bf16", "null", "../..", "\t", "a" * 300),
)
ODD: tuple[object, ...] = (*SCALARS, [], {}, [1, "a"], {"a": 1}, [[]], [{}], [None])
# What stands for a value on a command line; small whole numbers get furthest.
WORDS = (
    *("1", "1", "2", "2", "4", "8", "0", "3", "16", "64", "128", "1000", "-1", "1.5", "nan", "inf", "-inf", "1e300"),
    *("99999999999999999999", "", "x", "selective", "full", "uniform", "block", "hybrid", "e4m3", "delayed", "mxfp8"),
    *("zb-h1", "zb-v", "dualpipe", "gpipe", "1f1b", "unfused", "flash", "local", "rope", "none", "RMSNorm", "fp32"),
    *("[0]*2+[1]*46", "([0]*1+[1]*23)", "Et*24L", "Et*3|t*3L", "Et*3|t*21L", "(128,0)", "M-*M-", "alltoall", "deepep"),
)


def damaged_text(r: Random, text: str) -> str:
    """A text with a few letters, words or lines gone, doubled, swapped or replaced."""
    for _ in range(r.choice((1, 1, 1, 2, 4))):
        lines = text.split("\n")
        at = r.randrange(len(lines))
        kind = r.randrange(7)
        if kind == 0:
            del lines[at]
        elif kind == 1:
            lines.insert(at, r.choice(lines))
        elif kind == 2:
            line = lines[at]
            place = r.randrange(len(line) + 1)
            lines[at] = line[:place] + r.choice("\"'=[]{}(),:;#$\\`|&<>\0\x1b é0-") + line[place:]
        elif kind == 3:
            lines[at] = lines[at][: r.randrange(len(lines[at]) + 1)]
        elif kind == 4:
            words = lines[at].split(" ")
            words[r.randrange(len(words))] = str(r.choice(SCALARS))
            lines[at] = " ".join(words)
        elif kind == 5:
            other = r.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
        else:
            lines = lines[:at]
        text = "\n".join(lines or [""])
    return text


def damaged_table(r: Random, table: dict[str, Any]) -> dict[str, Any]:
    """A table with an entry or two that are odd, gone, renamed or new, at any depth."""
    result = copy.deepcopy(table)
    for _ in range(r.choice((1, 1, 1, 2))):
        place: Any = result
        while True:
            inner = [
                v for v in (place.values() if isinstance(place, dict) else place) if v and isinstance(v, (dict, list))
            ]
            if not inner or r.random() < 0.4:
                break
            place = r.choice(inner)
        if isinstance(place, list):
            place[r.randrange(len(place))] = copy.deepcopy(r.choice(ODD))
            continue
        name = r.choice(list(place)) if place else "x"
        kind = r.randrange(8)
        if kind == 0:
            place.pop(name, None)
        elif kind == 1:
            place[f"{name}_"] = place.pop(name, 1)
        elif kind == 2:
            place[str(r.choice(SCALARS))] = copy.deepcopy(r.choice(ODD))
        else:
            place[name] = copy.deepcopy(r.choice(ODD))
    return result


def damaged_rows(r: Random, text: str) -> str:
    """A CSV table with odd cells, columns or rows."""
    rows = [line.split(",") for line in text.splitlines()]
    for _ in range(r.choice((1, 1, 2, 3))):
        kind, at = r.randrange(6), r.randrange(len(rows))
        if kind == 0 and rows[at]:
            del rows[at][r.randrange(len(rows[at]))]
        elif kind == 1:
            rows[at].append(str(r.choice(SCALARS)))
        elif kind == 2:
            rows.insert(at, [""])
        elif rows[at]:
            rows[at][r.randrange(len(rows[at]))] = str(r.choice(SCALARS))
    return "\n".join(",".join(row) for row in rows)


def toml(table: dict[str, Any]) -> str:
    """A table as TOML; what TOML has no word for is left out."""
    return "\n".join(f"{json.dumps(str(name))} = {_value(value)}" for name, value in table.items() if value is not None)


def _value(value: object) -> str:
    if isinstance(value, dict):
        inner = (f"{json.dumps(str(n))} = {_value(v)}" for n, v in value.items() if v is not None)
        return "{" + ", ".join(inner) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_value(v) for v in value if v is not None) + "]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value)
