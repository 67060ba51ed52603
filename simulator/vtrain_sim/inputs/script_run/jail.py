"""Runs one command where it can do no harm: a program of its own, which reads a `Task` as JSON and prints a result.

The command sees no network, no process but its own, and a root folder in memory that holds what the task puts there:
some programs and libraries of the machine, read-only, and copies of files. It has no capabilities, and limits of time,
memory, processes and file sizes. All of this is Linux's user namespaces (user_namespaces(7), pivot_root(2)); where the
kernel does not allow them, the result says so and nothing is run.

It imports the standard library alone, so that it starts at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import resource
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

_NEW_USER, _NEW_MOUNTS, _NEW_PIDS, _NEW_NET = 0x10000000, 0x20000, 0x20000000, 0x40000000
_NEW_IPC, _NEW_UTS = 0x08000000, 0x04000000
_READ_ONLY, _NO_SUID, _NO_DEV, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
_DETACH = 2
_SET_DEATH_SIGNAL, _DROP_BOUND, _NO_NEW_PRIVILEGES = 1, 24, 38
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "ppc64le": 203, "riscv64": 41}
# Of a mount that is bound: what must be kept when it is mounted again (statvfs and mount have the same bits for them).
_KEPT = 2 | 4 | 8 | 1024 | 2048
_MEMORY = 1 << 30
MOST_MEMORY = 2 << 30
MOST_PROCESSES = 400
_WATCH_SECONDS = 0.02
_FILE = 16 << 20
_MOST_READ = 8 << 20
_LAST_CAPABILITY = 63
_OLD = "/.old"


_libc = ctypes.CDLL(None, use_errno=True)


class Forbidden(OSError):
    """The kernel does not allow what isolates the command."""


def _check(result: int, what: str) -> None:
    if result:
        raise Forbidden(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def _mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    arguments = [text.encode() or None for text in (source, target, kind)]
    _check(_libc.mount(*arguments, ctypes.c_ulong(flags), data.encode() or None), f"mounting {target}")


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8", errors="surrogateescape") as stream:
        stream.write(text)


def _isolate() -> None:
    """Leave the machine's namespaces; the next process that is made is the first of its own."""
    user, group = os.getuid(), os.getgid()
    flags = _NEW_USER | _NEW_MOUNTS | _NEW_PIDS | _NEW_NET | _NEW_IPC | _NEW_UTS
    _check(_libc.unshare(flags), "a user namespace")
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{user} {user} 1")
    _write("/proc/self/gid_map", f"{group} {group} 1")
    with contextlib.suppress(OSError):
        # In a namespace within this one, the command would have all capabilities again.
        _write("/proc/sys/user/max_user_namespaces", "0")


def _bind(source: str, target: str) -> None:
    """Show a file or folder of the machine, read-only."""
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        _write(target, "")
    _mount(source, target, "", _BIND)
    kept = os.statvfs(source).f_flag & _KEPT
    _mount("", target, "", _BIND | _REMOUNT | _READ_ONLY | _NO_SUID | kept)


def _build(root: str, task: Mapping[str, Any]) -> None:
    """The root folder that the command sees, with what is shown of the machine; no path of these is the script's."""
    _mount("", "/", "", _REC | _PRIVATE)
    _mount("tmpfs", root, "tmpfs", _NO_SUID | _NO_DEV, "size=64m,nr_inodes=20000,mode=755")
    for name in ("proc", "dev", "tmp", task["records"].lstrip("/")):
        os.makedirs(f"{root}/{name}", exist_ok=True)
    _mount("tmpfs", f"{root}{task['records']}", "tmpfs", _NO_SUID | _NO_DEV, "size=32m,nr_inodes=20000,mode=755")
    for device in ("null", "zero", "urandom"):
        _bind(f"/dev/{device}", f"{root}/dev/{device}")
    for source, target in task["binds"]:
        _bind(source, root + target)
    try:
        # Where root runs this, what is below /proc/sys belongs to the command: it must not be written.
        _mount("proc", f"{root}/proc", "proc", _READ_ONLY | _NO_SUID | _NO_DEV)
    except Forbidden:
        pass  # in a container; only process substitution needs it
    os.symlink("/proc/self/fd", f"{root}/dev/fd")


def _enter(root: str) -> None:
    """Make the folder the root, and let go of the machine's."""
    number = _PIVOT_ROOT.get(platform.machine())
    if number is None:
        raise Forbidden(0, f"the machine is of kind {platform.machine()}")
    os.makedirs(root + _OLD)
    _check(_libc.syscall(number, root.encode(), (root + _OLD).encode()), "a root folder of its own")
    os.chdir("/")
    _check(_libc.umount2(_OLD.encode(), _DETACH), "leaving the machine's files")
    os.rmdir(_OLD)


