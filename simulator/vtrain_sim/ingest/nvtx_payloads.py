"""Structured payloads of NVTX events in Nsight Systems exports: NCCL says there how many bytes it moves.

An event carries a header of 32 bytes (domain, schema id, size of the payload) and the fields that the
schema's entries lay out; some exports have the same as JSON text.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

Payload: TypeAlias = Mapping[str, object]  # fields by name

_HEADER = struct.Struct("<IIIIQQ")
# NVTX_PAYLOAD_ENTRY_TYPE_*: formats of the whole numbers among them.
_FORMATS = {
    1: "b",
    2: "B",
    3: "h",
    4: "H",
    5: "i",
    6: "I",
    7: "q",
    8: "Q",
    9: "q",
    10: "Q",
    11: "b",
    12: "B",
    13: "h",
    14: "H",
    15: "i",
    16: "I",
    17: "q",
    18: "Q",
    22: "Q",
}


class Payloads:
    """Decodes payloads by the schemas of one report.

    rows: reads a table's columns, and nothing where the table is missing. unreadable: payloads that no
    schema describes.
    """

    def __init__(self, rows: Callable[[str, Sequence[str]], Iterator[tuple[Any, ...]]]) -> None:
        self.unreadable = 0
        self._fields: dict[int, list[tuple[str, int, str]]] = {}
        for schema, kind, name, offset in rows("NVTX_PAYLOAD_SCHEMA_ENTRIES", ["schemaId", "type", "name", "offset"]):
            if kind in _FORMATS and name and isinstance(schema, int):
                at = offset if isinstance(offset, int) and 0 <= offset < 1 << 16 else 0
                self._fields.setdefault(schema, []).append((str(name), at, "<" + _FORMATS[kind]))

    def read(self, binary: object, text: object) -> Payload:
        """Fields of a payload by name; empty for an event without one."""
        if isinstance(text, str) and text:
            try:
                fields = json.loads(text)
            except (ValueError, RecursionError):
                self.unreadable += 1
                return {}
            return _flat(fields) if isinstance(fields, dict) else {}
        if isinstance(binary, str):  # exported as hexadecimal digits
            try:
                binary = bytes.fromhex(binary)
            except ValueError:
                binary = b"?"
        return self._unpack(binary) if binary else {}

    def _unpack(self, binary: object) -> Payload:
        """Fields by the schema that the header names; none for what is no such payload."""
        if not isinstance(binary, bytes):
            self.unreadable += 1
            return {}
        try:
            schema = _HEADER.unpack_from(binary)[2]
            fields = self._fields[schema]
            return {name: struct.unpack_from(code, binary, _HEADER.size + offset)[0] for name, offset, code in fields}
        except (struct.error, KeyError):
            self.unreadable += 1
            return {}


def _flat(fields: dict[str, object]) -> Payload:
    """Fields, and those of the objects among them."""
    inner = [v for v in fields.values() if isinstance(v, dict)]
    return {k: v for part in (fields, *inner) for k, v in part.items() if not isinstance(v, dict)}
