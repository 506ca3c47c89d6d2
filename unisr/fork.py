"""A call in a fork of this process: what is imported is shared, memory, random state and crashes are its own."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

from unisr.errors import UnisrError, in_words

SAFE = sys.platform == "linux"
"""Elsewhere a fork of a process with loaded libraries may hang, and outlives the process it came from."""
PR_SET_PDEATHSIG = 1
RETURNED, RAISED = b"+", b"-"


class ForkError(UnisrError):
    """What the call raised in its fork, in words."""


def forked(call: Callable[[], str]) -> str:
    """What `call()` returns, made in a fork that ends with it. Each of the two processes ends as the other dies.

    The fork has the calling thread alone, so no other may hold a lock, and no GPU may have been used.

    Raises:
        ForkError: the call raised.
    """
    read, write = os.pipe()
    parent, child = os.getpid(), os.fork()
    if not child:
        _end_with(parent)
        answer = _answer(call)
        with os.fdopen(write, "wb") as pipe:
            pipe.write(answer)
        # Without the cleaning up that belongs to the process it came from.
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        answer = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if not answer:
        _die_as(code)
    if answer.startswith(RAISED):
        raise ForkError(answer[1:].decode())
    return answer[1:].decode()


def _answer(call: Callable[[], str]) -> bytes:
    try:
        return RETURNED + call().encode()
    except Exception as error:
        return RAISED + in_words(error).encode()


def _end_with(parent: int) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # It was gone before the system knew.
        os._exit(1)


def _die_as(code: int) -> None:
    """End this process with the exit code, or the signal, of another."""
    if code < 0:
        os.kill(os.getpid(), -code)
    os._exit(code)
