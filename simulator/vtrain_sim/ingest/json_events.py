"""Reads the events of a Chrome trace one block at a time, in memory that does not grow with the file.

Where one event ends is found with array operations over the brackets outside strings; whole events are
then decoded together by msgspec, which skips every field that is not needed. What cannot be decoded
is counted and stepped over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, TypeAlias

import msgspec
import numpy as np

from vtrain_sim.errors import UserError
from vtrain_sim.ingest.gunzip import UNREADABLE
from vtrain_sim.ingest.trace import Bools, Ints

# A value as it stands in the file: profilers disagree on types, and a wrong one must not lose the event.
Value: TypeAlias = Any

BLOCK = 8 << 20
# After damage, how far to look at once: the next event may be damaged too.
_CAREFUL = 256 << 10
_CAREFUL_WINDOWS = 32
# An event longer than this is damage (an unclosed string), and so is a header.
_LONGEST_EVENT = 16 << 20
_LONGEST_HEADER = 256 << 20
# Where an event may begin at the end of one block: this much of it shows that it does.
_LONGEST_START = 64

_KEY = re.compile(rb'"traceEvents"\s*:\s*\[')
_RESYNC = re.compile(rb'\{\s*"(ph|name|cat|pid|tid|ts|id|args)"\s*:')
_NOT_JSON = re.compile(rb"([:,\[]\s*)-?(?:inf|nan|Infinity|NaN)\b", re.IGNORECASE)
_BETWEEN = b" \t\r\n,"
_QUOTE, _ESCAPE, _OPEN, _CLOSE, _LIST, _END = (ord(c) for c in '"\\{}[]')
_STRUCTURAL = np.zeros(256, dtype=bool)
_STRUCTURAL[[_QUOTE, _OPEN, _CLOSE, _LIST, _END]] = True
_STEP = np.zeros(256, dtype=np.int8)
_STEP[[_OPEN, _LIST]] = 1
_STEP[[_CLOSE, _END]] = -1


class Arguments(msgspec.Struct, gc=False):
    """What vtrain uses of an event's ``args``, under Kineto's names of several versions."""

    external: Value = msgspec.field(name="External id", default=None)
    external_old: Value = msgspec.field(name="external id", default=None)
    correlation: Value = None
    stream: Value = None
    bytes: Value = None
    dims: msgspec.Raw = msgspec.field(name="Input Dims", default=msgspec.Raw(b""))
    types: msgspec.Raw = msgspec.field(name="Input type", default=msgspec.Raw(b""))
    concrete: msgspec.Raw = msgspec.field(name="Concrete Inputs", default=msgspec.Raw(b""))
    sequence: Value = msgspec.field(name="Sequence number", default=None)
    collective: Value = msgspec.field(name="Collective name", default=None)
    collective_old: Value = msgspec.field(name="collective_name", default=None)
    dtype: Value = None
    elements_in: Value = msgspec.field(name="In msg nelems", default=None)
    elements_out: Value = msgspec.field(name="Out msg nelems", default=None)
    elements_in_old: Value = msgspec.field(name="In msg size", default=None)
    elements_out_old: Value = msgspec.field(name="Out msg size", default=None)
    group_size: Value = msgspec.field(name="Group size", default=None)
    group_name: Value = msgspec.field(name="Process Group Name", default=None)
    group_id: Value = msgspec.field(name="Process Group ID", default=None)
    group_description: Value = msgspec.field(name="Process Group Description", default=None)
    group_ranks: Value = msgspec.field(name="Process Group Ranks", default=None)
    first_rank: Value = msgspec.field(name="Global rank start", default=None)
    stride: Value = msgspec.field(name="Global rank stride", default=None)
    source: Value = msgspec.field(name="Src Rank", default=None)
    destination: Value = msgspec.field(name="Dst Rank", default=None)
    allocated: Value = msgspec.field(name="Total Allocated", default=None)
    reserved: Value = msgspec.field(name="Total Reserved", default=None)
    device_type: Value = msgspec.field(name="Device Type", default=None)
    device_id: Value = msgspec.field(name="Device Id", default=None)
    memory_bytes: Value = msgspec.field(name="Bytes", default=None)


class Event(msgspec.Struct, gc=False):
    """One event of a Chrome trace; times as they stand in the file."""

    ph: str = ""
    cat: str = ""
    name: str = ""
    pid: Value = None
    tid: Value = None
    ts: Value = None
    dur: Value = None
    args: Arguments | None = None


_DECODER = msgspec.json.Decoder(list[Event])
_ONE = msgspec.json.Decoder(Event)
# The same with fractions left as text, for times that a double does not hold to the nanosecond.
_EXACT, _ONE_EXACT = msgspec.json.Decoder(list[Event], float_hook=str), msgspec.json.Decoder(Event, float_hook=str)
# Below this, doubles are less than a thousandth apart.
_INEXACT_ABOVE = float(1 << 43)
NO_ARGUMENTS = Arguments()


class EventReader:
    """Iterates over lists of events. `metadata`, `damaged` and `truncated` are complete afterwards.

    metadata: what stands beside the events in the file. damaged: events that could not be decoded.
    truncated: the file ends before its list of events does.
    """

    def __init__(self, stream: BinaryIO, where: str, progress: Callable[[int], None] = lambda count: None) -> None:
        self._stream = stream
        self._where = where
        self._progress = progress
        self.metadata: dict[str, object] = {}
        self.damaged = 0
        self.truncated = False
        self._exact = False

    def __iter__(self) -> Iterator[list[Event]]:
        buffer = self.read_header()
        careful, stretch = 0, False
        while True:
            window = buffer[:_CAREFUL] if careful and not stretch else buffer
            spans, stop, closes = _events(window)
            last = int(spans[-1, 1]) if len(spans) else 0
            used = last
            if last:
                used, events = self._decode(window, spans)
                if events:
                    yield events
            if used == last and stop is not None and closes:
                self._finish(buffer[stop + 1 :])
                return
            if used < last or stop is not None or (not last and len(window) > _LONGEST_EVENT):
                # Where a quote is lost, what is read as text and what as brackets changes places: the event
                # that comes next is broken, however far the bracket that shows it.
                buffer, careful = self._behind_damage(buffer[used + 1 :]), _CAREFUL_WINDOWS
            else:
                # A small window without a whole event is looked at again with all that is there.
                stretch = bool(careful) and not last and len(window) < len(buffer)
                if careful and last:
                    careful -= 1
                buffer = buffer[last:]
                if not stretch and (not last or len(window) - last >= len(buffer)):
                    buffer = self._continued(buffer)
            if not buffer:
                return

    def _behind_damage(self, buffer: bytes) -> bytes:
        """Step over a damaged place, up to the next thing that looks like an event; b"" at the end of the file."""
        self.damaged += 1
        while (match := _RESYNC.search(buffer)) is None:
            more = self._read()
            if not more:
                self.truncated = True
                return b""
            buffer = buffer[-_LONGEST_START:] + more
        return buffer[match.start() :]

    def _continued(self, buffer: bytes) -> bytes:
        """The begin of an event with the next block; b"" where the file ends within the event."""
        more = self._read()
        if more:
            return buffer + more
        # A broken event may hide whole ones behind it.
        begin = _RESYNC.search(buffer)
        following = _RESYNC.search(buffer, begin.end()) if begin is not None else None
        if following is None:
            self.truncated = True
            return b""
        self.damaged += 1
        return buffer[following.start() :]

    def _read(self) -> bytes:
        try:
            block = self._stream.read(BLOCK)
        except UNREADABLE as error:
            # A broken archive: what was read so far is kept.
            self.damaged += 1
            self.metadata.setdefault("vtrain.read_error", str(error))
            return b""
        self._progress(len(block))
        return block

    def read_header(self) -> bytes:
        """Read up to the first event; keeps what stands before as metadata."""
        buffer = self._read()
        if buffer.lstrip().startswith(b"["):
            return buffer[buffer.index(b"[") + 1 :]
        if not buffer.lstrip().startswith(b"{"):
            raise UserError(f"{self._where} is not a trace: it begins with neither '{{' nor '['")
        at = 0
        while True:
            key = _KEY.search(buffer, at)
            if key is not None:
                header = buffer[: key.start()].rstrip().removesuffix(b",") + b"}"
                self._keep(header)
                return buffer[key.end() :]
            at = max(0, len(buffer) - 64)
            more = self._read()
            if not more or len(buffer) > _LONGEST_HEADER:
                raise UserError(f"{self._where} is not a trace: it has no list of traceEvents")
            buffer += more

    def _keep(self, text: bytes) -> None:
        try:
            entries = json.loads(text)
        except (ValueError, RecursionError):
            return
        if isinstance(entries, dict):
            self.metadata.update(entries)

    def _finish(self, trailer: bytes) -> None:
        """Read what follows the events, as far as it is of a reasonable size."""
        while len(trailer) < _LONGEST_HEADER:
            more = self._read()
            if not more:
                break
            trailer += more
        text = trailer.strip().removeprefix(b",")
        self._keep(b"{" + text if text.endswith(b"}") else b"{" + text + b"}")

    def _decode(self, window: bytes, spans: Ints) -> tuple[int, list[Event]]:
        """Decode whole events; the place behind the last one that could be, and the events."""
        place, events = self._decode_all(window, spans)
        if not self._exact and max((abs(e.ts) for e in events if type(e.ts) is float), default=0.0) > _INEXACT_ABOVE:
            self._exact = True
            return self._decode_all(window, spans)
        return place, events

    def _decode_all(self, window: bytes, spans: Ints) -> tuple[int, list[Event]]:
        first, last = int(spans[0, 0]), int(spans[-1, 1])
        try:
            return last, (_EXACT if self._exact else _DECODER).decode(b"[" + window[first:last] + b"]")
        except (msgspec.DecodeError, UnicodeDecodeError):
            pass
        events: list[Event] = []
        for begin, end in spans.tolist():
            event = _leniently(window[begin:end], _ONE_EXACT if self._exact else _ONE)
            if event is None:
                return begin, events
            events.append(event)
        return last, events


def _events(window: bytes) -> tuple[Ints, int | None, bool]:
    """Begin and end of each whole event [count, 2]; the bracket that closes more than was opened, if there is
    one; and whether that is the end of the list."""
    nothing = np.empty((0, 2), dtype=np.int64)
    characters = np.frombuffer(window, dtype=np.uint8)
    places = np.flatnonzero(_STRUCTURAL[characters])
    if not len(places):
        return nothing, None, False
    kinds = characters[places]
    quotes = kinds == _QUOTE
    if b"\\" in window:
        quotes &= ~_escaped(window, places, quotes)
    inside = np.cumsum(quotes, dtype=np.int32) & 1
    brackets = (inside == 0) & (kinds != _QUOTE)
    places, kinds = places[brackets], kinds[brackets]
    depth = np.cumsum(_STEP[kinds], dtype=np.int32)
    below = np.flatnonzero(depth < 0)
    stop, closes = None, False
    if len(below):
        first = int(below[0])
        stop, closes = int(places[first]), bool(kinds[first] == _END)
        places, kinds, depth = places[:first], kinds[:first], depth[:first]
    begins = places[(depth == 1) & (kinds == _OPEN)]
    ends = places[(depth == 0) & (kinds == _CLOSE)] + 1
    count = min(len(begins), len(ends))
    spans = np.stack([begins[:count], ends[:count]], axis=1).astype(np.int64)
    if closes:
        # The list ends right behind an event; a bracket elsewhere belongs to a broken one.
        closes = not window[int(spans[-1, 1]) if count else 0 : stop].strip(_BETWEEN)
    return spans, stop, closes


def _escaped(window: bytes, places: Ints, quotes: Bools) -> Bools:
    """Which of the structural characters are quotes behind an odd number of backslashes."""
    characters = np.frombuffer(window, dtype=np.uint8)
    escaped = np.zeros(len(places), dtype=bool)
    suspects = np.flatnonzero(quotes & (characters[np.maximum(places - 1, 0)] == _ESCAPE) & (places > 0))
    for index in suspects.tolist():
        at = int(places[index]) - 1
        run = 0
        while at >= 0 and window[at] == _ESCAPE:
            run, at = run + 1, at - 1
        escaped[index] = run % 2 == 1
    return escaped


def _leniently(text: bytes, decoder: msgspec.json.Decoder[Event]) -> Event | None:
    """One event that strict decoding refused: not-a-number values, odd types; None if it is broken."""
    try:
        return decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    try:
        legible = _NOT_JSON.sub(rb"\1null", text).decode("utf-8", "replace")
        fields = json.loads(legible, strict=False, parse_float=str if decoder is _ONE_EXACT else float)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    for name in ("ph", "cat", "name"):
        fields[name] = str(fields.get(name, "") or "")
    if not isinstance(fields.get("args"), dict):
        fields.pop("args", None)
    try:
        event = _ONE.decode(msgspec.json.encode(fields))
    except (msgspec.DecodeError, UnicodeError, TypeError, OverflowError):
        return None
    return event


def peek_metadata(stream: BinaryIO, where: str) -> tuple[dict[str, object], bytes]:
    """What stands before the events of a trace, and the text of the first ones. Raises `UserError` for what is no
    trace."""
    reader = EventReader(stream, where)
    events = reader.read_header()
    return reader.metadata, events[:_CAREFUL]
