"""Runs a program that is killed when its parent dies: `die_with_parent.py PARENT PROGRAM ...`.

It is run by its path, without this package, and is replaced by the program within milliseconds.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""Linux: option of prctl(2) that asks for a signal when the parent dies. It outlives an exec."""


def die_with_parent(parent: int) -> None:
    """Has the kernel kill this process when its parent, process `parent`, ends in whatever way.

    Ends this process where the parent has died already.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before we asked
        sys.exit(1)


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])
