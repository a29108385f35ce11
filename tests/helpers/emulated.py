"""The emulated cluster of jobs/testbed, for tests that need hosts of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from launch import ROOT, Ended, environment

TESTBED = ROOT / "jobs" / "testbed"


def testbed(*words: str, timeout_s: float = 100.0) -> Ended:
    """testbed.py to its end."""
    done = subprocess.run(
        [sys.executable, str(TESTBED / "testbed.py"), *words], stdin=subprocess.DEVNULL, capture_output=True,
        text=True, cwd=ROOT, env=environment(), timeout=timeout_s,
    )  # fmt: skip
    return Ended(done.returncode, done.stdout, done.stderr)


testbed.__test__ = False  # type: ignore[attr-defined]


@contextmanager
def cluster_of(*words: str) -> Iterator[Path]:
    """A cluster as `testbed.py up` takes it, in place of whatever a crash left: its hostfile. Or skips."""
    able = testbed("check")
    if able.code:
        pytest.skip(f"no emulated cluster on this machine: {able.err.strip()}")
    made = testbed("up", *words)
    if "in use" in made.err:
        pytest.skip(made.err.strip())
    assert made.code == 0, made.err
    yield Path(made.out.strip().rpartition(" ")[2])
    assert testbed("down").code == 0
    assert [*Path("/run/netns").glob("sde-*"), *Path("/sys/fs/cgroup/cpu").glob("sde-*")] == []
    assert testbed("status").code == 2, "nothing is left"