def _fill(task: Mapping[str, Any]) -> None:
    """Write folders, links and files of the task: after `_enter`, as scripts choose some of their paths.

    What cannot be there, below a file or in place of a program of the machine, is left out; the script's own file must.
    """
    for folder in task["folders"]:
        with contextlib.suppress(OSError):
            os.makedirs(folder, exist_ok=True)
    for target, source in task["links"]:
        with contextlib.suppress(OSError):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.symlink(source, target)
    for path, text, executable in task["files"]:
        with contextlib.suppress(OSError):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            _write(path, text)
            os.chmod(path, 0o755 if executable else 0o644)
    if not os.path.isfile(task["script"]):
        raise Forbidden(0, f"{task['script']} cannot be where it is")


def _limit(seconds: int, processes: int) -> None:
    limits = (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, _MEMORY),
        (resource.RLIMIT_FSIZE, _FILE),
        (resource.RLIMIT_NOFILE, 512),
        (resource.RLIMIT_NPROC, processes),
    )
    for name, value in limits:
        hard = resource.getrlimit(name)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(name, (value, value))


def _give_up_privileges() -> None:
    for capability in range(_LAST_CAPABILITY + 1):
        _libc.prctl(_DROP_BOUND, capability, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    _check(_libc.capset(header, (ctypes.c_uint32 * 6)()), "giving up capabilities")
    _check(_libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0), "giving up privileges")


def _command(task: Mapping[str, Any]) -> NoReturn:
    """Become the command."""
    try:
        os.setsid()
        os.nice(19)  # whoever watches it comes first
        _limit(task["seconds"], task["processes"])
        _give_up_privileges()
        os.chdir(task["cwd"])
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        said = os.open(task["said"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.closerange(3, 256)
        os.execve(task["argv"][0], task["argv"], task["env"])
    finally:
        os._exit(125)


def _too_large() -> bool:
    """Whether all processes together take too much: limits of `resource` are each process's, and not those of root."""
    try:
        processes = [name for name in os.listdir("/proc") if name.isdecimal()]
    except OSError:
        return False
    if len(processes) > MOST_PROCESSES:
        return True
    pages = 0
    for name in processes:
        with contextlib.suppress(OSError), open(f"/proc/{name}/statm", "rb") as stream:
            _, resident, shared, *_ = map(int, stream.read().split())
            pages += resident - shared
    return pages * resource.getpagesize() > MOST_MEMORY


def _wait(main: int, seconds: float) -> int | None:
    """The command's exit status, after all that it started in the background has ended; None where it is stopped."""
    now = time.monotonic()
    end, watch = now + seconds, now + _WATCH_SECONDS
    status: int | None = None
    while now < end:
        try:
            pid, raw = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return status
        if pid == main:
            status = os.waitstatus_to_exitcode(raw)
            end = min(end, now + 2)
        elif not pid:
            time.sleep(0.005)
        now = time.monotonic()
        if now > watch:
            if _too_large():
                return None
            watch = now + _WATCH_SECONDS
    return status


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as stream:
        return stream.read(_MOST_READ)


def _collected(folder: str) -> dict[str, str]:
    texts, size = {}, 0
    for name in sorted(os.listdir(folder)):
        path = f"{folder}/{name}"
        if os.path.islink(path) or not os.path.isfile(path):
            continue
        texts[name] = _read(path)
        size += len(texts[name])
        if size > _MOST_READ:
            break
    return texts


def _first_process(root: str, task: Mapping[str, Any], answer: int) -> None:
    """What the first process of the namespace does: all others end with it."""
    _libc.prctl(_SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    result: dict[str, Any]
    try:
        _build(root, task)
        _enter(root)
        _fill(task)
        main = os.fork()
        if not main:
            os.close(answer)
            _command(task)
        status = _wait(main, task["seconds"])
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)  # all but this one
        result = {"status": status, "records": _collected(task["records"])}
    except OSError as error:
        result = {"forbidden": str(error.strerror or error)}
    with os.fdopen(answer, "w", encoding="utf-8", errors="replace") as stream:
        json.dump(result, stream)


def main(arguments: Sequence[str]) -> int:
    """Run the task on standard input below an empty folder; the result goes to standard output."""
    task = json.load(sys.stdin)
    try:
        _isolate()
    except OSError as error:
        json.dump({"forbidden": str(error.strerror or error)}, sys.stdout)
        return 0
    first = os.fork()
    if not first:
        _first_process(arguments[0], task, os.dup(1))
        os._exit(0)
    os.waitpid(first, 0)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
