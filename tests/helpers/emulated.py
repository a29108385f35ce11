"""The emulated cluster of jobs/testbed, for tests that need hosts of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from launch import ROOT, Ended, launch

TESTBED = ROOT / "jobs" / "testbed"


def testbed(*words: str) -> Ended:
    """Runs testbed.py to its end."""
    return launch(1, str(TESTBED / "testbed.py"), *words)


testbed.__test__ = False  # type: ignore[attr-defined]


@contextmanager
def cluster_of(*words: str) -> Iterator[Path]:
    """Makes a cluster as `testbed.py up` does, in place of what a crash left; gives its hostfile.

    Skips the test on machines that can't have one.
    """
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
