"""Runs other people's SQL in a thread that the kernel lets write to no file.

A query is judged by its parse tree (`statements`), the catalog is opened read-only, and DuckDB confined to the indexed
files (`database`). That leaves what nobody thought of: on Linux with Landlock (5.13 and later; landlock(7)) the thread
that runs the query, and all that DuckDB starts from it, can open no file for writing, make, remove or rename none, and
run no program.
"""

from __future__ import annotations

import contextvars
import ctypes
import os
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")
_CREATE_RULESET, _RESTRICT_SELF = 444, 446
_VERSION = 1
_NO_NEW_PRIVILEGES = 38
# Rights by the version of Landlock that knows them (LANDLOCK_ACCESS_FS_*): execute, write to a file, remove and make
# files of all kinds; link and rename across directories; truncate.
_RIGHTS = ((1, 0b1_1111_1111_0011), (2, 1 << 13), (3, 1 << 14))
# Ctrl-C reaches the thread that waits as often as this, s.
_LOOK_S = 0.1


def deny_writing() -> bool:
    """Take away from this thread, and from those that it starts, all writing to files, for good.

    False where the kernel cannot do that; nothing is changed then.
    """
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_CREATE_RULESET, None, 0, _VERSION)
    if version < 1:
        return False
    handled = ctypes.c_uint64(sum(rights for since, rights in _RIGHTS if version >= since))
    ruleset = libc.syscall(_CREATE_RULESET, ctypes.byref(handled), ctypes.sizeof(handled), 0)
    if ruleset < 0:
        return False
    try:
        return bool(libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0 and libc.syscall(_RESTRICT_SELF, ruleset, 0) == 0)
    finally:
        os.close(ruleset)


def run_read_only(work: Callable[[], _T], interrupt: Callable[[], bool]) -> _T:
    """What work returns or raises, done in a thread that may not write where the kernel can see to that.

    interrupt: ends the work, at Ctrl-C; False where it has not begun. For programs that end with the query: threads
    that libraries start meanwhile for the whole process cannot write either.
    """
    results: list[_T] = []
    errors: list[BaseException] = []
    # Python 3.11 takes a thread for ended whose join was interrupted.
    done = threading.Event()

    def run() -> None:
        try:
            deny_writing()
            results.append(work())
        except BaseException as error:  # for whoever waits
            errors.append(error)
        finally:
            done.set()

    # What holds here, --quiet for example, holds there.
    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(run,), name="vtrain-query", daemon=True).start()
    while not _is_done(done) and interrupt():
        pass
    if errors:
        raise errors[0]
    if not results:
        raise KeyboardInterrupt
    return results[0]


def _is_done(done: threading.Event) -> bool:
    """Wait for the work's end; False at Ctrl-C."""
    try:
        while not done.wait(_LOOK_S):
            pass
    except KeyboardInterrupt:
        return False
    return True
