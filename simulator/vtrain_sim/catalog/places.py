"""Directories of profiles, on a local disk or in object storage."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cache
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from vtrain_sim.errors import UserError

# So many remote files are read at a time: what each takes is mostly waiting.
AT_A_TIME = 16
_SECRET = re.compile(r"(access_key|secret|token|password|credential)", re.IGNORECASE)


@dataclass(frozen=True)
class Place:
    """A filesystem, and how the paths in it are written for users.

    base: the URI of its root, empty for a local disk. root: that root's path. query: what a URI of it says beside the
    path, for example ``endpoint_override=localhost:9000``.
    """

    filesystem: pafs.FileSystem
    base: str = ""
    root: str = ""
    query: str = ""

    def name(self, path: str) -> str:
        """How a path is written, so that `open_place` finds it again."""
        if not self.base:
            return path
        return f"{self.base}{path.removeprefix(self.root)}" + (f"?{self.query}" if self.query else "")


def is_remote(where: str) -> bool:
    """Whether a location is not on a local disk."""
    return "://" in where and not where.startswith("file://")


def open_place(where: str) -> tuple[Place, str]:
    """The filesystem of a path or URI, and the path in it. Raises `UserError`."""
    if "://" not in where:
        return _LOCAL, os.path.abspath(os.path.expanduser(where))
    address = urlsplit(where)
    if address.scheme == "file":
        return _LOCAL, unquote(address.path)
    if address.password or (address.username and address.scheme == "s3") or _SECRET.search(address.query):
        # The catalog would keep it.
        raise UserError(
            f"a URI of {address.scheme} holds credentials: leave them to the environment (AWS_ACCESS_KEY_ID, ...)"
        )
    place = _place(address.scheme, address.netloc, address.query)
    return place, place.root + address.path.rstrip("/")


@cache
def _place(scheme: str, host: str, query: str) -> Place:
    base = f"{scheme}://{host}"
    address = f"{base}/?{query}" if query else base
    try:
        filesystem, root = pafs.FileSystem.from_uri(address)
    except (pa.ArrowInvalid, NotImplementedError):
        filesystem, root = _opened_by_fsspec(base)
    except OSError as error:
        raise UserError(f"cannot open {base}: {error}") from None
    return Place(filesystem, base, str(root).rstrip("/"), query)


def _opened_by_fsspec(base: str) -> tuple[pafs.FileSystem, str]:
    try:
        import fsspec
    except ImportError:
        raise UserError(f"{base} needs the fsspec package: pip install 'vtrain[remote]'") from None
    try:
        inner, root = fsspec.core.url_to_fs(base)
    except (ValueError, ImportError) as error:
        raise UserError(f"cannot open {base}: {error}") from None
    return pafs.PyFileSystem(pafs.FSSpecHandler(inner)), str(root)


_LOCAL = Place(pafs.LocalFileSystem())
