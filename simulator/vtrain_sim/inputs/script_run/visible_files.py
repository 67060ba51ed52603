"""The files beside a launch script that it can see while it runs: copies of small texts, and empty ones for the rest.

Other scripts that it reads, files of hosts and settings are among the texts. Programs are not:
what is no text is empty.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

_TEXTS = (
    *("", ".sh", ".bash", ".env", ".conf", ".cfg", ".ini", ".txt", ".json", ".yaml", ".yml", ".toml", ".slurm"),
    *(".sbatch", ".sub", ".pbs", ".args", ".list", ".hosts", ".csh", ".rc", ".inc", ".in", ".template", ".example"),
)
_LARGEST = 128 << 10
_MOST_FILES = 4000
_MOST_BYTES = 8 << 20
_DEEPEST = 6
_SECONDS = 3.0


def top_of(script: Path) -> Path:
    """The folder whose files a script can see: its repository's, else the current one if it is in there, or its own."""
    home, here = Path.home(), Path.cwd()
    outer = (Path("/"), home, *home.parents)
    inner = [folder for folder in script.parents if folder not in outer]
    for folder in inner:
        if (folder / ".git").exists():
            return folder
    return here if here in inner else script.parent


def copies(top: Path, script: Path) -> tuple[list[tuple[str, str, bool]], list[str]]:
    """Path, text and whether it can be executed, of what is below a folder, of the script's own folder first; and the
    folders there, empty ones too.

    A folder with more files than a repository has, or on a slow file system, is not copied to its end.
    """
    files: dict[Path, tuple[str, str, bool]] = {}
    folders: dict[Path, str] = {}
    size, end = 0, time.monotonic() + _SECONDS
    for path, is_folder in (each for start in (script.parent, top) for each in _below(start)):
        if max(len(files), len(folders)) >= _MOST_FILES or time.monotonic() > end:
            break
        if is_folder:
            folders[path] = str(path)
        elif path not in files:
            text = _text(path) if size < _MOST_BYTES and _is_inside(path, top) else ""
            size += len(text)
            files[path] = (str(path), text, os.access(path, os.X_OK))
    return list(files.values()), list(folders.values())


def _below(top: Path) -> Iterator[tuple[Path, bool]]:
    """Regular files and folders, and which they are, those of outer folders first; hidden folders are left out."""
    folders = deque([(top, 0)])
    while folders:
        folder, depth = folders.popleft()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if depth < _DEEPEST and not entry.name.startswith("."):
                    folders.append((Path(entry.path), depth + 1))
                    yield Path(entry.path), True
            elif entry.is_file():
                yield Path(entry.path), False


def _is_inside(path: Path, top: Path) -> bool:
    """Whether a file is where its name says, or where a link leads to a file below the folder that is not hidden."""
    if not path.is_symlink():
        return True
    real, root = path.resolve(), top.resolve()
    return root in real.parents and not any(part.startswith(".") for part in real.relative_to(root).parts)


def _text(path: Path) -> str:
    """The text of a small file that can be a script's; empty for another."""
    if path.suffix.lower() not in _TEXTS or path.name.startswith("."):
        return ""
    try:
        if path.stat().st_size > _LARGEST:
            return ""
        data = path.read_bytes()
    except OSError:
        return ""
    return "" if b"\0" in data else data.decode(errors="surrogateescape")
