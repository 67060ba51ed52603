"""Packed files that are cut or damaged; gzip that gives what it has: everything before the damage.

The standard library's reader raises before it hands over the block that it was filling.
"""

from __future__ import annotations

import lzma
import struct
import tarfile
import zipfile
import zlib
from typing import BinaryIO

_CHUNK = 1 << 18
# What reading a damaged, cut or protected archive raises, by whoever reads it.
UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    NotImplementedError,
    OverflowError,
    KeyError,
    IndexError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    zipfile.BadZipFile,
    tarfile.TarError,
)


class Gunzip:
    """A stream's unpacked bytes, of any number of members one behind the other.

    `read` raises `EOFError` or `zlib.error` only once nothing is left to return.
    """

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._unpacker = zlib.decompressobj(31)
        self._packed = b""
        self._problem: Exception | None = None
        self._ended = False

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; b"" at the end."""
        parts: list[bytes] = []
        missing = size
        while missing > 0 and not self._ended:
            if not self._packed:
                self._packed = self._raw.read(_CHUNK)
            if not self._packed:
                self._ended = True
                if not self._unpacker.eof:
                    self._problem = EOFError("the compressed file ends early")
                break
            try:
                if self._unpacker.eof:  # another member, or padding
                    self._packed = self._packed.lstrip(b"\x00")
                    if not self._packed:
                        continue
                    self._unpacker = zlib.decompressobj(31)
                part = self._unpacker.decompress(self._packed, missing)
            except zlib.error as error:
                self._ended, self._problem = True, error
                break
            self._packed = self._unpacker.unconsumed_tail or self._unpacker.unused_data
            parts.append(part)
            missing -= len(part)
        if not parts and self._problem is not None:
            problem, self._problem = self._problem, None
            raise problem
        return b"".join(parts)
