"""Where profiles are written: a local directory, or what pyarrow or fsspec opens. A file is whole or absent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

import pyarrow as pa
import pyarrow.fs as pafs


class Storage:
    """An output directory; paths are relative to it. Everything raises OSError where the disk refuses.

    filesystem, root: for what else is done there. local: on a disk of this machine.
    """

    def __init__(self, out: str) -> None:
        """out: a local directory or a URI that pyarrow (or, failing that, fsspec) can open."""
        self.filesystem, self.root = _open_filesystem(out)
        self.local = isinstance(self.filesystem, pafs.LocalFileSystem)

    def store(self, path: str, data: pa.Buffer) -> None:
        """Write a file whose content is there."""
        if self.local:
            with self.writing(path) as stream:
                stream.write(data)
            return
        full = self._with_folder(path)
        # Object stores show an object only once its upload is complete.
        with self.filesystem.open_output_stream(full) as stream:
            stream.write(data)

    @contextmanager
    def writing(self, path: str) -> Iterator[IO[bytes] | pa.NativeFile]:
        """A stream to what becomes the file once the context is left; nothing is left of it after an exception."""
        full = self._with_folder(path)
        folder, _, name = full.rpartition("/")
        hidden = f"{folder}/.{name}.{os.getpid()}.tmp"
        try:
            if self.local:
                with open(hidden, "wb") as stream:
                    yield stream
                    stream.flush()
                    os.fsync(stream.fileno())
                os.replace(hidden, full)
            else:
                with self.filesystem.open_output_stream(hidden) as stream:
                    yield stream
                # An object store copies: the new name shows a whole object all the same.
                self.filesystem.move(hidden, full)
        except BaseException:
            with suppress(Exception):
                self.filesystem.delete_file(hidden)
            raise

    def reading(self, path: str) -> pa.NativeFile:
        """A file to read anywhere in."""
        return self.filesystem.open_input_file(f"{self.root}/{path}")

    def remove(self, path: str) -> None:
        """Remove a file."""
        self.filesystem.delete_file(f"{self.root}/{path}")

    def _with_folder(self, path: str) -> str:
        """The whole path of a file whose directory is there."""
        full = f"{self.root}/{path}"
        self.filesystem.create_dir(full.rpartition("/")[0], recursive=True)
        return full


def _open_filesystem(out: str) -> tuple[pafs.FileSystem, str]:
    if "://" not in out:
        return pafs.LocalFileSystem(), os.path.abspath(os.path.expanduser(out))
    try:
        filesystem, path = pafs.FileSystem.from_uri(out)
        return filesystem, str(path)
    except (pa.ArrowInvalid, NotImplementedError):
        import fsspec

        inner, path = fsspec.core.url_to_fs(out)
        return pafs.PyFileSystem(pafs.FSSpecHandler(inner)), str(path)
